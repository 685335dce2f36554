"""Marching rays through an occupancy grid, and compositing what lies on them.

The grid is a cube ``[G,G,G]`` (x, y, z; z fastest) over ``[-bound, bound]^3``. Samples of many rays are packed: one
flat array, the rays one after another, near samples first. Occupancy rules as in instant-ngp and nerfacc: the running
maximum decays by 0.95 an update; a cell is marched through when its opacity exceeds min(mean opacity, threshold).
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.ops.peers import render_nerfacc
from dreamforge.types import DreamforgeError

CHANNELS = 8  # of values that the core has room for; this and the next as in extensions/include/march.h
BLOCK = 4  # cells along the side of a block, which a ray leaps over where all of them are empty


@dataclass(frozen=True)
class Packed:
    """Samples: ``ray [S]`` int64 ascending, ``t [S]`` and ``position [S,3]`` in metres; those of ray r are
    ``[first[r], first[r + 1])``, ``first [R+1]`` int64."""

    ray: Tensor
    t: Tensor
    position: Tensor
    first: Tensor

    @property
    def rays(self) -> int:
        return len(self.first) - 1


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
def sample(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    bound: float,
    step: float,
    shift: Tensor,
    backend: Backend = "auto",
) -> Packed:
    """Midpoints of the intervals of length ``step`` that lie in occupied cells.

    ``origins``, ``directions`` (unit) ``[R,3]``; ``occupancy [G,G,G]`` bool; ``shift [R]`` in [0,1) places the first
    midpoint at ``near + shift * step``, so neither the phase nor any kept sample depends on the occupancy. Raises
    DreamforgeError for shapes that do not fit and a step that is not above 0.
    """
    cube = occupancy.ndim == 3 and len({*occupancy.shape}) == 1 and 0 < len(occupancy) <= 1024
    if origins.shape != directions.shape or origins.shape != (len(shift), 3) or not cube:
        raise DreamforgeError(
            f"origins {list(origins.shape)}, directions {list(directions.shape)}, shift {list(shift.shape)} and "
            f"occupancy {list(occupancy.shape)} were given, but [R,3] twice, [R] and a cube of up to 1024 cells a side "
            "are expected."
        )
    if not (0 < step < float("inf") and 0 < bound < float("inf")):
        raise DreamforgeError(f"step {step} and bound {bound} were given, but lengths above 0 are expected.")
    able = {origins.dtype, directions.dtype, shift.dtype} == {torch.float32}
    if choose("march", origins.device, backend, able, agrees) == "torch":
        return sample_reference(origins, directions, occupancy, bound, step, shift)
    return sample_native(origins, directions, occupancy, bound, step, shift)


def visible(packed: Packed, density: Tensor, step: float, least: float, backend: Backend = "auto") -> Packed:
    """The samples that at least the share ``least`` of the light reaches; ``density [S]`` in 1/m. No gradients."""
    if choose("march", density.device, backend, density.dtype == torch.float32, agrees) == "torch":
        index, first = visible_reference(packed, density, step, least)
    else:
        index, first = visible_native(packed, density, step, least)
    return Packed(
        packed.ray.index_select(0, index),
        packed.t.index_select(0, index),
        packed.position.t().index_select(1, index).t(),
        first,
    )


def render(
    packed: Packed, density: Tensor, values: Tensor, step: float, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """``density [S]`` in 1/m (>= 0), ``values [S,C]`` -> sums over each ray ``[R,C+2]`` and weights ``[S]``.

    T_i = exp(-step sum of the densities before i on its ray), w_i = T_i (1 - exp(-step density_i)) (Max 1995; NeRF,
    eq. 3). The sums are those of w times the values, of w (alpha), of w t. Gradients reach density and values, from
    both answers.
    """
    able = density.dtype == values.dtype == torch.float32 and values.shape[1] <= CHANNELS
    if backend == "nerfacc":
        return render_nerfacc(packed, density, values, step)
    if choose("march", density.device, backend, able, agrees) == "torch":
        return render_reference(packed, density, values, step)
    return render_native(packed, density, values, step)


def sample_reference(
    origins: Tensor, directions: Tensor, occupancy: Tensor, bound: float, step: float, shift: Tensor
) -> Packed:
    """The definition of ``sample``: every midpoint of every ray is looked up."""
    ray, t = march(origins, directions, occupancy, bound, step, shift)
    position = torch.addcmul(origins.index_select(0, ray), directions.index_select(0, ray), t[:, None])
    return Packed(ray, t, position, offsets(torch.bincount(ray, minlength=len(origins))))


def visible_reference(packed: Packed, density: Tensor, step: float, least: float) -> tuple[Tensor, Tensor]:
    """Indices of the visible samples, and where each ray's begin: see ``visible``."""
    _, transmittance = render_weights(density * step, packed.ray, packed.rays)
    index = (transmittance >= least).nonzero().squeeze(1)
    return index, offsets(torch.bincount(packed.ray.index_select(0, index), minlength=packed.rays))


