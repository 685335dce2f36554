"""Smooth outlines: exact areas and slopes of simple shapes, the core against the reference, a shape that is fitted."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit, project
from dreamforge.ops import antialias as op
from dreamforge.ops import native
from dreamforge.ops.antialias import agrees, antialias_native, antialias_reference
from dreamforge.ops.raster import Fragments, antialias, neighbours, rasterize
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.meshes import ball
from tests.tools import levels

pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", levels(), ids=lambda level: native.LEVELS[level])
BOTH = pytest.mark.parametrize("backend", ["torch", "native"])
SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mask(
    pixels: Tensor, faces: Tensor, size: int = 24, depth: Tensor | None = None, backend: Any = "auto"
) -> tuple[Tensor, Tensor]:
    """White faces on black ``[size, size]``: hard, and with smooth outlines."""
    depth = torch.ones(1, pixels.shape[-2]) if depth is None else depth
    found = rasterize(pixels[None], depth, faces, size, size)
    hard = (found.face >= 0).to(pixels.dtype)[..., None]
    soft = antialias(hard, found, pixels[None], depth.to(pixels.dtype), faces, neighbours(faces), backend)
    return hard[0, ..., 0], soft[0, ..., 0]


def rectangle(left: float, top: float, right: float, bottom: float) -> Tensor:
    return torch.tensor([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=torch.float32)


# ---- the topology


def test_neighbours_of_two_triangles_and_of_a_tetrahedron() -> None:
    assert neighbours(SQUARE).tolist() == [[-1, 5, -1], [-1, -1, 1]]  # 0-2: across from corner 1 and from corner 5
    solid = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    across = neighbours(solid)
    assert (across >= 0).all()
    flat = across.flatten()
    assert torch.equal(flat[flat], torch.arange(12)), "the other's other is oneself"
    for corner in range(12):
        ends = [set(solid.flatten()[[c - c % 3 + (c + 1) % 3, c - c % 3 + (c + 2) % 3]].tolist())
                for c in (corner, int(flat[corner]))]  # fmt: skip
        assert ends[0] == ends[1] and corner // 3 != int(flat[corner]) // 3


def test_an_edge_of_three_faces_and_copies_of_vertices_are_borders() -> None:
    fan = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert (neighbours(fan) == -1).all()
    assert (neighbours(torch.tensor([[0, 1, 2], [3, 4, 5]])) == -1).all()
    assert neighbours(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3)
    assert (neighbours(torch.zeros(2, 3, dtype=torch.long)) == -1).all(), "corners that are all one vertex"
    with pytest.raises(DreamforgeError, match=r"faces \[3\] were given"):
        neighbours(torch.tensor([0, 1, 2]))


# ---- closed forms


@BOTH
def test_the_sides_of_a_rectangle_have_their_share_of_the_pixel(backend: Any) -> None:
    """In every row the picture sums to the width, in every column to the height; corners belong to one side alone."""
    for left, right, top, bottom in ((4.3, 15.9, 5.2, 17.6), (4.5, 15.7, 5.5, 17.1), (4.9, 16.1, 5.7, 17.4)):
        hard, soft = mask(rectangle(left, top, right, bottom), SQUARE, backend=backend)
        for row in range(8, 15):
            assert soft[row].sum() == pytest.approx(right - left, abs=1e-4)
        for column in range(8, 13):
            assert soft[:, column].sum() == pytest.approx(bottom - top, abs=1e-4)
        assert soft[10, 9] == 1 and soft[10, 20] == 0 and soft.min() >= 0 and soft.max() <= 1
        assert (soft != hard).sum() <= 60


@BOTH
def test_a_rotated_square_has_its_area_and_moves_with_the_right_slope(backend: Any) -> None:
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    shape, areas, hard_areas = rectangle(-8, -8, 8, 8) @ turn.t(), [], []
    for step in range(21):
        hard, soft = mask(shape + torch.tensor([20.0 + step / 20, 20.0]), SQUARE, 40, backend=backend)
        areas.append(float(soft.sum()))
        hard_areas.append(float(hard.sum()))
        assert float((soft * (torch.arange(40.0) + 0.5)).sum() / soft.sum()) == pytest.approx(20 + step / 20, abs=0.01)
    soft_off, hard_off = (max(abs(area - 256) for area in some) for some in (areas, hard_areas))
    assert soft_off < 0.4 and soft_off < 0.4 * hard_off  # four right corners


@BOTH
def test_edges_of_exactly_45_degrees_act_along_one_axis_only(backend: Any) -> None:
    for radius in (9.125, 9.25, 9.375, 9.625, 9.75, 9.875):
        diamond = radius * torch.tensor([[0.0, -1], [1, 0], [0, 1], [-1, 0]]) + 20.5
        _, soft = mask(diamond, SQUARE, 40, backend=backend)
        for row in (14, 16, 25):  # away from the corners
            assert soft[row].sum() == pytest.approx(2 * (radius - abs(row - 20)), abs=1e-4)


@pytest.mark.parametrize("sides", [3, 5, 64])
def test_areas_of_polygons_are_far_nearer_to_the_truth(sides: int) -> None:
    draws, wrong = drawn(sides), torch.zeros(2, 40)
    index = torch.arange(sides)
    faces = torch.stack([torch.full_like(index, sides), index, (index + 1) % sides], 1)
    for number in range(40):
        angle = 2 * math.pi * index / sides + 6.28 * torch.rand(1, generator=draws)
        radius, middle = 14 + 8 * float(torch.rand(1, generator=draws)), 24 + torch.rand(1, 2, generator=draws)
        corners = torch.cat([middle + radius * torch.stack([angle.cos(), angle.sin()], 1), middle])
        true = sides / 2 * math.sin(2 * math.pi / sides) * radius**2
        wrong[:, number] = torch.tensor([float(one.sum()) - true for one in mask(corners, faces, 48)])
    hard, soft = wrong.square().mean(1).sqrt().tolist()
    assert soft < 0.15 * hard and abs(float(wrong[1].mean())) < (0.3 if sides == 3 else 0.1)  # three sharp tips


def test_the_outline_of_a_fine_ball_is_found_though_its_faces_cover_no_centre() -> None:
    """Triangles at the outline are seen from the side; the area must be that of the outline's polygon."""
    mesh, areas = ball(60, 0.7), []
    cameras = [orbit(torch.tensor([0.3]), torch.tensor([0.2]), 3.0 + k / 50, 0.8, 96, 96) for k in range(6)]
    for camera in cameras:
        pixels, depth = project(mesh.vertices, camera)
        hard, soft = mask(pixels[0], mesh.faces, 96, depth)
        focal, distance = float(camera.intrinsics[0, 0, 0]), float(camera.camera_to_world[0, :3, 3].norm())
        true = math.pi * (focal * 0.7) ** 2 / (distance**2 - 0.49)
        areas.append([float(hard.sum()) - true, float(soft.sum()) - true])
        edge = (hard[:, 1:] != hard[:, :-1]).sum() + (hard[1:] != hard[:-1]).sum()
        assert (soft != hard).sum() > 0.4 * edge
    hard_spread, soft_spread = torch.tensor(areas).std(0).tolist()
    assert soft_spread < 0.3 * hard_spread


