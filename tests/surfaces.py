"""Signed distances of known shapes and of none; what holds for a closed mesh, counted from its faces alone."""

import math
from collections.abc import Callable

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dreamforge.ops.isosurface import grid
from dreamforge.ops.isosurface_reference import Size

Shape = Callable[[Tensor], Tensor]  # [n, 3] -> [n], negative inside


def sphere(radius: float, *center: float) -> Shape:
    return lambda x: (x - x.new_tensor(center or (0.0, 0.0, 0.0))).norm(dim=1) - radius


def torus(ring: float, tube: float) -> Shape:
    return lambda x: torch.stack([x[:, :2].norm(dim=1) - ring, x[:, 2]], 1).norm(dim=1) - tube


def box(*half: float) -> Shape:
    def distance(x: Tensor) -> Tensor:
        away = x.abs() - x.new_tensor(half)
        return away.clamp(min=0).norm(dim=1) + away.amax(1).clamp(max=0)

    return distance


def gyroid(waves: float) -> Shape:
    return lambda x: (torch.sin(waves * x) * torch.cos(waves * x).roll(-1, 1)).sum(1)


BALL = sphere(0.7, 0.013, 0.021, -0.017)  # no vertex of a grid lies on it


def union(one: Shape, two: Shape) -> Shape:
    return lambda x: torch.minimum(one(x), two(x))


def both(one: Shape, two: Shape) -> Shape:
    return lambda x: torch.maximum(one(x), two(x))


def directed_edges(faces: Tensor) -> Tensor:
    """The three edges of every face as they are walked, ``[3F, 2]``: those of face f at f, F + f, 2F + f."""
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def is_closed(faces: Tensor) -> bool:
    """Every edge is walked once each way: two faces meet there, turning alike."""
    edges = directed_edges(faces)
    once = len(edges.unique(dim=0)) == len(edges)
    return once and torch.equal(edges.unique(dim=0), edges.flip(1).unique(dim=0))


def open_edges(faces: Tensor) -> Tensor:
    """Edges of a mesh with consistent faces that one face alone has, as it walks them."""
    edges = directed_edges(faces)
    assert len(edges.unique(dim=0)) == len(edges), "two faces turn alike about an edge, or more than two meet there"
    back = {tuple(edge) for edge in edges.flip(1).tolist()}
    return edges[[tuple(edge) not in back for edge in edges.tolist()]]


def has_one_fan_a_vertex(faces: Tensor) -> bool:
    """The corners of a closed mesh that meet in a vertex are connected across the edges there."""
    count = len(faces)
    edges = directed_edges(faces)
    place = {tuple(edge): n for n, edge in enumerate(edges.tolist())}
    links = []
    for n, (a, b) in enumerate(edges.tolist()):
        other = place[b, a]
        face, turn = n % count, n // count  # this edge starts at corner `turn` of its face
        links.append((3 * face + turn, 3 * (other % count) + (other // count + 1) % 3))
    one, two = torch.tensor(links).unbind(1)
    graph = coo_array((torch.ones(len(one)), (one, two)), shape=(3 * count, 3 * count))
    return connected_components(graph, directed=False)[0] == len(faces.unique())


def euler(faces: Tensor) -> int:
    """Vertices less edges plus faces of a closed mesh: 2 for each ball, 0 for a torus."""
    return len(faces.unique()) - 3 * len(faces) // 2 + len(faces)


def area(vertices: Tensor, faces: Tensor) -> float:
    a, b, c = vertices.detach().double()[faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)


def volume(vertices: Tensor, faces: Tensor) -> float:
    """Positive where faces turn to the left seen from outside."""
    a, b, c = vertices.detach().double()[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def order(coarse: float, fine: float) -> float:
    """The power of the cell's size that an error goes down with when the size is halved."""
    return math.log2(abs(coarse) / abs(fine))


def field(size: Size, seed: int = 0, border: float | None = None) -> tuple[Tensor, Tensor]:
    """Moved vertices and random distances: every ambiguous case is there; ``border``: the distance on the grid's."""
    draws = torch.Generator().manual_seed(seed)
    x = grid(size)[0] + 0.1 * torch.randn(grid(size)[0].shape, generator=draws) / max(size)
    s = torch.randn([count + 1 for count in size], generator=draws)
    if border is not None:
        inner = s[1:-1, 1:-1, 1:-1].clone()
        s.fill_(border)[1:-1, 1:-1, 1:-1] = inner
    return x, s.flatten()


def raw(size: Size, seed: int = 1) -> list[Tensor]:
    draws, cubes = torch.Generator().manual_seed(seed), math.prod(size)
    return [torch.randn(shape, generator=draws) for shape in ((cubes, 8), (cubes, 12), (cubes,))]
