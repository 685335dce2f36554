"""Entropic's limits: lambda 0 is VSD to the bit, lambda 1 is blind to the camera, in between it is the mixture."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.guidance.entropic import Entropic
from dreamforge.guidance.estimator import Estimator, Learned
from dreamforge.guidance.vsd import VSD
from dreamforge.priors.mixture import MixturePrior
from dreamforge.types import DreamforgeError, Query, View
from tests.test_sds import SHAPE, make_view, renders, two_gaussians


def turned(view: View, by: float = 0.0) -> View:
    """The view with cameras, each turned by an angle."""
    cameras = orbit(torch.linspace(-1, 1, len(view.x)) + by, torch.full((len(view.x),), 0.3), 3.0, 0.7, 8, 8)
    return replace(view, condition=replace(view.condition, cameras=cameras))


def taught(spec: Any, prior: MixturePrior) -> Learned:
    """An estimator that has learnt something about cameras."""
    made: Learned = spec.build(prior, 0)
    g = torch.Generator().manual_seed(1)
    made.load_state({name: 0.3 * torch.randn(value.shape, generator=g) for name, value in made.state().items()})
    return made


def gradient(spec: Any, prior: MixturePrior, view: View) -> Tensor:
    return taught(spec, prior).grad(view, prior).x


@pytest.mark.parametrize(
    "settings", [{}, {"cfg_scale": 3.0, "weighting": "recon", "normaliser": "dmd"}, {"random_cfg": (1.0, 4.0)}]
)
def test_lambda_0_is_vsd_to_the_bit(settings: dict[str, Any]) -> None:
    prior, *_ = two_gaussians(0.5)
    view = turned(make_view(prior, renders(3), torch.tensor([0.1, 0.5, 0.9])))
    assert torch.equal(gradient(Entropic(0.0, **settings), prior, view), gradient(VSD(**settings), prior, view))
    assert not torch.equal(gradient(Entropic(0.1, **settings), prior, view), gradient(VSD(**settings), prior, view))


def test_lambda_1_does_not_depend_on_the_camera() -> None:
    prior, *_ = two_gaussians(0.5)
    view = make_view(prior, renders(3), 0.5)
    here, there = (gradient(Entropic(1.0), prior, turned(view, by)) for by in (0.0, 1.0))
    assert torch.equal(here, there)
    assert not torch.equal(*(gradient(Entropic(0.9), prior, turned(view, by)) for by in (0.0, 1.0)))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_in_between_it_is_the_mixture(share: float) -> None:
    """lambda grad(1) + (1 - lambda) grad(0) = w (eps_hat - [phi_0 + s (phi_c - phi_0)]), s = 1 - lambda."""
    prior, *_ = two_gaussians(0.5)
    view = turned(make_view(prior, renders(3), torch.tensor([0.1, 0.5, 0.9])))
    zero, one, mixed = (gradient(Entropic(x), prior, view) for x in (0.0, 1.0, share))
    torch.testing.assert_close(mixed, share * one + (1 - share) * zero, rtol=1e-4, atol=1e-5)
    score = taught(Entropic(share), prior).score
    blind, seeing = score.eps(view, [None, view.condition.cameras])
    w = prior.schedule.sigma(view.t)[:, None, None, None] ** 2
    torch.testing.assert_close(
        mixed - zero, w * (seeing - (blind + (1 - share) * (seeing - blind))), rtol=1e-3, atol=1e-5
    )


class Counting:
    """An estimator that counts the questions of each call."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.counts = inner, list[int]()

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: list[Query]) -> list[Tensor]:
        self.counts.append(len(queries))
        found: list[Tensor] = self.inner.predict_noise(x_t, t, queries)
        return found


@pytest.mark.parametrize(("share", "asked"), [(0.0, 1), (0.5, 2), (1.0, 1)])
def test_the_unused_estimate_is_not_asked_for(share: float, asked: int) -> None:
    prior, *_ = two_gaussians(0.5)
    made = taught(Entropic(share), prior)
    made.score.network = counting = Counting(made.score.network)
    made.grad(turned(make_view(prior, renders(2), 0.5)), prior)
    assert counting.counts == [asked]


def test_a_dropped_camera_learns_the_renders_from_anywhere() -> None:
    """Renders at -0.5 from the left and +0.5 from the right: told the side it says so, without it finds their mean."""
    prior, *_ = two_gaussians(0.5)
    spec = Entropic(0.5, estimator=Estimator(camera_dropout=0.5, lr=0.03))
    made = spec.build(prior, 0)
    optimiser = torch.optim.Adam(made.param_groups())
    side = torch.tensor([-1.0, 1.0] * 8)
    cameras = orbit(side * 1.5, torch.zeros(16), 3.0, 0.7, 8, 8)
    view = make_view(prior, (0.5 * side)[:, None, None, None].expand(16, *SHAPE), 0.5)
    view = replace(view, condition=replace(view.condition, cameras=cameras))
    for seed in range(300):
        optimiser.zero_grad()
        made.learn(replace(view, seed=seed), prior).backward()
        optimiser.step()
    blind, seeing = made.score.eps(view, [None, cameras])
    # eps falls with the mean: the difference between both sides is what the camera told.
    told = (seeing[side > 0] - seeing[side < 0]).mean() - (blind[side > 0] - blind[side < 0]).mean()
    alpha, sigma = prior.schedule.alpha(view.t[0]), prior.schedule.sigma(view.t[0])
    assert told.item() == pytest.approx((-sigma * alpha / (alpha**2 * 0.25 + sigma**2)).item(), rel=0.2)


def test_what_needs_cameras_says_so() -> None:
    for wrong, words in [
        ({"lambda_entropy": 1.5}, r"lambda_entropy of Entropic is 1.5.*in \[0, 1\]"),
        ({"lambda_entropy": -0.1}, "lambda_entropy of Entropic is -0.1"),
        ({"estimator": Estimator(camera_dropout=0.0)}, "never had its camera dropped.*camera_dropout"),
        ({"estimator": Estimator(camera=False)}, "sees no cameras.*lambda_entropy 0"),
        ({"cfg_scale": -1.0}, "cfg_scale of Entropic"),
    ]:
        with pytest.raises(DreamforgeError, match=words):
            Entropic(**wrong)
    Entropic(0.0, estimator=Estimator(camera=False, camera_dropout=0.0))
    prior, *_ = two_gaussians(0.5)
    with pytest.raises(DreamforgeError, match="views of this term have no cameras"):
        Entropic().build(prior, 0).grad(make_view(prior, renders(1), 0.5), prior)
