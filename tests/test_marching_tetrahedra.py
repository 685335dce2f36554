"""Marching tetrahedra: by hand, on known shapes, on random signs, by finite differences, the core against the
reference."""

import math
from itertools import chain, combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.ops import isosurface as ops
from dreamforge.ops import native
from dreamforge.ops.isosurface import agrees, grid, marching_tetrahedra
from dreamforge.ops.isosurface_native import tetrahedra_native
from dreamforge.ops.isosurface_reference import Size, tetrahedra_reference
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.surfaces import (
    BALL,
    Shape,
    area,
    both,
    box,
    directed_edges,
    euler,
    field,
    gyroid,
    has_one_fan_a_vertex,
    is_closed,
    open_edges,
    order,
    sphere,
    torus,
    union,
    volume,
)
from tests.tools import levels

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
BACKENDS: tuple[ops.Backend, ...] = ("torch", "native")


def on_grid(shape: Shape, cubes: int, backend: ops.Backend = "auto") -> tuple[Tensor, Tensor]:
    x, _ = grid(cubes)
    return marching_tetrahedra(x, shape(x), cubes, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cubes", [16, 23])
@pytest.mark.parametrize(
    ("shape", "characteristic"),
    [
        (BALL, 2),
        (torus(0.6, 0.27), 0),
        (box(0.61, 0.43, 0.52), 2),
        (union(sphere(0.43, -0.37, 0.0, 0.0), sphere(0.43, 0.37, 0.0, 0.0)), 2),  # overlap
        (union(sphere(0.37, -0.5, 0.0, 0.0), sphere(0.37, 0.5, 0.0, 0.0)), 4),  # apart
        (both(BALL, lambda x: -sphere(0.3)(x)), 4),  # a hollow
    ],
    ids=["ball", "torus", "box", "two in one", "two", "hollow"],
)
def test_known_shapes_are_closed_whole_and_look_outwards(
    shape: Shape, characteristic: int, cubes: int, backend: ops.Backend
) -> None:
    vertices, faces = on_grid(shape, cubes, backend)
    assert is_closed(faces) and has_one_fan_a_vertex(faces) and euler(faces) == characteristic
    assert len(faces.unique()) == len(vertices) and volume(vertices, faces) > 0
    assert shape(vertices).abs().max() < math.sqrt(3) / cubes, "half of the longest edge"


def test_volume_and_area_converge_with_the_square_of_the_cell() -> None:
    ball, ring = BALL, torus(0.6, 0.27)
    exact = {
        ball: (4 / 3 * math.pi * 0.7**3, 4 * math.pi * 0.7**2),
        ring: (2 * math.pi**2 * 0.6 * 0.27**2, 4 * math.pi**2 * 0.6 * 0.27),
    }
    for shape, wanted in exact.items():
        errors = []
        for cubes in (16, 32, 64):
            found = on_grid(shape, cubes)
            errors.append([measure(*found) / one - 1 for measure, one in zip((volume, area), wanted, strict=True)])
        for k in range(2):
            assert abs(errors[2][k]) < 2.5e-3 and 1.8 < order(errors[0][k], errors[2][k]) / 2 < 2.2, errors


def characteristic_inside(inside: Tensor) -> int:
    """Of the vertices inside with all edges, triangles and tetrahedra between them: each simplex is a chain of corners
    0 = A0 < A1 < ... of a cube, each with the bits of those before."""
    corners = chain.from_iterable(combinations(range(1, 8), length) for length in range(4))
    found = 0
    for rest in corners:
        if not all(a & b == a for a, b in pairwise(rest)):
            continue
        span = inside.clone()
        for corner in rest:
            moved = torch.zeros_like(inside)
            x, y, z = (corner >> axis & 1 for axis in range(3))
            there = inside[x:, y:, z:]
            moved[: there.shape[0], : there.shape[1], : there.shape[2]] = there
            span &= moved
        found += (-1) ** len(rest) * int(span.sum())
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_signs_give_a_manifold_around_the_vertices_inside(backend: ops.Backend) -> None:
    """A closed surface has twice the Euler characteristic of what it encloses, and that is that of the simplices whose
    corners are all inside: an exact count of a surface with dozens of handles."""
    size = (8, 7, 9)
    for seed in range(8):
        x, s = field(size, seed, border=1.0)
        vertices, faces = marching_tetrahedra(x, s, size, backend)
        assert is_closed(faces) and has_one_fan_a_vertex(faces)
        assert euler(faces) == 2 * characteristic_inside((s < 0).view([count + 1 for count in size]))
        assert len(faces.unique()) == len(vertices)


def test_trimesh_finds_it_watertight() -> None:
    trimesh = pytest.importorskip("trimesh")
    vertices, faces = on_grid(both(sphere(0.85), gyroid(7.0)), 24)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(volume(vertices, faces), rel=1e-5)


def test_it_has_the_area_of_scikit_images_marching_cubes() -> None:
    from skimage.measure import marching_cubes

    x, _ = grid(32)
    for shape in (BALL, gyroid(7.0)):  # the second goes on beyond the border
        vertices, faces, _, _ = marching_cubes(shape(x).view(33, 33, 33).numpy(), 0.0)
        theirs = torch.from_numpy(vertices.copy()) / 16 - 1, torch.from_numpy(faces.astype("int64"))
        assert area(*on_grid(shape, 32)) == pytest.approx(area(*theirs), rel=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_vertex_inside_by_hand(backend: ops.Backend) -> None:
    """14 edges leave the middle of 2 x 2 x 2 cubes: seven below it, each the first of its owner, then its own seven."""
    x, _ = grid(2)
    s = torch.full((27,), 3.0)
    s[13] = -1.0
    vertices, faces = marching_tetrahedra(x, s, 2, backend)
    out = torch.tensor([[d & 1, d >> 1 & 1, d >> 2] for d in range(1, 8)]) / 4
    below = -out[[6, 2, 4, 0, 5, 1, 3]]  # in the order of their owners: z fastest
    torch.testing.assert_close(vertices, torch.cat([below, out]))
    assert faces.shape == (24, 3) and is_closed(faces) and euler(faces) == 2
    # 24 tetrahedra meet in the middle, each cut off at a quarter of its three edges.
    assert volume(vertices, faces) == pytest.approx(24 / 6 / 4**3, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plane_is_met_exactly_and_moves_with_its_distance(backend: ops.Backend) -> None:
    """n x = c: every vertex lies on it and d (n v) / dc = 1, on a grid with moved vertices."""
    size = (5, 6, 4)
    x, _ = field(size)
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    offset = torch.tensor(0.17, requires_grad=True)
    vertices, faces = marching_tetrahedra(x, x @ normal - offset, size, backend)
    along = vertices @ normal
    torch.testing.assert_close(along, offset.detach().expand_as(along), rtol=0, atol=1e-6)
    pull = torch.randn(len(vertices), generator=torch.Generator().manual_seed(0))
    (moved,) = torch.autograd.grad(along @ pull, offset)
    torch.testing.assert_close(moved, pull.sum(), rtol=1e-4, atol=1e-4)
    a, b, c = vertices.detach()[faces].unbind(1)
    facing = torch.linalg.cross(b - a, c - a) @ normal
    assert (facing > -1e-9).all() and (facing > 0).float().mean() > 0.99, "inside is where s < 0"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_surface_ends_at_the_border(backend: ops.Backend) -> None:
    """A slanting plane through the whole grid: the area of its cut with the box, and one rim on the box."""
    size = (5, 4, 6)
    x, _ = grid(size)
    vertices, faces = marching_tetrahedra(x, x[:, 2] - 0.3 * x[:, 0] - 0.123, size, backend)
    assert area(vertices, faces) == pytest.approx(4 * math.sqrt(1 + 0.3**2), rel=1e-5)
    rim = open_edges(faces)
    assert torch.equal(rim[:, 0].sort().values, rim[:, 1].sort().values) and len(rim.unique()) == len(rim)
    assert (vertices[rim.unique()].abs().amax(1) == 1).all()
    walked = vertices[rim].double()
    assert float(torch.linalg.cross(walked[:, 0], walked[:, 1])[:, 2].sum()) > 0, "the rim turns left seen from above"
    for seed in range(3):
        x, s = field(size, seed)  # random signs on the border too
        _, faces = marching_tetrahedra(x, s, size, backend)
        edges = directed_edges(faces)
        assert len(edges.unique(dim=0)) == len(edges) and len(open_edges(faces)) > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_crossed_nothing_made_and_one_cube(backend: ops.Backend) -> None:
    x, _ = grid((3, 2, 4))
    x.requires_grad_()
    for sign in (1.0, -1.0, 0.0):  # exactly 0 is outside
        s = torch.full((len(x),), sign, requires_grad=True)
        vertices, faces = marching_tetrahedra(x, s, (3, 2, 4), backend)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3) and faces.dtype == torch.int64
        assert not any(grad.any() for grad in torch.autograd.grad(vertices.sum(), [x, s]))
    x, _ = grid(1)
    s = torch.ones(8)
    s[0] = -1.0
    vertices, faces = marching_tetrahedra(x, s, 1, backend)
    assert vertices.shape == (7, 3) and faces.shape == (6, 3) and len(open_edges(faces)) == 6
    s = torch.ones(8)
    s[6] = -1.0
    vertices, faces = marching_tetrahedra(x, s, 1, backend)
    assert vertices.shape == (4, 3) and faces.shape == (2, 3), "two of the six tetrahedra meet there"


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_of_exactly_zero_are_outside_and_met_at_the_vertex(backend: ops.Backend) -> None:
    x, _ = grid(6)
    s = x.abs().amax(1) - 2 / 3
    s = torch.where(s.abs() < 1e-6, torch.zeros_like(s), s).requires_grad_()
    vertices, faces = marching_tetrahedra(x, s, 6, backend)
    torch.testing.assert_close(vertices.abs().amax(1), torch.full((len(vertices),), 2 / 3))
    assert is_closed(faces) and euler(faces) == 2
    # Of the box's 64 cubes' 384 tetrahedra 60 have all four corners on it: they are outside.
    assert volume(vertices, faces) == pytest.approx(324 / 6 / 3**3, rel=1e-5)
    assert torch.autograd.grad(vertices.sum(), s)[0].isfinite().all()


def test_what_does_not_fit_is_told() -> None:
    x, _ = grid((3, 2, 4))
    s = torch.ones(len(x))
    with pytest.raises(
        DreamforgeError, match=r"s \[60\] on cpu was given, but a grid of 3 x 2 x 5 .* use isosurface.g"
    ):
        marching_tetrahedra(torch.ones(72, 3), s, (3, 2, 5))
    with pytest.raises(DreamforgeError, match="s has 1 numbers that are NaN"):
        marching_tetrahedra(x, torch.where(torch.arange(60) == 4, math.nan, s), (3, 2, 4))
    with pytest.raises(DreamforgeError, match="no isosurface for these types and sizes"):
        marching_tetrahedra(x.double(), s, (3, 2, 4), "native")
    assert marching_tetrahedra(x.double(), s.double() - x[:, 0], (3, 2, 4))[0].dtype == torch.float64


def test_reference_gradients_by_finite_differences() -> None:
    size = (2, 3, 2)
    x, s = field(size, 3)
    given = [one.double().requires_grad_() for one in (x, s + 0.2 * s.sign())]
    assert torch.autograd.gradcheck(lambda x, s: tetrahedra_reference(x, s, size)[0], given)
    assert torch.autograd.gradgradcheck(lambda x, s: tetrahedra_reference(x, s, size)[0], given, fast_mode=True)


def answers(dtype: torch.dtype, size: Size, level: native.Level = None) -> list[Tensor]:
    given: Any = [one.to(dtype).requires_grad_() for one in field(size, 5)]
    made = tetrahedra_native(*given, size, level) if dtype == torch.float32 else tetrahedra_reference(*given, size)
    pull = torch.randn(made[0].shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    return [made[1], made[0].detach(), *torch.autograd.grad((pull * made[0]).sum(), given)]


@at_every_level
@pytest.mark.parametrize("size", [(7, 9, 6), (1, 1, 5), (1, 6, 1), (4, 1, 1)], ids=str)
def test_the_core_agrees_with_the_reference(size: Size, level: int) -> None:
    """The same faces index by index, the same numbers."""
    ours, exact = answers(torch.float32, size, level), answers(torch.float64, size)
    assert torch.equal(ours[0], exact[0])
    for one, two in zip(ours[1:], exact[1:], strict=True):
        assert_agrees(one, two, rtol=1e-4, atol=1e-6 * float(two.abs().max()))


def test_only_the_gradients_that_are_asked_for_of_any_strides() -> None:
    size = (4, 5, 3)
    x, s = field(size)
    given = [one.clone().requires_grad_() for one in (x, s)]
    grads = torch.autograd.grad(tetrahedra_native(*given, size)[0].square().sum(), given)
    turned, apart = x.t().contiguous().t().requires_grad_(), torch.stack([s, s], 1)[:, 0].requires_grad_()
    for one, two, wanted in ((turned, s, 0), (x, apart, 1)):
        leaf = (turned, apart)[wanted]
        found = torch.autograd.grad(tetrahedra_native(one, two, size)[0].square().sum(), leaf)
        assert torch.equal(found[0], grads[wanted])


def test_a_second_derivative_of_the_core_is_refused() -> None:
    x, s = (one.requires_grad_() for one in field((3, 3, 3)))
    (first,) = torch.autograd.grad(tetrahedra_native(x, s, (3, 3, 3))[0].square().sum(), s, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiated twice"):
        first.sum().backward()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    assert_same_bits(lambda: answers(torch.float32, (12, 11, 13)))


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))

    def wrong(*given: Any) -> tuple[Tensor, Tensor]:
        vertices, faces = tetrahedra_reference(*given)
        return vertices, faces.roll(1, 0)

    monkeypatch.setattr(ops, "tetrahedra_native", wrong)
    assert not agrees(torch.device("cpu"))
