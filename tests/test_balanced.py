"""Balanced: the shortest vector between steering and denoising, against a grid search and its Pareto equalities."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from dreamforge.guidance.balanced import Balanced, min_norm_share
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.types import DreamforgeError, Query
from tests.test_sds import SHAPE, make_view, renders, two_gaussians

GRID = torch.linspace(0, 1, 20001, dtype=torch.float64)


def pairs() -> tuple[Tensor, Tensor]:
    """Twelve pairs ``[12,C,h,w]``: random ones, one vector much longer, opposite, parallel, nearly equal."""
    g = torch.Generator().manual_seed(0)
    c, s = (torch.randn(12, *SHAPE, generator=g, dtype=torch.float64) for _ in range(2))
    s[4], c[5] = 20 * s[4], 20 * c[5]
    s[6], s[7], s[8], s[9] = -2 * c[6], 3 * c[7], c[8] / 4, c[9] + 1e-3
    return c, s


def dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def test_the_share_is_that_of_a_grid_search() -> None:
    """a* = argmin over [0, 1] of |a g_c + (1 - a) g_s|^2, per view."""
    c, s = pairs()
    found = min_norm_share(c, s).flatten()
    for k in range(len(c)):
        length = (GRID[:, None] * c[k].flatten() + (1 - GRID)[:, None] * s[k].flatten()).square().sum(1)
        assert abs(found[k].item() - GRID[length.argmin()].item()) < 1e-4


def test_pareto_equalities() -> None:
    """Inside, <G, g_c> = <G, g_s> = |G|^2; at the ends G is the shorter vector alone; never an obtuse angle."""
    c, s = pairs()
    a = min_norm_share(c, s)
    g, share = a * c + (1 - a) * s, a.flatten()
    inside = (share > 0) & (share < 1)
    assert inside.sum() >= 5 and (share == 1).any() and (share == 0).any()
    for one in (c, s):
        torch.testing.assert_close(dots(g, one)[inside], dots(g, g)[inside])
        assert (dots(g, one) >= dots(g, g) - 1e-9).all()
    assert torch.equal(g[share == 1], c[share == 1]) and torch.equal(g[share == 0], s[share == 0])
    assert (dots(g, g) <= torch.minimum(dots(c, c), dots(s, s)) + 1e-9).all()


def test_equal_vectors_are_their_own_answer() -> None:
    c = pairs()[0]
    a = min_norm_share(c, c)
    assert torch.equal(a * c + (1 - a) * c, c) or torch.allclose(a * c + (1 - a) * c, c)
    assert a.isfinite().all()


def test_orthogonal_vectors_are_weighted_by_the_square_of_the_other() -> None:
    """a* = |g_s|^2 / (|g_s|^2 + |g_c|^2)."""
    c, s = torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)
    c[0, 0, 0, 0], s[0, 1, 1, 1] = 2.0, 3.0
    assert min_norm_share(c, s).item() == pytest.approx(9 / 13)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("kappa", [2.0, 15.0])
def test_the_gradient_by_hand(control: bool, kappa: float) -> None:
    """alpha (a* kappa (eps_c - eps_u) + (1 - a*) (eps_u [ - eps ]))."""
    prior, *_ = two_gaussians(0.5)
    view = make_view(prior, renders(3), torch.tensor([0.2, 0.5, 0.8]))
    eps_u, eps_c = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond), Query(view.condition.text)])
    g_c, g_s = kappa * (eps_c - eps_u), eps_u - view.noise if control else eps_u
    a = min_norm_share(g_c, g_s)
    alpha, _ = alpha_sigma(prior.schedule, view.t, view.x)
    got = Balanced(kappa=kappa, control_variate=control).grad(view, prior).x
    torch.testing.assert_close(got, alpha * (a * g_c + (1 - a) * g_s), rtol=1e-4, atol=1e-6)


def test_the_automatic_variant_by_hand() -> None:
    """g_c = eps_c - eps_u, g_s = 1.25 (eps_u - eps), w = |eps_u - eps| sigma / 50, the norm of each view."""
    prior, *_ = two_gaussians(0.5)
    view = make_view(prior, renders(3), torch.tensor([0.2, 0.5, 0.8]))
    eps_u, eps_c = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond), Query(view.condition.text)])
    g_c, g_s = eps_c - eps_u, 1.25 * (eps_u - view.noise)
    a = min_norm_share(g_c, g_s)
    _, sigma = alpha_sigma(prior.schedule, view.t, view.x)
    w = dots(eps_u - view.noise, eps_u - view.noise).sqrt()[:, None, None, None] * sigma / 50
    got = Balanced("auto", kappa=99.0).grad(view, prior).x
    torch.testing.assert_close(got, w * (a * g_c + (1 - a) * g_s), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kappa", "scale"), [(2, 50.0), (5, 20.0), (10, 10.0), (15, 6.67), (18, 5.56), (60, 1.67)])
def test_a_larger_kappa_is_a_smaller_cfg_scale(kappa: float, scale: float) -> None:
    """Orthogonal: a* kappa / (1 - a*) = |eps_u|^2 / (kappa |eps_c - eps_u|^2), a difference of 0.1 |eps_u|."""
    eps_u, apart = torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)
    eps_u[0, 0], apart[0, 1] = 1.0, 0.1
    a = min_norm_share(kappa * apart, eps_u).item()
    assert a * kappa / (1 - a) == pytest.approx(scale, rel=5e-3)


def test_the_control_variate_keeps_the_mean_and_trades_variance() -> None:
    """What the option rests on. N(m, I): eps_u = sigma (x_t - alpha m) = sigma alpha (x - m) + sigma^2 eps, so the
    variance of a draw is sigma^4; eps_u - eps = sigma alpha (x - m) - alpha^2 eps has alpha^4, less at large t.
    """
    prior, *_ = two_gaussians(1.0)
    view = make_view(prior, renders(1).expand(20000, *SHAPE), 0.7)
    (eps_u,) = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond)])
    alpha, sigma = prior.schedule.alpha(view.t[0]).item(), prior.schedule.sigma(view.t[0]).item()
    assert eps_u.var(0).mean().item() == pytest.approx(sigma**4, rel=0.03)
    assert (eps_u - view.noise).var(0).mean().item() == pytest.approx(alpha**4, rel=0.03)


@pytest.mark.parametrize("variant", ["standard", "auto"])
def test_the_scale_it_reports_is_its_own(variant: Literal["standard", "auto"]) -> None:
    """With the control variate G is a multiple of (eps_u - eps) + s (eps_c - eps_u) for every view: s is told."""
    prior, *_ = two_gaussians(0.5)
    view = make_view(prior, renders(1), 0.7)
    found = Balanced(variant, kappa=3.0, control_variate=True).grad(view, prior)
    uncond, text = prior.predict_noise(view.x_t, view.t, [Query(view.condition.uncond), Query(view.condition.text)])
    basis = torch.stack([(uncond - view.noise).flatten(), (text - uncond).flatten()], 1)
    denoising, steering = torch.linalg.lstsq(basis, found.x.flatten()[:, None]).solution.flatten().tolist()
    assert float(found.stats["cfg_scale"]) == pytest.approx(steering / denoising, rel=1e-3)


def test_negatives_turn_the_steering() -> None:
    """Perp-Neg's direction in the place of eps_c - eps_u."""
    prior, *_ = two_gaussians(0.5)
    view = make_view(prior, renders(2), 0.5)
    negative = (prior.embed(["u"] * 2), torch.tensor([-2.0, -2.0]))
    other = make_view(prior, renders(2), 0.5, uncond="c", text="u").condition.text
    with_negative = replace(
        view, condition=replace(view.condition, negatives=((other, negative[1]),), uncond=prior.embed([""] * 2))
    )
    without = replace(with_negative, condition=replace(with_negative.condition, negatives=()))
    assert not torch.allclose(Balanced().grad(with_negative, prior).x, Balanced().grad(without, prior).x)
    assert torch.equal(Balanced(perp_neg=False).grad(with_negative, prior).x, Balanced().grad(without, prior).x)


def test_wrong_settings() -> None:
    with pytest.raises(DreamforgeError, match=r"kappa of Balanced is -1\.0, but a finite number above 0"):
        Balanced(kappa=-1.0)
    with pytest.raises(DreamforgeError, match=r"kappa of Balanced is 0.*, but a finite number above 0 was expected"):
        Balanced(kappa=0.0)
