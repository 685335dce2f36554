from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from dreamforge.export.decimate import drop_degenerate, transfer, unfolded
from dreamforge.export.prepare import prepare
from dreamforge.geometry.unwrap import unwrap
from dreamforge.ops.raster import texture
from dreamforge.render.light import linear_to_srgb, shading, srgb_to_linear
from dreamforge.render.raster import vertex_normals
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import area, ball, quad


def test_decimation_keeps_budget_shape_and_closedness() -> None:
    mesh = ball()
    assert len(mesh.faces) > 5000
    for budget in (2000, 400):
        small = prepare(mesh, budget, delight=False)
        assert budget * 0.9 <= len(small.faces) <= budget
        assert (small.vertices.norm(dim=-1) - 0.6).abs().max() < 0.012
        # The other way round: no part of the ball is left without a face. Spacing of vertices bounds the distance.
        assert torch.cdist(mesh.vertices, small.vertices).min(1).values.max() < 3 * (4 * np.pi * 0.36 / budget) ** 0.5
        judge = trimesh.Trimesh(small.vertices.numpy(), small.faces.numpy(), process=False)
        assert judge.is_watertight and judge.is_winding_consistent
        assert judge.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.03)
        center = small.vertices[small.faces].mean(1)
        assert (torch.nn.functional.cosine_similarity(area(small), center) > 0.5).all()
        assert small.normals is not None and small.colors is not None
        assert (torch.nn.functional.cosine_similarity(small.normals, small.vertices) > 0.995).all()
        torch.testing.assert_close(small.colors, (small.vertices + 1) / 2, atol=0.02, rtol=0)


def painted(mesh: Mesh) -> Mesh:
    """A small dark disc on a light front: a face's eye."""
    eye = (mesh.vertices[:, :2] - torch.tensor([0.15, 0.1])).norm(dim=-1) < 0.1
    colors = torch.where((eye & (mesh.vertices[:, 2] > 0))[:, None], 0.1, 0.9).expand(-1, 3)
    return replace(mesh, colors=colors)


def test_decimation_keeps_a_painted_edge_that_the_shape_does_not_show() -> None:
    """Share of the surface whose colour is off by more than 0.2, against the same without the relief."""
    mesh = painted(ball(64))

    def wrong(small: Mesh) -> float:
        front = area(small).norm(dim=-1) * (small.vertices[small.faces].mean(1)[:, 2] > 0)
        generator = torch.Generator().manual_seed(0)
        face = torch.multinomial(front, 40_000, replacement=True, generator=generator)
        weights = torch.rand(40_000, 3, generator=generator).log().neg()
        weights /= weights.sum(-1, keepdim=True)
        assert small.colors is not None
        place, color = ((weights[..., None] * v[small.faces[face]]).sum(1) for v in (small.vertices, small.colors))
        true = painted(replace(small, vertices=place)).colors
        assert true is not None
        return float(((color - true).abs().amax(-1) > 0.2).float().mean())

    with_relief = wrong(prepare(mesh, 2000, delight=False))
    grey = prepare(replace(mesh, colors=torch.full_like(mesh.vertices, 0.5)), 2000, delight=False)
    assert grey.normals is not None and mesh.normals is not None and mesh.colors is not None
    arrays = (mesh.colors, mesh.vertices, mesh.normals, grey.vertices, grey.normals)
    colors = torch.from_numpy(transfer(*(a.double().numpy() for a in arrays))).float()
    without = wrong(replace(grey, colors=colors))
    assert with_relief < 0.5 * without
    assert with_relief < 0.006


def test_delighting_gives_the_albedo_back() -> None:
    mesh = ball()
    assert mesh.normals is not None
    albedo = torch.tensor([0.6, 0.3, 0.2])
    shown = linear_to_srgb(srgb_to_linear(albedo) * shading(mesh.normals))
    small = prepare(replace(mesh, colors=shown), 2000)
    assert small.colors is not None
    assert shown.amax(0)[0] - shown.amin(0)[0] > 0.1  # there was light to remove
    torch.testing.assert_close(small.colors, albedo.expand_as(small.colors), atol=0.01, rtol=0)
    kept = prepare(replace(mesh, colors=shown), 2000, delight=False)
    assert kept.colors is not None and kept.colors.std(0).max() > 10 * small.colors.std(0).max()


