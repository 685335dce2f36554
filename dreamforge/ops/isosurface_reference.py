"""The definitions of ``isosurface``: readable, of any float type, differentiable as often as wanted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.ops.isosurface_tables import (
    JOINED,
    LOOPS,
    NONE,
    OTHERS,
    TRIANGLES,
    edge_corners,
    loop_table,
    tetra_table,
)

Size = tuple[int, int, int]  # cubes along x, y, z


@dataclass(frozen=True)
class Weights:
    """FlexiCubes' raw weights, ``[cubes, 8]``, ``[cubes, 12]``, ``[cubes]``, and what they are for."""

    alpha: Tensor | None = None
    beta: Tensor | None = None
    gamma: Tensor | None = None
    training: bool = False
    scale: float = 0.99


def cube_corners(size: Size, device: torch.device) -> Tensor:
    """The grid's vertices at the corners of every cube, ``[cubes, 8]`` int64."""
    y, z = size[1] + 1, size[2] + 1
    low = torch.arange((size[0] + 1) * y * z, device=device).view(-1, y, z)[:-1, :-1, :-1].reshape(-1, 1)
    steps = [(c & 1) * y * z + (c >> 1 & 1) * z + (c >> 2) for c in range(8)]
    return low + torch.tensor(steps, device=device)


def case_of(s: Tensor, corners: Tensor) -> Tensor:
    """Which corners of each cube are inside, as bits ``[cubes]``."""
    return ((s < 0)[corners].long() << torch.arange(8, device=s.device)).sum(1)


def resolved(case: Tensor, size: Size, loops: Tensor) -> Tensor:
    """The row of ``loop_table`` that each cube takes: of the opposite signs where two cubes join on one face."""
    rows = case.view(size).clone()
    joined = loops[case.view(size), JOINED]
    for axis in range(3):
        low, high = (joined.narrow(axis, start, size[axis] - 1) for start in (0, 1))
        both = (low == 2 * axis + 1) & (high == 2 * axis)
        for start in (0, 1):
            some = rows.narrow(axis, start, size[axis] - 1)
            some.copy_(torch.where(both, 255 - some, some))
    return rows.flatten()


def crossing(x_a: Tensor, x_b: Tensor, s_a: Tensor, s_b: Tensor) -> Tensor:
    """Where the line from (x_a, s_a) to (x_b, s_b) passes zero, ``[N, 3]``; the middle where both are nothing."""
    fall = s_a - s_b
    nothing = fall == 0
    t = torch.where(nothing, 0.5, s_a / torch.where(nothing, 1.0, fall))
    return x_a + t[:, None] * (x_b - x_a)


