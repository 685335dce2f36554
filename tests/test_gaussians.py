"""3D Gaussians as a scene and as a field: fitting, births and deaths, extraction, state, what they show."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.checkpoints import load_optimiser_state, optimiser_state
from dreamforge.optimiser import SceneAdam
from dreamforge.render.splat import gaussian_field, held, rotations, splat_render, world_to_camera
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.types import Cameras, DreamforgeError, Splats
from tests.test_hash_nerf import around, colored_ball

SPEC = Gaussians(count=300, capacity=600, refine_from=5, refine_every=5, lr_means=5e-3, lr_colors=3e-2)
SEEN = torch.tensor([0.3, 0.6, 0.9])


def one(opacity: float = 0.8, scales: tuple[float, float, float] = (0.3, 0.3, 0.3)) -> Splats:
    return Splats(
        torch.zeros(1, 3),
        torch.tensor([scales]).log(),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.logit(torch.tensor([opacity])),
        ((SEEN - 0.5) / 0.28209479177387814).view(1, 1, 3),
    )


def front(size: int = 33) -> Cameras:
    return orbit(torch.tensor([0.0]), torch.tensor([0.0]), 3.0, 0.8, size, size)


def fit(spec: Gaussians, steps: int, scene: GaussianScene | None = None, first: int = 0) -> tuple[GaussianScene, float]:
    """Six views of a coloured ball; the last PSNR in dB."""
    scene = scene or spec.build(0)
    optimiser = SceneAdam(scene.param_groups(), (0.9, 0.99), 1e-15)
    cameras, psnr = around(6, size=24), 0.0
    for step in range(first, first + steps):
        background = torch.rand(6, 3, generator=torch.Generator().manual_seed(step))
        error = (scene.render(cameras, background, step).rgb - colored_ball(cameras, background)).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        scene.adapt(step, step)
        psnr = -10 * math.log10(error.item())
    return scene, psnr


@pytest.mark.parametrize("strategy", ["mcmc", "default", "none"])
def test_a_few_views_are_fitted(strategy: str) -> None:
    spec = replace(SPEC, strategy=strategy, grow_pull=1e-5, noise=5e3)
    start = fit(spec, 1)[1]
    scene, psnr = fit(spec, 60)
    assert psnr > start + 8 and psnr > 20
    alive = int(scene.alive.sum())
    assert alive == 300 if strategy == "none" else alive > 330
    held_out = orbit(torch.tensor([0.5]), torch.tensor([0.3]), 3.0, 0.8, 24, 24)
    error = (scene.render(held_out, torch.ones(1, 3), 0).rgb - colored_ball(held_out, torch.ones(1, 3))).square().mean()
    assert -10 * math.log10(error.item()) > 18
    mesh = scene.extract(40)
    assert abs(float(mesh.vertices.norm(dim=-1).mean()) - 0.5) < 0.08
    side = mesh.vertices[:, 0].abs() > 0.25
    assert mesh.colors is not None
    red = mesh.colors[:, 0] > mesh.colors[:, 2]
    assert (red == (mesh.vertices[:, 0] > 0))[side].float().mean() > 0.95


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_a_run_goes_on_in_the_same_bits(strategy: str) -> None:
    """From a state and the optimiser's, in the middle of births: as if it had never stopped."""
    spec = replace(SPEC, strategy=strategy, grow_pull=1e-5, noise=5e3, absgrad=strategy == "default")

    def run(scene: GaussianScene, optimiser: SceneAdam, steps: range) -> None:
        for step in steps:
            optimiser.zero_grad()
            (scene.render(around(2), torch.ones(3), step).rgb - 0.3).square().mean().backward()
            optimiser.step()
            scene.adapt(step, step)

    whole = spec.build(0)
    optimiser = SceneAdam(whole.param_groups(), (0.9, 0.99), 1e-15)
    run(whole, optimiser, range(5))
    kept, moments = whole.state(), {name: one.clone() for name, one in optimiser_state(optimiser).items()}
    assert kept["renewed"].any(), "the marks of the last births wait for the next step"
    run(whole, optimiser, range(5, 12))
    again = spec.build(3)
    other = SceneAdam(again.param_groups(), (0.9, 0.99), 1e-15)
    again.load_state(kept)
    load_optimiser_state(other, moments)
    run(again, other, range(5, 12))
    assert all(torch.equal(a, b) for a, b in zip(whole.state().values(), again.state().values(), strict=True))


def test_one_gaussian_is_seen_as_it_is() -> None:
    """Its middle has its opacity and colour; alpha falls as its picture does, which is round and as wide as it is."""
    out, seen = splat_render(one(), front(), torch.tensor([0.1, 0.2, 0.4]), normals=True)
    assert out.alpha[0, 16, 16, 0].item() == pytest.approx(0.8, abs=2e-3)
    torch.testing.assert_close(out.rgb[0, 16, 16], 0.8 * SEEN + 0.2 * torch.tensor([0.1, 0.2, 0.4]), rtol=0, atol=2e-3)
    assert out.depth[0, 16, 16, 0].item() == pytest.approx(3.0, abs=1e-5)
    assert out.normal is not None and out.normal[0, 16, 16].norm().item() == pytest.approx(1.0, abs=1e-5)
    spread = 0.3 * float(front().intrinsics[0, 0, 0]) / 3.0
    variance = spread**2 + 0.3  # and the blur of 3DGS
    assert out.alpha[0, 16, 20, 0].item() == pytest.approx(0.8 * math.exp(-0.5 * 16 / variance), abs=2e-3)
    assert seen.radii.shape == (1, 1) and int(seen.radii) > 0 and seen.means2d[0, 0].tolist() == [16.5, 16.5]


