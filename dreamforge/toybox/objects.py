"""A toy: one drawn instance of a kind, centred in the unit ball, with colours still open."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamforge.rng import derive
from dreamforge.toybox.catalog import KINDS
from dreamforge.toybox.colors import COLORS, PAINTS
from dreamforge.toybox.shapes import join
from dreamforge.types import DreamforgeError, Mesh

RADIUS = 0.92  # of the ball around the origin that a toy fits in, in metres
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Toy:
    """``vertices [V,3]``, ``faces [F,3]``, ``normals [V,3]``; ``slots [V,2]`` is 1 where a vertex takes the main or
    the second colour of the caption, ``paints [V,3]`` the fixed sRGB colour of all other vertices (0 elsewhere)."""

    kind: str
    accessory: str | None
    vertices: Tensor
    faces: Tensor
    normals: Tensor
    slots: Tensor
    paints: Tensor

    def mesh(self, main: Color, second: Color = (0.5, 0.5, 0.5)) -> Mesh:
        """The toy in these sRGB colours."""
        colors = self.slots @ torch.tensor([main, second]) + self.paints
        return Mesh(self.vertices, self.faces, self.normals, colors)


def make(kind: str, accessory: str | None, seed: int) -> Toy:
    """Draw the proportions of one toy. Raises DreamforgeError for an unknown kind or an accessory it cannot have."""
    if kind not in KINDS or (accessory is not None and accessory not in KINDS[kind].accessories):
        raise DreamforgeError(f"The toybox has no {kind!r} with {accessory!r}: see `dreamforge toybox show`.")
    parts = KINDS[kind].build(np.random.default_rng(derive(seed, "toy", kind)), accessory)
    whole = join(parts)
    low, high = whole.vertices.min(0), whole.vertices.max(0)
    vertices = whole.vertices - (low + high) / 2
    vertices *= RADIUS / np.linalg.norm(vertices, axis=-1).max()
    names = [part.color for part in parts for _ in range(len(part.vertices))]
    slots = torch.tensor([[name == "main", name == "second"] for name in names], dtype=torch.float32)
    paints = torch.tensor([PAINTS.get(name) or COLORS.get(name) or (0.0, 0.0, 0.0) for name in names])
    return Toy(
        kind,
        accessory,
        torch.from_numpy(vertices).float(),
        torch.from_numpy(whole.faces.copy()),
        torch.from_numpy(whole.normals.copy()).float(),
        slots,
        paints,
    )
