"""What the signs at a cube's eight corners say of the surface inside it: derived here, case by case, when first needed.

Corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2); a case is the sum of 2^c over the corners inside. Edge
``4 a + p + 2 q`` runs along axis a at the offsets p and q along the other two axes, the lower axis first. Face
``2 a + side`` lies across axis a.
"""

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

NONE = 255  # no loop
NO_FACE = 6
LOOPS, JOINED, CROSSED, ROW = 12, 13, 14, 16  # columns of loop_table: after 12 edges; their number
TRIANGLES, TETRA_ROW = 36, 40  # of tetra_table: after 12 triangles; their number
OTHERS = ((1, 2), (0, 2), (0, 1))  # the axes across each axis


@cache
def edge_corners() -> list[tuple[int, int]]:
    """The two corners of each of the 12 edges, low end first."""
    ends = []
    for axis in range(3):
        for place in range(4):
            low = sum((place >> bit & 1) << other for bit, other in enumerate(OTHERS[axis]))
            ends.append((low, low | 1 << axis))
    return ends


def face_corners(face: int) -> tuple[int, int, int, int]:
    """The corners of a face, in a ring."""
    axis, side = divmod(face, 2)
    one, two = (1 << other for other in OTHERS[axis])
    first = side << axis
    return first, first | one, first | one | two, first | two


@cache
def loop_table() -> Tensor:
    """``[256, 16]`` uint8: for each case the loop of each of the 12 edges (NONE: no crossing), then columns LOOPS, how
    many; JOINED, see below; CROSSED, how many edges the surface crosses; and a zero.

    The surface meets the cube's faces in segments between crossed edges; on a face whose diagonals differ, the
    ambiguous one, segments separate the corners inside. Segments form closed loops, and each loop carries one patch
    of the surface and so one dual vertex (Nielson 2004, "Dual marching cubes"). JOINED is the ambiguous face whose two
    segments belong to one loop, else NO_FACE: where two cubes share such a face, four quads would meet in one edge.
    The complementary case separates the corners outside, and with that the two segments' loops (the remedy of Wenger
    2013, "Isosurfaces", section 5): both cubes then take its row.
    """
    rows = torch.zeros(256, ROW, dtype=torch.uint8)
    for case in range(256):
        inside = [case >> corner & 1 for corner in range(8)]
        crossed = [edge for edge, (a, b) in enumerate(edge_corners()) if inside[a] != inside[b]]
        loop = _connected(crossed, [link for face in range(6) for link in _segments(face, inside)])
        numbers = sorted(set(loop.values()))  # a loop is known by its lowest edge
        rows[case, :12] = NONE
        for edge in crossed:
            rows[case, edge] = numbers.index(loop[edge])
        rows[case, LOOPS], rows[case, CROSSED] = len(numbers), len(crossed)
        joined = [face for face in range(6) if _is_joined(_segments(face, inside), loop)]
        rows[case, JOINED] = joined[0] if joined else NO_FACE
    return rows


def _segments(face: int, inside: list[int]) -> list[tuple[int, int]]:
    """Pairs of edges that the surface connects on a face."""
    ring = face_corners(face)
    edges = [_edge_between(ring[k], ring[(k + 1) % 4]) for k in range(4)]  # edge k from corner k to k + 1
    crossed = [k for k in range(4) if inside[ring[k]] != inside[ring[(k + 1) % 4]]]
    if len(crossed) == 4:  # around each of the two corners inside
        return [(edges[k - 1], edges[k]) for k in range(4) if inside[ring[k]]]
    return [(edges[crossed[0]], edges[crossed[1]])] if crossed else []


def _edge_between(a: int, b: int) -> int:
    return edge_corners().index((min(a, b), max(a, b)))


def _connected(nodes: list[int], links: list[tuple[int, int]]) -> dict[int, int]:
    """The lowest node that each node is connected with."""
    lowest = {node: node for node in nodes}
    for _ in nodes:
        for a, b in links:
            lowest[a] = lowest[b] = min(lowest[a], lowest[b])
    return lowest


def _is_joined(segments: list[tuple[int, int]], loop: dict[int, int]) -> bool:
    return len(segments) == 2 and loop[segments[0][0]] == loop[segments[1][0]]


@cache
def tetra_table() -> Tensor:
    """``[256, 40]`` uint8: for each case up to 12 triangles as 36 crossed edges, each ``8 corner + direction`` (from
    that corner to ``corner | direction``), then column TRIANGLES, how many.

    Six tetrahedra share the diagonal from corner 0 to corner 7, each along one order of the axes (Kuhn 1960,
    Freudenthal 1942): all faces of a cube are cut alike on both sides, so that neighbours match.
    """
    rows = torch.zeros(256, TETRA_ROW, dtype=torch.uint8)
    for case in range(256):
        triangles = [one for axes in permutations(range(3)) for one in _cut(_tetrahedron(axes), case)]
        codes = [8 * (a & b) + (a ^ b) for triangle in triangles for a, b in triangle]
        rows[case, : len(codes)] = torch.tensor(codes, dtype=torch.uint8)
        rows[case, TRIANGLES] = len(triangles)
    return rows


def _tetrahedron(axes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Corners from 0 to 7 along the axes in this order, the last two exchanged where that makes its volume positive."""
    first, second = 1 << axes[0], 1 << axes[0] | 1 << axes[1]
    even = axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    return (0, first, second, 7) if even else (0, first, 7, second)


def _cut(corners: tuple[int, ...], case: int) -> list[list[tuple[int, int]]]:
    """Triangles that cut a positive tetrahedron, each corner on the edge between two; seen from outside they turn left.

    An even permutation keeps the volume positive: with the corners inside brought to the front by one, the triangle
    (01, 02, 03), or the quad (02, 03, 13, 12), looks away from them.
    """
    inside = [corner for corner in corners if case >> corner & 1]
    if len(inside) in (0, 4):
        return []
    outside = [corner for corner in corners if not case >> corner & 1]
    ordered = inside + outside
    if not _is_even([corners.index(corner) for corner in ordered]):
        if len(inside) == 3:
            ordered[0], ordered[1] = ordered[1], ordered[0]
        else:
            ordered[2], ordered[3] = ordered[3], ordered[2]
    a, b, c, d = ordered
    if len(inside) == 1:
        return [[(a, b), (a, c), (a, d)]]
    if len(inside) == 3:
        return [[(d, a), (d, b), (d, c)]]
    return [[(a, c), (a, d), (b, d)], [(a, c), (b, d), (b, c)]]


def _is_even(order: list[int]) -> bool:
    return sum(order[i] > order[j] for i in range(4) for j in range(i + 1, 4)) % 2 == 0
