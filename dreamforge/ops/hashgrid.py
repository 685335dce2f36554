"""Multiresolution hash encoding of points (Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3).

Sizes, indexing and initialisation follow the documented grid of tiny-cuda-nn, so tables are interchangeable level by
level: scale_l = base * s^l - 1, resolution_l = ceil(scale_l) + 1, entries_l = min(resolution_l^3 rounded up to 8, 2^T);
a point lies at ``scale x + 0.5``; a vertex is found at x + y res + z res^2 when the level fits in its entries, else at
the XOR of (x, y, z) * (1, 2654435761, 805459861), always modulo the entries.
"""

import ctypes
import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.ops.peers import encode_tinycudann
from dreamforge.types import DreamforgeError

WIDTHS = (1, 2, 4, 8)  # features for which there is a kernel
PRIMES = (1, 2654435761, 805459861)
INIT = 1e-4  # the table starts uniform in [-INIT, INIT]


@dataclass(frozen=True)
class Level:
    """One grid of the encoding; its entries are the table's rows ``[first, first + entries)``."""

    scale: float
    resolution: int
    entries: int
    first: int
    hashed: bool


@dataclass(frozen=True)
class HashGrid:
    """Sizes of an encoding: ``levels`` grids, ``features`` numbers a vertex, up to 2^``log2_entries`` vertices each."""

    levels: int = 16
    features: int = 2
    log2_entries: int = 19
    base: int = 16
    growth: float = 2.0  # "per_level_scale"

    def __post_init__(self) -> None:
        if min(self.levels, self.features, self.base) < 1 or self.growth < 1 or not 3 <= self.log2_entries <= 28:
            raise DreamforgeError(
                f"{self} is no hash grid: levels, features and base must be at least 1, growth at least 1 and "
                "log2_entries in [3, 28]; change them."
            )

    @property
    def width(self) -> int:
        """Numbers that a point is encoded in."""
        return self.levels * self.features

    @cached_property
    def rows(self) -> int:
        """Rows of the table ``[rows, features]``."""
        last = self.grids()[-1]
        return last.first + last.entries

    @cache  # noqa: B019
    def grids(self) -> tuple[Level, ...]:
        """Every level from coarse to fine."""
        grids: list[Level] = []
        first = 0
        for number in range(self.levels):
            # In float32 as the original has it: from 8 to 64 in 5 steps ends at 63, not 63.00000000000003.
            scale = float(torch.tensor(self.base * self.growth**number - 1, dtype=torch.float32))
            resolution = math.ceil(scale) + 1
            entries = min(-(-(resolution**3) // 8) * 8, 2**self.log2_entries)
            grids.append(Level(scale, resolution, entries, first, hashed=resolution**3 > entries))
            first += entries
        return tuple(grids)

    def table(self, generator: torch.Generator) -> Tensor:
        """A fresh table ``[rows, features]`` on the generator's device, uniform in +-1e-4."""
        table = torch.empty(self.rows, self.features, device=generator.device)
        return table.uniform_(-INIT, INIT, generator=generator)


def encode(x: Tensor, table: Tensor, grid: HashGrid, half: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Points ``x [N,3]`` in [0,1] and ``table [rows, features]`` -> ``[N, levels * features]``, coarse levels first.

    Trilinear; outside [0,1] the vertices wrap modulo the entries. Gradients reach ``table`` and ``x``; second ones for
    ``backend="torch"`` only. ``half``: a float16 copy of the table, read in its place, half the memory to go
    through; the gradient is still the table's. Natively on a CPU sums have a fixed order: the same bits for any number
    of threads. Raises DreamforgeError when the table is not of the grid's size, and for a backend that is not there.
    """
    expected = (grid.rows, grid.features)
    if table.shape != expected or x.ndim != 2 or x.shape[1] != 3 or (half is not None and half.shape != expected):
        raise DreamforgeError(
            f"points {list(x.shape)} and a table {list(table.shape)} were given to a hash grid that expects [N, 3] and "
            f"[{grid.rows}, {grid.features}]; use a table made by HashGrid.table."
        )
    able = x.dtype == table.dtype == torch.float32 and grid.features in WIDTHS
    if backend == "tinycudann":
        return encode_tinycudann(x, table, grid)
    if choose("hashgrid", x.device, backend, able, agrees) == "torch":
        return encode_reference(x, table, grid, half)
    return encode_native(x, table, grid, half)


def encode_native(
    x: Tensor, table: Tensor, grid: HashGrid, half: Tensor | None = None, level: native.Level = None
) -> Tensor:
    """``encode`` by the compiled core at a ``level``, see ``native.Level``."""
    encoded: Tensor = _Native.apply(x, table, grid, half, level)
    return encoded


def encode_reference(x: Tensor, table: Tensor, grid: HashGrid, half: Tensor | None = None) -> Tensor:
    """The definition of ``encode``: any float type, differentiable in ``x`` and ``table``, as often as wanted."""
    if half is not None:  # its values, the table's gradient
        table = table + (half.to(table.dtype) - table).detach()
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)], device=x.device)
    levels = []
    for level in grid.grids():
        position = x * level.scale + 0.5
        cell = position.detach().floor()
        fraction = (position - cell)[:, None]
        weight = torch.where(corners.bool(), fraction, 1 - fraction).prod(-1)  # [N, 8]
        rows = vertex_rows(cell.long()[:, None] + corners, level) + level.first
        features = table.index_select(0, rows.flatten()).view(*rows.shape, grid.features)
        levels.append((weight[..., None] * features).sum(1))
    return torch.cat(levels, -1)


def vertex_rows(vertex: Tensor, level: Level) -> Tensor:
    """Integer vertices ``[..., 3]`` of a level -> their rows within the level's entries, in 32-bit arithmetic."""
    x, y, z = vertex.unbind(-1)
    if level.hashed:
        row = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
    else:
        row = x + y * level.resolution + z * level.resolution**2
    return (row & 0xFFFFFFFF) % level.entries


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    grid, draws = HashGrid(3, 2, 9, 4, 2.0), torch.Generator().manual_seed(0)
    x, table = torch.rand(500, 3, generator=draws).to(device), grid.table(draws).to(device) / INIT
    pull = torch.rand(500, grid.width, generator=draws).to(device)
    answers = []
    for compute in (encode_native, encode_reference):
        points, rows = x.clone().requires_grad_(), table.clone().requires_grad_()
        out = compute(points, rows, grid)
        answers.append([out.detach(), *torch.autograd.grad(out, (points, rows), pull)])
    return all(torch.allclose(one, two, rtol=1e-3, atol=1e-3) for one, two in zip(*answers, strict=True))


class GridLevel(ctypes.Structure):
    """``GridLevel`` of extensions/include/hashgrid.h."""

    _fields_ = [
        ("scale", ctypes.c_float),
        ("resolution", ctypes.c_uint32),
        ("entries", ctypes.c_uint32),
        ("first", ctypes.c_uint32),
        ("hashed", ctypes.c_uint32),
    ]


class HashGridArgs(ctypes.Structure):
    """``HashGridArgs`` of extensions/include/hashgrid.h."""

    _fields_ = [
        ("axes", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("points", ctypes.c_int64),
        ("count", ctypes.c_int32),
        ("features", ctypes.c_int32),
        ("half", ctypes.c_int32),
    ]


class _Native(torch.autograd.Function):
    """``encode`` by the compiled core. Features lie point by point in memory: what it returns is a transposed view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, grid: HashGrid, half: Tensor | None, level: native.Level) -> Tensor:
        axes, read = x.t().contiguous(), table.contiguous() if half is None else half.contiguous()
        out = x.new_empty(grid.width, len(x))
        _run("hashgrid_encode", axes, read, grid, None, out, level)
        ctx.save_for_backward(axes, read)
        ctx.grid, ctx.level = grid, level
        return out.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        axes, read = ctx.saved_tensors
        grid: HashGrid = ctx.grid
        pulled = grad.t().contiguous()
        to_x = to_table = None
        if ctx.needs_input_grad[0]:
            to_x = torch.empty_like(axes)
            _run("hashgrid_grad_points", axes, read, grid, pulled, to_x, ctx.level)
            to_x = to_x.t()
        if ctx.needs_input_grad[1]:
            fresh = torch.zeros if native.on_cuda(axes, ctx.level) else torch.empty  # threads of a GPU only add
            to_table = fresh(grid.rows, grid.features, device=axes.device)
            _run("hashgrid_grad_table", axes, read, grid, pulled, to_table, ctx.level)
        return to_x, to_table, None, None, None


def _run(
    name: str, axes: Tensor, table: Tensor, grid: HashGrid, grad: Tensor | None, out: Tensor, level: native.Level
) -> None:
    args = HashGridArgs(
        axes.data_ptr(),
        table.data_ptr(),
        _levels(grid, axes.device)[0],
        None if grad is None else grad.data_ptr(),
        out.data_ptr(),
        axes.shape[1],
        grid.levels,
        grid.features,
        table.dtype == torch.float16,
    )
    levels = 1 if name == "hashgrid_grad_points" else grid.levels
    call("hashgrid", name, axes, args, (cuda.blocks(axes.shape[1]), levels), level)


@cache
def _levels(grid: HashGrid, device: torch.device) -> tuple[int, Any]:
    """The address of the grid's levels as the core reads them, and what the cache keeps there."""
    levels = grid.grids()
    rows = (GridLevel * len(levels))(*(GridLevel(g.scale, g.resolution, g.entries, g.first, g.hashed) for g in levels))
    if device.type == "cpu":
        return ctypes.addressof(rows), rows
    copy = torch.frombuffer(bytearray(rows), dtype=torch.uint8).to(device)
    return copy.data_ptr(), copy