@BOTH
def test_a_nearer_surface_blends_with_the_one_behind_it(backend: Any) -> None:
    corners = torch.cat([rectangle(-9, -9, 60, 60), rectangle(6.25, 4.0, 16.0, 20.0)])
    depth = torch.tensor([[2.0] * 4 + [1.0] * 4])
    faces = torch.cat([SQUARE, SQUARE + 4])
    found = rasterize(corners[None], depth, faces, 24, 24)
    color = torch.where(found.face[..., None] >= 2, torch.tensor([1.0, 0.2]), torch.tensor([0.0, 0.6]))
    out = antialias(color, found, corners[None], depth, faces, neighbours(faces), backend)
    # the side at 6.25 lies in pixel 6, whose centre is at 6.5: three quarters of it are the nearer one's
    torch.testing.assert_close(out[0, 10, 6], 0.75 * torch.tensor([1.0, 0.2]) + 0.25 * torch.tensor([0.0, 0.6]))
    torch.testing.assert_close(out[0, 10, 5], torch.tensor([0.0, 0.6]))
    assert torch.equal(out[0, :3], color[0, :3])


@BOTH
def test_an_outline_just_behind_the_others_centre_is_its_own_affair(backend: Any) -> None:
    """Two faces side by side, and the second ends a hair to the right of a centre that it covers."""
    end = 12.5 + 1 / 512
    pixels = torch.tensor([[[12.0, -90.0], [12.0, 90.0], [-60.0, 12.0], [end, -90.0], [end, 90.0]]])
    faces, depth = torch.tensor([[0, 1, 2], [0, 3, 1], [3, 4, 1]]), torch.ones(1, 5)
    found = rasterize(pixels, depth, faces, 24, 24)
    color = torch.tensor([0.2, 1.0, 1.0, 0.0])[found.face][..., None]
    out = antialias(color, found, pixels, depth, faces, neighbours(faces), backend)
    assert out[0, 12, 10:14, 0].tolist() == pytest.approx([0.2, 0.2, 0.5 + 1 / 512, 0.0], abs=1e-5)


