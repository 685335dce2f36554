"""Rasterising and interpolating by the compiled core against the reference, and both against closed forms."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit, project, rays
from dreamforge.ops import native, raster
from dreamforge.ops.raster import (
    agrees,
    interpolate,
    interpolate_native,
    interpolate_reference,
    rasterize,
    rasterize_native,
    rasterize_reference,
)
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels

pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", levels(), ids=lambda level: native.LEVELS[level])


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def soup(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, depth and faces of two views of random triangles, many of them difficult."""
    draws = drawn(seed)
    size = {"huge": 1e6, "large": 1e3}.get(kind, 40.0)
    pixels = (torch.rand(2, 60, 2, generator=draws) - 0.5) * size + 20
    if kind == "tiny":  # the corners of each lie within a pixel or two
        pixels = pixels[:, :20].repeat_interleave(3, 1) + 1.5 * torch.rand(2, 60, 2, generator=draws)
    depth = 0.5 + torch.rand(2, 60, generator=draws)
    faces = torch.randint(0, 60, (70, 3), generator=draws)
    if kind == "tiny":
        faces[:20] = torch.arange(60).view(-1, 3)
        faces = faces[:20]
    if kind == "grid":  # corners and edges exactly on centres, equal depths, faces twice in other orders
        pixels, depth = (pixels * 2).round() / 2, (depth * 2).round() / 2
        faces[35:] = faces[:35].roll(1, 1)
    if kind == "slivers":
        pixels[..., 1] = pixels[:, :1, 1].round() + 0.5 + 1e-5 * (pixels[..., 1] - 20)
        pixels[:, ::3, 1] = pixels[:, ::3, 1].round() + 0.5  # exactly on centres
    if kind == "behind":
        depth = torch.randn(2, 60, generator=draws)
        depth[:, ::7] = 1e-3  # exactly at the near plane
    if kind == "broken":
        for number, bad in enumerate((math.nan, math.inf, -math.inf, 1e30)):
            pixels[number % 2, number, number % 2] = bad
            depth[(number + 1) % 2, 10 + number] = bad
    return pixels, depth, faces


KINDS = ("plain", "tiny", "large", "huge", "grid", "slivers", "behind", "broken")


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_finds_the_faces_of_the_reference_to_the_last_pixel(kind: str) -> None:
    covered = 0.0
    for seed in range(6):
        given = soup(kind, seed)
        wanted = rasterize_reference(*given, 37, 45, derivatives=True)
        covered += float((wanted.face >= 0).float().mean()) / 6
        for level in levels():
            found = rasterize_native(*given, 37, 45, derivatives=True, level=level)
            assert torch.equal(found.face, wanted.face)
            torch.testing.assert_close(found.bary, wanted.bary, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.depth, wanted.depth, rtol=1e-4, atol=1e-5)
            for one, other in ((found.dx, wanted.dx), (found.dy, wanted.dy)):
                assert one is not None and other is not None
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    assert covered > 0.001


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_slivers_keep_to_their_corners(backend: Any) -> None:
    """Of triangles as thin as rounding no area is reliable: weights stay shares, depths between the corners'."""
    draws, count = drawn(1), 3000
    along = torch.randn(count, 3, 1, generator=draws) * 20 * torch.randn(count, 1, 2, generator=draws)
    thin = 2e-6 * torch.randn(count, 3, 2, generator=draws)
    pixels = torch.randint(0, 32, (count, 1, 2), generator=draws) + 0.5 + along + thin  # across a pixel's centre
    depth = 1 + torch.rand(1, 3 * count, generator=draws)
    faces = torch.arange(3 * count).view(-1, 3)
    found = rasterize(pixels.view(1, -1, 2), depth, faces, 32, 32, backend=backend)
    seen = found.face >= 0
    assert seen.float().mean() > 0.2
    assert found.bary.min() >= 0 and found.bary.max() <= 1
    torch.testing.assert_close(found.bary[seen].sum(-1), torch.ones(int(seen.sum())))
    corners = depth[0][faces[found.face[seen]]]
    assert (found.depth[seen] >= corners.amin(1) - 1e-5).all() and (found.depth[seen] <= corners.amax(1) + 1e-5).all()
    wanted = rasterize_reference(pixels.view(1, -1, 2), depth, faces, 32, 32).face
    assert torch.equal(found.face, wanted)


