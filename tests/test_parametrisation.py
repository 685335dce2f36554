"""The identities that tie eps, v, x0 and flow together, and Stable Diffusion's published schedule."""

import pytest
import torch

from dreamforge.priors.parametrisation import (
    DiscreteSchedule,
    FlowSchedule,
    alpha_sigma,
    flow_state,
    to_eps,
    to_v,
    to_x0,
)
from dreamforge.types import DreamforgeError


def draw(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(5, 3, 4, 4, generator=g, dtype=dtype) for _ in range(2))
    t = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.98], dtype=dtype)
    alpha, sigma = alpha_sigma(FlowSchedule(), t, x)
    return x, eps, t, alpha, sigma, alpha * x + sigma * eps


def test_every_parametrisation_gives_back_the_noise():
    x, eps, _, alpha, sigma, x_t = draw()
    outputs = {"eps": eps, "v": alpha * eps - sigma * x, "x0": x, "flow": eps - x}
    for kind, output in outputs.items():
        torch.testing.assert_close(to_eps(output, x_t, alpha, sigma, kind), eps, rtol=1e-9, atol=1e-9)


def test_v_identities():
    """eps = sigma x_t + alpha v and x = alpha x_t - sigma v, with v = alpha eps - sigma x."""
    x, eps, _, alpha, sigma, x_t = draw()
    v = to_v(eps, x_t, alpha, sigma)
    torch.testing.assert_close(v, alpha * eps - sigma * x)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps)
    torch.testing.assert_close(alpha * x_t - sigma * v, x)


def test_distance_to_the_denoised_estimate():
    """x - x0_hat = (sigma / alpha) (eps_hat - eps) for any eps_hat."""
    x, eps, _, alpha, sigma, x_t = draw()
    eps_hat = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    torch.testing.assert_close(x - to_x0(eps_hat, x_t, alpha, sigma), sigma / alpha * (eps_hat - eps))


def test_score_of_a_dirac():
    """The score of N(alpha x, sigma^2 I) at x_t is -eps / sigma."""
    x, eps, _, alpha, sigma, x_t = draw()
    x_t = x_t.requires_grad_()
    log_p = torch.distributions.Normal(alpha * x, sigma).log_prob(x_t).sum()
    (score,) = torch.autograd.grad(log_p, x_t)
    torch.testing.assert_close(score, -eps / sigma)


def test_flow_schedule_is_the_rescaled_straight_path():
    """z = (1 - tau) x + tau n divided by sqrt((1 - tau)^2 + tau^2) is x_t, with alpha^2 + sigma^2 = 1."""
    x, eps, t, alpha, sigma, x_t = draw()
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    tau = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(flow_state(x_t, alpha, sigma), (1 - tau) * x + tau * eps)


def test_a_bfloat16_answer_is_converted_in_float32():
    """eps = (x_t - alpha x0) / sigma: at t = 0.02 half precision would lose eps altogether (alpha/sigma = 49)."""
    x, eps, _, alpha, sigma, x_t = draw(torch.float32)
    x0 = x.to(torch.bfloat16)
    got = to_eps(x0, x_t, alpha, sigma, "x0")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, eps + alpha / sigma * (x - x0.float()), rtol=1e-3, atol=1e-3)


def test_unknown_prediction_type():
    _, eps, _, alpha, sigma, x_t = draw()
    with pytest.raises(DreamforgeError, match="epsilon"):
        to_eps(eps, x_t, alpha, sigma, "epsilon")


@pytest.mark.parametrize(
    ("step", "abar", "alpha", "sigma"),
    [
        (20, 0.9813, 0.991, 0.137),
        (100, 0.8942, 0.946, 0.325),
        (500, 0.2763, 0.526, 0.851),
        (850, 0.0233, 0.153, 0.988),
        (980, 0.0058, 0.076, 0.997),
        (999, 0.0047, 0.068, 0.998),
    ],
)
def test_stable_diffusions_schedule(step, abar, alpha, sigma):
    """sqrt beta linear, beta from 0.00085 to 0.012; abar = prod (1 - beta), alpha^2 = abar, sigma^2 = 1 - abar."""
    schedule, t = DiscreteSchedule.scaled_linear(), torch.tensor([step / 1000])
    assert schedule.index(t).tolist() == [step]
    assert schedule.alphas_cumprod[step].item() == pytest.approx(abar, abs=6e-5)
    assert schedule.alpha(t).item() == pytest.approx(alpha, abs=6e-4)
    assert schedule.sigma(t).item() == pytest.approx(sigma, abs=6e-4)
    assert schedule.alpha(t).dtype == torch.float32


def test_discrete_index_stays_inside_the_table():
    """t in (0, 1) means step round(t N), at most N - 1."""
    t = torch.tensor([1e-6, 0.0204, 0.0206, 0.9994, 0.999999])
    assert DiscreteSchedule.scaled_linear().index(t).tolist() == [0, 20, 21, 999, 999]


def test_scaled_linear_is_diffusers_own():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = DiscreteSchedule.scaled_linear().alphas_cumprod.float()
    torch.testing.assert_close(ours, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-6)