def render_reference(packed: Packed, density: Tensor, values: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The definition of ``render``."""
    weights, _ = render_weights(density * step, packed.ray, packed.rays)
    columns = torch.cat([values, torch.ones_like(weights)[:, None], packed.t[:, None].to(values)], 1)
    return accumulate(weights[:, None] * columns, packed.ray, packed.rays), weights


def offsets(counts: Tensor) -> Tensor:
    """``[R]`` -> ``[R+1]``: where each begins, and the end."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


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


class MarchArgs(ctypes.Structure):
    """``MarchArgs`` of extensions/include/march.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("origins", "directions", "shift", "occupancy", "bits")],
        *[(name, ctypes.c_void_p) for name in ("blocks", "first", "ray", "t", "position")],
        ("rays", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("cells", ctypes.c_int32),
        ("bound", ctypes.c_float),
        ("step", ctypes.c_float),
    ]


class RenderArgs(ctypes.Structure):
    """``RenderArgs`` of extensions/include/march.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("density", "values", "t", "first", "weights", "sums", "grad_sums")],
        *[(name, ctypes.c_void_p) for name in ("grad_weights", "grad_density", "grad_values", "kept", "index")],
        ("rays", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("channels", ctypes.c_int32),
        ("step", ctypes.c_float),
        ("least", ctypes.c_float),
    ]


