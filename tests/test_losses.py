"""Every regulariser against a value by hand or a brute-force sum."""

import math
from dataclasses import replace

import pytest
import torch

from dreamforge import losses
from dreamforge.cameras import orbit, rays
from dreamforge.types import DreamforgeError, RenderOutput, Samples, Surface


def picture(alpha, **more) -> RenderOutput:
    """A render of one row of pixels with these alphas."""
    alpha = torch.as_tensor(alpha).view(1, 1, -1, 1)
    zeros = torch.zeros(1, 1, alpha.shape[2], 1)
    return RenderOutput(rgb=zeros.expand(-1, -1, -1, 3), alpha=alpha, depth=zeros, **more)


def packed(rays_of_samples, dtype=torch.float64) -> Samples:
    """Samples from one list of (t, delta, weight) a ray; the rays are parallel, along -z."""
    rows = [(ray, *sample) for ray, samples in enumerate(rays_of_samples) for sample in samples]
    ray = torch.tensor([row[0] for row in rows], dtype=torch.long)
    t, delta, w = (torch.tensor([row[k] for row in rows], dtype=dtype) for k in (1, 2, 3))
    position = torch.stack([ray.to(dtype), torch.zeros_like(t), -t], 1) if rows else torch.zeros(0, 3, dtype=dtype)
    return Samples(ray, t, delta, w / delta if rows else w, w, position, len(rays_of_samples))


RAYS = [
    [(1.0, 0.1, 0.2), (1.5, 0.3, 0.5), (2.25, 0.1, 0.1)],
    [],
    [(3.0, 0.2, 0.9)],
    [(1.0, 0.1, 0.4), (1.1, 0.1, 0.3)],
]


def volume(rays_of_samples=RAYS, **more) -> RenderOutput:
    samples = packed(rays_of_samples)
    alpha = torch.zeros(samples.rays, dtype=torch.float64).index_add(0, samples.ray, samples.weights)
    return picture(alpha, samples=samples, **more)


def test_sparsity():
    """mean sqrt(alpha^2 + 0.01)."""
    expected = (0.1 + math.sqrt(0.26) + math.sqrt(1.01)) / 3
    assert losses.sparsity(picture([0.0, 0.5, 1.0])).item() == pytest.approx(expected)


def test_opaque_and_entropy():
    """-a log a - (1 - a) log(1 - a): ln 2 or one bit at a = 1/2, nearly nothing at 0 and 1, same shape in two units."""
    assert losses.opaque(picture([0.5])).item() == pytest.approx(math.log(2))
    assert losses.entropy(picture([0.5])).item() == pytest.approx(1.0)
    assert losses.opaque(picture([0.0, 1.0])).item() < 0.01
    assert losses.entropy(picture([0.0, 1.0])).item() < 1e-3
    alpha = torch.tensor([0.3, 0.7]).requires_grad_()
    losses.opaque(picture(alpha)).backward()
    assert alpha.grad[0] > 0 > alpha.grad[1], "down from 0.3, up from 0.7"


def test_orientation():
    """sum sg(alpha) max(0, n . d)^2 / #pixels with samples; the rays look along -z."""
    normal = torch.tensor([[0.0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0.6, -0.8]]).double().view(1, 1, 4, 3)
    render = volume(normal=normal)
    # Ray 1 has no sample and ray 2 a single one; alpha of rays 0 and 3 is 0.8 and 0.7.
    assert losses.orientation(render).item() == pytest.approx((0.8 * 1.0 + 0.7 * 0.64) / 2)
    facing = volume(normal=-normal)
    assert losses.orientation(facing).item() == 0.0


def test_orientation_uses_the_directions_of_a_real_camera():
    """The direction from the first to the last sample is the ray's own."""
    cameras = orbit(torch.tensor([0.7]), torch.tensor([0.3]), 3.0, 0.7, 3, 4)
    origins, directions = (v.reshape(-1, 3) for v in torch.broadcast_tensors(*rays(cameras)))
    t = torch.tensor([2.0, 2.5, 3.0]).repeat(12)
    ray = torch.arange(12).repeat_interleave(3)
    position = origins[ray] + t[:, None] * directions[ray]
    w = torch.full((36,), 0.3)
    samples = Samples(ray, t, torch.full_like(t, 0.5), w, w, position, 12)
    unit = torch.nn.functional.normalize(directions, dim=1).view(1, 3, 4, 3)
    alpha = torch.full((1, 3, 4, 1), 0.9)
    render = RenderOutput(torch.zeros(1, 3, 4, 3), alpha, torch.zeros(1, 3, 4, 1), normal=unit, samples=samples)
    assert losses.orientation(render).item() == pytest.approx(0.9, rel=1e-4)


def test_z_variance():
    """sum w (t - mean)^2 / sum w, mean over rays whose weights sum above 0.5."""

    def variance(samples):
        mass = sum(w for _, _, w in samples)
        mean = sum(w * t for t, _, w in samples) / mass
        return sum(w * (t - mean) ** 2 for t, _, w in samples) / mass

    expected = (variance(RAYS[0]) + 0.0 + variance(RAYS[3])) / 3
    assert losses.z_variance(volume()).item() == pytest.approx(expected)
    thin = [[(1.0, 0.1, 0.2), (2.0, 0.1, 0.2)]]
    assert losses.z_variance(volume(thin)).item() == 0.0


def test_emptiness():
    """mean log(1 + 10 w)."""
    w = [s[2] for ray in RAYS for s in ray]
    assert losses.emptiness(volume()).item() == pytest.approx(sum(math.log(1 + 10 * v) for v in w) / len(w))


