"""Meshes as a scene: the start, fitting, what learns, extraction, regularisers; pictures with gradients."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamforge import losses
from dreamforge.cameras import orbit, rays
from dreamforge.geometry.points import quartered
from dreamforge.optimiser import SceneAdam
from dreamforge.render.light import linear_to_srgb, shading, srgb_to_linear
from dreamforge.render.raster import render_mesh
from dreamforge.render.surface import Triangles, surface_render
from dreamforge.scenes.mesh import MeshScene, SdfMesh
from dreamforge.types import Cameras, DreamforgeError, HasColors, Mesh, RenderOutput, Surface
from tests.test_hash_nerf import around, colored_ball

SPEC = SdfMesh(resolution=16, levels=4, log2_entries=12, finest=32, hidden=16)
ALL = ["flexicubes", "tetrahedra"]


def front(size: int = 65) -> Cameras:
    return orbit(torch.tensor([0.0]), torch.tensor([0.0]), 3.0, 0.8, size, size)


def fit(spec: SdfMesh, steps: int) -> tuple[MeshScene, list[float]]:
    scene = spec.build(0)
    optimiser = SceneAdam(scene.param_groups(), (0.9, 0.99), 1e-15)
    cameras, psnr = around(6, size=24), []
    for step in range(steps):
        background = torch.rand(6, 3, generator=torch.Generator().manual_seed(step))
        error = (scene.render(cameras, background, step).rgb - colored_ball(cameras, background)).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        scene.adapt(step, step)
        psnr.append(-10 * math.log10(error.item()))
    return scene, psnr


@pytest.mark.parametrize("surface", ALL)
def test_it_starts_as_a_grey_sphere(surface: str) -> None:
    scene = replace(SPEC, surface=surface, resolution=32).build(0)
    out = scene.render(front(), torch.zeros(3))
    assert out.normal is not None and out.surface is not None
    assert out.depth[0, 32, 32, 0].item() == pytest.approx(3.0 - 0.6, abs=0.01)
    torch.testing.assert_close(out.normal[0, 32, 32], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(out.rgb[0, 32, 32], torch.full((3,), 0.5), rtol=0, atol=1e-3)
    wide = 65 / (2 * math.tan(0.4))
    covered = float(out.alpha.detach().sum())
    assert covered == pytest.approx(math.pi * wide**2 * 0.36 / (9 - 0.36), rel=0.01)
    mesh = scene.extract(32)
    assert (mesh.vertices.norm(dim=1) - 0.6).abs().max() < 0.01
    assert mesh.normals is not None
    assert (mesh.normals * mesh.vertices / 0.6).sum(1).min() > 0.95


@pytest.mark.parametrize("surface", ALL)
def test_a_few_views_are_fitted(surface: str) -> None:
    """From a sphere of 0.6 metres to one of 0.5, half red and half blue: outlines pull the grid."""
    scene, psnr = fit(replace(SPEC, surface=surface, lr_distance=1e-2), 60)
    assert psnr[-1] > psnr[0] + 8 and psnr[-1] > 22
    mesh = scene.extract(32)
    assert abs(float(mesh.vertices.norm(dim=1).mean()) - 0.5) < 0.03
    side = mesh.vertices[:, 0].abs() > 0.2
    assert mesh.colors is not None
    red = mesh.colors[:, 0] > mesh.colors[:, 2]
    assert (red == (mesh.vertices[:, 0] > 0))[side].float().mean() > 0.97


def test_one_part_may_learn_alone() -> None:
    geometry, texture = (replace(SPEC, learn=part).build(0) for part in ("geometry", "texture"))
    assert {group["name"] for group in geometry.param_groups()} == {"distance", "moves", "weights"}
    assert {group["name"] for group in texture.param_groups()} == {"encoding", "mlp"}
    for scene in (geometry, texture):
        scene.render(front(24), torch.zeros(3), 1).rgb.square().sum().backward()
    assert geometry.color.table.grad is None and geometry.distance.grad is not None
    assert texture.distance.grad is None and texture.color.table.grad is not None


def test_vertices_of_the_grid_move_by_up_to_half_a_cube() -> None:
    scene = SPEC.build(0)
    still = scene.geometry(training=False)[0].vertices
    with torch.no_grad():
        scene.moves.fill_(100.0)
    moved = scene.geometry(training=False)[0].vertices
    torch.testing.assert_close((moved - still).mean(0), torch.full((3,), 0.499 * 2.1 / 16), rtol=1e-3, atol=0)


def test_weights_of_flexicubes_matter_and_pictures_that_teach_have_finer_faces() -> None:
    scene = SPEC.build(0)
    with torch.no_grad():
        scene.distance.copy_(scene.points.abs().amax(1) - 0.43 + 0.3 * scene.points[:, 0])  # edges, nothing symmetric
        for name, weight in scene.weights.items():
            before = scene.geometry(training=True)[0].vertices
            weight += torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
            assert not torch.allclose(scene.geometry(training=True)[0].vertices, before), name
        quiet = scene.render(front(9), torch.zeros(3)).surface
    taught = scene.render(front(9), torch.zeros(3)).surface
    assert quiet is not None and taught is not None and len(taught.faces) == 2 * len(quiet.faces)


def test_the_edges_that_the_surface_crosses() -> None:
    scene = SPEC.build(0)
    with torch.no_grad():
        scene.distance.copy_((scene.points - torch.tensor([0.1, 0.2, -0.1])).norm(dim=1) - 0.4)
    box = scene.distance.detach().view(17, 17, 17)
    expected = sum(int((box < 0).int().diff(dim=axis).abs().sum()) for axis in range(3))
    found = scene._crossed()
    assert found.shape == (expected, 2) and (found.prod(1) <= 0).all()


def test_its_field_is_a_wall_where_its_surface_is() -> None:
    scene, middle = SPEC.build(0), torch.tensor([0.2, -0.1, 0.3])
    with torch.no_grad():
        scene.distance.copy_((scene.points - middle).norm(dim=1) - 0.5)
    away = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    field = scene.density_field()
    inside, outside, on = (field(middle + away * radius)[0] for radius in (0.44, 0.56, 0.5))
    assert inside.min() > 190 and outside.max() < 10
    assert 20 < on.mean() < 100, "half of a wall, less what a sphere bends within a cube"
    assert torch.equal(field(away)[1], scene.color(away))
    with torch.no_grad():
        scene.color.table.normal_(generator=torch.Generator().manual_seed(0))
    corner = torch.ones(1, 3)
    assert not torch.equal(scene.color(1.04 * corner), scene.color(corner)), "the margin has colours of its own"


def test_normals_are_the_surfaces_own() -> None:
    """Of a ball that is not in the middle: no other direction will do."""
    scene, middle = replace(SPEC, resolution=32).build(0), torch.tensor([0.3, 0.0, 0.0])
    with torch.no_grad():
        scene.distance.copy_((scene.points - middle).norm(dim=1) - 0.5)
        out = scene.render(front(33), torch.zeros(3))
    origins, directions = (one[0, 16] for one in rays(front(33)))
    slant = (directions * front(33).camera_to_world[0, :3, 2]).sum(-1, keepdim=True)
    wanted = torch.nn.functional.normalize(origins + directions * out.depth[0, 16] / slant - middle, dim=1)
    well = (out.alpha[0, 16, :, 0] > 0.999) & (wanted[:, 2] > 0.5)
    assert out.normal is not None and well.sum() > 8
    assert (out.normal[0, 16] * wanted).sum(1)[well].min() > 0.99
    edge = (out.alpha > 0.2) & (out.alpha < 0.9)
    assert edge.sum() > 20 and out.depth[edge].min() > 2.7, "a pixel half covered is as far as what covers it"


def test_rates_age_and_finer_faces() -> None:
    rates = {"lr_distance": 0.1, "lr_moves": 0.2, "lr_weights": 0.3, "lr_encoding": 0.4, "lr_mlp": 0.5}
    scene = replace(SPEC, background="learned", lr_background=0.6, **rates).build(0)
    assert [group["lr"] for group in scene.param_groups()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    count = [len(scene.extract(resolution).faces) for resolution in (16, 32, 33)]
    assert count[0] == len(scene.geometry(training=False)[0].faces)
    assert count[1] == 4 * count[0] and count[2] == 16 * count[0]
    late = replace(SPEC, shading="random", lit_from=2, lit_share=1.0, textureless_share=1.0).build(0)
    cameras = front(9)
    grey = late.render(cameras, torch.zeros(3), 1).rgb
    late.adapt(0, 0)
    assert torch.equal(late.render(cameras, torch.zeros(3), 1).rgb, grey)
    late.adapt(1, 0)
    lit = late.render(cameras, torch.zeros(3), 1).rgb
    assert not torch.equal(lit, grey)
    again = replace(SPEC, shading="random", lit_from=2, lit_share=1.0, textureless_share=1.0).build(3)
    again.load_state(late.state())
    assert torch.equal(again.render(cameras, torch.zeros(3), 1).rgb, lit)


def test_albedo_is_lit() -> None:
    scene = replace(SPEC, resolution=48, shading="soft").build(0)
    lit = scene.render(front(), torch.zeros(3)).rgb[0, 32, 32]
    expected = linear_to_srgb(srgb_to_linear(torch.tensor(0.5)) * shading(torch.tensor([0.0, 0.0, 1.0])))
    torch.testing.assert_close(lit, expected.expand(3), rtol=0, atol=0.01)


def test_quarters_have_the_same_surface_and_fit_together() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    fine, small = quartered(vertices, faces)
    assert fine.shape == (9, 3) and small.shape == (8, 3)
    corner = fine[small]
    area = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    torch.testing.assert_close(area, torch.tensor([0.0, 0.0, 0.25]).expand(8, 3))
    mesh = SPEC.build(0).extract(64)
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2)
    assert (torch.unique(edges.sort(1).values, dim=0, return_counts=True)[1] == 2).all(), "still closed"


def test_pictures_are_those_of_the_values_renderer() -> None:
    """Of the same mesh, against many samples a pixel."""
    mesh = SPEC.build(0).extract(16)
    colors = (mesh.vertices + 1) / 2
    wanted = render_mesh(Mesh(mesh.vertices, mesh.faces, colors=colors), front(33), torch.zeros(3), None, antialias=8)

    def shown(position: Tensor, normal: Tensor, view: Tensor) -> Tensor:
        return (position + 1) / 2

    got = surface_render(Triangles.of(mesh.vertices, mesh.faces), shown, front(33), torch.zeros(3), oversample=2)
    assert (got.alpha - wanted.alpha).abs().max() < 0.08 and (got.alpha - wanted.alpha).abs().mean() < 2e-3
    inside = (wanted.alpha > 0.999)[..., 0]
    assert (got.rgb - wanted.rgb).abs()[inside].max() < 0.02


def test_outlines_move_with_the_mesh() -> None:
    """The sum of alpha is an area in pixels: its slope by the radius is that of a circle's."""
    mesh = replace(SPEC, resolution=32).build(0).extract(32)
    radius = torch.tensor(1.0, requires_grad=True)
    triangles = Triangles.of(mesh.vertices * radius, mesh.faces)
    out = surface_render(triangles, lambda position, normal, view: position * 0, front(), torch.zeros(3))
    (slope,) = torch.autograd.grad(out.alpha.sum(), radius)
    wide, r = 65 / (2 * math.tan(0.4)), 0.6
    expected = math.pi * wide**2 * 2 * r * 9 / (9 - r * r) ** 2 * r  # by the factor, not by metres
    assert float(slope) == pytest.approx(expected, rel=0.05)


