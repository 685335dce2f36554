"""The rows of a scene of Gaussians: their start, who is asked to multiply and when, and what a render hands on."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.render.splat import gaussian_field, splat_render
from dreamforge.scenes import gaussians
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.types import Cameras, RenderOutput, Splats
from tests.test_gaussians import front
from tests.test_hash_nerf import around

FEW = Gaussians(count=6, capacity=8, strategy="default", refine_from=1000)


def test_they_start_evenly_in_a_ball_as_large_as_their_distance() -> None:
    spec = Gaussians(count=4000, capacity=4100, radius=0.6, opacity=0.2)
    scene = spec.build(0)
    start = scene.splats()
    inside = (start.means.norm(dim=1) / 0.6) ** 3  # the share of the ball's volume that is nearer
    assert inside.max() <= 1 and (inside.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 0.03
    assert start.means.mean(0).abs().max() < 0.02
    each = 4 / 3 * math.pi * 0.6**3 / 4000  # volume of the ball that one has
    torch.testing.assert_close(start.log_scales.exp() ** 3, torch.full((4000, 3), each))
    torch.testing.assert_close(torch.sigmoid(start.logit_opacities), torch.full((4000,), 0.2))
    assert not start.sh.any() and int(scene.alive.sum()) == 4000 and scene.alive[:4000].all()
    assert (scene.tensors["quaternions"] == torch.tensor([1.0, 0, 0, 0])).all(), "spare rows are rotations too"


def test_a_scene_holds_all_harmonics_of_its_start() -> None:
    sh = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    start = replace(FEW.build(0).splats(), sh=sh)
    assert torch.equal(GaussianScene(replace(FEW, sh_degree=1), start, 0, "cpu").splats().sh, sh)


def test_rates_go_to_their_parameters_and_marks_to_all_of_them() -> None:
    spec = Gaussians(
        count=3, capacity=4, sh_degree=1, semantic=2, lr_means=1.0, lr_scales=2.0, lr_quaternions=3.0,
        lr_opacities=4.0, lr_colors=5.0, lr_harmonics=6.0, lr_semantic=7.0, lr_background=8.0, background="learned",
    )  # fmt: skip
    scene = spec.build(0)
    groups = {group["name"]: group for group in scene.param_groups()}
    names = ("means", "log_scales", "quaternions", "logits", "colors", "harmonics", "semantic", "background")
    assert {name: groups[name]["lr"] for name in groups} == dict(zip(names, map(float, range(1, 9)), strict=True))
    for name in names[:-1]:
        assert groups[name]["renewed"] is scene.renewed and groups[name]["params"][0] is scene.tensors[name]
    plain = {group["name"] for group in replace(spec, sh_degree=0, semantic=0).build(0).param_groups()}
    assert plain == set(names) - {"harmonics", "semantic"}, "an optimiser takes no empty tensors"


def pull_at(scene: GaussianScene, cameras: Cameras) -> None:
    loss_of(scene.render(cameras, torch.zeros(3))).backward()


def loss_of(picture: RenderOutput) -> Tensor:
    weights = torch.rand(picture.rgb.shape, generator=torch.Generator().manual_seed(7)) - 0.5
    return (picture.rgb * weights).sum()


def wide(views: int = 3) -> Cameras:
    """Pictures of 30 x 20 pixels."""
    cameras = around(views, size=20)
    shift = cameras.intrinsics.new_tensor([[0.0, 0, 5], [0, 0, 0], [0, 0, 0]])
    return replace(cameras, width=30, intrinsics=cameras.intrinsics + shift)


@pytest.mark.parametrize("absgrad", [False, True])
def test_pulls_are_in_half_pictures_and_per_view_that_sees(absgrad: bool) -> None:
    """As 3DGS has them: of the gradient of one picture's loss by the place on its screen from -1 to 1."""
    scene = replace(FEW, absgrad=absgrad).build(0)
    with torch.no_grad():
        scene.tensors["means"][1] = torch.tensor([0.0, 50, 0])  # nobody sees it
        scene.alive[3] = False  # the rows behind it are not the numbers of the living
    cameras = wide()
    for _ in range(2):  # two renders of a step add up
        pull_at(scene, cameras)
    scene.render(cameras, torch.zeros(3))  # nothing pulled at this one
    scene.adapt(0, 0)
    picture, seen = splat_render(scene.splats(), cameras, torch.zeros(3), absgrad=absgrad)
    loss_of(picture).backward()
    grad: Any = seen.means2d.absgrad if absgrad else seen.means2d.grad  # type: ignore[attr-defined]
    apart = grad * torch.tensor([15.0, 10.0]) * 3  # the mean over three pictures is a third of each one's own
    size, there = apart.square().sum(-1).sqrt(), (seen.radii > 0).float()
    alive = [0, 1, 2, 4, 5]
    torch.testing.assert_close(scene.pull[alive, 0], 2 * (size * there).sum(0))
    assert torch.equal(scene.pull[alive, 1], 2 * there.sum(0)) and there.sum() > 6 and not there[:, 1].any()
    assert not scene.pull[[3, 6, 7]].any() and scene.pull[alive, 0].sum() > 0
    before = scene.pull.clone()
    scene.adapt(1, 1)
    assert torch.equal(scene.pull, before), "a step's renders are noted once"
    assert torch.equal(scene.state()["pull"], before), "a run that goes on knows them"


