"""The radiance field as a scene: fitting, extraction, state, determinism."""

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from dreamforge.cameras import orbit, rays
from dreamforge.render.light import linear_to_srgb, shading, srgb_to_linear
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
    object.__setattr__(scene, "field", lambda p, reach: (torch.zeros(len(p)), p))  # everything vanishes
    scene.adapt(7, 0)
    torch.testing.assert_close(scene.opacity, before * SPEC.occupancy_decay)


def test_rates_are_those_of_the_spec() -> None:
    rates = {"lr_encoding": 0.1, "lr_mlp": 0.2, "lr_sharpness": 0.3, "lr_background": 0.4}
    groups = replace(SPEC, surface="sdf", background="learned", **rates).build(0).param_groups()
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("encoding", 0.1), ("mlp", 0.2), ("sharpness", 0.3), ("background", 0.4)
    ]  # fmt: skip


def test_the_grids_reach_from_end_to_end_of_the_volume() -> None:
    grids = SPEC.grid.grids()
    assert (grids[0].scale + 1, grids[-1].scale + 1) == pytest.approx((SPEC.coarsest, SPEC.finest))
    scene = SPEC.build(0)
    with torch.no_grad():
        scene.table.normal_(generator=torch.Generator().manual_seed(0))
    for end in (-1.0, 1.0):
        at, near, beyond = (scene._raw(torch.full((1, 3), end * far)) for far in (1.0, 0.97, 1.2))
        assert not torch.allclose(at, near) and torch.equal(at, beyond)


def test_the_occupancy_is_the_opacity_of_a_step() -> None:
    scene = still(blob_scale=0.0, density_scale=20.0)  # as dense everywhere
    wanted = 1 - math.exp(-20 * math.log(2) * 2 / SPEC.samples)
    torch.testing.assert_close(scene.opacity, torch.full_like(scene.opacity, wanted))


def test_a_field_hardens_between_two_steps() -> None:
    """By the same factor every step; a checkpoint knows how far it is."""
    spec = replace(SPEC, density_scale=2.0, hard_scale=200.0, harden_from=10, harden_until=20)
    assert [spec.scale_at(age) for age in (0, 10, 15, 20, 99)] == pytest.approx([2, 2, 20, 200, 200])
    assert replace(spec, harden_until=0, harden_from=0).scale_at(99) == 2.0
    place = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    scene, resumed = spec.build(0), spec.build(0)
    soft, color = scene.field(place)
    scene.adapt(14, 0)
    torch.testing.assert_close(scene.field(place)[0], 10 * soft)
    resumed.load_state(scene.state())
    torch.testing.assert_close(resumed.field(place), (10 * soft, color))
    assert (scene.step, spec.samples_at(20)) == (2 / spec.samples, spec.hard_samples)
    fine = replace(spec, hard_samples=4 * spec.samples).build(0)
    fine.adapt(18, 0)
    assert fine.step == 2 / spec.samples
    fine.adapt(19, 0)
    assert fine.step == 0.5 / spec.samples
    resumed = replace(spec, hard_samples=4 * spec.samples).build(0)
    resumed.load_state(fine.state())
    assert resumed.step == fine.step
    assert replace(spec, harden_until=0, harden_from=0).samples_at(99) == spec.samples
    for wrong in ({"harden_from": 20}, {"harden_from": 21}, {"harden_from": -1}):
        with pytest.raises(DreamforgeError, match="harden_from < harden_until"):
            replace(spec, **wrong)


def test_a_half_table_follows_the_table() -> None:
    scene, whole = replace(SPEC, half_table=True).build(0), SPEC.build(0)
    place = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    for change in (lambda: scene.adapt(0, 0), lambda: scene.load_state(scene.state())):
        with torch.no_grad():
            scene.table.add_(1.0)
            whole.table.copy_(scene.table)
        assert not torch.allclose(scene.field(place)[1], whole.field(place)[1], atol=2e-3)
        change()
        torch.testing.assert_close(scene.field(place)[1], whole.field(place)[1], rtol=0, atol=2e-3)


def test_samples_stand_across_the_volume() -> None:
    samples = SPEC.build(0).render(around(1)).samples
    assert samples is not None
    apart = samples.t.diff()[samples.ray.diff() == 0]
    assert float(apart.detach().median()) == pytest.approx(2 / SPEC.samples, rel=1e-4)


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
    with pytest.raises(DreamforgeError, match="nowhere below"):
        replace(SPEC, surface="sdf", sdf_radius=0.02).build(0).extract(16)


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


def still(**changes: Any) -> HashNerfScene:
    """A scene whose network says nothing: raw numbers are 0."""
    scene = replace(SPEC, **changes).build(0)
    with torch.no_grad():
        scene.weights[-1].zero_()
    for seed in range(2):
        scene._survey(torch.Generator().manual_seed(seed), decay=0.0)
    return scene