@BOTH
def test_inner_edges_and_where_surfaces_cross_stay_as_they_are(backend: Any) -> None:
    """Colours differ from face to face, but no outline lies between them."""
    corners = torch.rand(1, 9, 2, generator=drawn(0)) * 2 + torch.cartesian_prod(
        torch.tensor([-9.0, 12.0, 40.0]), torch.tensor([-9.0, 12.0, 40.0])
    )
    index = torch.arange(9).view(3, 3)
    a, b, c, d = (x.flatten() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    grid = torch.cat([torch.stack([a, b, c], 1), torch.stack([d, c, b], 1)])
    depth = 1 + torch.rand(1, 9, generator=drawn(1))
    crossing = torch.cat([grid, grid + 9])
    cases = [(corners, depth, grid), (torch.cat([corners, corners], 1), torch.cat([depth, depth.flip(1)], 1), crossing)]
    for pixels, z, faces in cases:
        found = rasterize(pixels, z, faces, 24, 24)
        assert found.face.unique().numel() > 4 and (found.face >= 0).all()
        color = torch.rand(len(faces), 3, generator=drawn(2))[found.face]
        assert torch.equal(antialias(color, found, pixels, z, faces, neighbours(faces), backend), color)


@BOTH
def test_a_fold_is_an_outline(backend: Any) -> None:
    """Two faces share the edge x = 12.2, both to its left: nothing is seen beyond it."""
    pixels = torch.tensor([[12.2, -30.0], [12.2, 60.0], [-20.0, 15.0], [-25.0, 10.0]])
    faces, depth = torch.tensor([[0, 1, 2], [1, 0, 3]]), torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    assert neighbours(faces)[0, 2] == 5
    _, soft = mask(pixels, faces, depth=depth, backend=backend)
    assert soft[12, 11:14].tolist() == pytest.approx([1.0, 0.2, 0.0], abs=1e-5)
    unfolded = pixels.clone()
    unfolded[3, 0] = 70.0  # now it goes on to the right
    hard, soft = mask(unfolded, faces, depth=depth, backend=backend)
    assert torch.equal(hard[12], soft[12]) and hard[12].all()


@BOTH
def test_beside_a_face_that_is_seen_edge_on_is_an_outline(backend: Any) -> None:
    pixels = torch.tensor([[12.25, -30.0], [12.25, 60.0], [-20.0, 15.0], [12.25, 10.0]])
    faces, depth = torch.tensor([[0, 1, 2], [1, 0, 3]]), torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    _, soft = mask(pixels, faces, depth=depth, backend=backend)
    assert soft[12, 11:14].tolist() == pytest.approx([1.0, 0.25, 0.0], abs=1e-5)


@BOTH
@pytest.mark.parametrize("left", [1.0, 0.5], ids=["right-nearer", "left-nearer"])
def test_a_face_that_goes_on_behind_the_camera_is_no_fold(left: float, backend: Any) -> None:
    """It leaves the edge x = 12.2 to the right, where its third corner is behind the camera: seen mirrored, left."""
    pixels = torch.tensor([[[12.2, -30.0], [12.2, 60.0], [-20.0, 15.0], [-100.0, -15.0]]])
    faces, depth = torch.tensor([[0, 1, 2], [1, 0, 3]]), torch.tensor([[1.0, 1.0, left, -1.0]])
    found = rasterize(pixels, depth, faces, 24, 24)
    assert (found.face[0, 12, :12] == 0).all() and (found.face[0, 12, 12:] == 1).all()
    assert (found.depth[0, 12, 11] < found.depth[0, 12, 12]) == (left < 1)
    color = found.face[..., None].float()
    assert torch.equal(antialias(color, found, pixels, depth, faces, neighbours(faces), backend), color)


@BOTH
def test_an_edge_that_reaches_behind_the_camera_is_left_as_it_is(backend: Any) -> None:
    pixels, depth = torch.tensor([[12.3, 30.0], [12.3, -10.0], [-30.0, 12.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    faces = torch.tensor([[0, 1, 2]])
    hard, soft = mask(pixels, faces, depth=depth, backend=backend)
    assert soft[12, 12] == pytest.approx(0.3, abs=1e-4) or soft[12, 11] == pytest.approx(0.8, abs=1e-4)
    found = rasterize(pixels[None], depth, faces, 24, 24)
    behind = torch.tensor([[1.0, -1.0, 1.0]])
    out = antialias(hard[None, ..., None], found, pixels[None], behind, faces, neighbours(faces), backend)
    assert torch.equal(out[0, 5:20, 12, 0], hard[5:20, 12])


# ---- gradients


def scene(seed: int, cut: bool = False) -> tuple[Fragments, Tensor, Tensor, Tensor]:
    """Two views of triangles that share vertices, overlap and fold."""
    draws = drawn(seed)
    pixels, depth = 60 * torch.rand(2, 40, 2, generator=draws) - 10, torch.rand(2, 40, generator=draws) + 0.5
    depth = depth - 0.6 * cut
    faces = torch.randint(0, 40, (30, 3), generator=draws)
    return rasterize(pixels, depth, faces, 70, 45), pixels, depth, faces


def compared(seed: int, cut: bool, compute: Callable[..., Tensor], exact: bool, *more: Any) -> list[Tensor]:
    found, pixels, depth, faces = scene(seed, cut)
    draws = drawn(100 + seed)
    color, pull = torch.rand(2, 70, 45, 4, generator=draws), torch.randn(2, 70, 45, 4, generator=draws)
    given = [one.double() if exact else one for one in (color, pixels, depth, pull)]
    color, pixels = given[0].requires_grad_(), given[1].requires_grad_()
    found = Fragments(found.face, found.bary, found.depth.to(pixels))
    out = compute(color, found, pixels, given[2], faces, neighbours(faces), *more)
    return [out.detach(), *torch.autograd.grad((out * given[3]).sum(), [color, pixels])]


@at_every_level
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_images_and_gradients_are_those_of_the_reference(cut: bool, level: int) -> None:
    for seed in range(4):
        ours, exact = (
            compared(seed, cut, antialias_native, False, level),
            compared(seed, cut, antialias_reference, True),
        )
        for one, other in zip(ours, exact, strict=True):
            assert_agrees(one, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()))
    found, pixels, depth, faces = scene(0, cut)
    color = torch.rand(2, 70, 45, 1, generator=drawn(0))
    assert (antialias(color, found, pixels, depth, faces, neighbours(faces)) != color).sum() > 100


def test_the_references_gradients_by_finite_differences() -> None:
    draws = drawn(3)
    pixels = (10 * torch.rand(1, 7, 2, generator=draws, dtype=torch.float64)).requires_grad_()
    depth, faces = torch.rand(1, 7, generator=draws).double() + 1, torch.randint(0, 7, (5, 3), generator=draws)
    found = rasterize(pixels.detach(), depth, faces, 10, 9)
    color = torch.rand(1, 10, 9, 1, generator=draws, dtype=torch.float64).requires_grad_()
    across = neighbours(faces)

    def image(color: Tensor, pixels: Tensor) -> Tensor:
        return antialias_reference(color, found, pixels, depth, faces, across)

    assert (image(color, pixels) != color).sum() > 10
    assert torch.autograd.gradcheck(image, (color, pixels), eps=1e-7, atol=1e-5)


@BOTH
def test_the_gradient_of_the_area_is_that_of_the_shape(backend: Any) -> None:
    """Of a big triangle: the polygon's area by its corners, within what the corners' own pixels cost."""
    pixels = torch.tensor([[5.3, 7.1], [88.2, 20.4], [31.7, 90.9]], requires_grad=True)
    _, soft = mask(pixels, torch.tensor([[0, 1, 2]]), 96, backend=backend)
    (got,) = torch.autograd.grad(soft.sum(), pixels)
    x, y = pixels.detach().unbind(1)
    wanted = torch.stack([(y.roll(-1) - y.roll(1)) / 2, (x.roll(1) - x.roll(-1)) / 2], 1)
    assert wanted.abs().max() > 40 and (got - wanted).abs().max() < 1.2


@BOTH
def test_the_mean_colour_changes_by_its_gradient_when_the_shape_moves(backend: Any) -> None:
    """Moved by a sub-pixel, over a coloured background: finite differences of the whole chain."""
    shape = torch.tensor([[10.2, 8.1], [40.6, 14.3], [22.9, 41.7]])
    weight = torch.linspace(0.2, 1.4, 48)[None, :] * torch.linspace(1.3, 0.5, 48)[:, None]

    def loss(pixels: Tensor) -> Tensor:
        return (mask(pixels, torch.tensor([[0, 1, 2]]), 48, backend=backend)[1] * weight).sum()

    for axis in (0, 1):
        move, got, wanted = torch.eye(2)[axis], [], []
        for phase in torch.linspace(0, 1, 9)[:-1]:
            here = (shape + phase * move).requires_grad_()
            (grad,) = torch.autograd.grad(loss(here), here)
            got.append(float((grad @ move).sum()))
            wanted.append(float((loss(here + 0.5 * move) - loss(here - 0.5 * move)).detach()))
        assert sum(got) == pytest.approx(sum(wanted), rel=0.03)


@BOTH
def test_a_triangle_three_pixels_off_finds_back(backend: Any) -> None:
    faces, target = torch.tensor([[0, 1, 2]]), torch.tensor([[6.3, 7.2], [25.1, 9.6], [13.4, 26.8]])
    wanted = mask(target, faces, 32)[1]
    pixels = (target + torch.tensor([[2.1, -2.1], [1.5, 2.6], [-3.0, 0.5]])).requires_grad_()
    optimiser = torch.optim.Adam([pixels], 0.15)
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 0.15 * (1 - step / 150)
        optimiser.zero_grad()
        (mask(pixels, faces, 32, backend=backend)[1] - wanted).square().sum().backward()
        optimiser.step()
    assert (pixels.detach() - target).norm(dim=1).max() < 0.1


def test_the_cores_bits_do_not_depend_on_the_number_of_threads() -> None:
    assert_same_bits(lambda: compared(0, False, antialias_native, False))


def test_gradients_that_nobody_asks_for() -> None:
    found, pixels, depth, faces = scene(0)
    color = torch.rand(2, 70, 45, 3, generator=drawn(0))
    for name, tensor in (("color", color), ("pixels", pixels)):
        grads = []
        for compute in (antialias_native, antialias_reference):
            leaf = tensor.clone().requires_grad_()
            given = {"color": color, "pixels": pixels, name: leaf}
            out = compute(given["color"], found, given["pixels"], depth, faces, neighbours(faces))
            grads.append(torch.autograd.grad(out.square().sum(), leaf)[0])
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


# ---- what is empty, odd or wrong


@BOTH
def test_nothing_to_smooth(backend: Any) -> None:
    none = torch.zeros(0, 3, dtype=torch.long)
    for views, height, width, channels in ((1, 1, 1, 3), (2, 1, 7, 1), (1, 7, 1, 0), (0, 3, 3, 2)):
        pixels = torch.rand(views, 4, 2).requires_grad_()
        found = rasterize(pixels.detach(), torch.ones(views, 4), none, height, width)
        color = torch.rand(views, height, width, channels).requires_grad_()
        out = antialias(color, found, pixels, torch.ones(views, 4), none, none, backend)
        assert torch.equal(out, color)
        out.sum().backward()
        assert color.grad is not None and (color.grad == 1).all()
        assert pixels.grad is None or not pixels.grad.any()


@BOTH
def test_corners_that_are_no_numbers_harm_nobody_else(backend: Any) -> None:
    corners = torch.cat(
        [rectangle(4.3, 5.2, 15.9, 17.6), torch.tensor([[math.nan, 3.0], [math.inf, 9.0], [20.0, 20.0]])]
    )
    faces = torch.cat([SQUARE, torch.tensor([[4, 5, 6], [0, 1, 4]])])
    pixels = corners.clone().requires_grad_()
    _, soft = mask(pixels, faces, backend=backend)
    wanted = mask(rectangle(4.3, 5.2, 15.9, 17.6), SQUARE)[1]
    torch.testing.assert_close(soft[8:], wanted[8:])
    (grad,) = torch.autograd.grad(soft.sum(), pixels)
    assert grad.isfinite().all() and grad.any()


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    right = antialias_native
    monkeypatch.setattr(op, "antialias_native", lambda color, *given: right(1.01 * color, *given))
    assert not agrees(torch.device("cpu"))


def test_what_does_not_fit_is_told() -> None:
    found, pixels, depth, faces = scene(0)
    color, across = torch.rand(2, 70, 45, 3), neighbours(faces)
    with pytest.raises(DreamforgeError, match=r"color \[2, 70, 44, 3\]"):
        antialias(color[:, :, :44], found, pixels, depth, faces, across)
    with pytest.raises(DreamforgeError, match=r"across \[29, 3\]"):
        antialias(color, found, pixels, depth, faces, across[:29])
    with pytest.raises(DreamforgeError, match="across has numbers from -1 to 90, but there are 90 corners of faces"):
        antialias(color, found, pixels, depth, faces, torch.where(across == across.max(), 90, across))
    with pytest.raises(DreamforgeError, match=r"found\.face has numbers"):
        antialias(color, found, pixels, depth, faces[:3], across[:3].clamp_max(8))
    with pytest.raises(DreamforgeError, match="1 views"):
        antialias(color, found, pixels[:1], depth[:1], faces, across)