def test_a_band_of_rows_and_a_last_column_are_not_lost() -> None:
    """More rows than a task of the core draws, a width that no vector divides."""
    pixels, depth, faces = soup("large", 1)
    for height, width in ((200, 3), (1, 1), (1, 131), (129, 1), (65, 64)):
        found, wanted = (draw(pixels, depth, faces, height, width) for draw in (rasterize_native, rasterize_reference))
        assert torch.equal(found.face, wanted.face) and (wanted.face >= 0).any()
        torch.testing.assert_close(found.bary, wanted.bary, rtol=1e-4, atol=1e-5)


def strip(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A jittered grid of triangles that overlaps its picture on all sides, many corners and edges on centres."""
    axis = torch.linspace(-4, 36, 9)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).clone()
    points[1:-1, 1:-1] += 0.4 * torch.randn(7, 7, 2, generator=draws)
    points[2:5] = (points[2:5] * 2).round() / 2
    index = torch.arange(81).view(9, 9)
    a, b, c, d = (x.flatten() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.view(1, -1, 2), torch.cat([torch.stack([a, b, c], 1), torch.stack([d, c, b], 1)])


@at_every_level
def test_shared_edges_leave_no_gap_and_no_double_pixel(level: int) -> None:
    points, faces = strip(drawn(0))
    depth = torch.ones(1, 81)
    alone = sum((rasterize_native(points, depth, one[None], 32, 32, level=level).face >= 0).int() for one in faces)
    assert torch.equal(alone, torch.ones(1, 32, 32, dtype=torch.int32))


def test_equal_depth_goes_to_the_lower_face_however_many_threads_draw() -> None:
    points, faces = strip(drawn(1))
    found = rasterize(points, torch.ones(1, 81), torch.cat([faces, faces.flip(1), faces.roll(1, 0)]), 32, 32)
    assert torch.equal(found.face, rasterize(points, torch.ones(1, 81), faces, 32, 32).face)


def floor_below(height: float, size: float = 50.0) -> tuple[Tensor, Tensor]:
    """Two triangles of a level square under the camera at the origin of height 0: it reaches far behind the camera."""
    corners = torch.tensor([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * size
    return corners - torch.tensor([0.0, height, 0.0]), torch.tensor([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_floor_that_reaches_behind_the_camera_is_cut_and_seen_where_rays_meet_it(backend: Any) -> None:
    cameras = orbit(torch.tensor([0.4]), torch.tensor([0.1]), 3.0, 0.9, 48, 40)
    points, faces = floor_below(0.8)
    pixels, depth = project(points, cameras)
    assert ((depth[0][faces] < 0).any(1) & (depth[0][faces] > 0).any(1)).all(), "both faces must be cut"
    found = rasterize(pixels, depth, faces, 48, 40, backend=backend)
    origins, directions = (ray[0] for ray in rays(cameras))
    distance = (-0.8 - origins[..., 1]) / directions[..., 1]
    place = origins + distance[..., None] * directions
    seen = (distance > 0) & (place[..., [0, 2]].abs() < 50 - 0.5).all(-1)
    missed = (distance < 0) | (place[..., [0, 2]].abs() > 50 + 0.5).any(-1)
    assert seen.float().mean() > 0.4 and missed.float().mean() > 0.3
    assert (found.face[0][seen] >= 0).all() and (found.face[0][missed] < 0).all()
    got = interpolate(points, faces, found.face, found.bary, backend=backend)[0]
    away = (got - place).norm(dim=-1)[seen] / distance[seen]
    assert away.max() < 1e-3


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_what_is_nearer_than_near_is_cut_off(backend: Any) -> None:
    """A wall whose depth grows to the right, from 1 to 3: what is nearer than 2 is not there."""
    corners = torch.tensor([[-1.0, -9, 1], [9, -9, 3], [9, 9, 3], [-1, 9, 1]])
    pixels = (corners[:, :2] / corners[:, 2:] * 10 + 10)[None]
    found = rasterize(
        pixels, corners[None, :, 2], torch.tensor([[0, 1, 2], [0, 2, 3]]), 20, 20, near=2.0, backend=backend
    )
    seen = found.face[0] >= 0
    first = math.ceil(4 / 2 * 10 + 10 - 0.5)  # at depth 2 the wall has x = 4: pixel 30, beyond the picture
    assert first == 30 and not seen.any()
    shifted = rasterize(
        pixels - 15, corners[None, :, 2], torch.tensor([[0, 1, 2], [0, 2, 3]]), 20, 20, near=2.0, backend=backend
    )
    seen = shifted.face[0] >= 0
    assert seen[:5, 15:].all() and not seen[:, :15].any()
    assert shifted.depth[0][seen].min() >= 2.0


def answers(
    pixels: Tensor, depth: Tensor, faces: Tensor, values: Tensor, level: native.Level, exact: bool
) -> list[Tensor]:
    """Images and gradients of everything, of the reference in float64 or of the core at a level."""
    pull = torch.randn(len(pixels), 33, 41, values.shape[-1] + 4, generator=drawn(9))
    given = [one.double() if exact else one for one in (pixels, depth, values)]
    given = [one.clone().requires_grad_() for one in given]
    if exact:
        found = rasterize_reference(given[0], given[1], faces, 33, 41)
        mixed = interpolate_reference(given[2], faces, found.face, found.bary)
    else:
        found = rasterize_native(given[0], given[1], faces, 33, 41, level=level)
        mixed = interpolate_native(given[2], faces, found.face, found.bary, level)
    out = torch.cat([mixed, found.bary, found.depth[..., None]], -1)
    grads = torch.autograd.grad((out * pull.to(out)).sum(), given)
    return [found.face, out.detach(), *grads]


def wide(seed: int, count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Triangles at least some pixels wide, in two views."""
    draws = drawn(seed)
    pixels = torch.rand(2, count, 1, 2, generator=draws) * 40
    turn = 6.28 * torch.rand(2, count, 1, generator=draws) + torch.tensor([0.0, 2.0, 4.2])
    pixels = pixels + 9 * torch.stack([turn.cos(), turn.sin()], -1)
    return pixels.view(2, -1, 2), 0.5 + torch.rand(2, 3 * count, generator=draws), torch.arange(3 * count).view(-1, 3)


@at_every_level
@pytest.mark.parametrize("channels", [0, 1, 3, 9])
def test_images_and_gradients_are_those_of_the_reference(channels: int, level: int) -> None:
    pixels, depth, faces = wide(channels)
    faces = torch.cat([faces, faces[:5].flip(1)])  # more corners on one vertex
    values = torch.rand(120, channels, generator=drawn(3))
    ours, exact = (answers(pixels, depth, faces, values, level, which) for which in (False, True))
    assert torch.equal(ours[0], exact[0]) and (exact[0] >= 0).float().mean() > 0.5
    assert_agrees(ours[1], exact[1], rtol=1e-4, atol=2e-5)
    for one, other in zip(ours[2:], exact[2:], strict=True):
        assert_agrees(one, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()) if other.numel() else 0.0)


