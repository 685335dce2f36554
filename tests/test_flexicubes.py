"""FlexiCubes: by hand, on known shapes, on random signs, by finite differences, the core against the reference."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.ops import isosurface as ops
from dreamforge.ops import native
from dreamforge.ops.isosurface import flexicubes, grid
from dreamforge.ops.isosurface_reference import Size
from dreamforge.types import DreamforgeError
from tests.surfaces import (
    BALL,
    Shape,
    area,
    both,
    box,
    euler,
    field,
    gyroid,
    has_one_fan_a_vertex,
    is_closed,
    open_edges,
    order,
    raw,
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


def on_grid(shape: Shape, cubes: int, **more: object) -> tuple[Tensor, Tensor]:
    x, _ = grid(cubes)
    vertices, faces, _ = flexicubes(x, shape(x), cubes, **more)  # type: ignore[arg-type]
    return vertices, faces


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
    for training in (False, True):
        vertices, faces = on_grid(shape, cubes, backend=backend, training=training)
        assert is_closed(faces) and has_one_fan_a_vertex(faces) and euler(faces) == characteristic
        assert faces.max() == len(vertices) - 1 and len(faces.unique()) == len(vertices)
        a, b, c = vertices[faces].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        near = (vertices[faces].mean(1) + 0.1 * torch.nn.functional.normalize(normal, dim=1), vertices[faces].mean(1))
        outwards = shape(near[0]) > shape(near[1])
        assert outwards.float().mean() > 0.97 and volume(vertices, faces) > 0


@pytest.mark.parametrize("training", [False, True])
def test_volume_and_area_converge_with_the_square_of_the_cell(training: bool) -> None:
    ball, ring = BALL, torus(0.6, 0.27)
    exact = {
        ball: (4 / 3 * math.pi * 0.7**3, 4 * math.pi * 0.7**2),
        ring: (2 * math.pi**2 * 0.6 * 0.27**2, 4 * math.pi**2 * 0.6 * 0.27),
    }
    for shape, wanted in exact.items():
        errors = []
        for cubes in (16, 32, 64):
            found = on_grid(shape, cubes, training=training)
            errors.append([measure(*found) / one - 1 for measure, one in zip((volume, area), wanted, strict=True)])
        for k in range(2):
            assert abs(errors[2][k]) < 6e-3 and 1.9 < order(errors[0][k], errors[2][k]) / 2 < 2.2, errors


def test_trimesh_finds_it_watertight() -> None:
    trimesh = pytest.importorskip("trimesh")
    vertices, faces = on_grid(both(sphere(0.85), gyroid(7.0)), 24)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(volume(vertices, faces), rel=1e-5)
    assert mesh.area == pytest.approx(area(vertices, faces), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 6)], ids=str)
def test_random_signs_give_a_manifold(size: Size, backend: ops.Backend) -> None:
    """No exception: ambiguous neighbours take the opposite case."""
    for seed in range(6):
        x, s = field(size, seed, border=1.0)
        alpha, beta, gamma = raw(size, seed)
        for training in (False, True):
            vertices, faces, _ = flexicubes(
                x, s, size, alpha=alpha, beta=beta, gamma=gamma, training=training, backend=backend
            )
            assert is_closed(faces) and has_one_fan_a_vertex(faces) and euler(faces) % 2 == 0
            assert len(faces.unique()) == len(vertices) and vertices.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_vertices_stay_in_their_cubes_whatever_the_weights(backend: ops.Backend) -> None:
    size = (6, 5, 7)
    _, s = field(size)
    x, _ = grid(size, 1.0)
    alpha, beta, _ = (5 * one for one in raw(size))
    vertices, _, _ = flexicubes(x, s, size, alpha=alpha, beta=beta, backend=backend)
    cell = ((vertices + 1) / 2 * torch.tensor(size)).floor()
    number = ((cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]).long()
    inside = (s < 0)[grid(size)[1]]
    crossed = (inside.any(1) & ~inside.all(1)).nonzero().squeeze(1)
    assert (number.diff() >= 0).all() and torch.equal(number.unique(), crossed)
    assert torch.bincount(number).max() == 4, "four isolated corners"


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_vertex_inside_by_hand(backend: ops.Backend) -> None:
    """The middle of 2 x 2 x 2 cubes: eight dual vertices, six quads, a box around it."""
    x, _ = grid(2)
    s = torch.full((27,), 3.0)
    s[13] = -1.0  # crossings a quarter of the way out
    vertices, faces, deviation = flexicubes(x, s, 2, backend=backend)
    signs = torch.tensor([[i, j, k] for i in (-1.0, 1.0) for j in (-1.0, 1.0) for k in (-1.0, 1.0)])
    torch.testing.assert_close(vertices, signs / 12)  # a third of a quarter
    assert faces.shape == (12, 3) and is_closed(faces) and euler(faces) == 2
    assert volume(vertices, faces) == pytest.approx(1 / 6**3, rel=1e-5)
    assert deviation.shape == (24,) and deviation.abs().max() < 1e-7, "all three crossings are equally far"
    alpha, beta, gamma = torch.zeros(8, 8), torch.zeros(8, 12), torch.zeros(8)
    # Cube 7 lies above the middle, its corner 0; the other ends are its corners 1, 2, 4, its edges 0, 4, 8.
    alpha[7, 0], alpha[7, 1], beta[7, 4], gamma[7] = 0.5, -0.3, 0.8, 1.2
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
    vertices, faces, deviation = flexicubes(x, s, 2, training=True, backend=backend, **weights)
    own, other = 1 + 0.99 * math.tanh(0.5), 1 + 0.99 * math.tanh(-0.3)
    bent, total = 1 + 0.99 * math.tanh(0.8), 3 + 0.99 * math.tanh(0.8)
    u = [own / (own + 3 * other), own / (own + 3), own / (own + 3)]
    wanted = [u[0] / total, bent * u[1] / total, u[2] / total]
    torch.testing.assert_close(vertices[7], torch.tensor(wanted))
    distances = [math.dist(wanted, [0.25 if a == e else 0.0 for a in range(3)]) for e in range(3)]
    mean = sum(distances) / 3
    torch.testing.assert_close(deviation[-3:], torch.tensor([abs(d - mean) for d in distances]))
    assert vertices.shape == (14, 3) and faces.shape == (24, 3) and is_closed(faces) and euler(faces) == 2
    # The last quad surrounds the edge from the middle up along z: cubes 1, 3, 5, 7; 7 is across from 1.
    most, even = 0.5 + 0.99 * (1 / (1 + math.exp(-1.2)) - 0.5), 0.5
    middle = (vertices[1] + vertices[7]) / 2, (vertices[3] + vertices[5]) / 2
    share = most * even / (most * even + even * even)
    torch.testing.assert_close(vertices[13], share * middle[0] + (1 - share) * middle[1])
    assert sorted(faces[-4:].flatten().tolist()) == [1, 1, 3, 3, 5, 5, 7, 7, 13, 13, 13, 13]
    _, faces, _ = flexicubes(x, s, 2, backend=backend, **weights)
    assert {1, 7} <= set(faces[-1].tolist()) and {1, 7} <= set(faces[-2].tolist()), "the heavier diagonal"
    _, faces, _ = flexicubes(x, s, 2, backend=backend, gamma=-gamma)
    assert {3, 5} <= set(faces[-1].tolist()) and {3, 5} <= set(faces[-2].tolist())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [False, True])
def test_a_plane_is_met_exactly_and_moves_with_its_distance(training: bool, backend: ops.Backend) -> None:
    """n x = c: every vertex lies on it and d (n v) / dc = 1, on a grid with moved vertices."""
    size = (5, 6, 4)
    x, _ = field(size)
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    offset = torch.tensor(0.17, requires_grad=True)
    vertices, faces, _ = flexicubes(x, x @ normal - offset, size, training=training, backend=backend)
    along = vertices @ normal
    torch.testing.assert_close(along, offset.detach().expand_as(along), rtol=0, atol=1e-6)
    pull = torch.randn(len(vertices), generator=torch.Generator().manual_seed(0))
    (moved,) = torch.autograd.grad(along @ pull, offset, retain_graph=True)
    torch.testing.assert_close(moved, pull.sum(), rtol=1e-4, atol=1e-4)
    a, b, c = vertices.detach()[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) @ normal > 0).all(), "inside is where s < 0"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_surface_ends_half_a_cell_before_the_border(backend: ops.Backend) -> None:
    """s = z - 0.1 on the whole grid: a flat patch between the middles of the outer cubes, with one rim."""
    x, _ = grid((5, 4, 6))
    vertices, faces, _ = flexicubes(x, x[:, 2] - 0.1, (5, 4, 6), backend=backend)
    assert area(vertices, faces) == pytest.approx((2 - 2 / 5) * (2 - 2 / 4), rel=1e-5)
    rim = open_edges(faces)
    assert len(rim) == 2 * (4 + 3) and len(rim.unique()) == len(rim)
    walked = vertices[rim].double()
    assert float(torch.linalg.cross(walked[:, 0], walked[:, 1])[:, 2].sum()) > 0, "the rim turns left seen from above"


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_crossed_nothing_made(backend: ops.Backend) -> None:
    x, _ = grid((3, 2, 4))
    x.requires_grad_()
    for sign in (1.0, -1.0, 0.0):  # exactly 0 is outside
        s = torch.full((len(x),), sign, requires_grad=True)
        vertices, faces, deviation = flexicubes(x, s, (3, 2, 4), training=True, backend=backend)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3) and deviation.shape == (0,)
        assert faces.dtype == torch.int64
        grads = torch.autograd.grad(vertices.sum() + deviation.sum(), [x, s])
        assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_cube_has_vertices_but_no_faces(backend: ops.Backend) -> None:
    x, _ = grid(1)
    s = torch.ones(8)
    s[[0, 7]] = -1.0  # two corners that do not meet: two vertices
    vertices, faces, deviation = flexicubes(x, s, 1, backend=backend)
    torch.testing.assert_close(vertices, torch.tensor([[-2 / 3] * 3, [2 / 3] * 3]))
    assert faces.shape == (0, 3) and deviation.shape == (6,)
    vertices, faces, _ = flexicubes(*field((1, 1, 1)), (1, 1, 1), backend=backend, training=True)
    assert vertices.isfinite().all() and faces.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_distances_of_exactly_zero_are_outside_and_met_at_the_vertex(backend: ops.Backend) -> None:
    x, _ = grid(6)
    s = x.abs().amax(1) - 2 / 3  # a box whose sides are planes of the grid: 0 on them
    s = torch.where(s.abs() < 1e-6, torch.zeros_like(s), s)
    assert (s == 0).sum() == 5**3 - 3**3
    alpha = raw((6, 6, 6))[0]
    for more in ({}, {"alpha": alpha}):
        given = s.clone().requires_grad_()
        vertices, faces, deviation = flexicubes(x, given, 6, backend=backend, **more)
        assert is_closed(faces) and euler(faces) == 2
        flat = vertices.detach().abs().amax(1)  # in the middle of a side, of an edge, at a corner of the box
        wanted = torch.tensor([2 / 3, 1 / 2, 4 / 9])
        torch.testing.assert_close(flat, wanted[(flat[:, None] - wanted).abs().argmin(1)])
        assert len((flat * 1e4).round().unique()) == 3
        (pull,) = torch.autograd.grad(vertices.sum() + deviation.sum(), given)
        assert pull.isfinite().all()
    x, _ = grid(2)
    given = torch.full((27,), -1.0)
    given[13] = 0.0  # all crossings of a cube are one point: no distance to any
    given.requires_grad_()
    vertices, _, deviation = flexicubes(x, given, 2, backend=backend)
    assert not vertices.any() and not deviation.any() and len(deviation) == 24
    (pull,) = torch.autograd.grad(vertices.sum() + deviation.sum(), given)
    assert pull.isfinite().all()
    x, _ = grid(6)
    least = torch.where(s < 0, -1e-45, torch.zeros_like(s))  # the least number: its product with a weight is nothing
    vertices, _, _ = flexicubes(x, least, 6, alpha=torch.full((216, 8), -9.0), backend=backend)
    assert vertices.isfinite().all() and vertices.abs().max() < 2 / 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_saturate_and_that_are_not_numbers(backend: ops.Backend) -> None:
    size = (4, 3, 5)
    (x, s), (alpha, beta, gamma) = field(size), raw(size)
    hard = [1e30 * one for one in (alpha, beta, gamma)]
    given = [one.clone().requires_grad_() for one in (x, s, *hard)]
    vertices, _, deviation = flexicubes(
        given[0], given[1], size, alpha=given[2], beta=given[3], gamma=given[4], training=True, backend=backend
    )
    grads = torch.autograd.grad(vertices.sum() + deviation.sum(), given)
    assert vertices.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    good, _, _ = flexicubes(x, s, size, beta=beta, backend=backend)
    inside = (s < 0)[grid(size)[1]]
    cube = int((inside.any(1) & ~inside.all(1)).nonzero()[3])
    beta[cube] = math.nan
    vertices, _, _ = flexicubes(x, s, size, beta=beta, backend=backend)
    wrong = vertices.isnan().all(1)
    assert 1 <= wrong.sum() <= 4 and torch.equal(vertices[~wrong], good[~wrong])


def test_what_does_not_fit_is_told() -> None:
    x, _ = grid((3, 2, 4))
    s = torch.ones(len(x))
    with pytest.raises(DreamforgeError, match=r"s \[59\] on cpu was given, but a grid of 3 x 2 x 4 .* needs \[60\]"):
        flexicubes(x, s[1:], (3, 2, 4))
    with pytest.raises(DreamforgeError, match=r"x \[60, 2\] .* needs \[60, 3\]"):
        flexicubes(x[:, :2], s, (3, 2, 4))
    with pytest.raises(DreamforgeError, match=r"beta \[24, 8\] .* needs \[24, 12\] there"):
        flexicubes(x, s, (3, 2, 4), beta=torch.zeros(24, 8))
    with pytest.raises(DreamforgeError, match=r"s \[60\] on meta was given, .* x on cpu"):
        flexicubes(x, s.to("meta"), (3, 2, 4))
    for wrong in (0, (3, 2), (3, -1, 2), (2.5, 1, 1), 1 << 10, (1, 1, 1 << 27)):
        with pytest.raises(DreamforgeError, match=r"resolution .* was given, but one whole number of cubes above 0"):
            grid(wrong)  # type: ignore[arg-type]
    with pytest.raises(DreamforgeError, match=r"weight_scale 1.0 was given"):
        flexicubes(x, s, (3, 2, 4), weight_scale=1.0)
    with pytest.raises(DreamforgeError, match="no isosurface for these types and sizes"):
        flexicubes(x, s, (3, 2, 4), gamma=torch.zeros(24).double(), backend="native")
    for bad in (math.nan, math.inf, -math.inf, 1e19):
        for name, given in (("s", (x, s.clone())), ("x", (x.clone(), s))):
            given[1 if name == "s" else 0].view(-1)[[7, 9]] = bad
            with pytest.raises(DreamforgeError, match=f"{name} has 2 numbers that are NaN, infinite or beyond 1e"):
                flexicubes(*given, (3, 2, 4))


def test_the_grid_is_arithmetic() -> None:
    x, cubes = grid((2, 3, 4), 0.5)
    assert x.shape == (3 * 4 * 5, 3) and cubes.shape == (24, 8) and cubes.dtype == torch.int64
    assert x[0].tolist() == [-0.5] * 3 and x[-1].tolist() == [0.5] * 3 and x[1].tolist() == [-0.5, -0.5, -0.25]
    corners = x[cubes]  # [24, 8, 3]
    offset = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)]) / torch.tensor([2.0, 3.0, 4.0])
    torch.testing.assert_close(corners, corners[:, :1] + offset)
    low = torch.tensor([[i / 2, j / 3, k / 4] for i in range(2) for j in range(3) for k in range(4)]) - 0.5
    torch.testing.assert_close(corners[:, 0], low)
    assert grid(3, dtype=torch.float64)[0].dtype == torch.float64
