"""The radiance field as a scene: fitting, extraction, state, determinism."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch

from dreamforge.cameras import orbit, rays
from dreamforge.scenes.hash_nerf import HashNerf, HashNerfScene
from dreamforge.types import Cameras, DreamforgeError, Scene

SPEC = HashNerf(levels=4, log2_entries=13, finest=32, samples=32, occupancy_cells=24, hidden=16)


def around(views: int, size: int = 16) -> Cameras:
    azimuth = torch.arange(views) * (2 * math.pi / views)
    return orbit(azimuth, torch.full((views,), 0.3), 3.0, 0.8, size, size)


def colored_ball(cameras: Cameras, background: torch.Tensor) -> torch.Tensor:
    """Flat-shaded picture of a ball of radius 0.5, red where x > 0 and blue elsewhere."""
    origins, directions = rays(cameras)
    along = -(origins * directions).sum(-1)
    chord = 0.25 - (origins.square().sum(-1) - along**2)
    point = origins + directions * (along - chord.clamp(min=0).sqrt())[..., None]
    color = torch.where(point[..., :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    return torch.where(chord[..., None] > 0, color, background[:, None, None])


def fit(steps: int) -> tuple[HashNerfScene, list[float]]:
    scene = SPEC.build(0)
    optimiser = torch.optim.Adam(scene.param_groups(), betas=(0.9, 0.99), eps=1e-15)
    draws, psnr = torch.Generator().manual_seed(0), []
    cameras = around(6)
    for step in range(steps):
        background = torch.rand(6, 3, generator=draws)
        error = (scene.render(cameras, background, step).rgb - colored_ball(cameras, background)).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        scene.adapt(step, step)
        psnr.append(-10 * math.log10(error.item()))
    return scene, psnr


def test_a_few_views_are_fitted_and_the_mesh_has_their_shape_and_colors() -> None:
    scene, psnr = fit(60)
    assert psnr[-1] > psnr[0] + 8 and psnr[-1] > 22
    held_out = around(1)
    held_out = orbit(held_out.azimuth + 0.5, held_out.elevation, 3.0, 0.8, 16, 16)
    white = torch.ones(1, 3)
    error = (scene.render(held_out, white, 0).rgb - colored_ball(held_out, white)).square().mean()
    assert -10 * math.log10(error.item()) > 20
    mesh = scene.extract(40)
    assert abs(float(mesh.vertices.norm(dim=-1).mean()) - 0.5) < 0.06
    side = mesh.vertices[:, 0].abs() > 0.2
    assert mesh.colors is not None
    red = mesh.colors[:, 0] > mesh.colors[:, 2]
    assert (red == (mesh.vertices[:, 0] > 0))[side].float().mean() > 0.97


def test_two_runs_end_in_the_same_bits_and_a_state_restores_the_picture() -> None:
    one, same = fit(4)[0], fit(4)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.state().values(), same.state().values(), strict=True))
    other = SPEC.build(5)
    assert not torch.equal(other.render(around(1), None, 0).rgb, one.render(around(1), None, 0).rgb)
    other.load_state(one.state())
    assert torch.equal(other.render(around(1), None, 0).rgb, one.render(around(1), None, 0).rgb)
    with pytest.raises(DreamforgeError, match=r"mlp\.0, table"):
        other.load_state(
            {name: tensor[1:] if name in ("table", "mlp.0") else tensor for name, tensor in one.state().items()}
        )


def test_the_start_is_the_blob_and_occupancy_follows_the_density() -> None:
    scene = SPEC.build(0)
    assert isinstance(scene, Scene)
    density, color = scene.field(torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0.5, 0, 0]]))
    blob = torch.nn.functional.softplus(torch.tensor([10.0, 5.0, 0.0]))
    torch.testing.assert_close(density, blob, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(color, torch.full_like(color, 0.5), rtol=0, atol=1e-3)
    dream = replace(SPEC, blob="dreamfusion", blob_scale=5.0, blob_std=0.2).build(0)
    density = dream.field(torch.tensor([[0.2, 0.0, 0.0]]))[0]
    assert density.item() == pytest.approx(math.log1p(math.exp(5 * math.exp(-0.5))), rel=1e-3)
    before = scene.opacity.clone()
    with torch.no_grad():
        scene.weights[-1].zero_()
        scene.table.zero_()
    scene.adapt(0, 0)
    assert torch.equal(scene.opacity, before)  # not a step of the update
    object.__setattr__(scene, "field", lambda p: (torch.zeros(len(p)), p))  # everything vanishes
    scene.adapt(7, 0)
    torch.testing.assert_close(scene.opacity, before * SPEC.occupancy_decay)


@pytest.mark.parametrize("background", ["solid", "learned", "environment"])
def test_backgrounds(background: Literal["solid", "learned", "environment"]) -> None:
    scene = replace(SPEC, background=background, background_color=(0.2, 0.4, 0.6)).build(0)
    out = scene.render(around(2))
    corner = out.rgb[:, 0, 0]
    assert out.alpha[:, 0, 0].max() == 0
    if background != "environment":
        torch.testing.assert_close(corner, torch.tensor([[0.2, 0.4, 0.6]] * 2))
    out.rgb.sum().backward()
    names = [group["name"] for group in scene.param_groups()]
    assert names == ["encoding", "mlp"] + ([] if background == "solid" else ["background"])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for group in scene.param_groups() for p in group["params"])
    replaced = scene.render(around(2), torch.tensor([1.0, 0.0, 0.0]))
    assert replaced.rgb[0, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(DreamforgeError, match="samples is 0"):
        HashNerf(samples=0)
    with pytest.raises(DreamforgeError, match="coarsest"):
        HashNerf(coarsest=80)
    with pytest.raises(DreamforgeError, match="parts"):
        SPEC.build(0).render(around(1), None, 0, ["hat"])
    with pytest.raises(DreamforgeError, match="no surface"):
        replace(SPEC, blob_std=0.02).build(0).extract(16)


def test_normals_on_request() -> None:
    assert SPEC.build(0).render(around(1)).normal is None
    normal = replace(SPEC, normals=True, blob_scale=100.0).build(0).render(around(1)).normal
    assert normal is not None and normal[0, 8, 8].norm().item() == pytest.approx(1.0, abs=1e-5)
    position = around(1).camera_to_world[0, :3, 3]
    assert normal[0, 8, 8] @ torch.nn.functional.normalize(position, dim=0) > 0.9


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 1), (1, 5)])
def test_the_smallest_pictures(width: int, height: int) -> None:
    """One pixel, one row, one column; with everything to see and with nothing."""
    scene = HashNerf(levels=2, log2_entries=8, finest=16, samples=16, occupancy_cells=8).build(0)
    cameras = orbit(torch.tensor([0.0]), torch.zeros(1), 3.0, 0.2, height, width)
    seen = scene.render(cameras, torch.zeros(3))
    assert seen.rgb.shape == (1, height, width, 3) and seen.alpha.isfinite().all() and seen.alpha.max() > 0.1
    seen.rgb.sum().backward()
    assert scene.table.grad is not None and scene.table.grad.any()
    scene.opacity.zero_()
    empty = scene.render(cameras, torch.ones(3))
    assert not empty.alpha.any() and (empty.rgb == 1).all() and not empty.depth.any()
    (empty.rgb.sum() + scene.table.sum() * 0).backward()
