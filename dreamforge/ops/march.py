"""Marching rays through an occupancy grid, and compositing what lies on them.

The grid is a cube ``[G,G,G]`` (x, y, z; z fastest) over ``[-bound, bound]^3``. Samples of many rays are packed: one
flat array, the rays one after another, near samples first. Occupancy rules as in instant-ngp and nerfacc: the running
maximum decays by 0.95 an update; a cell is marched through when its opacity exceeds min(mean opacity, threshold).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cell_points(cells: int, bound: float, generator: torch.Generator) -> Tensor:
    """One random point in every cell of the grid: ``[cells^3, 3]`` in the order of ``grid.flatten()``."""
    axis = torch.arange(cells, device=generator.device)
    corner = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    jitter = torch.rand(corner.shape, generator=generator, device=generator.device)
    return (corner + jitter) * (2 * bound / cells) - bound


def decayed(opacity: Tensor, seen: Tensor, decay: float = 0.95) -> Tensor:
    """The occupancy grid after an update: what was known fades, what is ``seen`` now counts in full."""
    return torch.maximum(opacity * decay, seen)


def occupied(opacity: Tensor, threshold: float = 0.01) -> Tensor:
    """Cells worth sampling, bool: opacity of one step above min(mean, ``threshold``)."""
    return opacity > opacity.mean().clamp(max=threshold)


def box_interval(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays ``[R,3]`` enter and leave the box ``low [3]`` to ``high [3]``, in front of the origin: ``[R]`` twice.

    Slab method. A ray that misses gets far < near or far = near.
    """
    # A zero component would give 0 * inf on a face of the box; the smallest number keeps the sign and loses nothing.
    tiny = torch.finfo(directions.dtype).tiny * 2**24
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    one, two = (low - origins) / safe, (high - origins) / safe
    near = torch.minimum(one, two).amax(-1).clamp(min=0)
    return near, torch.maximum(one, two).amin(-1)


@torch.no_grad()
def march(
    origins: Tensor, directions: Tensor, occupancy: Tensor, bound: float, step: float, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """Midpoints of the intervals of length ``step`` in occupied cells: ``ray [S]`` int64 ascending and ``t [S]``.

    ``origins``, ``directions`` (unit) ``[R,3]``; ``occupancy [G,G,G]`` bool; ``shift [R]`` in [0,1) places the first
    midpoint at ``near + shift * step``, so neither the phase nor any kept sample depends on the occupancy.
    """
    filled = occupancy.nonzero()
    if len(filled) == 0 or len(origins) == 0:
        return torch.zeros(0, dtype=torch.long, device=origins.device), origins.new_zeros(0)
    edge = torch.full((3,), bound, device=origins.device, dtype=origins.dtype)
    near, far = box_interval(origins, directions, -edge, edge)
    cell = 2 * bound / len(occupancy)  # the box of all occupied cells bounds the search
    enter, leave = box_interval(
        origins, directions, filled.amin(0) * cell - bound, (filled.amax(0) + 1).to(origins) * cell - bound
    )
    first = ((enter - near) / step - shift).floor().clamp(min=0)
    last = ((torch.minimum(leave, far) - near) / step - shift).ceil()
    rays = ((last > first) & (far > near)).nonzero().squeeze(1)
    if len(rays) == 0:
        return rays, origins.new_zeros(0)
    first, last, near, far = first[rays], last[rays], near[rays] + shift[rays] * step, far[rays]
    number = first[:, None] + torch.arange(int((last - first).max()), device=origins.device)
    t = near[:, None] + number * step
    inside = (number < last[:, None]) & (t < far[:, None])
    kept = inside & _looked_up(occupancy, origins[rays], directions[rays], t, bound)
    row, column = kept.nonzero(as_tuple=True)
    return rays[row], t[row, column]


def _looked_up(occupancy: Tensor, origins: Tensor, directions: Tensor, t: Tensor, bound: float) -> Tensor:
    """The grid's values ``[R,K]`` at the points ``t [R,K]`` of R rays; points outside take the nearest cell."""
    cells = len(occupancy)
    start, slope = (origins + bound) * (cells / (2 * bound)), directions * (cells / (2 * bound))
    flat = torch.zeros_like(t, dtype=torch.long)
    for axis in range(3):
        place = torch.addcmul(start[:, axis, None], slope[:, axis, None], t)
        flat.mul_(cells).add_(place.long().clamp_(0, cells - 1))
    return occupancy.flatten().index_select(0, flat.flatten()).view_as(t)


def render_weights(depth: Tensor, ray: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    """Optical depths ``[S]`` (density times length, >= 0) of packed samples -> weights and transmittance, each ``[S]``.

    T_i = exp(-sum of the depths before i on its ray), w_i = T_i (1 - exp(-depth_i)) (Max 1995; NeRF, eq. 3). The sum
    of a ray's weights is its alpha. Gradients reach ``depth`` through the weights; the transmittance has none.
    """
    weights, transmittance = _Weights.apply(depth, ray, rays)
    return weights, transmittance


class _Weights(torch.autograd.Function):
    """Running sums over the whole packed array less their value at the ray's start, in float64 where there is one."""

    @staticmethod
    def forward(ctx: Any, depth: Tensor, ray: Tensor, rays: int) -> tuple[Tensor, Tensor]:
        ends = torch.bincount(ray, minlength=rays).cumsum(0)
        wide = depth.to(_sum_type(depth))
        before = wide.cumsum(0) - wide
        first = torch.cat([ends.new_zeros(1), ends[:-1]]).index_select(0, ray)
        transmittance = (before.index_select(0, first) - before).to(depth.dtype).exp()
        weights = transmittance * -torch.expm1(-depth)
        ctx.save_for_backward(transmittance, weights, ends.index_select(0, ray) - 1)
        ctx.mark_non_differentiable(transmittance)
        return weights, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        transmittance, weights, last = ctx.saved_tensors
        total = (grad * weights).to(_sum_type(grad)).cumsum(0)
        behind = (total.index_select(0, last) - total).to(grad.dtype)  # sum of g_i w_i over the samples behind
        return grad * (transmittance - weights) - behind, None, None


def _sum_type(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64


def accumulate(values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Sum packed ``values [S,C]`` over each ray -> ``[rays, C]``, in the samples' order."""
    return values.new_zeros(rays, values.shape[1]).index_add_(0, ray, values)
