"""The derived tables by what must hold of every case: loops are closed, regions add up, neighbours meet."""

from itertools import permutations, product

import pytest
import torch

from dreamforge.ops.isosurface_reference import case_of, cube_corners, resolved
from dreamforge.ops.isosurface_tables import (
    CROSSED,
    JOINED,
    LOOPS,
    NO_FACE,
    NONE,
    TRIANGLES,
    edge_corners,
    face_corners,
    loop_table,
    tetra_table,
)

EDGES = edge_corners()
ROWS = loop_table().tolist()
SYMMETRIES = list(product(permutations(range(3)), range(8)))  # of the cube: an order of axes, then mirrors


def moved(corner: int, axes: tuple[int, ...], mirrors: int) -> int:
    return sum((corner >> axis & 1) << n for n, axis in enumerate(axes)) ^ mirrors


def components(nodes: set[int], links: set[frozenset[int]]) -> int:
    """How many pieces a graph has; links to what is not a node do not count."""
    left, found = set(nodes), 0
    while left:
        found, reached = found + 1, {left.pop()}
        while True:
            more = {a for link in links for a in link if link <= left | reached and link & reached} - reached
            if not more:
                break
            reached |= more
            left -= more
    return found


def ambiguous_faces(case: int) -> list[int]:
    bits = [[case >> corner & 1 for corner in face_corners(face)] for face in range(6)]
    return [face for face in range(6) if bits[face] in ([0, 1, 0, 1], [1, 0, 1, 0])]