def flexicubes_reference(x: Tensor, s: Tensor, size: Size, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """See ``isosurface.flexicubes``."""
    table, corners = loop_table().to(x.device).long(), cube_corners(size, x.device)
    case = case_of(s, corners)
    active = ((case > 0) & (case < 255)).nonzero().squeeze(1)
    rows = table[resolved(case, size, table)[active]]
    total = rows[:, LOOPS].cumsum(0)
    vertex = torch.where(rows[:, :12] == NONE, -1, rows[:, :12] + (total - rows[:, LOOPS])[:, None])  # [A, 12]
    vertices, deviation = _dual_vertices(x, s, corners[active], vertex, active, weights)
    quads = _quads(case, active, vertex, size)
    scale = weights.scale
    gamma = torch.ones_like(s[:1]).expand(len(active))
    if weights.gamma is not None:
        gamma = 0.5 + scale * (torch.sigmoid(weights.gamma[active]) - 0.5)
    gamma = gamma.repeat_interleave(rows[:, LOOPS])[quads]  # [Q, 4]
    one, two = gamma[:, 0] * gamma[:, 2], gamma[:, 1] * gamma[:, 3]
    if not weights.training:
        ways = torch.tensor([[0, 1, 2, 0, 2, 3], [0, 1, 3, 1, 2, 3]], device=x.device)
        return vertices, quads.gather(1, ways[(two > one).long()]).view(-1, 3), deviation
    corner = vertices[quads]  # [Q, 4, 3]
    share = (one / (one + two))[:, None]
    centers = share * (corner[:, 0] + corner[:, 2]) / 2 + (1 - share) * (corner[:, 1] + corner[:, 3]) / 2
    middle = len(vertices) + torch.arange(len(quads), device=x.device)[:, None].expand(-1, 4)
    faces = torch.stack([quads, quads.roll(-1, 1), middle], -1).view(-1, 3)
    return torch.cat([vertices, centers]), faces, deviation


def _dual_vertices(
    x: Tensor, s: Tensor, corners: Tensor, vertex: Tensor, active: Tensor, weights: Weights
) -> tuple[Tensor, Tensor]:
    """Vertices and deviations of the active cubes, whose edges belong to the vertices ``vertex [A, 12]``, or to -1."""
    row, edge = (vertex >= 0).nonzero(as_tuple=True)
    owner, count = vertex[row, edge], int(vertex.max()) + 1 if len(vertex) else 0
    ends = torch.tensor(edge_corners(), device=x.device)[edge]  # [E, 2]
    x_a, x_b = (x[corners[row, ends[:, k]]] for k in range(2))
    s_a, s_b = (s[corners[row, ends[:, k]]] for k in range(2))
    plain = crossing(x_a, x_b, s_a, s_b)
    u, beta = plain, torch.ones_like(s_a)
    if weights.alpha is not None:
        alpha = 1 + weights.scale * torch.tanh(weights.alpha[active])
        u = crossing(x_a, x_b, s_a * alpha[row, ends[:, 0]], s_b * alpha[row, ends[:, 1]])
    if weights.beta is not None:
        beta = 1 + weights.scale * torch.tanh(weights.beta[active[row], edge])
    total = beta.new_zeros(count).index_add(0, owner, beta)
    vertices = u.new_zeros(count, 3).index_add(0, owner, beta[:, None] * u) / total[:, None]
    distance = (vertices[owner] - plain).norm(dim=1)
    edges = torch.bincount(owner, minlength=count)
    mean = distance.new_zeros(count).index_add(0, owner, distance) / edges
    return vertices, (distance - mean[owner]).abs()


def _quads(case: Tensor, active: Tensor, vertex: Tensor, size: Size) -> Tensor:
    """Four vertices ``[Q, 4]`` in a ring around each crossed edge inside the grid.

    Ordered by the cube at whose low corner the edge lies, then by axis.
    """
    steps = (size[1] * size[2], size[2], 1)
    place = torch.stack([active // steps[0], active // steps[1] % size[1], active % size[2]], 1)
    rank = torch.full_like(case, -1)
    rank[active] = torch.arange(len(active), device=case.device)
    rings, emitted = [], []
    for axis, (one, two) in enumerate(OTHERS):
        inside = case[active] & 1
        emits = (inside != case[active] >> (1 << axis) & 1) & (place[:, one] > 0) & (place[:, two] > 0)
        cubes = active[emits]
        ring = []
        for back_one, back_two in ((1, 1), (0, 1), (0, 0), (1, 0)):  # turns left about the axis, about y to the right
            neighbour = rank[cubes - back_one * steps[one] - back_two * steps[two]]
            ring.append(vertex[neighbour, 4 * axis + back_one + 2 * back_two])
        quads = torch.stack(ring, 1)
        left = (inside[emits] == 1) != (axis == 1)  # outside lies where the axis points to
        rings.append(torch.where(left[:, None], quads, quads.flip(1)))
        emitted.append(3 * emits.nonzero().squeeze(1) + axis)
    return torch.cat(rings)[torch.cat(emitted).argsort()]


def tetrahedra_reference(x: Tensor, s: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """See ``isosurface.marching_tetrahedra``. A vertex of the grid owns 7 edges, along x, y, xy, z, xz, yz, xyz."""
    table, corners = tetra_table().to(x.device).long(), cube_corners(size, x.device)
    direction = torch.arange(1, 8, device=x.device)
    y, z = size[1] + 1, size[2] + 1
    number = torch.arange(len(s), device=x.device)
    place = torch.stack([number // (y * z), number // z % y, number % z], 1)
    along = torch.stack([direction & 1, direction >> 1 & 1, direction >> 2], 1)
    there = (place[:, None] + along <= torch.tensor(size, device=x.device)).all(2)  # [n, 7]
    step = along[:, 0] * (y * z) + along[:, 1] * z + along[:, 2]  # CUDA multiplies no matrices of integers
    other = torch.where(there, number[:, None] + step, number[:, None])
    crossed = (s < 0)[:, None] != (s < 0)[other]
    a = crossed.nonzero()[:, 0]
    b = other[crossed]
    vertices = crossing(x[a], x[b], s[a], s[b])
    vertex = (crossed.flatten().cumsum(0) - 1).view(-1, 7)
    rows = table[case_of(s, corners)]
    cube, triangle = (torch.arange(12, device=x.device) < rows[:, TRIANGLES, None]).nonzero(as_tuple=True)
    codes = rows[:, :36].view(-1, 12, 3)[cube, triangle]  # [F, 3]
    return vertices, vertex[corners[cube[:, None], codes >> 3], (codes & 7) - 1]