def test_noise_in_the_normals_is_not_painted_on() -> None:
    mesh = ball()
    assert mesh.normals is not None
    noise = torch.randn(mesh.normals.shape, generator=torch.Generator().manual_seed(0))
    shown = linear_to_srgb(srgb_to_linear(torch.tensor(0.5)) * shading(mesh.normals)).expand(-1, 3)
    rough = replace(mesh, colors=shown, normals=torch.nn.functional.normalize(mesh.normals + 0.3 * noise, dim=-1))
    small = prepare(rough, 10**6)
    assert small.colors is not None and (small.colors - 0.5).abs().max() < 0.025


def test_preparing_cleans_and_keeps_a_mesh_within_its_budget() -> None:
    mesh = ball()
    useless = torch.tensor([[0, 0, 1], [5, 6, 5]])
    dirty = Mesh(torch.cat([mesh.vertices, torch.rand(7, 3)]), torch.cat([mesh.faces, useless]))
    clean = prepare(dirty)
    assert torch.equal(clean.faces, mesh.faces) and torch.equal(clean.vertices, mesh.vertices)
    assert clean.colors is None and clean.normals is not None
    torch.testing.assert_close(clean.normals, vertex_normals(mesh.vertices, mesh.faces), atol=0.1, rtol=0)


def test_a_folded_sliver_is_laid_flat() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0))
    vertices = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    a = np.add.outer(5 * np.arange(4), np.arange(4)).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + 6], -1), np.stack([a, a + 6, a + 5], -1)])
    dragged = vertices.copy()
    dragged[12] = [3.2, 2.5, 0]  # the middle one, across the edge between two of its neighbours
    up = np.tile([0.0, 0.0, 1.0], (25, 1))

    def looks_up(points: np.ndarray) -> np.ndarray:
        b, c = points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]]
        return np.cross(b, c)[:, 2] > 0

    assert not looks_up(dragged).all()
    assert looks_up(unfolded(dragged, faces, up)).all()
    assert np.array_equal(unfolded(vertices, faces, up), vertices)


def test_faces_of_a_painted_mesh_look_outwards() -> None:
    small = prepare(painted(ball(64)), 2000, delight=False)
    outwards = (area(small) * small.vertices[small.faces].sum(1)).sum(-1) > 0
    assert outwards.all()


def test_a_fold_of_two_faces_is_no_surface() -> None:
    faces = np.array([[0, 1, 2], [2, 1, 0], [3, 4, 5], [1, 1, 2]])
    assert drop_degenerate(faces).tolist() == [[3, 4, 5]]


def test_a_thin_plate_keeps_its_two_colours() -> None:
    """Two sheets closer together than their vertices are to the ones they are asked for."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    flat = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3).double().numpy()
    up = np.tile([0.0, 0.0, 1.0], (len(flat), 1))
    lift = np.array([0.0, 0.0, 0.005])
    source = np.concatenate([flat + lift, flat - lift])
    side = np.concatenate([np.ones((len(flat), 1)), np.zeros((len(flat), 1))])
    asked = flat * 0.98 - 0.8 * lift
    assert (transfer(side, source, np.concatenate([up, -up]), asked, up) > 0.999).all()
    assert (transfer(side, source, np.concatenate([up, -up]), asked, -up) < 0.001).all()


def looked_up(mesh: Mesh, values: torch.Tensor, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points of a textured mesh, and ``values [H,W,K]`` there."""
    draws = torch.Generator().manual_seed(0)
    face = torch.multinomial(area(mesh).norm(dim=-1), count, replacement=True, generator=draws)
    weights = torch.rand(count, 3, generator=draws).log().neg()
    weights /= weights.sum(-1, keepdim=True)
    assert mesh.uv is not None
    place, uv = ((weights[..., None] * v[mesh.faces[face]]).sum(1) for v in (mesh.vertices, mesh.uv))
    return place, texture(values, uv)


def test_a_texture_has_the_colours_that_few_triangles_cannot_hold() -> None:
    """A painted eye on 500 triangles: as on the full mesh, with its material, which goes the same way."""
    mesh = painted(ball(64))
    assert mesh.colors is not None
    mesh = replace(mesh, material=mesh.colors[:, :2] * torch.tensor([1.0, 0.5]))
    small = prepare(mesh, 500, delight=False, texture=512)
    assert small.texture is not None and small.material is not None and small.colors is None
    assert small.texture.shape == (512, 512, 3) and small.material.shape == (512, 512, 2) and len(small.faces) <= 500

    def wrong(values: torch.Tensor, place: torch.Tensor) -> float:
        true = painted(replace(mesh, vertices=0.6 * torch.nn.functional.normalize(place, dim=-1))).colors
        assert true is not None
        return float(((values[:, :1] - true[:, :1]).abs() > 0.2).float().mean())

    place, color = looked_up(small, small.texture)
    plain = prepare(mesh, 500, delight=False)
    assert plain.colors is not None and plain.material is not None and plain.material.shape == (len(plain.vertices), 2)
    assert wrong(color, place) < 0.01
    _, material = looked_up(small, small.material)
    torch.testing.assert_close(material, color[:, :2] * torch.tensor([1.0, 0.5]), atol=1e-4, rtol=0)


