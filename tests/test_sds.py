"""SDS against closed forms on priors whose score is exact."""

from dataclasses import replace

import pytest
import torch

from dreamforge.guidance.sds import SDS, rescale_std, weight
from dreamforge.priors.mixture import MixturePrior, gaussian, known
from dreamforge.priors.parametrisation import DiscreteSchedule, alpha_sigma, to_x0
from dreamforge.types import Condition, DreamforgeError, Query, View

SIZE = 2
SHAPE = (3, SIZE, SIZE)


def two_gaussians(std: float = 1.0) -> tuple[MixturePrior, torch.Tensor, torch.Tensor]:
    """A prior with "c" ~ N(m_c, std^2) and "u" ~ N(m_u, std^2), and the two means."""
    m_c, m_u = torch.linspace(-0.5, 0.8, 12).view(SHAPE), torch.linspace(0.3, -0.2, 12).view(SHAPE)
    return MixturePrior(known({"c": gaussian(m_c, std), "u": gaussian(m_u, std)}), SIZE), m_c, m_u


def renders(count: int) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(9))


def make_view(prior, x, t, text="c", uncond="u", seed=0, progress=0.0) -> View:
    """A view at ``x [B,C,h,w]`` with noise drawn from ``seed``; ``t`` a number or ``[B]``."""
    t = torch.as_tensor(t, dtype=torch.float32).expand(len(x)).contiguous()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    alpha, sigma = alpha_sigma(prior.schedule, t, x)
    said, plain = prior.embed([text])[[0] * len(x)], prior.embed([uncond])[[0] * len(x)]
    condition = Condition(said, said, plain)
    return View(x, alpha * x + sigma * noise, noise, t, condition, progress=progress)


@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d", "recon"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_mean_gradient_is_the_closed_form(weighting, t):
    """E grad = w sigma alpha (x - (m_u + s (m_c - m_u))) / (alpha^2 std^2 + sigma^2), within 4 standard errors.

    For std = 1 the denominator is 1: E (eps_hat - eps) = sigma alpha (x - m).
    """
    scale, std, draws = 3.0, 0.5, 20000
    prior, m_c, m_u = two_gaussians(std)
    x = torch.linspace(1, -1, 12).view(SHAPE)
    view = make_view(prior, x.expand(draws, *SHAPE), t)
    grad = SDS(scale, weighting, recon_rescale=0.0).grad(view, prior).x
    alpha, sigma = prior.schedule.alpha(view.t[0]), prior.schedule.sigma(view.t[0])
    target = m_u + scale * (m_c - m_u)
    expected = weight(weighting, alpha, sigma) * sigma * alpha * (x - target) / (alpha**2 * std**2 + sigma**2)
    error = grad.std(0) / draws**0.5
    assert ((grad.mean(0) - expected).abs() < 4 * error).all()
    assert (expected.abs() > 4 * error).any(), "the test has the power to see a zero"


def test_fixed_point_overshoots_with_cfg():
    """Descent on SDS between N(m_u, I) and N(m_c, I) ends at m_u + s (m_c - m_u): over-saturation by construction."""
    prior, m_c, m_u = two_gaussians()
    x, sds, rate = torch.zeros(SHAPE), SDS(cfg_scale=4.0, weighting="uniform"), 1.0
    for step in range(60):
        view = make_view(prior, x.expand(500, *SHAPE), 0.5, seed=step)
        x = x - rate * sds.grad(view, prior).x.mean(0)
        rate = max(rate * 0.93, 0.02)
    torch.testing.assert_close(x, m_u + 4 * (m_c - m_u), rtol=0, atol=0.05)
    assert (x - m_c).abs().max() > 1.0


@pytest.mark.parametrize(
    ("step", "sds", "fantasia3d", "recon"),
    [(20, 0.019, 0.019, 0.138), (500, 0.724, 0.380, 1.618), (980, 0.994, 0.076, 13.04)],
)
def test_weights_on_stable_diffusions_schedule(step, sds, fantasia3d, recon):
    """w = sigma^2, 1, alpha sigma^2, sigma / alpha."""
    schedule, t = DiscreteSchedule.scaled_linear(), torch.tensor([step / 1000])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    got = {name: weight(name, alpha, sigma).item() for name in ("sds", "uniform", "fantasia3d", "recon")}
    assert got == pytest.approx(
        {"sds": sds, "uniform": 1.0, "fantasia3d": fantasia3d, "recon": recon}, abs=6e-4, rel=4e-4
    )


def test_the_gradient_reaches_x_exactly():
    """As the engine does it, torch.autograd.backward([x], [g / B]): x.grad = g / B bit for bit, in the type of x."""
    prior, *_ = two_gaussians()
    for dtype in (torch.float32, torch.bfloat16):
        x = renders(4).to(dtype).requires_grad_()
        g = SDS().grad(make_view(prior, x.detach(), 0.5), prior).x / 4
        torch.autograd.backward([x], [g])
        assert torch.equal(x.grad, g)


