"""Scenes with a material: what a pixel shows, what learns, what is extracted."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit, rays
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.render import pbr
from dreamforge.render.light import linear_to_srgb, srgb_to_linear
from dreamforge.render.volume import volume_surface
from dreamforge.rng import derive
from dreamforge.scenes.color_field import ColorField
from dreamforge.scenes.lit import Lit
from dreamforge.types import Cameras
from tests.test_hash_nerf import SPEC as NERF
from tests.test_hash_nerf import around, still
from tests.test_mesh_scene import SPEC as MESH

CPU = torch.device("cpu")
SHINY = (0.95, 0.2)  # metallic and roughness
POINT = {"shading": "random", "lit_from": 0, "lit_share": 1.0, "textureless_share": 0.0}


def ball(kind: str, **changes: Any) -> Any:
    """A scene that is a ball of 0.6 metres, grey and of one material."""
    if kind == "mesh":
        return replace(MESH, resolution=64, radius=0.6, material="pbr", **changes).build(0)
    if kind == "sdf":
        changes |= {"surface": "sdf", "sdf_radius": 0.6, "sdf_sharpness": 1000.0}
    return still(**{"blob_scale": 1500.0, "blob_std": 0.6, "samples": 256, "material": "pbr"} | changes)


def met(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which pixels see the ball well, ``[B,H,W]``; where they meet it, its normal, the way back: each ``[N,3]``."""
    origin, direction = rays(cameras)
    middle = -(origin * direction).sum(-1, keepdim=True)
    root = middle**2 - origin.square().sum(-1, keepdim=True) + 0.36
    point = origin + (middle - root.clamp_min(0).sqrt()) * direction
    well = (root[..., 0] > 0) & (-(point * direction).sum(-1) / 0.6 > 0.4)
    return well, point[well], point[well] / 0.6, -direction[well]


def compared(rgb: Tensor, linear: Tensor, chalk: Tensor) -> None:
    """Pixels ``[N,3]`` with light ``[N,3]`` as it should be and as it would be of another material."""
    wanted, other = (linear_to_srgb(one).clamp(0, 1) for one in (linear, chalk))
    off, wrong = ((rgb - one).abs().mean() for one in (wanted, other))
    assert off < 0.012 and wrong > 4 * off


