"""Files of Gaussians: what viewers expect, back and forth, and everything that may be wrong with one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dreamforge.export.splats import write_splats
from dreamforge.geometry.splats import NAMES, read_splats
from dreamforge.ops.splat_reference import harmonic_bases
from dreamforge.render.splat import rotations
from dreamforge.types import DreamforgeError, Splats
from tests.splats import some

HALF_TURN = torch.tensor([1.0, -1, -1]).diag()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_was_written_is_read(degree: int, tmp_path: Path) -> None:
    given = some(degree=degree)
    write_splats(given, tmp_path / "one.ply", extras={"prompt": "a red mushroom"})
    found = read_splats(tmp_path / "one.ply")
    for name in ("means", "log_scales", "logit_opacities"):
        assert torch.equal(getattr(found, name), getattr(given, name))
    torch.testing.assert_close(rotations(found.quaternions), rotations(given.quaternions))
    assert torch.equal(found.sh[:, : given.sh.shape[1]], given.sh) and not found.sh[:, given.sh.shape[1] :].any()
    empty = Splats(
        *(getattr(given, name)[:0] for name in ("means", "log_scales", "quaternions")), torch.zeros(0), given.sh[:0]
    )
    write_splats(empty, tmp_path / "none.ply")
    assert len(read_splats(tmp_path / "none.ply").means) == 0


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_file_may_have_fewer_harmonics(degree: int, tmp_path: Path) -> None:
    """As others write it: 0, 9 or 24 numbers beside the constant ones, channel after channel."""
    given, each = some(degree=degree), (degree + 1) ** 2 - 1
    write_splats(given, tmp_path / "full.ply")
    header, mark, body = (tmp_path / "full.ply").read_bytes().partition(b"end_header\n")
    table = np.frombuffer(body, "<f4").reshape(20, -1)
    kept = [name for name in NAMES if not name.startswith("f_rest_")]
    kept[9:9] = [f"f_rest_{15 * channel + number}" for channel in range(3) for number in range(each)]
    names = [f"f_rest_{kept.index(name) - 9}" if name.startswith("f_rest_") else name for name in kept]
    lines = [line for line in header.decode().splitlines() if not line.startswith("property")]
    text = "\n".join([*lines, *(f"property float {name}" for name in names), ""])
    columns = table[:, [NAMES.index(name) for name in kept]]
    (tmp_path / "few.ply").write_bytes(text.encode() + mark + columns.tobytes())
    assert torch.equal(read_splats(tmp_path / "few.ply").sh, given.sh)


def test_comments_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_splats(some(), tmp_path / "one.ply", extras={"seed": 3, "prompt": "a cat"})
    lines = (tmp_path / "one.ply").read_bytes()[:200].splitlines()
    assert lines[2:4] == [b'comment "prompt" "a cat"', b'comment "seed" 3']


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"vertex 20", b"vertex 50000001", "expected up to 50000000 vertices"),
        (b"end_header", b"element face 0\nend_header", "not a binary PLY"),
    ],
)
def test_a_header_of_other_things_is_said(old: bytes, new: bytes, said: str, tmp_path: Path) -> None:
    write_splats(some(), tmp_path / "one.ply")
    (tmp_path / "two.ply").write_bytes((tmp_path / "one.ply").read_bytes().replace(old, new))
    with pytest.raises(DreamforgeError, match=said):
        read_splats(tmp_path / "two.ply")


def test_another_reader_sees_the_layout(tmp_path: Path) -> None:
    """trimesh reads PLY by its header: names, order, values as the field has them."""
    import trimesh

    given = some()
    write_splats(given, tmp_path / "one.ply", antialiased=True)
    text = (tmp_path / "one.ply").read_bytes()[:300]
    assert b"comment SplatRenderMode: mip" in text
    raw = trimesh.load(tmp_path / "one.ply", process=False).metadata["_ply_raw"]["vertex"]["data"]
    assert list(raw.dtype.names) == NAMES
    assert np.allclose(raw["opacity"], given.logit_opacities) and np.allclose(raw["scale_1"], given.log_scales[:, 1])
    assert np.allclose(raw["f_dc_2"], given.sh[:, 0, 2]) and np.allclose(raw["z"], -given.means[:, 2])
    assert np.allclose(raw["f_rest_16"], -given.sh[:, 2, 1]), "channel after channel: the second of green, z turned"


def test_the_frame_is_turned_as_a_whole(tmp_path: Path) -> None:
    """Places, rotations and harmonics: the colour seen along a turned direction is the colour along the direction."""
    given = some()
    write_splats(given, tmp_path / "one.ply")
    text = (tmp_path / "one.ply").read_bytes()
    table = np.frombuffer(text.partition(b"end_header\n")[2], "<f4").reshape(20, -1)
    column = {name: torch.from_numpy(table[:, number].copy()) for number, name in enumerate(NAMES)}
    stored = torch.stack([column[f"rot_{k}"] for k in range(4)], 1)
    torch.testing.assert_close(rotations(stored), HALF_TURN @ rotations(given.quaternions), rtol=0, atol=1e-5)
    rest = torch.stack([column[f"f_rest_{k}"] for k in range(45)], 1).view(20, 3, 15).transpose(1, 2)
    sh = torch.cat([torch.stack([column[f"f_dc_{k}"] for k in range(3)], 1)[:, None], rest], 1)
    direction = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    ours = (harmonic_bases(3, direction)[..., None] * given.sh).sum(1)
    theirs = (harmonic_bases(3, direction @ HALF_TURN)[..., None] * sh).sum(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-3], "says 20 Gaussians of 62 numbers"),
        (lambda text: text + b"more", "says 20 Gaussians"),
        (lambda text: text.replace(b"vertex 20", b"vertex 21"), "says 21 Gaussians"),
        (lambda text: text.replace(b"vertex 20", b"vertex -2"), "'element vertex -2'"),
        (lambda text: text.replace(b"vertex 20", b"vertex 99999999999"), "expected up to"),
        (lambda text: text.replace(b"vertex 20", b"face 20"), "'element face 20'"),
        (lambda text: text.replace(b"float opacity", b"float opacitx"), "opacity"),
        (lambda text: text.replace(b"float nx", b"float ny"), "double names"),
        (lambda text: text.replace(b"float opacity", b"uchar opacity"), "not a binary PLY"),
        (lambda text: text.replace(b"float f_rest_44", b"float f_last_44"), "44 harmonics"),
        (lambda text: text.replace(b"binary_little", b"ascii_little"), "not a binary PLY"),
        (lambda text: text[:-4] + b"\xff\xff\xff\xff", "not finite"),
        (lambda text: b"", "not a binary PLY"),
        (lambda text: bytes(range(256)) * 10, "not a binary PLY"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(change, words: str, tmp_path: Path) -> None:
    write_splats(some(), tmp_path / "one.ply")
    text = (tmp_path / "one.ply").read_bytes()
    (tmp_path / "one.ply").write_bytes(change(text))
    with pytest.raises(DreamforgeError, match=words):
        read_splats(tmp_path / "one.ply")


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    bad = some()
    bad.means[3, 1] = torch.nan
    with pytest.raises(DreamforgeError, match="1 of 20"):
        write_splats(bad, tmp_path / "one.ply")
    assert not (tmp_path / "one.ply").exists()
    with pytest.raises(DreamforgeError, match="check the path"):
        read_splats(tmp_path / "absent.ply")
