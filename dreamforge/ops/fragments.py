"""What a rasteriser finds at each pixel centre."""

from dataclasses import dataclass

from torch import Tensor


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