def test_a_distance_is_a_sphere_at_the_start() -> None:
    scene = still(surface="sdf", sdf_radius=0.6, sdf_sharpness=1000.0, samples=256, normals=True)
    out = scene.render(around(3, size=33), torch.zeros(3))
    assert out.normal is not None and out.samples is not None and out.samples.gradient is not None
    assert out.alpha[:, 16, 16].min() > 0.999 and not out.alpha[:, 0, 0].any()
    torch.testing.assert_close(out.depth[:, 16, 16, 0], torch.full((3,), 3.0 - 0.6), rtol=0, atol=0.01)
    origin = torch.nn.functional.normalize(around(3).camera_to_world[:, :3, 3], dim=-1)
    assert (out.normal[:, 16, 16] * origin).sum(-1).min() > 0.999
    steep = out.samples.gradient.norm(dim=-1)  # differences over 4 mm, of first order, at a curvature of 1.7
    torch.testing.assert_close(steep, torch.ones_like(steep), rtol=0, atol=6e-3)
    finer = scene.render(around(1, size=129), torch.zeros(3)).alpha
    covered, wide = float(finer.detach().sum()), 129 / (2 * math.tan(0.4))  # pixels a metre at distance 1
    assert covered == pytest.approx(math.pi * wide**2 * 0.36 / (9 - 0.36), rel=0.01)
    mesh = scene.extract(48)
    assert abs(float(mesh.vertices.norm(dim=-1).mean()) - 0.6) < 0.002
    raw = torch.tensor([[0.1, 0, 0, 0]])
    assert scene._distance(torch.tensor([[0.0, 0.9, 0.0]]), raw).item() == pytest.approx(0.4), "outside, and added to"
    names = [group["name"] for group in scene.param_groups()]
    assert "sharpness" in names and "sharpness" in scene.state()


def test_alpha_of_a_distance_is_that_of_neus() -> None:
    """Eq. 13 written as in the paper, with f at both ends of a step from its slope."""
    scene = still(surface="sdf", sdf_radius=0.5, sdf_sharpness=30.0, samples=512)
    position = torch.tensor([[0.48, 0.0, 0.0], [0.55, 0.1, 0.0], [0.0, 0.3, 0.1], [0.0, 0.0, 0.52]])
    direction = torch.nn.functional.normalize(torch.tensor([[-1.0, 0.2, 0], [-1, 0, 0], [0, -1, 1], [0, 0, 1]]), dim=-1)
    density, _, gradient = scene._crossed(position, direction)
    alpha = 1 - torch.exp(-density * scene.step)
    f = position.double().norm(dim=-1) - 0.5
    cosine = (direction.double() * torch.nn.functional.normalize(position.double(), dim=-1)).sum(-1).clamp(max=0)
    phi = [torch.sigmoid(30 * (f + sign * cosine * scene.step / 2)) for sign in (-1, 1)]
    torch.testing.assert_close(alpha.double(), ((phi[0] - phi[1]) / phi[0]), rtol=1e-3, atol=1e-4)
    assert alpha[3] == 0.0, "a ray that leaves meets nothing"
    bound = scene.field(position)[0]
    assert (density <= bound * 1.1).all() and (gradient.norm(dim=-1) - 1).abs().max() < 1e-2


def test_albedo_is_lit_by_the_light_of_all_pictures() -> None:
    scene = still(surface="sdf", sdf_radius=0.6, sdf_sharpness=300.0, samples=256, shading="soft")
    lit = scene.render(around(1, size=33), torch.zeros(3)).rgb[0, 16, 16]
    normal = torch.nn.functional.normalize(around(1).camera_to_world[0, :3, 3], dim=0)
    expected = linear_to_srgb(srgb_to_linear(torch.tensor(0.5)) * shading(normal))
    torch.testing.assert_close(lit, expected.expand(3), rtol=0, atol=5e-3)
    assert torch.equal(scene.field(torch.zeros(1, 3))[1], torch.full((1, 3), 0.5)), "its own colour is albedo"


def test_random_light_comes_late_in_a_share_of_the_renders_and_never_in_previews() -> None:
    scene = still(shading="random", lit_from=5, blob_scale=100.0)
    plain = still(blob_scale=100.0)
    cameras = around(2)
    shown = plain.render(cameras, torch.zeros(3), 0).rgb
    assert torch.allclose(scene.render(cameras, torch.zeros(3), 7).rgb, plain.render(cameras, torch.zeros(3), 7).rgb)
    scene.adapt(4, 0)
    assert torch.allclose(scene.render(cameras, torch.zeros(3), 0).rgb, shown)
    middle = torch.stack([scene.render(cameras, torch.zeros(3), seed).rgb[:, 8, 8, 0] for seed in range(1, 41)])
    albedo, bright = (middle - 0.5).abs().amax(1) < 0.01, (middle > 0.51).any(1)
    assert 4 <= albedo.sum() <= 17 and 8 <= bright.sum() <= 24 and not (albedo & bright).any()


def test_levels_come_one_after_another() -> None:
    scene = replace(SPEC, levels_from=2, level_start=1, level_every=2, blob_scale=100.0).build(0)
    cameras = around(1)
    first = [grid.first for grid in scene.grid.grids()] + [len(scene.table)]

    def matters(level: int) -> bool:
        before = scene.render(cameras, None, 0).rgb
        with torch.no_grad():
            scene.table[first[level] : first[level + 1]] += 1.0
        return not torch.equal(scene.render(cameras, None, 0).rgb, before)

    assert matters(1) and not matters(2)
    scene.adapt(1, 0)
    assert not matters(2)
    scene.adapt(2, 0)
    assert matters(2) and not matters(3)
    scene.adapt(4, 0)
    assert matters(3)
    again = replace(SPEC, levels_from=2, level_start=1, level_every=2, blob_scale=100.0).build(1)
    again.load_state(scene.state())
    assert torch.equal(again.render(cameras, None, 0).rgb, scene.render(cameras, None, 0).rgb)