def test_edges_and_faces_are_those_of_a_cube() -> None:
    assert len(set(EDGES)) == 12 and all(b - a in (1, 2, 4) and a & (b - a) == 0 for a, b in EDGES)
    assert EDGES[7] == (5, 7), "along y, at x = 1 and z = 1"
    for face in range(6):
        ring = face_corners(face)
        assert {corner >> face // 2 & 1 for corner in ring} == {face % 2}
        assert all((min(a, b), max(a, b)) in EDGES for a, b in zip(ring, ring[1:] + ring[:1], strict=True))


def test_loops_hold_all_crossed_edges_and_are_as_many_as_regions_less_one() -> None:
    """Closed curves on a sphere: each cuts one region in two. Inside, corners meet along edges; outside, along the
    diagonals of ambiguous faces too."""
    along = {frozenset(edge) for edge in EDGES}
    for case in range(256):
        inside = {corner for corner in range(8) if case >> corner & 1}
        outside = set(range(8)) - inside
        rings = [face_corners(face) for face in ambiguous_faces(case)]
        across = {frozenset(pair) for ring in rings for pair in (ring[::2], ring[1::2])}
        row = ROWS[case]
        crossed = [edge for edge, (a, b) in enumerate(EDGES) if (a in inside) != (b in inside)]
        assert [edge for edge in range(12) if row[edge] != NONE] == crossed and row[CROSSED] == len(crossed)
        assert {row[edge] for edge in crossed} == set(range(row[LOOPS]))
        assert all([row[edge] for edge in crossed].count(loop) >= 3 for loop in range(row[LOOPS]))
        regions = components(inside, along) + components(outside, along | across)
        assert row[LOOPS] == (regions - 1 if crossed else 0), case


def test_every_face_is_entered_as_often_as_it_is_left() -> None:
    """On a face a loop has two crossed edges, or all four."""
    for row in ROWS:
        for face in range(6):
            ring = set(face_corners(face))
            here = [row[edge] for edge, ends in enumerate(EDGES) if set(ends) <= ring and row[edge] != NONE]
            assert all(here.count(loop) in (2, 4) for loop in here) and len(here) in (0, 2, 4)


def test_loops_turn_with_the_cube() -> None:
    for case in range(256):
        loops = {frozenset(e for e in range(12) if ROWS[case][e] == loop) for loop in range(ROWS[case][LOOPS])}
        for axes, mirrors in SYMMETRIES:
            turned = sum(1 << moved(corner, axes, mirrors) for corner in range(8) if case >> corner & 1)
            ends = [sorted(moved(corner, axes, mirrors) for corner in edge) for edge in EDGES]
            there = [EDGES.index((a, b)) for a, b in ends]
            wanted = {frozenset(there[e] for e in loop) for loop in loops}
            row = ROWS[turned]
            assert {frozenset(e for e in range(12) if row[e] == loop) for loop in range(row[LOOPS])} == wanted


def test_the_cases_that_join_are_36_with_one_ambiguous_face_and_their_opposites_part_it() -> None:
    """Cases 16 and 19 of the 23 of dual marching cubes: 12 and 24 of the 256 (Shen et al. 2023, supplement 1.3)."""
    joined = [case for case in range(256) if ROWS[case][JOINED] != NO_FACE]
    assert len(joined) == 36
    assert sorted(bin(case).count("1") for case in joined) == [5] * 24 + [6] * 12
    for case in joined:
        assert ambiguous_faces(case) == [ROWS[case][JOINED]]
        assert ROWS[255 - case][JOINED] == NO_FACE and ROWS[255 - case][LOOPS] == ROWS[case][LOOPS] + 1


@pytest.mark.parametrize("axis", range(3))
def test_two_neighbours_share_every_dual_edge_between_exactly_two_quads(axis: int) -> None:
    """All 4096 signs of twelve corners: a pair of loops, one a cube, has two crossed edges of the face between."""
    size = [1, 1, 1]
    size[axis] = 2
    corners = cube_corners((size[0], size[1], size[2]), torch.device("cpu"))
    shared = [edge for edge, ends in enumerate(EDGES) if all(end >> axis & 1 for end in ends)]
    below = [EDGES.index((EDGES[edge][0] ^ 1 << axis, EDGES[edge][1] ^ 1 << axis)) for edge in shared]
    flipped = 0
    for signs in range(4096):
        s = torch.tensor([-1.0 if signs >> n & 1 else 1.0 for n in range(12)])
        case = case_of(s, corners)
        rows = resolved(case, (size[0], size[1], size[2]), loop_table()).tolist()
        flipped += rows != case.tolist()
        pairs = [(ROWS[rows[0]][one], ROWS[rows[1]][two]) for one, two in zip(shared, below, strict=True)]
        pairs = [pair for pair in pairs if pair != (NONE, NONE)]
        assert all(pairs.count(pair) == 2 and NONE not in pair for pair in pairs), signs
    assert flipped == 18, "3 of each cube's cases for each of the two diagonals join on this face"


def test_tetrahedra_have_all_edges_triangles_fit_and_sides_match() -> None:
    rows = tetra_table().tolist()
    for case in range(256):
        row = rows[case]
        codes = row[: 3 * row[TRIANGLES]]
        for code in codes:
            a, b = code >> 3, code >> 3 | code & 7
            assert a & code & 7 == 0 and b < 8 and (case >> a & 1) != (case >> b & 1), "it crosses this edge"
        triangles = [codes[i : i + 3] for i in range(0, len(codes), 3)]
        walked = [edge for t in triangles for edge in zip(t, t[1:] + t[:1], strict=True)]
        assert len(set(walked)) == len(walked)
        inner = [(a, b) for a, b in walked if (b, a) not in walked]
        for a, b in inner:  # an edge without a second triangle lies on a face of the cube
            ends = [code >> 3 for code in (a, b)] + [code >> 3 | code & 7 for code in (a, b)]
            assert any(len({end >> axis & 1 for end in ends}) == 1 for axis in range(3))
    assert max(row[TRIANGLES] for row in rows) == 12 and rows[0][TRIANGLES] == rows[255][TRIANGLES] == 0
    assert rows[1][TRIANGLES] == 6 and rows[2][TRIANGLES] == 2, "6 tetrahedra meet in corner 0, 2 in corner 1"
