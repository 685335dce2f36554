"""What ``dreamforge bench`` times of isosurfaces: a gyroid on 64^3 cubes, a fifth of which it crosses.

Each row is its size, our call, and the reference's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamforge.ops import isosurface
from dreamforge.ops.isosurface_native import flexicubes_native, tetrahedra_native
from dreamforge.ops.isosurface_reference import Weights, flexicubes_reference, tetrahedra_reference

CUBES, WAVES = 64, 9.0
SIZE = (CUBES, CUBES, CUBES)
Call = Callable[[], object]
Calls = tuple[str, Call, Call | None]


def flexicubes_grid() -> Calls:
    """The grid's vertices and the corners of its cubes."""
    return f"{CUBES}^3 cubes", lambda: isosurface.grid(CUBES), None


def flexicubes_forward() -> Calls:
    """With all weights, as in training."""
    x, s, weights = _gyroid()
    _, faces, _ = flexicubes_native(x, s, SIZE, weights)
    return (
        f"{CUBES}^3 cubes, {len(faces)} faces, all weights",
        lambda: flexicubes_native(x, s, SIZE, weights),
        lambda: flexicubes_reference(x, s, SIZE, weights),
    )


def flexicubes_backward() -> Calls:
    """Gradients of the vertices' positions, of all weights and of L_dev's deviations."""
    x, s, weights = _gyroid()
    leaves = [x, s, *(one for one in (weights.alpha, weights.beta, weights.gamma) if one is not None)]
    outs = [compute(x, s, SIZE, weights) for compute in (flexicubes_native, flexicubes_reference)]
    draws = torch.Generator().manual_seed(1)
    pulls = [torch.randn(outs[0][n].shape, generator=draws) for n in (0, 2)]
    return (
        f"{CUBES}^3 cubes, {len(outs[0][1])} faces, all weights",
        lambda: torch.autograd.grad(outs[0][::2], leaves, pulls, retain_graph=True),
        lambda: torch.autograd.grad(outs[1][::2], leaves, pulls, retain_graph=True),
    )


def tetrahedra() -> Calls:
    """Both ways."""
    x, s, _ = _gyroid()
    _, faces = tetrahedra_native(x, s, SIZE)
    return (
        f"{CUBES}^3 cubes, {len(faces)} faces, both ways",
        lambda: torch.autograd.grad(tetrahedra_native(x, s, SIZE)[0].sum(), [x, s]),
        lambda: torch.autograd.grad(tetrahedra_reference(x, s, SIZE)[0].sum(), [x, s]),
    )


def _gyroid() -> tuple[Tensor, Tensor, Weights]:
    x, cubes = isosurface.grid(CUBES)
    s = (torch.sin(WAVES * x) * torch.cos(WAVES * x).roll(-1, 1)).sum(1)
    draws = torch.Generator().manual_seed(0)
    alpha, beta = (torch.randn(len(cubes), width, generator=draws).requires_grad_() for width in (8, 12))
    gamma = torch.randn(len(cubes), generator=draws).requires_grad_()
    return x.requires_grad_(), s.requires_grad_(), Weights(alpha, beta, gamma, training=True)


ROWS: dict[str, Callable[[], Calls]] = {
    "flexicubes_grid": flexicubes_grid,
    "flexicubes_forward": flexicubes_forward,
    "flexicubes_backward": flexicubes_backward,
    "tetrahedra": tetrahedra,
}
