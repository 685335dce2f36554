"""ISM and the DDIM inversion below it, against the closed form of a Gaussian: every step multiplies by a cosine."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dreamforge.guidance.inversion import ddim, invert
from dreamforge.guidance.ism import ISM
from dreamforge.priors.mixture import MixturePrior, gaussian
from dreamforge.priors.parametrisation import DiscreteSchedule, alpha_sigma
from dreamforge.types import DreamforgeError, Query, Schedule
from tests.test_sds import SHAPE, SIZE, make_view, renders

MEAN = torch.linspace(-0.5, 0.8, 12).view(SHAPE)
START = 4e-4  # the first step of Stable Diffusion's schedule


def unit(schedule: Schedule | None = None) -> MixturePrior:
    """Every text is N(MEAN, I)."""
    return MixturePrior(lambda prompt: gaussian(MEAN, 1.0), SIZE, schedule)


def phase(schedule: Schedule, t: float) -> float:
    """phi with alpha = cos(phi), sigma = sin(phi)."""
    at = torch.tensor([t], dtype=torch.float64)
    return math.atan2(schedule.sigma(at).item(), schedule.alpha(at).item())


def kept(schedule: Schedule, grid: list[float]) -> float:
    """prod cos(phi_b - phi_a): what is left of x_a - alpha_a MEAN after inverting over the grid."""
    phases = [phase(schedule, t) for t in grid]
    return math.prod(math.cos(b - a) for a, b in pairwise(phases))


def predictor(prior: MixturePrior, views: int):
    query = Query(prior.embed([""] * views))
    return lambda x_t, t: prior.predict_noise(x_t, t, [query])[0]


@pytest.mark.parametrize("schedule", [None, DiscreteSchedule.scaled_linear()])
@pytest.mark.parametrize("step", [0.01, 0.1, 0.2])
def test_an_inversion_multiplies_by_cosines(schedule: Schedule | None, step: float) -> None:
    """x_t - alpha_t m = prod cos(phi_b - phi_a) (x_0 - alpha_0 m), x_0 the start: one grid for each view's t."""
    prior = unit(schedule)
    t, x = torch.tensor([0.05, 0.31, 0.5, 0.97]), renders(4)
    got = invert(prior.schedule, x, torch.zeros_like(x), t, START, step, predictor(prior, 4))
    a_0 = math.cos(phase(prior.schedule, START))
    for k, end in enumerate(t.tolist()):
        grid = [START, *[n * step for n in range(1, 100) if n * step < end - 1e-6], end]
        a_t = math.cos(phase(prior.schedule, end))
        wanted = a_t * MEAN + kept(prior.schedule, grid) * a_0 * (x[k] - MEAN)
        torch.testing.assert_close(got[k], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("step", "left"), [(1, 0.999), (5, 0.994), (50, 0.947), (200, 0.821)])
def test_coarse_inversion_contracts(step: int, left: float) -> None:
    """Stable Diffusion's schedule at t = 500 in steps of 1, 5, 50, 200 keeps this much of x - m."""
    schedule = DiscreteSchedule.scaled_linear()
    prior, x = unit(schedule), renders(1)
    t = torch.tensor([0.5])
    x_t = invert(schedule, x, torch.zeros_like(x), t, START, step / 1000, predictor(prior, 1))
    ratio = (x_t - schedule.alpha(t) * MEAN) / (x - MEAN)
    assert ratio.mean().item() == pytest.approx(left, abs=2e-3) and ratio.std() < 1e-3


def test_a_step_of_no_length_changes_nothing() -> None:
    prior, x = unit(), renders(3)
    t, then = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.2, 0.4, 0.95])
    moved = ddim(prior.schedule, x, torch.ones_like(x), t, then, None, 0.0)
    assert torch.equal(moved[:2], x[:2]) and not torch.equal(moved[2], x[2])


def test_forward_and_back() -> None:
    """A step with the prediction held fixed is undone by the step back: x_b belongs to the same x0 and eps."""
    schedule, x, eps = unit().schedule, renders(2), renders(2).flip(0)
    a, b = torch.full((2,), 0.3), torch.full((2,), 0.6)
    (alpha, sigma), (alpha_b, sigma_b) = (alpha_sigma(schedule, t, x) for t in (a, b))
    there = ddim(schedule, alpha * x + sigma * eps, eps, a, b, None, 0.0)
    torch.testing.assert_close(there, alpha_b * x + sigma_b * eps, rtol=1e-5, atol=1e-5)


