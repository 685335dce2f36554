"""The row of ``dreamforge bench`` for meshes: a ball of 20 000 triangles at 512x512, drawn and back."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamforge.cameras import orbit, project
from dreamforge.ops.antialias import antialias_reference
from dreamforge.ops.raster import (
    antialias,
    interpolate,
    interpolate_reference,
    neighbours,
    rasterize,
    rasterize_reference,
)

RINGS = 100  # of as many quads each
SIZE = 512


def both_ways() -> tuple[str, Callable[[], object], Callable[[], object]]:
    """What is measured, and two calls that do it: by the operations, and by their references.

    Rasterise, interpolate three channels, smooth the outlines; gradients to corners and channels.
    """
    points, faces = ball(RINGS)
    camera = orbit(torch.tensor([0.3]), torch.tensor([0.2]), 3.0, 0.7, SIZE, SIZE)
    pixels, depth = (one.requires_grad_() for one in project(points, camera))
    draws = torch.Generator().manual_seed(0)
    values = torch.rand(len(points), 3, generator=draws).requires_grad_()
    pull, across = torch.randn(1, SIZE, SIZE, 3, generator=draws), neighbours(faces)

    def by(draw: Callable[..., Any], mix: Callable[..., Tensor], smooth: Callable[..., Tensor]) -> object:
        found = draw(pixels, depth, faces, SIZE, SIZE)
        picture = smooth(mix(values, faces, found.face, found.bary), found, pixels, depth, faces, across)
        return torch.autograd.grad(picture, [pixels, depth, values], pull)

    return (
        f"{len(faces)} triangles at {SIZE}x{SIZE}, both ways",
        lambda: by(rasterize, interpolate, antialias),
        lambda: by(rasterize_reference, interpolate_reference, antialias_reference),
    )


def ball(rings: int) -> tuple[Tensor, Tensor]:
    """A ball of radius 0.9 of ``rings`` x ``rings`` quads, with a small hole at either pole."""
    around = torch.arange(rings) * (2 * math.pi / rings)
    down = torch.linspace(0.02, math.pi - 0.02, rings + 1)[:, None]
    points = torch.stack([down.sin() * around.cos(), down.cos().expand(-1, rings), down.sin() * around.sin()], -1)
    index = torch.arange((rings + 1) * rings).view(rings + 1, rings)
    a, b, c, d = index[:-1], index[:-1].roll(-1, 1), index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    return 0.9 * points.view(-1, 3), faces