@pytest.mark.parametrize("strategy", ["mcmc", "none"])
def test_who_does_not_ask_for_pulls_keeps_no_renders(strategy: Any) -> None:
    scene = replace(FEW, strategy=strategy).build(0)
    scene.render(around(2, size=8), torch.zeros(3))
    assert scene.seen == []


def called(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[tuple[str, Any, Any]]) -> None:
    monkeypatch.setattr(gaussians, name, lambda *given, **more: calls.append((name, given, more)))


def test_births_are_at_their_steps_with_the_mean_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    """After steps 4, 8 and 12, both ends counted; opacities fall after 8 alone."""
    calls: list[tuple[str, Any, Any]] = []
    for name in ("grow_and_prune", "reset_opacity", "relocate_and_add", "wander"):
        called(monkeypatch, name, calls)
    spec = Gaussians(
        count=2, capacity=4, strategy="default", refine_from=4, refine_until=12, refine_every=4, reset_every=8,
        grow_pull=0.1, grow_scale=0.2, prune_opacity=0.03, prune_scale=0.4,
    )  # fmt: skip
    scene, found = spec.build(0), []
    for step in range(17):
        scene.pull[:] = torch.tensor([[6.0, 3.0], [5.0, 0.0], [0.5, 1.0], [0.0, 0.0]])
        scene.adapt(step, step)
        found += [(step + 1, *call) for call in calls]
        calls.clear()
        assert scene.pull.any() == (step + 1 not in (4, 8, 12)), "pulls count from birth to birth"
    assert [(step, name) for step, name, *_ in found] == [
        (4, "grow_and_prune"), (8, "grow_and_prune"), (8, "reset_opacity"), (12, "grow_and_prune")
    ]  # fmt: skip
    _, _, given, more = found[0]
    assert given[1].tolist() == [2.0, 5.0, 0.5, 0.0]
    assert more == {"grow_pull": 0.1, "grow_scale": 0.2, "prune_opacity": 0.03, "prune_scale": 0.4}
    assert found[2][2][1] == 0.06
    assert len({call[2][2] for call in found if call[1] == "grow_and_prune"}) == 3, "each has draws of its own"