def test_recon_is_the_gradient_of_the_reconstruction_loss():
    """w = sigma / alpha: grad = d/dx 1/2 |x - sg(x0_hat)|^2 = x - x0_hat, x0_hat of the guided prediction."""
    prior, *_ = two_gaussians()
    view = make_view(prior, renders(3), torch.tensor([0.1, 0.5, 0.9]))
    uncond, text = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond), Query(view.condition.text)])
    x0_hat = to_x0(uncond + 5 * (text - uncond), view.x_t, *alpha_sigma(prior.schedule, view.t, view.x))
    x = view.x.clone().requires_grad_()
    (0.5 * (x - x0_hat).square().sum()).backward()
    grad = SDS(5.0, "recon", recon_rescale=0.0).grad(view, prior).x
    torch.testing.assert_close(grad, x.grad, rtol=1e-4, atol=1e-5)


def test_recon_rescale():
    """x0 <- phi x0 std(x0_text)/std(x0) + (1 - phi) x0: phi = 1 gives the spread of the text-only estimate."""
    g = torch.Generator().manual_seed(0)
    x, x0, x0_text = (torch.randn(2, *SHAPE, generator=g) * s for s in (1.0, 3.0, 0.5))
    full = x - rescale_std(x, x - x0, x - x0_text, 1.0)
    assert full.std().item() == pytest.approx(x0_text.std().item(), rel=1e-4)
    half = x - rescale_std(x, x - x0, x - x0_text, 0.5)
    torch.testing.assert_close(half, 0.5 * full + 0.5 * x0)
    prior, *_ = two_gaussians()
    view = make_view(prior, renders(2), 0.7)
    plain, rescaled = (SDS(20.0, "recon", recon_rescale=phi).grad(view, prior).x for phi in (0.0, 1.0))
    assert (view.x - rescaled).std() < 0.5 * (view.x - plain).std()
    one = SDS(1.0, "recon", recon_rescale=1.0).grad(view, prior).x  # without CFG there is nothing to rescale
    torch.testing.assert_close(one, SDS(1.0, "recon", recon_rescale=0.0).grad(view, prior).x, rtol=1e-4, atol=1e-5)


def test_clip_follows_progress():
    """D-SDS clamps every element to a limit that grows: here 0.5 -> 2 over the stage."""
    prior, *_ = two_gaussians()
    sds, free = SDS(50.0, clip=[[0.0, 0.5], [1.0, 2.0]]), SDS(50.0)
    for progress, limit in [(0.0, 0.5), (0.5, 1.25), (1.0, 2.0)]:
        view = make_view(prior, renders(2) * 5, 0.5, progress=progress)
        got, all_of_it = sds.grad(view, prior).x, free.grad(view, prior).x
        assert all_of_it.abs().max() > limit
        torch.testing.assert_close(got, all_of_it.clamp(-limit, limit))


def test_negatives_push_away():
    """Perp-Neg adds -w(t) s |w_i| perp(e_i, e_pos), whose product with e_i is negative; a switch leaves it out."""
    means = {"c": renders(3)[0], "u": renders(3)[1], "n": renders(3)[2]}
    prior = MixturePrior(lambda prompt: gaussian(means[prompt], 1.0), SIZE)
    view = make_view(prior, renders(2), 0.5)
    negative = (prior.embed(["n", "n"]), torch.tensor([-1.0, -1.0]))
    with_negative = replace(view, condition=replace(view.condition, negatives=(negative,)))
    plain = SDS().grad(view, prior).x
    assert torch.equal(SDS(perp_neg=False).grad(with_negative, prior).x, plain)
    change = SDS().grad(with_negative, prior).x - plain
    eps_u, eps_n = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond), Query(negative[0])])
    assert ((change * (eps_n - eps_u)).flatten(1).sum(1) < 0).all()


class Listening:
    """A prior that remembers the queries it was asked."""

    def __init__(self, prior):
        self.prior, self.schedule, self.asked = prior, prior.schedule, []

    def predict_noise(self, x_t, t, queries):
        self.asked.append([query.cameras for query in queries])
        return self.prior.predict_noise(x_t, t, queries)


def test_cameras_reach_both_halves_of_cfg_unless_asked_otherwise():
    prior, *_ = two_gaussians()
    view = make_view(prior, renders(1), 0.5)
    camera = object()
    view = replace(view, condition=replace(view.condition, cameras=camera))
    for sds, expected in [
        (SDS(), [camera, camera]),
        (SDS(uncond_camera=False), [None, camera]),
        (SDS(use_camera=False), [None, None]),
    ]:
        listening = Listening(prior)
        sds.grad(view, listening)
        assert listening.asked == [expected], "one batched question"


def test_stats_say_how_far_text_steers():
    """steering = root mean square of eps_text - eps_uncond = sigma alpha |m_c - m_u| for unit Gaussians."""
    prior, m_c, m_u = two_gaussians()
    view = make_view(prior, renders(2), 0.5)
    steering = SDS().grad(view, prior).stats["steering"]
    assert steering == pytest.approx(0.5 * (m_c - m_u).square().mean().sqrt().item(), rel=1e-4)


def test_wrong_settings():
    with pytest.raises(DreamforgeError, match="recon_rescale"):
        SDS(recon_rescale=1.5)
    with pytest.raises(DreamforgeError, match="clip of SDS"):
        SDS(clip=-1)
    with pytest.raises(DreamforgeError, match="clip of SDS"):
        SDS(clip="much")
