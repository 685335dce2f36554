"""Feed damaged files to every reader of strangers' files: a sentence, or something whole, and nothing else.

    python -m tests.mutated [--files 1000] [--seed 0] [--only READER]

Every file is made of a good one by up to three changes, goes the way of ``generate --from`` up to the first step, and
has ten seconds of the processor's time. Prints a table; exits with 1 where something else happened.
"""

import argparse
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamforge.config import FILES
from dreamforge.export.gltf import write_glb
from dreamforge.export.obj import write_obj
from dreamforge.export.ply import write_ply
from dreamforge.export.splats import write_splats
from dreamforge.geometry.cloud import Cloud
from dreamforge.start_file import read_start
from dreamforge.types import DreamforgeError, Mesh, Splats
from tests.meshes import ball, quad
from tests.splats import some

LIMIT = 10.0  # seconds of the processor for one file
NASTY = ["nan", "inf", "-inf", "1e999", "-1", "0", "99999999999", "1e38", "../../x.png", "/", "", "f", "v", "\xff"]
ODD: list[Any] = [None, -1, 0, 2**31, 2**63, 1.5, "x", "../../etc/passwd", "data:,", [], {}, [0, 0, 0], True]


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


@dataclass
class Outcome:
    """How many files of a reader ended how; ``wrong`` are the stories of those that must not have."""

    refused: int = 0
    repaired: int = 0
    read: int = 0
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(READERS))
    options = parser.parse_args(arguments)
    print(f"{'reader':<14}{'refused':>9}{'repaired':>9}{'read':>9}{'wrong':>9}{'slowest':>11}")
    wrong = 0
    for reader in [options.only] if options.only else READERS:
        found = run(reader, options.files, options.seed)
        counts = (found.refused, found.repaired, found.read, len(found.wrong))
        print(f"{reader:<14}" + "".join(f"{count:>9}" for count in counts) + f"{found.slowest:>9.2f} s", flush=True)
        for story in found.wrong[:3]:
            print(story)
        wrong += len(found.wrong)
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, limit {LIMIT:g} s a file")
    return 1 if wrong else 0


def run(reader: str, files: int, seed: int) -> Outcome:
    """``files`` damaged files through a reader."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        READERS[reader](folder)
        good = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        for number in range(files):
            draws = random.Random(f"{reader} {seed} {number}")
            mains = [file for file in good if Path(file).suffix in FILES]
            main, hurt = draws.choice(mains), draws.choice(sorted(good))
            for file, content in good.items():
                (folder / file).write_bytes(damaged(content, Path(file).suffix, draws) if file == hurt else content)
            began = time.process_time()
            try:
                with limited(LIMIT):
                    _judge(folder / (hurt if hurt in mains else main), outcome)
            except (Exception, TooLong):
                outcome.wrong.append(f"{reader} {number}, {hurt} damaged: {traceback.format_exc()}")
            outcome.slowest = max(outcome.slowest, time.process_time() - began)
    return outcome


def _judge(path: Path, outcome: Outcome) -> None:
    try:
        found = read_start(path)
    except DreamforgeError as error:
        assert str(error).strip() and "\n" not in str(error), f"no sentence: {error!r}"
        outcome.refused += 1
        return
    check(found.start)
    outcome.repaired += bool(found.warnings)
    outcome.read += not found.warnings


def check(start: Mesh | Cloud | Splats) -> None:
    """Raise AssertionError for what is not whole."""
    tensors = [value for value in vars(start).values() if isinstance(value, torch.Tensor)]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors), "not finite"
    if isinstance(start, Mesh):
        assert len(start.faces) and 0 <= int(start.faces.min()) <= int(start.faces.max()) < len(start.vertices)
        assert start.normals is not None and (start.uv is None) == (start.texture is None)
        lengths = {len(values) for values in (start.normals, start.colors, start.uv) if values is not None}
        assert lengths == {len(start.vertices)}
        for shown in (start.colors, start.texture):
            assert shown is None or (float(shown.min()) >= 0 and float(shown.max()) <= 1)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLong after so much of the processor's time, where the system can."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"more than {seconds:g} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# ---- damage


def damaged(content: bytes, kind: str, draws: random.Random) -> bytes:
    """One to three changes of the kinds that fit the file."""
    changes: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, repeated, removed]
    if kind in (".obj", ".mtl", ".ply"):
        changes += [swapped, swapped]
    if kind == ".glb":
        changes += [edited] * 3 + [inside] * 5
    if kind == ".ply":
        changes += [inside] * 5
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        content = draws.choice(changes)(content, draws)
    return content


def flipped(content: bytes, draws: random.Random) -> bytes:
    result = bytearray(content)
    for _ in range(draws.choice((1, 1, 2, 8)) if content else 0):
        result[draws.randrange(len(result))] = draws.randrange(256)
    return bytes(result)


def cut(content: bytes, draws: random.Random) -> bytes:
    return content[: -_length(content, draws)]


def repeated(content: bytes, draws: random.Random) -> bytes:
    start = draws.randint(0, len(content))
    end = start + _length(content, draws)
    return content[:end] + content[start:end] * draws.randint(1, 3) + content[end:]


def removed(content: bytes, draws: random.Random) -> bytes:
    start = draws.randint(0, len(content))
    return content[:start] + content[start + _length(content, draws) :]


def _length(content: bytes, draws: random.Random) -> int:
    """Of a piece: as likely a few bytes as a few hundred or nearly all."""
    return int(max(len(content), 2) ** draws.random())


def swapped(content: bytes, draws: random.Random) -> bytes:
    """Some words of a text (of a header, where numbers follow it) replaced by others, or by what is no good there."""
    head, mark, rest = (content, b"", b"") if b"format ascii" in content else content.partition(b"end_header\n")
    words = head.decode("latin-1").split(" ")
    for _ in range(draws.choice((1, 1, 2, 4))):
        new = draws.choice(NASTY) if draws.random() < 0.6 else draws.choice(words)
        words[draws.randrange(len(words))] = new
    return " ".join(words).encode("latin-1") + mark + rest


def edited(content: bytes, draws: random.Random) -> bytes:
    """A value of a GLB's JSON replaced or removed, the container right again."""
    try:
        size = struct.unpack_from("<I", content, 12)[0]
        document = json.loads(content[20 : 20 + size])
    except (struct.error, ValueError):
        return flipped(content, draws)
    for _ in range(draws.choice((1, 1, 2))):
        places = list(_places(document))
        if places:
            block, key = draws.choice(places)
            if draws.random() < 0.25:
                del block[key]
            elif isinstance(block[key], int) and draws.random() < 0.5:
                block[key] = max(block[key] + draws.choice((-4, -1, 1, 2, 4, 1000)), -9)
            else:
                block[key] = draws.choice(ODD)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    return struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def inside(content: bytes, draws: random.Random) -> bytes:
    """Bytes behind the header of a GLB or a PLY flipped: numbers and pictures."""
    start = content.find(b"end_header\n") + len(b"end_header\n")
    if content[:4] == b"glTF" and len(content) > 16:
        start = 28 + int(struct.unpack_from("<I", content, 12)[0])
    return content[:start] + flipped(content[start:], draws)