def test_the_chain_moves_always_and_grows_at_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any, Any]] = []
    for name in ("grow_and_prune", "relocate_and_add", "wander"):
        called(monkeypatch, name, calls)
    spec = Gaussians(
        count=2, capacity=5, strategy="mcmc", refine_from=2, refine_until=4, refine_every=2, prune_opacity=0.03,
        growth=1.5, noise=100.0, lr_means=0.25,
    )  # fmt: skip
    scene, found = spec.build(0), []
    for step in range(6):
        scene.adapt(step, step)
        found += [(step + 1, *call) for call in calls]
        calls.clear()
    assert [step for step, name, *_ in found if name == "relocate_and_add"] == [2, 4]
    assert [step for step, name, *_ in found if name == "wander"] == [1, 2, 3, 4, 5, 6]
    assert found[1][3] == {"least": 0.03, "growth": 1.5, "most": 5} and found[0][2][2] == 25.0
    assert len({given[1] for _, _, given, _ in found}) == 8, "no two draw the same"


def test_a_render_has_what_the_spec_says() -> None:
    """Tiny Gaussians lose opacity when antialiased; normals are there when asked for, beside the features."""
    small = Splats(
        torch.zeros(1, 3), torch.full((1, 3), -6.0), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([3.0]),
        torch.zeros(1, 1, 3),
    )  # fmt: skip
    spec = Gaussians(count=1, capacity=1, semantic=2)
    plain = GaussianScene(spec, small, 0, "cpu").render(front(), torch.zeros(3))
    smooth = GaussianScene(replace(spec, antialiased=True), small, 0, "cpu").render(front(), torch.zeros(3))
    assert plain.normal is None and smooth.alpha.max() < 0.5 * plain.alpha.max()
    scene = GaussianScene(
        replace(spec, normals=True), replace(small, log_scales=torch.tensor([[-1.0, -1, -4]])), 0, "cpu"
    )
    with torch.no_grad():
        scene.tensors["semantic"][:] = torch.tensor([[0.25, 0.75]])
    picture = scene.render(front(), torch.zeros(3))
    assert picture.normal is not None and picture.semantic is not None
    torch.testing.assert_close(picture.normal[0, 16, 16], torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(picture.semantic[0, 16, 16], picture.alpha[0, 16, 16] * torch.tensor([0.25, 0.75]))


def test_a_picture_knows_its_sides() -> None:
    _, seen = splat_render(FEW.build(0).splats(), wide(2), torch.zeros(3))
    assert (seen.height, seen.width, tuple(seen.radii.shape)) == (20, 30, (2, 6))


def test_fields_of_a_scene_are_widened_by_their_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(gaussians, "gaussian_field", lambda splats, cell: asked.append(cell))
    monkeypatch.setattr(gaussians, "volume_surface", lambda *given, **more: None)
    scene = FEW.build(0)
    scene.density_field()
    scene.extract(20)
    assert asked == [2 / 128, 2 / 20]


def test_a_widened_gaussian_stops_as_much_light_in_all() -> None:
    """Seen along its thin axis: what is lost over the whole of its face, a sum of amplitude, widths and depth."""
    for scales in ((0.02, 0.02, 0.02), (0.1, 0.05, 0.01)):  # the least is the last
        splats = Splats(
            torch.zeros(1, 3), torch.tensor([scales]).log(), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([0.4]),
            torch.zeros(1, 1, 3),
        )  # fmt: skip
        field, axis = gaussian_field(splats, cell=0.08), torch.linspace(-0.5, 0.5, 81)
        density, color = field(torch.cartesian_prod(axis, axis, axis))
        solid = density > 1e-6
        torch.testing.assert_close(color[solid], torch.full((int(solid.sum()), 3), 0.5))
        middle, off = field(torch.tensor([[0.0, 0, 0], [0.04, 0, 0]]))[0].tolist()
        assert off / middle == pytest.approx(math.exp(-0.5 * 0.04**2 / (scales[0] ** 2 + 0.04**2)), rel=1e-3)
        lost = float(density.sum()) * float(axis[1] - axis[0]) ** 3
        depth = -math.log1p(-1 / (1 + math.exp(-0.4)))  # in the middle of the face, of one that is not widened
        assert lost == pytest.approx(
            depth * 2 * math.pi * scales[0] * scales[1], rel=0.04
        )  # 97 % are within 3 deviations
