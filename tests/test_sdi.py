"""SDI: the noise that a DDIM inversion finds, against closed forms of Gaussians."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamforge.guidance.sdi import SDI
from dreamforge.priors.mixture import MixturePrior, gaussian
from dreamforge.priors.parametrisation import alpha_sigma, to_x0
from dreamforge.types import DreamforgeError, Query
from tests.test_ism import MEAN, START, kept, unit
from tests.test_sds import SHAPE, SIZE, make_view, renders


@pytest.mark.parametrize("step", [0.05, 0.1])
def test_the_gradient_is_x_minus_the_denoised_estimate(step: float) -> None:
    """N(m, I): x_t - alpha_t m = c (x - m), c the cosines of the grid, so grad = x - m - alpha_t c (x - m).

    (x0_hat - m = alpha_t (x_t - alpha_t m) for a unit Gaussian; CFG between equal texts changes nothing.)
    """
    prior, x = unit(), renders(2)
    view = replace(make_view(prior, x, 0.5, uncond=""), noise=torch.zeros_like(x))
    got = SDI(eta=0.0, start=START, inversion_step=step).grad(view, prior).x
    grid = [START, *[n * step for n in range(1, 30) if n * step < 0.5 - 1e-6], 0.5]
    alpha = prior.schedule.alpha(view.t[0]).item()
    alpha_0 = prior.schedule.alpha(torch.tensor([START])).item()
    wanted = (x - MEAN) * (1 - alpha * kept(prior.schedule, grid) * alpha_0)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("start", [START, 0.05])
def test_inversion_and_estimate_by_hand(start: float) -> None:
    """Two texts: every step of the inversion with scale -7.5, then eps_hat with 7.5 at x_t = alpha x + sigma kappa.

    It begins with the view's own noise, which counts where it begins late.
    """
    means = {"c": MEAN, "u": MEAN.flip(0)}
    prior = MixturePrior(lambda prompt: gaussian(means[prompt], 0.5), SIZE)
    x = renders(2)
    view = make_view(prior, x, 0.3)

    def guided(x_t: Tensor, t: float, scale: float) -> Tensor:
        texts = [Query(view.condition.uncond), Query(view.condition.text)]
        uncond, text = prior.predict_noise(x_t, torch.full((2,), t), texts)
        return uncond + scale * (text - uncond)

    def at(t: float) -> tuple[Tensor, Tensor]:
        return alpha_sigma(prior.schedule, torch.full((2,), t), x)

    alpha, sigma = at(start)
    x_t = alpha * x + sigma * view.noise
    for now, then in [(start, 0.1), (0.1, 0.2), (0.2, 0.3)]:
        eps = guided(x_t, now, -7.5)
        x_t = at(then)[0] * to_x0(eps, x_t, *at(now)) + at(then)[1] * eps
    x0_hat = to_x0(guided(x_t, 0.3, 7.5), x_t, *at(0.3))
    torch.testing.assert_close(SDI(eta=0.0, start=start).grad(view, prior).x, x - x0_hat, rtol=1e-3, atol=1e-3)


def test_inverting_with_the_same_scale_is_a_fixed_point_and_with_minus_it_is_none() -> None:
    """What DDIM made from noise with CFG stays where it is only if the inversion has the same CFG.

    N(m_c, I), N(m_u, I), CFG s: eps_hat = sigma (x_t - alpha (m_u + s (m_c - m_u))), that of one shifted Gaussian. So
    inversion and estimate with one scale see one Gaussian around M = m_u + s (m_c - m_u), and at x = M nothing moves.
    With minus the scale, the method's own choice, the picture goes on, away from what the inversion explains.
    """
    means = {"c": MEAN, "u": MEAN.flip(0)}
    prior = MixturePrior(lambda prompt: gaussian(means[prompt], 1.0), SIZE)
    middle = means["u"] + 3.0 * (means["c"] - means["u"])
    view = make_view(prior, middle.expand(2, *SHAPE), 0.6)
    same = (
        SDI(3.0, inversion_scale=3.0, eta=0.0, start=START).grad(replace(view, noise=torch.zeros_like(view.x)), prior).x
    )
    assert same.abs().max() < 0.01
    away = (
        SDI(3.0, inversion_scale=-3.0, eta=0.0, start=START)
        .grad(replace(view, noise=torch.zeros_like(view.x)), prior)
        .x
    )
    assert away.abs().max() > 0.1


def test_fresh_noise_is_drawn_from_the_views_seed() -> None:
    prior = unit()
    view = make_view(prior, renders(2), 0.7, uncond="")
    one, same, other = (SDI().grad(replace(view, seed=seed), prior).x for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    still = [SDI(eta=0.0).grad(replace(view, seed=seed), prior).x for seed in (1, 2)]
    assert torch.equal(*still)
    assert (one - other).std() < 3 * (one - still[0]).std()


def test_wrong_settings() -> None:
    for wrong, words in [
        ({"cfg_scale": -1.0}, "cfg_scale of SDI"),
        ({"eta": 2.0}, r"eta of SDI is 2.0.*in \[0, 1\]"),
        ({"inversion_step": 0.0}, "inversion_step of SDI"),
        ({"inversion_scale": math.inf}, "inversion_scale of SDI is inf"),
    ]:
        with pytest.raises(DreamforgeError, match=words):
            SDI(**wrong)