def test_distortion_is_the_double_sum():
    """sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 delta_i, over rays."""
    expected = 0.0
    for ray in RAYS:
        expected += sum(wi * wj * abs(ti - tj) for ti, _, wi in ray for tj, _, wj in ray)
        expected += sum(w * w * delta for _, delta, w in ray) / 3
    assert losses.distortion(volume()).item() == pytest.approx(expected / len(RAYS))


def test_distortion_stays_exact_in_float32_over_many_rays():
    g = torch.Generator().manual_seed(0)
    w, t = torch.rand(3000, 32, generator=g), 3 + torch.rand(3000, 32, generator=g).sort(1).values
    wide = t.double()
    truth = (w.double()[:, :, None] * w[:, None] * (wide[:, :, None] - wide[:, None]).abs()).sum() / 3000
    ray, flat = torch.arange(3000).repeat_interleave(32), torch.zeros(96000)
    samples = Samples(ray, t.flatten(), flat, flat, w.flatten(), torch.zeros(96000, 3), 3000)
    got = losses.distortion(picture(torch.zeros(3000), samples=samples))
    assert got.item() == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["distortion", "z_variance", "emptiness"])
def test_gradients_by_finite_differences(name):
    base = packed(RAYS)

    def value(w):
        samples = Samples(base.ray, base.t, base.delta, w, w, base.position, base.rays)
        return losses.LOSSES[name](picture(torch.zeros(4), samples=samples))

    assert torch.autograd.gradcheck(value, base.weights.clone().requires_grad_())


def test_total_variation():
    """mean of squared vertical differences + mean of squared horizontal ones."""
    image = torch.tensor([[0.0, 1.0], [0.0, 3.0]]).view(1, 2, 2, 1)
    render = RenderOutput(image.expand(-1, -1, -1, 3), torch.ones_like(image), 2 * image)
    assert losses.tv_rgb(render).item() == pytest.approx((0 + 4) / 2 + (1 + 9) / 2)
    assert losses.tv_depth(render).item() == pytest.approx(4 * losses.tv_rgb(render).item())


def test_nothing_hit_is_no_accident():
    """Rays without any sample: finite, and zero where there is nothing to say."""
    empty = volume([[], []], normal=torch.zeros(1, 1, 2, 3, dtype=torch.float64))
    assert empty.samples is not None
    empty = replace(empty, samples=replace(empty.samples, gradient=torch.zeros(0, 3, dtype=torch.float64)))
    others = ("tv_rgb", "tv_depth", "deviation", "signs", "smooth_normals")
    weights = dict.fromkeys(losses.LOSSES, 1.0) | dict.fromkeys(others, 0.0)
    total, values = losses.total(empty, weights, 0.0)
    assert torch.isfinite(total)
    for name in ("orientation", "z_variance", "emptiness", "distortion", "eikonal"):
        assert values[name].item() == 0.0


def test_eikonal_is_the_mean_square_of_what_a_slope_lacks_of_one():
    render = volume([[(1.0, 0.5, 0.5), (2.0, 0.5, 0.5)], [(1.0, 0.5, 0.5)]])
    with pytest.raises(DreamforgeError, match="needs a signed distance"):
        losses.eikonal(render)
    gradient = torch.tensor([[1.0, 0, 0], [0, 3.0, 4.0], [0.0, 0, 0]])
    assert render.samples is not None
    assert losses.eikonal(replace(render, samples=replace(render.samples, gradient=gradient))).item() == pytest.approx(
        (0 + 16 + 1) / 3
    )


def test_total_weighs_along_progress():
    """sum_k weight_k(progress) loss_k; the log shows the values before their weights."""
    alpha = torch.tensor([0.2, 0.8]).requires_grad_()
    render = picture(alpha)
    weights = {"sparsity": 2, "opaque": [[0.0, 0.0], [0.5, 0.0], [1.0, 10.0]]}
    early, values = losses.total(render, weights, 0.25)
    assert set(values) == {"sparsity"}, "a loss of weight 0 is not computed"
    torch.testing.assert_close(early, 2 * losses.sparsity(render))
    late, values = losses.total(render, weights, 0.75)
    torch.testing.assert_close(late, 2 * losses.sparsity(render) + 5 * losses.opaque(render))
    torch.testing.assert_close(values["opaque"], losses.opaque(render).detach())
    assert late.requires_grad and not values["opaque"].requires_grad
    nothing, values = losses.total(render, {}, 0.0)
    assert nothing.item() == 0 and not nothing.requires_grad and values == {}


def test_wrong_input():
    with pytest.raises(DreamforgeError, match="did you mean 'sparsity'"):
        losses.total(picture([0.5]), {"sparcity": 1.0}, 0.0)
    with pytest.raises(DreamforgeError, match=r"losses\.opaque"):
        losses.check({"opaque": "lots"})
    with pytest.raises(DreamforgeError, match="'distortion' needs samples"):
        losses.distortion(picture([0.5]))
    with pytest.raises(DreamforgeError, match="needs normals"):
        losses.orientation(volume())


def test_bends_are_averaged_over_all_sides_of_edges_and_nothing_is_no_accident() -> None:
    """Three faces in a strip, one edge a right angle, one flat: (1 + 1 + 0 + 0) / 4."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [3, 2, 1], [0, 4, 1]])  # the last stands on the edge from 0 to 1
    across = torch.tensor([[3, -1, 7], [0, -1, -1], [-1, 2, -1]])
    strip = Surface(points, faces, across, deviation=torch.zeros(0))
    render = replace(picture([0.5]), surface=strip)
    assert losses.smooth_normals(render).item() == pytest.approx(0.5, abs=1e-6)
    assert losses.deviation(render).item() == 0
    assert losses.smooth_normals(replace(render, surface=replace(strip, across=torch.full((3, 3), -1)))).item() == 0