def _places(block: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(block) if isinstance(block, dict) else range(len(block)) if isinstance(block, list) else []
    for key in keys:
        yield block, key
        yield from _places(block[key])


# ---- good files


def _glb(folder: Path) -> None:
    """Two of our own, and two of a stranger: nodes, a shared and mirrored mesh, two pictures, vertex colours."""
    import trimesh

    write_glb(quad(), folder / "quad.glb")
    write_glb(ball(6), folder / "ball.glb")
    textured, other, painted = (_drawn(color) for color in ((255, 0, 0), (0, 255, 0), None))
    scene = trimesh.Scene([textured, other])
    scene.add_geometry(textured, transform=np.diag([-1.0, 1, 1, 1]))
    (folder / "boxes.glb").write_bytes(scene.export(file_type="glb"))
    scene.add_geometry(painted, transform=trimesh.transformations.translation_matrix([0, 3, 0]))
    (folder / "painted.glb").write_bytes(scene.export(file_type="glb"))


def _drawn(color: tuple[int, int, int] | None) -> Any:
    import trimesh
    from PIL import Image

    box = trimesh.creation.box()
    if color is None:
        box.visual.vertex_colors = np.arange(32, dtype=np.uint8).reshape(8, 4) * 7
    else:
        picture = Image.fromarray(np.full((8, 8, 3), color, np.uint8))
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, baseColorFactor=[200, 255, 255, 255])
        box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5, material=material)
    return box


def _obj(folder: Path) -> None:
    write_obj(ball(6), folder / "ball.obj")
    write_obj(quad(), folder / "quad.obj")
    lines = (folder / "quad.obj").read_text()
    (folder / "corners.obj").write_text(lines + "v 0 1 1 1 0 0\nv 0 0 2 0 1 0\nf -1 -2 1 2 3\nf 1/1 2/2 3/3 4/4\n")


def _ply(folder: Path) -> None:
    import trimesh

    write_ply(ball(6), folder / "ball.ply")
    box = trimesh.creation.box()
    (folder / "box.ply").write_bytes(box.export(file_type="ply", encoding="ascii"))


def _points(folder: Path) -> None:
    import trimesh

    at = np.random.default_rng(0).normal(size=(40, 3))
    cloud = trimesh.PointCloud(at, colors=np.arange(160, dtype=np.uint8).reshape(40, 4))
    (folder / "numbers.ply").write_bytes(cloud.export(file_type="ply"))
    (folder / "text.ply").write_bytes(cloud.export(file_type="ply", encoding="ascii"))


def _splats(folder: Path) -> None:
    write_splats(some(20), folder / "splats.ply")


READERS: dict[str, Callable[[Path], None]] = {
    "glb": _glb,
    "obj+mtl+png": _obj,
    "ply mesh": _ply,
    "ply points": _points,
    "ply splats": _splats,
}


if __name__ == "__main__":
    sys.exit(main())