def test_attributes_of_each_view() -> None:
    pixels, depth, faces = wide(1)
    values = torch.rand(2, 120, 4, generator=drawn(3))
    found = rasterize(pixels, depth, faces, 33, 41)
    out = interpolate(values, faces, found.face, found.bary)
    for view in range(2):
        assert torch.equal(out[view], interpolate(values[view], faces, found.face[view], found.bary[view]))
    pull, grads = torch.randn(out.shape, generator=drawn(4)), []
    for compute in (interpolate_native, interpolate_reference):
        given = [values.clone().requires_grad_(), found.bary.clone().requires_grad_()]
        mixed = compute(given[0], faces, found.face, given[1])
        torch.testing.assert_close(mixed, out, rtol=1e-5, atol=1e-6)
        grads.append(torch.autograd.grad(mixed, given, pull))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def near_plane_scene() -> tuple[Tensor, Tensor, Tensor]:
    cameras = orbit(torch.tensor([0.4]), torch.tensor([0.3]), 3.0, 0.9, 24, 20)
    points, faces = floor_below(0.8, 5.0)
    return *project(points.double(), cameras), faces


@pytest.mark.parametrize("cut", [False, True])
def test_the_references_gradients_by_finite_differences(cut: bool) -> None:
    """Of barycentrics and depth, of faces that are cut at the near plane too; which face is seen does not change."""
    pixels, depth, faces = near_plane_scene() if cut else wide(2, 4)
    pixels = pixels if cut else 0.3 * pixels  # a small picture
    pixels, depth = pixels.double().requires_grad_(), depth.double().requires_grad_()

    def images(pixels: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        found = rasterize_reference(pixels, depth, faces, 12, 10)
        return found.bary, found.depth

    assert (rasterize_reference(pixels, depth, faces, 12, 10).face >= 0).any()
    assert torch.autograd.gradcheck(images, (pixels, depth), eps=1e-7, atol=1e-5)


def test_the_slopes_of_the_weights_are_differences_between_pixels() -> None:
    """In one plane, extended: the weights of each pixel's own face, evaluated half a pixel further on both sides."""
    pixels, depth, faces = wide(4)
    found = rasterize_reference(pixels.double(), depth.double(), faces, 33, 41, derivatives=True)
    assert found.dx is not None and found.dy is not None
    view, row, column = (found.face >= 0).nonzero(as_tuple=True)
    corners = torch.cat([pixels, depth[..., None]], -1).double()[view[:, None], faces[found.face[view, row, column]]]
    center = torch.stack([column, row], -1) + 0.5
    flat = corners[:, :, :2]

    def weights(at: Tensor) -> Tensor:
        x, y = (flat - at[:, None]).unbind(-1)
        cross = torch.stack([x[:, i - 2] * y[:, i - 1] - y[:, i - 2] * x[:, i - 1] for i in range(3)], 1)
        return cross / corners[:, :, 2] / (cross / corners[:, :, 2]).sum(1, keepdim=True)

    for axis, got in enumerate((found.dx, found.dy)):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-5
        wanted = (weights(center + step) - weights(center - step)) / 2e-5
        torch.testing.assert_close(got[view, row, column], wanted, rtol=1e-4, atol=1e-6)


def test_derivatives_are_there_only_if_asked_for() -> None:
    for backend in ("torch", "native"):
        found = rasterize(*soup("plain", 0), 8, 8, backend=backend)  # type: ignore[arg-type]
        assert found.dx is None and found.dy is None


def test_one_of_the_answers_is_enough() -> None:
    pixels, depth, faces = wide(5)
    for which in ("bary", "depth"):
        grads = []
        for draw in (rasterize_native, rasterize_reference):
            given = [pixels.clone().requires_grad_(), depth.clone().requires_grad_()]
            out = getattr(draw(*given, faces, 33, 41), which)
            grads.append(torch.autograd.grad(out.square().sum(), given))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_the_cores_bits_do_not_depend_on_the_number_of_threads() -> None:
    pixels, depth, faces = wide(6, 200)
    values = torch.rand(600, 3, generator=drawn(3))
    assert_same_bits(lambda: answers(pixels, depth, faces, values, None, False))


def test_parts_of_the_gradient_are_all_summed() -> None:
    """Few vertices and many pixels: every part of the picture brings its share."""
    pixels, depth, faces = (
        torch.tensor([[[-5.0, -5], [150, -5], [-5, 150]]]),
        torch.ones(1, 3),
        torch.tensor([[0, 1, 2]]),
    )
    values = torch.rand(3, 2).requires_grad_()
    found = rasterize(pixels, depth, faces, 64, 64)
    interpolate(values, faces, found.face, found.bary).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad.sum(0), torch.full((2,), 4096.0), rtol=1e-5, atol=0)
    assert raster.shares(values.detach()[None], 4096, None).shape == (1, 16, 3, 2)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_nothing_to_draw(backend: Any) -> None:
    faces = torch.zeros(0, 3, dtype=torch.long)
    for views, vertices in ((1, 0), (2, 5), (0, 5)):
        given = [torch.rand(views, vertices, 2).requires_grad_(), torch.ones(views, vertices).requires_grad_()]
        found = rasterize(*given, faces, 4, 5, derivatives=True, backend=backend)
        assert found.face.shape == (views, 4, 5) and (found.face == -1).all() and not found.bary.any()
        values = torch.rand(vertices, 3).requires_grad_()
        out = interpolate(values, faces, found.face, found.bary, backend=backend)
        assert out.shape == (views, 4, 5, 3) and not out.any()
        (out.sum() + found.depth.sum() + found.bary.sum()).backward()
        assert all(one.grad is None or not one.grad.any() for one in (*given, values))


