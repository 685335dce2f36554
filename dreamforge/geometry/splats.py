"""Reads 3D Gaussians from the PLY that viewers and game engines know (3DGS, Kerbl et al. 2023)."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamforge.types import DreamforgeError, Splats

DEGREE = 3  # of the harmonics in a file: importers fail where they are missing, so the file is filled up with zeros
REST = (DEGREE + 1) ** 2 - 1
NAMES = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{number}" for number in range(3 * REST)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]
# The file's frame is COLMAP's, x right, y down, z forward: ours turned by half a turn about x. What of each harmonic:
TURNED = torch.tensor([1.0, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])
MOST = 50_000_000  # Gaussians of a file


def read_splats(path: str | os.PathLike[str]) -> Splats:
    """The Gaussians of a file as ``write_splats`` and 3DGS write it, with the harmonics that it has.

    Raises DreamforgeError for a file that is missing, damaged, of another kind, or holds numbers that are not finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DreamforgeError(f"cannot read {str(path)!r} ({error.strerror}): check the path") from error
    return splats_of(content, path)


def splats_of(content: bytes, path: str | os.PathLike[str]) -> Splats:
    """``read_splats`` of the bytes of a file; ``path`` is for the sentences."""
    names, count, body = _header(Path(path), content)
    needed = {"x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *NAMES[-7:]}
    if not needed <= set(names) or len(set(names)) != len(names):
        missing = ", ".join(sorted(needed - set(names))) or "double names"
        raise DreamforgeError(f"{str(path)!r} holds no Gaussians ({missing}): expected the properties of 3DGS's PLY")
    if len(body) != 4 * count * len(names):
        raise DreamforgeError(
            f"{str(path)!r} says {count} Gaussians of {len(names)} numbers, but has {len(body)} bytes of them instead "
            f"of {4 * count * len(names)}: it is damaged; export it again"
        )
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(count, len(names)).astype(np.float32))
    if not bool(torch.isfinite(table).all()):
        raise DreamforgeError(f"{str(path)!r} holds numbers that are not finite: export it again")
    column = {name: table[:, number] for number, name in enumerate(names)}

    def columns(*wanted: str) -> Tensor:
        return torch.stack([column[name] for name in wanted], 1)

    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in (0, 9, 24, 45) or not {f"f_rest_{number}" for number in range(rest)} <= set(names):
        raise DreamforgeError(f"{str(path)!r} has {rest} harmonics, expected 0, 9, 24 or 45; export it again")
    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        more = columns(*(f"f_rest_{number}" for number in range(rest)))
        sh = torch.cat([sh, more.view(count, 3, rest // 3).transpose(1, 2)], 1)
    return Splats(
        turned(columns("x", "y", "z")),
        columns("scale_0", "scale_1", "scale_2"),
        turned_rotation(columns("rot_0", "rot_1", "rot_2", "rot_3")),
        column["opacity"].clone(),
        sh * TURNED[: sh.shape[1], None],
    )


def _header(path: Path, content: bytes) -> tuple[list[str], int, bytes]:
    """The properties' names, the number of Gaussians, and what comes behind the header."""
    head, mark, _ = content[: 1 << 16].partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
    lines = [line for line in lines if line and line[0] != "comment"]
    expected = [["ply"], ["format", "binary_little_endian", "1.0"]]
    elements = [line for line in lines if line[0] == "element"]
    known = all(line[0] in ("ply", "format", "element", "property") for line in lines)
    floats = all(line[1:2] == ["float"] and len(line) == 3 for line in lines if line[0] == "property")
    if not mark or lines[:2] != expected or not known or not floats or len(elements) != 1:
        raise DreamforgeError(f"{str(path)!r} is not a binary PLY of Gaussians, all of whose numbers are floats")
    number = elements[0][2] if elements[0][1:2] == ["vertex"] and len(elements[0]) == 3 else ""
    if not (number.isascii() and number.isdigit() and int(number) <= MOST):
        raise DreamforgeError(
            f"{str(path)!r} says 'element {' '.join(elements[0][1:])}', expected up to {MOST} vertices"
        )
    names = [line[2] for line in lines if line[0] == "property"]
    return names, int(number), content[len(head) + len(mark) :]


def turned(places: Tensor) -> Tensor:
    return places * places.new_tensor([1.0, -1.0, -1.0])


def turned_rotation(quaternions: Tensor) -> Tensor:
    """(0, 1, 0, 0) times wxyz, which is half a turn about x after it; twice is once more, but for the sign."""
    w, x, y, z = quaternions.unbind(1)
    return torch.stack([-x, w, -z, y], 1)