def test_fresh_noise_keeps_the_variance() -> None:
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - s^2) eps + s z: for white eps and z the noise has variance sigma_b^2."""
    schedule, g = unit().schedule, torch.Generator().manual_seed(0)
    eps, z = torch.randn(2, 20000, *SHAPE, generator=g)
    a, b = torch.full((20000,), 0.4), torch.full((20000,), 0.5)
    _, sigma = alpha_sigma(schedule, a, eps)
    moved = ddim(schedule, sigma * eps, eps, a, b, z, 0.8)
    assert moved.var().item() == pytest.approx(schedule.sigma(b[:1]).item() ** 2, rel=0.01)
    correlation = (moved * z).mean().item()
    sigma_a, sigma_b = schedule.sigma(a[:1]).item(), schedule.sigma(b[:1]).item()
    alpha_a, alpha_b = schedule.alpha(a[:1]).item(), schedule.alpha(b[:1]).item()
    assert correlation == pytest.approx(0.8 * sigma_a / sigma_b * math.sqrt(1 - (alpha_b / alpha_a) ** 2), abs=5e-3)


def gradient(prior: MixturePrior, x: Tensor, t: float, spec: ISM, seed: int = 0) -> Tensor:
    return spec.grad(make_view(prior, x, t, text="c", uncond="", seed=seed), prior).x


@pytest.mark.parametrize("weighting", ["recon", "uniform"])
def test_the_closed_form(weighting: str) -> None:
    """Exact inversion of N(m, I), any CFG: w(t) (sigma_t - sigma_s) (x - m), w = sigma/alpha."""
    prior, x = unit(), renders(3)
    spec = ISM(delta=0.01, start=START, inversion_step=0.004, weighting=weighting)
    t, s = torch.tensor([0.5]), torch.tensor([0.49])
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    w = sigma / alpha if weighting == "recon" else 1.0
    wanted = w * (sigma - prior.schedule.sigma(s)) * (x - MEAN)
    torch.testing.assert_close(gradient(prior, x, 0.5, spec), wanted, rtol=0.03, atol=1e-4)


def test_the_authors_grid() -> None:
    """LucidDreamer at t = 500: 0 - 200 - 400 - 420 - 500 keeps 0.824, and the gradient is made of what is left."""
    schedule = DiscreteSchedule.scaled_linear()
    prior, x = unit(schedule), renders(2)
    grid = [START, 0.2, 0.4, 0.42, 0.5]
    assert kept(schedule, grid) == pytest.approx(0.824, abs=2e-3)
    view = replace(make_view(prior, x, 0.5, text="c", uncond=""), noise=torch.zeros_like(x))
    got = ISM(start=START).grad(view, prior).x
    start = math.cos(phase(schedule, START))
    sin_t, sin_s = (math.sin(phase(schedule, t)) for t in (0.5, 0.42))
    rest = sin_t * kept(schedule, grid) - sin_s * kept(schedule, grid[:-1])
    wanted = math.tan(phase(schedule, 0.5)) * rest * start * (x - MEAN)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


def test_equal_renders_get_equal_gradients() -> None:
    """The drawn noise hardly counts: its spread between draws is a hundredth of SDS's."""
    from dreamforge.guidance.sds import SDS

    prior, x = unit(), renders(1)
    ours = torch.stack([gradient(prior, x, 0.5, ISM(start=START), seed) for seed in range(20)]).std(0).mean()
    views = [make_view(prior, x, 0.5, uncond="", seed=seed) for seed in range(20)]
    theirs = torch.stack([SDS(weighting="recon").grad(view, prior).x for view in views]).std(0).mean()
    assert ours < 0.01 * theirs


