"""Multiresolution hash encoding of points (Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3).

Sizes, indexing and initialisation follow the documented grid of tiny-cuda-nn, so tables are interchangeable level by
level: scale_l = base * s^l - 1, resolution_l = ceil(scale_l) + 1, entries_l = min(resolution_l^3 rounded up to 8, 2^T);
a point lies at ``scale x + 0.5``; a vertex is found at x + y res + z res^2 when the level fits in its entries, else at
the XOR of (x, y, z) * (1, 2654435761, 805459861), always modulo the entries.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.types import DreamforgeError

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

    @property
    def rows(self) -> int:
        """Rows of the table ``[rows, features]``."""
        last = self.grids()[-1]
        return last.first + last.entries

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


def encode(x: Tensor, table: Tensor, grid: HashGrid, backend: Literal["auto", "torch"] = "auto") -> Tensor:
    """Points ``x [N,3]`` in [0,1] and ``table [rows, features]`` -> ``[N, levels * features]``, coarse levels first.

    Trilinear. Gradients reach ``table``, summed in a fixed order (on a CPU the same bits for any number of threads);
    when ``x`` requires one too, or for ``backend="torch"``, the readable reference answers. Outside [0,1] the vertices
    wrap modulo the entries. Raises DreamforgeError when the table is not of the grid's size.
    """
    if table.shape != (grid.rows, grid.features) or x.ndim != 2 or x.shape[1] != 3:
        raise DreamforgeError(
            f"points {list(x.shape)} and a table {list(table.shape)} were given to a hash grid that expects [N, 3] and "
            f"[{grid.rows}, {grid.features}]; use a table made by HashGrid.table."
        )
    if backend == "torch" or x.requires_grad:
        return encode_reference(x, table, grid)
    encoded: Tensor = _Encode.apply(x, table, grid)
    return encoded


def encode_reference(x: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """The definition of ``encode``: any float type, differentiable in ``x`` and ``table``."""
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


class _Encode(torch.autograd.Function):
    """``encode`` level by level over the whole batch: a weighted bag of 8 rows forward, a serial scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
        axes = x.t().contiguous()
        out = x.new_empty(len(x), grid.width)
        saved: list[Tensor] = []
        for number, level in enumerate(grid.grids()):
            rows, weight = _bags(axes, level)
            part = table.narrow(0, level.first, level.entries)
            bag = torch.nn.functional.embedding_bag(rows, part, per_sample_weights=weight, mode="sum")
            out[:, number * grid.features : (number + 1) * grid.features] = bag
            saved += [rows, weight]
        if table.requires_grad:
            ctx.save_for_backward(*saved)
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        grid: HashGrid = ctx.grid
        saved = ctx.saved_tensors
        # One flat row per feature: scattering into one dimension is serial on a CPU, hence in a fixed order.
        columns = grad.new_zeros(grid.features, grid.rows)
        for number, level in enumerate(grid.grids()):
            rows, weight = saved[2 * number : 2 * number + 2]
            for feature, column in enumerate(columns.narrow(1, level.first, level.entries)):
                pull = grad[:, number * grid.features + feature, None]
                column.scatter_add_(0, rows.flatten(), (weight * pull).flatten())
        return None, columns.t(), None


def _bags(axes: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Coordinates ``[3, N]`` -> the 8 rows around each point and their weights, each ``[N, 8]`` contiguous."""
    position = axes * level.scale + 0.5
    cell = position.floor()
    high = position.sub_(cell)
    low = 1 - high
    pairs = [(low[axis], high[axis]) for axis in range(3)]
    weight = torch.stack([(wz * wy) * wx for wz in pairs[2] for wy in pairs[1] for wx in pairs[0]], 1)
    x, y, z = cell.long()
    if level.hashed:
        sides = [(axis * prime, axis * prime + prime) for axis, prime in zip((x, y, z), PRIMES, strict=True)]
        rows = torch.stack([(hz ^ hy) ^ hx for hz in sides[2] for hy in sides[1] for hx in sides[0]], 1)
        return rows.bitwise_and_(level.entries - 1), weight  # a hashed level has 2^T entries
    side = level.resolution
    corners = torch.tensor([i + j * side + k * side**2 for k in (0, 1) for j in (0, 1) for i in (0, 1)]).to(x.device)
    first = x + y * side + z * side**2
    rows = first[:, None] + corners
    if len(first) and (int(first.max()) + int(corners[-1]) >= level.entries or int(first.min()) < 0):
        rows = (rows & 0xFFFFFFFF) % level.entries  # only the upper border wraps: the division is too slow to do always
    return rows, weight