def test_world_to_camera_is_the_inverse() -> None:
    cameras = around(5)
    torch.testing.assert_close(world_to_camera(cameras) @ cameras.camera_to_world, torch.eye(4).expand(5, 4, 4))


def test_a_flat_one_shows_its_thin_axis_and_turns_with_its_quaternion() -> None:
    flat = one(scales=(0.3, 0.3, 0.01))
    angle = 0.7  # about y
    flat = replace(flat, quaternions=torch.tensor([[math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0]]) * 3)
    normal = splat_render(flat, front(), torch.zeros(3), normals=True)[0].normal
    assert normal is not None
    torch.testing.assert_close(normal[0, 16, 16], torch.tensor([math.sin(angle), 0.0, math.cos(angle)]))
    turned = rotations(flat.quaternions)[0]
    torch.testing.assert_close(turned @ turned.t(), torch.eye(3), rtol=0, atol=1e-6)


def test_colors_may_depend_on_the_direction_and_features_are_composited() -> None:
    sh = torch.zeros(1, 4, 3)
    sh[0, 2, 0] = 0.5  # red by z
    splats, feature = replace(one(), sh=sh), torch.tensor([[2.0, -1.0]])
    both = orbit(torch.tensor([0.0, math.pi]), torch.zeros(2), 3.0, 0.8, 33, 33)
    out = splat_render(splats, both, torch.zeros(3), semantic=feature)[0]
    red = out.rgb[:, 16, 16, 0] / out.alpha[:, 16, 16, 0]
    torch.testing.assert_close(red, 0.5 + 0.4886025119029199 * 0.5 * torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-4)
    assert out.semantic is not None
    torch.testing.assert_close(out.semantic[0, 16, 16], out.alpha[0, 16, 16] * feature[0])


def test_what_is_held_within_bounds_may_come_back() -> None:
    picture = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    for pull, expected in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, 0.0])):
        (grad,) = torch.autograd.grad(held(picture), picture, torch.full((3,), pull))
        assert grad.tolist() == expected
    assert held(picture).tolist() == [0.0, 0.5, 1.0]


def test_the_field_stops_the_light_that_the_picture_does() -> None:
    """A ray along the thin axis through the middle, integrated; and none of it far away."""
    for splats in (one(0.8, (0.3, 0.3, 0.05)), one(0.3, (0.2, 0.2, 0.2))):
        field = gaussian_field(splats, cell=1e-4)
        z = torch.linspace(-0.999, 0.999, 4001)
        line = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], 1)
        density, color = field(line)
        alpha = 1 - math.exp(-float(density.sum()) * float(z[1] - z[0]))
        assert alpha == pytest.approx(float(torch.sigmoid(splats.logit_opacities)), rel=0.01)
        torch.testing.assert_close(color[2000], SEEN)
    density, _ = field(torch.tensor([[0.9, 0.9, 0.9], [3.0, 0, 0], [0.0, 0, 0]]))
    assert density[:2].tolist() == [0.0, 0.0] and density[2] > 0


def test_the_field_is_the_sum_over_all_gaussians() -> None:
    draws = torch.Generator().manual_seed(0)
    count = 60
    splats = Splats(
        torch.rand(count, 3, generator=draws) * 1.6 - 0.8,
        (0.05 + 0.1 * torch.rand(count, 3, generator=draws)).log(),
        torch.randn(count, 4, generator=draws),
        torch.randn(count, generator=draws),
        torch.randn(count, 1, 3, generator=draws),
    )
    points = torch.rand(500, 3, generator=draws) * 2 - 1
    density, color = gaussian_field(splats, cell=1e-3)(points)
    turn, scale = rotations(splats.quaternions.double()), splats.log_scales.double().exp()
    offset = points.double()[:, None] - splats.means.double()
    distance = ((turn.transpose(1, 2) @ offset[..., None])[..., 0] / scale).square().sum(-1)
    depth = -torch.log1p(-torch.sigmoid(splats.logit_opacities.double()))
    share: Tensor = depth / (math.sqrt(2 * math.pi) * scale.amin(1)) * torch.exp(-0.5 * distance)
    least = share.sum(1) * 0.95 - 0.02 * float(share.max())  # beyond three standard deviations nothing counts
    assert (density.double() <= share.sum(1) * 1.001).all() and (density.double() >= least).all()
    dense = share.sum(1) > 1.0
    shown = (share @ (splats.sh[:, 0].double() * 0.28209479177387814 + 0.5).clamp(0, 1)) / share.sum(1, keepdim=True)
    torch.testing.assert_close(color[dense].double(), shown[dense], rtol=0, atol=0.05)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(DreamforgeError, match="1 <= count <= capacity"):
        Gaussians(count=20, capacity=10)
    with pytest.raises(DreamforgeError, match="sh_degree 4"):
        Gaussians(sh_degree=4)
    with pytest.raises(DreamforgeError, match="parts"):
        SPEC.build(0).render(around(1), None, 0, ["hat"])
    with pytest.raises(DreamforgeError, match="room for 600"):
        big = Gaussians(count=700, capacity=700).build(0).splats()
        GaussianScene(SPEC, big, 0, "cpu")
    with pytest.raises(DreamforgeError, match="do not fit this Gaussians scene"):
        SPEC.build(0).load_state(replace(SPEC, capacity=700).build(0).state())