@pytest.mark.parametrize("kind", ["sdf", "density", "mesh"])
def test_pixels_show_the_material_under_the_light_of_all_pictures(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamforge.render.pbr.START", SHINY)
    scene, cameras = (
        ball(kind, shading="soft"),
        orbit(torch.tensor([0.5, 2.0]), torch.tensor([0.9, -0.6]), 3.0, 0.5, 25, 25),
    )
    with torch.no_grad():
        rgb = scene.render(cameras, torch.zeros(3)).rgb
    well, _, normal, eye = met(cameras)
    grey = srgb_to_linear(torch.full_like(eye, 0.5))
    linear, chalk = (
        pbr.under_soft(grey, torch.tensor(made_of).expand(len(eye), 2), normal, eye) for made_of in (SHINY, (0.0, 1.0))
    )
    compared(rgb[well], linear, chalk)


@pytest.mark.parametrize("kind", ["sdf", "mesh"])
def test_pixels_show_the_material_under_a_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamforge.render.pbr.START", SHINY)
    lights = torch.tensor([[0.0, 1.2, 0.5], [0.5, 0.3, 1.0]])
    monkeypatch.setattr("dreamforge.scenes.lit.lights_near", lambda where, draws: lights)
    scene, cameras = ball(kind, **POINT), around(2, size=25)
    with torch.no_grad():
        rgb = scene.render(cameras, torch.zeros(3), 3).rgb
    well, point, normal, eye = met(cameras)
    grey, view = srgb_to_linear(torch.full_like(eye, 0.5)), well.nonzero()[:, 0]
    towards = torch.nn.functional.normalize(lights[view] - point, dim=-1)
    linear, chalk = (
        pbr.under_point(grey, torch.tensor(made_of).expand(len(eye), 2), normal, eye, towards)
        for made_of in (SHINY, (0.0, 1.0))
    )
    compared(rgb[well], linear, chalk)


@pytest.mark.parametrize("kind", ["density", "mesh"])
def test_without_a_light_the_albedo_is_shown(kind: str) -> None:
    shown = ball(kind).render(around(2, size=9), torch.zeros(3)).rgb
    torch.testing.assert_close(shown[:, 4, 4], torch.full((2, 3), 0.5), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", ["sdf", "density", "mesh"])
def test_material_and_albedo_are_extracted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamforge.render.pbr.START", SHINY)
    soft = {"blob_scale": 300.0} if kind == "density" else {}
    mesh = ball(kind, shading="soft", **soft).extract(20)
    assert mesh.colors is not None and mesh.material is not None
    torch.testing.assert_close(mesh.colors, torch.full_like(mesh.vertices, 0.5), rtol=0, atol=2e-3)
    torch.testing.assert_close(mesh.material, torch.tensor(SHINY).expand(len(mesh.vertices), 2), rtol=0, atol=2e-3)
    assert NERF.build(0).extract(24).material is None and MESH.build(0).extract(16).material is None


def test_a_surface_has_the_material_that_its_volume_has_there() -> None:
    def field(position: Tensor) -> tuple[Tensor, Tensor]:
        side = (position > 0).float()
        return 300.0 * (position.norm(dim=-1) < 0.6), torch.cat([side, side[:, :1], 1 - side[:, 1:2]], 1)

    mesh = volume_surface(field, 32, step=0.03, device=CPU)
    assert mesh.colors is not None and mesh.material is not None and mesh.material.shape == (len(mesh.vertices), 2)
    clear = mesh.vertices.abs().amin(-1) > 0.1
    side = (mesh.vertices[clear] > 0).float()
    assert torch.equal(mesh.colors[clear].round(), side)
    assert torch.equal(mesh.material[clear].round(), torch.stack([side[:, 0], 1 - side[:, 1]], 1))


def test_who_asks_for_colors_gets_three() -> None:
    """Conversion learns colours at points, whatever else a scene knows."""
    mesh, nerf = (replace(spec, material="pbr").build(0) for spec in (MESH, NERF))
    place = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    for field in (mesh.density_field(), nerf.density_field(), nerf.field):
        density, color = field(place)
        assert density.shape == (7,) and color.shape == (7, 3)
    assert mesh.color(place).shape == (7, 3) and mesh.color.base(place).shape == (7, 5)


def on_a_ball(count: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return 0.6 * torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=1)


def test_white_pictures_show_the_shape_alone() -> None:
    place, cameras = on_a_ball(20, 0), around(2)
    base, view = torch.rand(20, 5, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2
    white = Lit("random", share=1.0, textureless=1.0).shade(cameras, 0, 5)
    assert white is not None
    assert torch.equal(white(base, place / 0.6, place, view), white(base[:, :3], place / 0.6, place, view))


def test_metal_is_told_from_chalk_in_pictures() -> None:
    """Half of a ball is metal: colour, metallic and roughness are found from what cameras see under known lights."""
    draws = torch.Generator().manual_seed(0)
    field = ColorField(HashGrid(4, 2, 12, 8, 1.5), 16, draws, CPU, material="pbr")
    metal, chalk = torch.tensor([0.8, 0.7, 0.3, 1.0, 0.3]), torch.tensor([0.8, 0.3, 0.2, 0.0, 0.9])
    optimiser, light = torch.optim.Adam([field.table, *field.weights], 1e-2), Lit("random", share=1.0, textureless=0.0)
    for step in range(1, 201):
        cameras, place, view = around(8), on_a_ball(1000, step), torch.arange(1000) % 8
        toward_eye = (place * (cameras.camera_to_world[view, :3, 3] - place)).sum(1) > 0
        place, view = place[toward_eye], view[toward_eye]
        shade = light.shade(cameras, 0, step)
        assert shade is not None
        truth = shade(torch.where(place[:, :1] > 0, metal, chalk), place / 0.6, place, view)
        optimiser.zero_grad()
        (shade(field.base(place), place / 0.6, place, view) - truth).square().mean().backward()
        optimiser.step()
    for wanted, side in ((metal, 1), (chalk, -1)):
        place = on_a_ball(500, 0)
        found = field.base(place[place[:, 0] * side > 0.1]).mean(0)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("shading", ["soft", "random"])
def test_every_picture_teaches_a_texture_whose_shape_stays(shading: str) -> None:
    """None is white: it would have no gradient at all."""
    scene = replace(MESH, learn="texture", shading=shading, textureless_share=1.0, material="pbr").build(0)
    for step in range(6):
        loss = scene.render(around(1, size=9), torch.zeros(3), derive(0, "render", step)).rgb.square().sum()
        (grad,) = torch.autograd.grad(loss, scene.color.weights[-1:])
        assert grad[:3].any()
        if shading == "soft":
            assert grad[3].any() and grad[4].any()