def test_regularisers_of_surfaces() -> None:
    empty = torch.zeros(1, 1, 1, 1)
    flat = Surface(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]),
        torch.tensor([[0, 1, 2], [3, 2, 1]]),
        torch.tensor([[3, -1, -1], [0, -1, -1]]),
        crossed=torch.tensor([[-0.5, 2.0]]),
        deviation=torch.tensor([0.1, 0.3]),
    )

    def value(name: str, surface: Surface | None) -> float:
        render = RenderOutput(empty.expand(-1, -1, -1, 3), empty, empty, surface=surface)
        return float(losses.LOSSES[name](render))

    assert value("deviation", flat) == pytest.approx(0.2)
    # sigma(-0.5) should be 1, sigma(2) should be 0
    expected = math.log1p(math.exp(0.5)) + math.log1p(math.exp(2.0))
    assert value("signs", flat) == pytest.approx(expected, rel=1e-6)
    assert value("smooth_normals", flat) == pytest.approx(0.0, abs=1e-6)
    folded = replace(flat, vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0.7]]))
    assert value("smooth_normals", folded) == pytest.approx(1.0, abs=1e-6), "a right angle"
    for name in ("deviation", "signs", "smooth_normals"):
        with pytest.raises(DreamforgeError, match="needs"):
            value(name, None)
    with pytest.raises(DreamforgeError, match="needs FlexiCubes"):
        value("deviation", replace(flat, deviation=None))