def test_an_interval_never_begins_before_the_inversion() -> None:
    """t = 0.12, delta 0.1, start 0.1: s = 0.1, not 0.02, so x_s is the start itself, alpha_s x + sigma_s noise."""
    prior, spec = unit(), ISM(delta=0.1, start=0.1)
    view = make_view(prior, renders(2), 0.12, uncond="")
    schedule, eps = prior.schedule, predictor(prior, 2)
    s, t = torch.full((2,), 0.1), view.t
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (alpha_sigma(schedule, at, view.x) for at in (s, t))
    x_s = alpha_s * view.x + sigma_s * view.noise
    eps_s = eps(x_s, s)
    x_t = alpha_t * (x_s - sigma_s * eps_s) / alpha_s + sigma_t * eps_s
    torch.testing.assert_close(spec.grad(view, prior).x, sigma_t / alpha_t * (eps(x_t, t) - eps_s))


def test_inversion_uses_the_empty_text_and_cfg_the_negative_one() -> None:
    """With a negative text the target stays that of the empty one."""
    means = {"c": MEAN, "": MEAN + 1, "bad": MEAN - 1}
    prior = MixturePrior(lambda prompt: gaussian(means[prompt], 1.0), SIZE)
    view = make_view(prior, renders(2), 0.5, uncond="bad")
    asked: list[tuple[float, Tensor]] = []

    class Listening:
        schedule, knows_cameras = prior.schedule, False

        def predict_noise(self, x_t: Tensor, t: Tensor, queries: list[Query]) -> list[Tensor]:
            asked.extend((t[0].item(), query.text.tensors["means"][0, 0] - MEAN) for query in queries)
            return prior.predict_noise(x_t, t, queries)

    with_empty = replace(view, condition=replace(view.condition, empty=prior.embed(["", ""])))
    ISM(start=START).grad(with_empty, Listening())
    inverted, final = asked[:-2], asked[-2:]
    assert all(torch.allclose(mean, torch.ones_like(mean)) for _, mean in inverted)
    assert [round(mean.mean().item()) for _, mean in final] == [-1, 0]
    assert [round(t, 3) for t, _ in asked] == [0.0, 0.2, 0.4, 0.42, 0.5, 0.5]


def test_three_texts_by_hand() -> None:
    """eps_hat = eps_negative + s (eps_text - eps_negative) at x_t, minus eps_empty at x_s, on the path of eps_empty."""
    means = {"c": MEAN, "": MEAN + 1, "bad": MEAN - 1}
    prior = MixturePrior(lambda prompt: gaussian(means[prompt], 0.5), SIZE)
    view = make_view(prior, renders(2), 0.3, uncond="bad", progress=0.5)
    view = replace(view, condition=replace(view.condition, empty=prior.embed(["", ""])))

    def eps(x_t: Tensor, at: float, text: str) -> Tensor:
        return prior.predict_noise(x_t, torch.full((2,), at), [Query(prior.embed([text] * 2))])[0]

    def step(x_a: Tensor, a: float, b: float) -> Tensor:
        (alpha_a, sigma_a), (alpha_b, sigma_b) = (alpha_sigma(prior.schedule, torch.full((2,), t), x_a) for t in (a, b))
        eps_a = eps(x_a, a, "")
        return alpha_b * (x_a - sigma_a * eps_a) / alpha_a + sigma_b * eps_a

    alpha, sigma = alpha_sigma(prior.schedule, torch.full((2,), START), view.x)
    x_s = step(step(alpha * view.x + sigma * view.noise, START, 0.2), 0.2, 0.24)
    x_t = step(x_s, 0.24, 0.3)
    negative, text = eps(x_t, 0.3, "bad"), eps(x_t, 0.3, "c")
    wanted = negative + 3 * (text - negative) - eps(x_s, 0.24, "")
    spec = ISM(3.0, delta=[[0.0, 0.1], [1.0, 0.02]], start=START, weighting="uniform")  # 0.06 at half of the run
    torch.testing.assert_close(spec.grad(view, prior).x, wanted, rtol=1e-3, atol=1e-4)


def test_wrong_settings() -> None:
    for wrong, words in [
        ({"delta": 0.0}, "delta of ISM is 0.0, but every value must be above 0"),
        ({"delta": [[0.0, 0.1], [1.0, 1.2]]}, "delta of ISM"),
        ({"inversion_step": 0.0}, "inversion_step of ISM is 0.0"),
        ({"start": 0.0}, "start of ISM is 0.0"),
        ({"cfg_scale": -2.0}, "cfg_scale of ISM is -2.0"),
    ]:
        with pytest.raises(DreamforgeError, match=words):
            ISM(**wrong)