def sample_native(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    bound: float,
    step: float,
    shift: Tensor,
    level: native.Level = None,
) -> Packed:
    """``sample`` by the compiled core: count, sum up, fill."""
    cells, rays = len(occupancy), len(origins)
    given = [tensor.contiguous() for tensor in (origins, directions, shift, occupancy)]
    words = [-(-(side**3) // 32) for side in (cells, -(-cells // BLOCK))]
    bits, blocks = torch.empty(sum(words), dtype=torch.int32, device=origins.device).split(words)
    first = torch.zeros(rays + 1, dtype=torch.int64, device=origins.device)
    pointers = [tensor.data_ptr() for tensor in (*given, bits, blocks, first)]
    sizes = (cells, bound, step)
    _run("march_pack", bits, sum(words), MarchArgs(*pointers, None, None, None, rays, 0, *sizes), level)
    _run("march_count", bits, rays, MarchArgs(*pointers, None, None, None, rays, 0, *sizes), level)
    first = first.cumsum(0)
    samples = int(first[-1])
    ray = torch.empty(samples, dtype=torch.int64, device=origins.device)
    t, position = origins.new_empty(samples), origins.new_empty(3, samples)
    pointers = [tensor.data_ptr() for tensor in (*given, bits, blocks, first, ray, t, position)]
    _run("march_fill", bits, rays, MarchArgs(*pointers, rays, samples, *sizes), level)
    return Packed(ray, t, position.t(), first)


def visible_native(
    packed: Packed, density: Tensor, step: float, least: float, level: native.Level = None
) -> tuple[Tensor, Tensor]:
    """As ``visible_reference``, by the compiled core."""
    density, kept = density.detach().contiguous(), torch.zeros_like(packed.first)
    given: dict[str, Any] = {"density": density, "first": packed.first}
    facts = {"rays": packed.rays, "samples": len(density), "step": step, "least": least}
    _run("march_keep_count", density, packed.rays, _render_args(facts, kept=kept, **given), level)
    kept = kept.cumsum(0)
    index = torch.empty(int(kept[-1]), dtype=torch.int64, device=density.device)
    _run("march_keep", density, packed.rays, _render_args(facts, kept=kept, index=index, **given), level)
    return index, kept


def render_native(
    packed: Packed, density: Tensor, values: Tensor, step: float, level: native.Level = None
) -> tuple[Tensor, Tensor]:
    """``render`` by the compiled core."""
    sums, weights = _Render.apply(density, values, packed, step, level)
    return sums, weights


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, values: Tensor, packed: Packed, step: float, level: native.Level
    ) -> tuple[Tensor, Tensor]:
        density, rows = density.contiguous(), values.t().contiguous()
        weights = torch.empty_like(density)
        sums = density.new_empty(len(rows) + 2, packed.rays)
        facts = {"rays": packed.rays, "samples": len(density), "channels": len(rows), "step": step}
        given = {"density": density, "values": rows, "t": packed.t, "first": packed.first, "weights": weights}
        _run("march_render", density, packed.rays, _render_args(facts, sums=sums, **given), level)
        ctx.save_for_backward(*given.values())
        ctx.facts, ctx.level = facts, level
        ctx.set_materialize_grads(False)
        return sums.t(), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        density, rows, t, first, weights = ctx.saved_tensors
        facts, (to_sums, to_weights) = ctx.facts, grads
        pull = density.new_zeros(len(rows) + 2, facts["rays"]) if to_sums is None else to_sums.t().contiguous()
        given = {"density": density, "values": rows, "t": t, "first": first, "weights": weights, "grad_sums": pull}
        if to_weights is not None:
            given["grad_weights"] = to_weights.contiguous()
        to_density, to_values = torch.empty_like(density), torch.empty_like(rows)
        args = _render_args(facts, grad_density=to_density, grad_values=to_values, **given)
        _run("march_render_backward", density, facts["rays"], args, ctx.level)
        return to_density, to_values.t(), None, None, None


def _render_args(facts: dict[str, Any], **tensors: Tensor) -> RenderArgs:
    return RenderArgs(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, **facts)


def _run(name: str, like: Tensor, items: int, args: ctypes.Structure, level: native.Level) -> None:
    call("march", name, like, args, (cuda.blocks(items), 1), level)


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws = torch.Generator().manual_seed(0)
    origins = torch.randn(200, 3, generator=draws)
    directions = torch.nn.functional.normalize(torch.rand(200, 3, generator=draws) - 0.5 - origins, dim=-1)
    occupancy = torch.rand(8, 8, 8, generator=draws) > 0.5
    given = (origins.to(device), directions.to(device), occupancy.to(device), 1.0, 0.05)
    shift = torch.rand(200, generator=draws).to(device)
    ours, theirs = (take(*given, shift) for take in (sample_native, sample_reference))
    if abs(len(ours.t) - len(theirs.t)) > 0.001 * len(theirs.t):  # one on the border of a cell may fall either way
        return False
    density = torch.rand(len(ours.t), generator=draws).to(device) * 20
    values = torch.rand(len(ours.t), 3, generator=draws).to(device)
    pull = torch.rand(200, 5, generator=draws).to(device)
    answers = []
    for compute in (render_native, render_reference):
        one, two = density.clone().requires_grad_(), values.clone().requires_grad_()
        sums, _ = compute(ours, one, two, 0.05)
        answers.append([sums.detach(), *torch.autograd.grad(sums, [one, two], pull)])
    close = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*answers, strict=True))
    kept = [len(take(ours, density, 0.05, 0.01)[0]) for take in (visible_native, visible_reference)]
    return close and abs(kept[0] - kept[1]) <= 0.001 * kept[1]