def test_a_texture_asks_the_scene_at_places_on_the_full_mesh() -> None:
    """Not on the flat triangles that stand for it; with its normals; five columns are a material too."""
    asked = []

    def colors(position: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        asked.append((position, normal))
        return torch.cat([(position + 1) / 2, position.norm(dim=1, keepdim=True), normal[:, :1].abs()], 1)

    small = prepare(ball(40), 100, delight=False, texture=128, colors=colors)
    position, normal = (torch.cat(parts) for parts in zip(*asked, strict=True))
    assert (position.norm(dim=1) - 0.6).abs().max() < 0.02
    assert (small.vertices[small.faces].mean(1).norm(dim=1).min()) < 0.58, "the triangles themselves are not there"
    assert torch.nn.functional.cosine_similarity(position, normal).min() > 0.98
    torch.testing.assert_close(normal.norm(dim=1), torch.ones(len(normal)), atol=1e-5, rtol=0)
    assert small.texture is not None and small.material is not None
    place, color = looked_up(small, small.texture)
    wanted = (0.6 * torch.nn.functional.normalize(place, dim=-1) + 1) / 2
    assert (color - wanted).abs().mean() < 0.01 and (color - wanted).abs().max() < 0.1
    torch.testing.assert_close(small.material[..., 0], torch.full((128, 128), 0.6), atol=0.02, rtol=0)


@pytest.mark.parametrize("from_scene", [False, True])
def test_a_texture_is_delighted_as_vertex_colours_are(from_scene: bool) -> None:
    mesh = ball()
    assert mesh.normals is not None
    albedo = torch.tensor([0.6, 0.3, 0.2])

    def shown(position: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        return linear_to_srgb(srgb_to_linear(albedo) * shading(torch.nn.functional.normalize(position, dim=-1)))

    mesh = replace(mesh, colors=shown(mesh.vertices, mesh.normals))
    small = prepare(mesh, 500, texture=128, colors=shown if from_scene else None)
    assert small.texture is not None
    torch.testing.assert_close(small.texture, albedo.expand(128, 128, 3), atol=0.01, rtol=0)
    lit = prepare(mesh, 500, delight=False, texture=128).texture
    assert lit is not None and lit.std((0, 1)).max() > 10 * small.texture.std((0, 1)).max()


def test_a_mesh_with_a_texture_keeps_it_and_all_its_triangles() -> None:
    mesh = quad()
    kept = prepare(mesh, 4, delight=False, texture=64)
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(kept, name), getattr(mesh, name)), name
    assert kept.normals is not None and kept.normals.tolist() == [[0, 0, 1]] * 4
    mesh = unwrap(ball())  # more triangles than the budget
    mesh = replace(mesh, colors=None, texture=torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)))
    assert len(prepare(mesh, 100, delight=False).faces) == len(mesh.faces) > 100
    bright = prepare(quad()).texture
    light = float(shading(torch.tensor([0.0, 0.0, 1.0])))
    assert bright is not None and quad().texture is not None
    halves = prepare(replace(quad(), texture=quad().texture / 2)).texture
    assert halves is not None
    torch.testing.assert_close(srgb_to_linear(halves[3, 7]), srgb_to_linear(torch.tensor([0.5] * 3)) / light)


def test_a_mesh_without_colours_gets_no_texture() -> None:
    assert prepare(replace(ball(), colors=None), 500, texture=64).texture is None


@pytest.mark.parametrize("make", [lambda: prepare(quad(), 2), lambda: prepare(ball(), 2)])
def test_what_cannot_be_prepared(make: Callable[[], Mesh]) -> None:
    with pytest.raises(DreamforgeError, match="expected"):
        make()
    line = Mesh(torch.eye(3), torch.tensor([[0, 1, 0]]))
    with pytest.raises(DreamforgeError, match="degenerate"):
        prepare(line)
