"""What a rasteriser finds at each pixel centre, and what the operations on it share: checks, and sums of gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.ops import native
from dreamforge.types import DreamforgeError

PARTS = 16  # of a picture, at most, whose shares of the vertices' gradient are summed up each by itself


@dataclass(frozen=True)
class Fragments:
    """``face [B,H,W]`` int64, ``bary [B,H,W,3]`` perspective correct, ``depth [B,H,W]``; nothing seen: -1, 0, 0.

    ``dx``, ``dy [B,H,W,3]``: how ``bary`` changes from a pixel to the next to the right, and downwards; where asked
    for. Interpolated as ``bary`` is, they are the change of an attribute.
    """

    face: Tensor
    bary: Tensor
    depth: Tensor
    dx: Tensor | None = None
    dy: Tensor | None = None


def check_indices(indices: Tensor, end: int, name: str, what: str, least: int = 0) -> None:
    """Raises DreamforgeError where an index is not in [least, end)."""
    if indices.numel() == 0:
        return
    low, high = (int(one) for one in indices.aminmax())
    if low < least or high >= end:
        raise DreamforgeError(
            f"{name} has numbers from {low} to {high}, but there are {end} {what}: give indices from {least} to "
            f"{end - 1}."
        )


def check_mesh(pixels: Tensor, depth: Tensor, faces: Tensor) -> tuple[int, int]:
    """Views and vertices. Raises DreamforgeError for shapes that do not fit, faces that name no vertex."""
    if pixels.ndim != 3 or pixels.shape[2] != 2 or depth.shape != pixels.shape[:2] or faces.shape[1:] != (3,):
        raise DreamforgeError(
            f"pixels {list(pixels.shape)}, depth {list(depth.shape)} and faces {list(faces.shape)} were given, but "
            "[B,V,2], [B,V] and [F,3] are expected; see cameras.project."
        )
    if faces.dtype not in (torch.int64, torch.int32):
        raise DreamforgeError(f"faces of {faces.dtype} were given, but whole numbers are expected: use int64.")
    check_indices(faces, pixels.shape[1], "faces", "vertices")
    return pixels.shape[0], pixels.shape[1]


def shares(like: Tensor, pixels: int, level: native.Level) -> Tensor:
    """Zeros ``[S, parts, V, C]`` for a gradient like ``[S, V, C]``, of ``pixels`` for each of S.

    On a CPU each part of the pixels has its own sums: as many parts as the sizes ask for, however many threads there
    are, so that the bits do not depend on them.
    """
    few = native.on_cuda(like, level) or like.shape[1] == 0
    parts = 1 if few else max(1, min(PARTS, pixels // (8 * like.shape[1])))
    return like.new_zeros(like.shape[0], parts, *like.shape[1:])


def summed(parts: Tensor) -> Tensor:
    """``[S, parts, V, C]`` -> ``[S, V, C]``."""
    return parts[:, 0] if parts.shape[1] == 1 else parts.sum(1)
