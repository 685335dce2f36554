"""Volume rendering of a homogeneous ball against its closed form, and the surface extracted from fields."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit, rays
from dreamforge.render.volume import Looked, one_solid, slope, surface_level, volume_render, volume_surface
from dreamforge.types import Cameras, DreamforgeError, RenderOutput

FULL = torch.ones(8, 8, 8, dtype=torch.bool)
CPU = torch.device("cpu")
RADIUS, COLOR = 0.6, (0.8, 0.4, 0.1)


def view(size: int = 24, views: int = 2) -> Cameras:
    return orbit(torch.arange(views) * 1.3, torch.full((views,), 0.4), 3.0, 0.8, size, size)


def ball(density: float):
    def field(position: Tensor) -> tuple[Tensor, Tensor]:
        inside = position.norm(dim=-1) < RADIUS
        return inside * density, position.new_tensor(COLOR).expand_as(position)

    return field


def render(field, normals: bool = False, **changes) -> RenderOutput:
    def look(position: Tensor, ray: Tensor) -> Looked:
        steep = torch.nn.functional.normalize(-slope(lambda p: field(p)[0], position, 0.005), dim=-1)
        return Looked(*field(position), steep if normals else None)

    arguments = {"occupancy": FULL, "cameras": view(), "background": torch.tensor([0.1, 0.2, 0.9]), "seed": 0}
    return volume_render(lambda position, ray: field(position)[0], look, **{**arguments, "step": 0.005, **changes})


def chord(cameras: Cameras) -> Tensor:
    origins, directions = rays(cameras)
    along = -(origins * directions).sum(-1, keepdim=True)
    miss = origins.square().sum(-1, keepdim=True) - along**2
    return 2 * (RADIUS**2 - miss).clamp(min=0).sqrt()


@pytest.mark.parametrize("density", [0.5, 3.0])
def test_a_homogeneous_ball(density: float) -> None:
    out = render(ball(density))
    expected = 1 - torch.exp(-density * chord(view()))
    assert (out.alpha - expected).abs().max() < density * 0.0051  # one sample more or less
    assert (out.alpha - expected).mean().abs() < 2e-4  # and right on average
    rgb = out.alpha * torch.tensor(COLOR) + (1 - out.alpha) * torch.tensor([0.1, 0.2, 0.9])
    torch.testing.assert_close(out.rgb, rgb, rtol=0, atol=1e-5)


def test_depth_of_a_hard_ball_is_along_the_axis_of_the_camera() -> None:
    out = render(ball(1e4))
    origins, directions = rays(view())
    along = -(origins * directions).sum(-1, keepdim=True)
    forward = view().camera_to_world[:, None, None, :3, 2]
    front = (along - chord(view()) / 2) * (directions * forward).sum(-1, keepdim=True)
    hit = chord(view()) > 0.05
    assert (out.depth - front)[hit].abs().max() < 0.006
    assert not out.depth[chord(view()) == 0].any()


def test_weights_sum_to_alpha_and_samples_are_described() -> None:
    out = render(ball(3.0))
    samples = out.samples
    assert samples is not None and samples.rays == out.alpha.numel()
    total = torch.zeros(samples.rays).index_add_(0, samples.ray, samples.weights)
    torch.testing.assert_close(total.view_as(out.alpha), out.alpha)
    origins, directions = (v.reshape(-1, 3)[samples.ray] for v in rays(view()))
    torch.testing.assert_close(samples.position, origins + directions * samples.t[:, None])


def soft(position: Tensor) -> tuple[Tensor, Tensor]:
    return 40 * torch.sigmoid(40 * (RADIUS - position.norm(dim=-1))), position * 0.5 + 0.5


def test_skipping_empty_cells_changes_nothing_visible() -> None:
    axis = (torch.arange(32) + 0.5) / 16 - 1
    centers = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    near = torch.nn.functional.max_pool3d(soft(centers)[0][None], 3, 1, 1)[
        0
    ]  # the densest of a cell and its neighbours
    occupancy = near > 0.05
    sparse, full = render(soft, occupancy=occupancy, step=0.03), render(soft, step=0.03)
    assert sparse.samples is not None and full.samples is not None
    assert len(sparse.samples.t) < 0.7 * len(full.samples.t)
    assert (sparse.rgb - full.rgb).abs().max() < 5e-3


def test_leaving_opaque_rays_changes_nothing_visible_and_pieces_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = render(soft, step=0.02)
    with torch.no_grad():
        monkeypatch.setattr("dreamforge.render.volume.CHUNK", 100)
        pieces = render(soft, step=0.02)
    torch.testing.assert_close(pieces.rgb, cut.rgb, rtol=0, atol=1e-6)
    assert cut.samples is not None and pieces.samples is not None
    assert torch.equal(pieces.samples.ray, cut.samples.ray)
    monkeypatch.setattr("dreamforge.render.volume.OPAQUE", 1e-30)
    whole = render(soft, step=0.02)
    assert whole.samples is not None and len(cut.samples.t) < len(whole.samples.t)
    assert (cut.rgb - whole.rgb).abs().max() < 1.1e-3


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not() -> None:
    one, same, other = render(soft, step=0.05), render(soft, step=0.05), render(soft, step=0.05, seed=1)
    assert torch.equal(one.rgb, same.rgb) and not torch.equal(one.rgb, other.rgb)


def test_gradients_reach_field_and_background() -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    behind = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def scaled(position: Tensor) -> tuple[Tensor, Tensor]:
        density, color = ball(2.0)(position)
        return density * scale, color

    out = render(scaled, background=behind, step=0.01)
    out.alpha.sum().backward(retain_graph=True)
    expected = (2.0 * chord(view()) * torch.exp(-2.0 * chord(view()))).sum()
    assert scale.grad is not None and scale.grad.item() == pytest.approx(expected.item(), rel=0.01)
    out.rgb.sum().backward()
    torch.testing.assert_close(behind.grad, (1 - out.alpha).expand(-1, -1, -1, 3).detach())


def test_normals_of_a_ball_point_outwards() -> None:
    out = render(soft, normals=True, step=0.02)
    assert out.normal is not None
    origins, directions = rays(view())
    point = origins + directions * (-(origins * directions).sum(-1, keepdim=True) - chord(view()) / 2)
    inner = (chord(view()) > 0.9)[..., 0]
    radial = torch.nn.functional.normalize(point, dim=-1)
    assert (out.normal * radial).sum(-1)[inner].min() > 0.97
    assert not out.normal[out.alpha[..., 0] == 0].any()


@pytest.mark.parametrize("occupancy", [FULL, torch.zeros(8, 8, 8, dtype=torch.bool)])
def test_nothing_to_see_shows_the_background(occupancy: Tensor) -> None:
    weight = torch.zeros(1, requires_grad=True)
    backgrounds = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    empty = lambda p: (p[:, 0] * weight, p.abs())  # noqa: E731
    out = render(empty, occupancy=occupancy, background=backgrounds, step=0.1, normals=True)
    out.rgb.sum().backward()
    torch.testing.assert_close(out.rgb, backgrounds[:, None, None].expand_as(out.rgb))
    assert not out.alpha.any() and not out.depth.any() and out.normal is not None and not out.normal.any()


def test_one_pixel() -> None:
    out = render(ball(50.0), cameras=view(1, 1), step=0.02)
    assert out.rgb.shape == (1, 1, 1, 3) and out.alpha.item() > 0.999


@pytest.mark.parametrize("density", [3.0, 30.0, 3000.0])
def test_the_surface_of_a_ball_of_any_density(density: float) -> None:
    import trimesh

    def field(position: Tensor) -> tuple[Tensor, Tensor]:
        edge = ((RADIUS - position.norm(dim=-1)) * 32 + 0.5).clamp(0, 1)  # two voxels wide
        return density * edge, (position > 0).float()

    mesh = volume_surface(field, 48, step=0.03, device=CPU)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_watertight and solid.is_winding_consistent and solid.volume > 0
    stopped = math.log(2) / density  # half of the light is stopped this deep
    radius = mesh.vertices.norm(dim=-1)
    assert abs(float(radius.mean()) - (RADIUS - min(stopped, 0.04))) < 2 / 48
    assert mesh.normals is not None and mesh.colors is not None
    assert (mesh.normals * mesh.vertices).sum(-1).min() > 0
    assert mesh.vertices.mean(0).abs().max() < 0.2 / 24
    clear = mesh.vertices.abs().amin(-1) > 0.1
    assert torch.equal(mesh.colors[clear].round(), (mesh.vertices[clear] > 0).float())


def test_the_level_ignores_a_spike_and_a_haze() -> None:
    axis = (torch.arange(48) + 0.5) / 24 - 1
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).norm(dim=-1)
    density = torch.where(radius < RADIUS, 20.0, 0.02)
    density[24, 24, 24] = 2000.0
    assert 0.03 < surface_level(density, 2 / 48) < 20


def test_an_invisible_field_has_no_surface() -> None:
    with pytest.raises(DreamforgeError, match="no surface"):
        volume_surface(ball(0.1), 16, step=0.03, device=CPU)
    with pytest.raises(DreamforgeError, match="16 to 512"):
        volume_surface(ball(10.0), 8, step=0.03, device=CPU)


def test_floaters_go_and_hollows_are_filled() -> None:
    density = torch.zeros(20, 20, 20)
    density[4:14, 4:14, 4:14] = 5.0
    density[7:10, 7:10, 7:10] = 0.0  # nobody sees it
    density[17, 17, 17] = 5.0  # floats: less than 0.5 % of the cube
    density[16:19, 2:8, 2:8] = 5.0  # a second piece that is not small
    density[1:3, 16:18, 16:19] = 5.0  # nor is this, a lamp on a wire too thin for the voxels: 1.2 %
    solid = one_solid(density, 1.0) > 1.0
    expected = torch.zeros(20, 20, 20, dtype=torch.bool)
    expected[4:14, 4:14, 4:14] = True
    expected[16:19, 2:8, 2:8] = True
    expected[1:3, 16:18, 16:19] = True
    assert torch.equal(solid, expected)


def test_thick_fog_beside_a_hard_thing_is_a_body_too() -> None:
    """A stem of thin, uneven fog that no light passes stays one piece with its hard cap, without holes."""
    import trimesh

    def field(position: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = position.unbind(-1)
        cap = ((position - torch.tensor([0.0, 0.4, 0.0])).norm(dim=-1) < 0.45).float()
        stem = ((x.abs() < 0.3) & (z.abs() < 0.3) & (y > -0.8) & (y < 0.2)).float()
        fog = 8 * (1 + torch.sin(25 * x) * torch.sin(25 * y) * torch.sin(25 * z))
        return 200 * cap + fog * stem, torch.ones_like(position)

    mesh = volume_surface(field, 64, step=0.03, device=CPU)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    below = mesh.vertices[mesh.vertices[:, 1] < -0.15]
    assert solid.is_watertight and solid.body_count == 1
    assert below[:, 1].min() < -0.7, "the stem is as long as it looks"
    core = (below[:, [0, 2]].abs().amax(-1) < 0.18) & (below[:, 1] > -0.6)
    assert not core.any(), "no surface inside the stem"