@at_every_level
def test_corners_that_are_no_numbers_harm_nobody_else(level: int) -> None:
    pixels, depth, faces = wide(7)
    values = torch.rand(120, 2, generator=drawn(3))
    mine = (torch.arange(len(faces)) % 5 != 0).nonzero().squeeze(1)
    good = rasterize_native(pixels, depth, faces[mine], 33, 41, level=level)
    for bad in (math.nan, math.inf, -math.inf):
        broken = pixels.clone(), depth.clone()
        broken[0][:, 0::15], broken[1][:, 16::15] = bad, bad  # faces 0, 5, 10, ...
        given = [one.requires_grad_() for one in broken]
        found = rasterize_native(*given, faces, 33, 41, level=level)
        assert torch.equal(torch.where(good.face >= 0, mine[good.face], -1), found.face)
        out = interpolate_native(values, faces, found.face, found.bary, level)
        grads = torch.autograd.grad(out.sum() + found.depth.sum(), given)
        assert all(grad.isfinite().all() for grad in grads)


def test_fitting_a_triangle_by_its_interpolated_place_and_depth() -> None:
    """The gradient of depth moves the corners' depths to those of another plane."""
    pixels, faces = torch.tensor([[[-9.0, -9], [60, -9], [-9, 60]]]), torch.tensor([[0, 1, 2]])
    wanted = rasterize(pixels, torch.tensor([[1.0, 2.0, 1.5]]), faces, 16, 16).depth
    depth = torch.full((1, 3), 1.3, requires_grad=True)
    optimiser = torch.optim.Adam([depth], 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (rasterize(pixels, depth, faces, 16, 16).depth - wanted).square().mean().backward()
        optimiser.step()
    assert (depth.detach() - torch.tensor([[1.0, 2.0, 1.5]])).abs().max() < 0.02


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    right = interpolate_native
    monkeypatch.setattr(raster, "interpolate_native", lambda *given: 1.01 * right(*given))
    assert not agrees(torch.device("cpu"))


WRONG: Sequence[tuple[dict[str, Any], str]] = (
    ({"faces": torch.tensor([[0, 1, 3]])}, r"faces has numbers from 0 to 3, but there are 3 vertices: .* from 0 to 2"),
    ({"faces": torch.tensor([[0, -1, 2]])}, "from -1 to 2"),
    ({"faces": torch.tensor([[0.0, 1, 2]])}, "faces of torch.float32 were given"),
    ({"faces": torch.tensor([0, 1, 2])}, r"faces \[3\] were given"),
    ({"depth": torch.ones(1, 4)}, r"depth \[1, 4\]"),
    ({"pixels": torch.ones(3, 2)}, r"pixels \[3, 2\]"),
    ({"height": 0}, "a picture of 5x0 pixels"),
    ({"near": 0.0}, "near 0.0 were given"),
    ({"near": math.nan}, "near nan were given"),
)


@pytest.mark.parametrize(("change", "match"), WRONG)
def test_what_cannot_be_drawn_is_told(change: dict[str, Any], match: str) -> None:
    given = {"pixels": torch.rand(1, 3, 2), "depth": torch.ones(1, 3), "faces": torch.tensor([[0, 1, 2]])}
    with pytest.raises(DreamforgeError, match=match):
        rasterize(**{**given, "height": 4, "width": 5, **change})


def test_what_cannot_be_interpolated_is_told() -> None:
    faces, ids, bary = torch.tensor([[0, 1, 2]]), torch.zeros(2, 4, dtype=torch.long), torch.rand(2, 4, 3)
    with pytest.raises(DreamforgeError, match="face_ids has numbers from 0 to 1, but there are 1 faces"):
        interpolate(torch.rand(3, 2), faces, ids + torch.tensor([0, 0, 0, 1]), bary)
    with pytest.raises(DreamforgeError, match="faces has numbers from 0 to 2, but there are 2 vertices"):
        interpolate(torch.rand(2, 2), faces, ids, bary)
    with pytest.raises(DreamforgeError, match=r"attributes \[3, 3, 2\].*\[B,V,C\]"):
        interpolate(torch.rand(3, 3, 2), faces, ids, bary)
    with pytest.raises(DreamforgeError, match=r"bary \[2, 3, 3\]"):
        interpolate(torch.rand(3, 2), faces, ids, bary[:, :3])