def test_a_vanished_mesh_is_an_empty_picture_and_no_asset() -> None:
    scene = SPEC.build(0)
    with torch.no_grad():
        scene.distance.add_(10.0)
    out = scene.render(front(9), torch.tensor([1.0, 0.0, 0.0]))
    assert not out.alpha.any() and torch.equal(out.rgb[0, 4, 4], torch.tensor([1.0, 0.0, 0.0]))
    with pytest.raises(DreamforgeError, match="no surface to extract"):
        scene.extract(16)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(DreamforgeError, match="4 to 512 cubes"):
        SdfMesh(resolution=2)
    with pytest.raises(DreamforgeError, match="parts"):
        SPEC.build(0).render(front(9), None, 0, ["hat"])
    with pytest.raises(DreamforgeError, match="do not fit this SdfMesh"):
        SPEC.build(0).load_state(replace(SPEC, resolution=8).build(0).state())


def test_it_knows_the_colors_of_points_for_textures() -> None:
    """Those of its vertices, and with a material the two numbers of that beside them."""
    for material, columns in (("none", 3), ("pbr", 5)):
        scene = SdfMesh(resolution=8, levels=2, log2_entries=8, finest=8, material=material).build(0)
        scene.color.table.detach().normal_(generator=torch.Generator().manual_seed(0))
        assert isinstance(scene, HasColors)
        mesh = scene.extract(8)
        assert mesh.colors is not None and mesh.normals is not None and mesh.colors.std() > 1e-3
        found = scene.colors_at(mesh.vertices, mesh.normals).detach()
        assert found.shape == (len(mesh.vertices), columns)
        assert torch.equal(found[:, :3], mesh.colors)
