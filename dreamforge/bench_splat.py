"""The rows of ``dreamforge bench`` for splatting: 100 000 Gaussians at 512 x 512 whose pictures have standard
deviations of 1 to 4 pixels, and which touch about 308 000 tiles."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.ops.splat import rasterization

GAUSSIANS, SIZE = 100_000, 512
Scene = dict[str, Any]


def scene(count: int = GAUSSIANS, size: int = SIZE, seed: int = 0) -> Scene:
    """Gaussians spread over one picture of ``size`` pixels a side, small ones more often, with random turns."""
    draws = torch.Generator().manual_seed(seed)
    depth = 2 + 2 * torch.rand(count, generator=draws)
    place = (torch.rand(count, 2, generator=draws) - 0.5) * depth[:, None]  # all of the field of view
    pixel = (depth / size)[:, None]  # of a focal length of `size`
    return {
        "means": torch.cat([place, depth[:, None]], 1),
        "quats": torch.randn(count, 4, generator=draws),
        "scales": pixel * torch.exp(math.log(4) * torch.rand(count, 3, generator=draws) ** 2),
        "opacities": torch.rand(count, generator=draws),
        "colors": torch.rand(count, 3, generator=draws),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]], dtype=torch.float32),
        "width": size,
        "height": size,
    }


def call(name: str, given: Scene, backend: Backend = "auto") -> Callable[[], object]:
    """What is timed: a picture, or the gradient of one that is there by all that is optimised."""
    if name == "splat_forward":
        return lambda: rasterization(**given, backend=backend)
    leaves: list[Tensor] = [given[key].requires_grad_() for key in ("means", "quats", "scales", "opacities", "colors")]
    rendered, _, _ = rasterization(**given, backend=backend)
    pull = torch.rand(rendered.shape, generator=torch.Generator().manual_seed(1)).to(rendered.device) - 0.5
    return lambda: torch.autograd.grad(rendered, leaves, pull, retain_graph=True)
