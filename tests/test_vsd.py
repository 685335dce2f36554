"""VSD where the truth is known: exact estimators, weights, the estimator's learning, particles that keep variance."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge import config, runs
from dreamforge.assembly import adam
from dreamforge.cameras import OrbitSampler, orbit
from dreamforge.config import Optimiser
from dreamforge.engine import BuiltTerm, fit
from dreamforge.guidance.estimator import Estimator, Learned, RenderScore, loss_weight
from dreamforge.guidance.sds import SDS, weight
from dreamforge.guidance.vsd import VSD
from dreamforge.noise import Gaussian
from dreamforge.priors.mixture import MixtureEstimator, MixturePrior, gaussian
from dreamforge.priors.parametrisation import alpha_sigma, to_x0
from dreamforge.prompts import ViewPrompts
from dreamforge.scenes.canvas import Canvas
from dreamforge.scenes.ensemble import Ensemble
from dreamforge.schedule import Uniform, curve
from dreamforge.types import DreamforgeError, Gradient, Query, View
from tests.test_sds import SHAPE, SIZE, make_view, renders, two_gaussians

STD = 0.5


def with_q(spec: VSD, prior: MixturePrior, mean: Tensor, std: float, prior_mean: Tensor) -> Learned:
    """The method with an estimator that knows q = N(mean, std^2) exactly; the prior's text is N(prior_mean, STD^2)."""
    estimator = MixtureEstimator(prior, scale_too=True, camera=True)
    shift = torch.zeros_like(estimator.shift)
    shift[0] = mean - prior_mean
    estimator.load_state({"shift": shift, "log_scale": torch.tensor(std / STD).log()})
    return Learned(spec.gradient, RenderScore(spec.estimator, estimator))


def exact(x_t: Tensor, mean: Tensor, std: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps of N(mean, std^2): sigma (x_t - alpha mean) / (alpha^2 std^2 + sigma^2)."""
    return sigma * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)


@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d", "recon"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_gradient_with_a_perfectly_known_q(weighting: Any, scale: float) -> None:
    """grad = w(t) (eps_u + s (eps_c - eps_u) - eps_q), every eps that of its Gaussian: no expectation, every draw."""
    prior, m_c, m_u = two_gaussians(STD)
    mean, std = torch.linspace(0.7, -0.4, 12).view(SHAPE), 0.2
    view = make_view(prior, renders(3), torch.tensor([0.1, 0.5, 0.9]))
    got = with_q(VSD(scale, weighting=weighting), prior, mean, std, m_c).grad(view, prior).x
    a, s = alpha_sigma(prior.schedule, view.t, view.x)
    eps_c, eps_u = (exact(view.x_t, m, STD, a, s) for m in (m_c, m_u))
    wanted = weight(weighting, a, s) * (eps_u + scale * (eps_c - eps_u) - exact(view.x_t, mean, std, a, s))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_renders_that_are_all_alike_make_it_sds() -> None:
    """q = N(x, 0) answers eps itself: w (eps_hat - eps)."""
    prior, m_c, _ = two_gaussians(STD)
    x = renders(1)
    view = make_view(prior, x.expand(4, *SHAPE), torch.tensor([0.1, 0.4, 0.7, 0.9]))
    ours = with_q(VSD(7.5), prior, x[0], 1e-12, m_c).grad(view, prior).x
    torch.testing.assert_close(ours, SDS(7.5).grad(view, prior).x, rtol=1e-3, atol=1e-3)


def test_it_stops_where_the_renders_are_the_priors_distribution() -> None:
    """q = p: zero without CFG, for every draw; SDS's mean there is zero only at the mode."""
    prior, m_c, _ = two_gaussians(STD)
    view = make_view(prior, m_c + STD * renders(3), 0.5)
    assert with_q(VSD(1.0), prior, m_c, STD, m_c).grad(view, prior).x.abs().max() < 1e-5
    assert SDS(1.0).grad(view, prior).x.abs().max() > 0.01
    fresh = VSD(1.0).build(prior, 0)
    assert fresh.grad(view, prior).x.abs().max() < 1e-6, "an estimator starts as the prior"


def test_dmd_is_a_weighting_and_a_normaliser() -> None:
    """(x0_fake - x0_real) / mean |x - x0_real| per view, x0 = (x_t - sigma eps) / alpha."""
    prior, m_c, m_u = two_gaussians(STD)
    mean = torch.linspace(0.7, -0.4, 12).view(SHAPE)
    view = make_view(prior, renders(3), torch.tensor([0.2, 0.5, 0.8]))
    spec = VSD(3.0, weighting="recon", normaliser="dmd")
    a, s = alpha_sigma(prior.schedule, view.t, view.x)
    eps_c, eps_u = (exact(view.x_t, m, STD, a, s) for m in (m_c, m_u))
    real = to_x0(eps_u + 3 * (eps_c - eps_u), view.x_t, a, s)
    fake = to_x0(exact(view.x_t, mean, 0.2, a, s), view.x_t, a, s)
    wanted = (fake - real) / (view.x - real).abs().mean((1, 2, 3), keepdim=True)
    got = with_q(spec, prior, mean, 0.2, m_c).grad(view, prior).x
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


class Recorder:
    """An estimator that answers a constant and remembers what it was asked."""

    def __init__(self, value: float = 0.0) -> None:
        self.value, self.asked = torch.tensor(value, requires_grad=True), list[tuple[Tensor, Tensor, Sequence[Query]]]()

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        self.asked.append((x_t, t, queries))
        return [self.value.expand_as(x_t) * (k + 1) for k in range(len(queries))]


def seen_by_cameras(view: View) -> View:
    cameras = orbit(torch.linspace(0, 1, len(view.x)), torch.zeros(len(view.x)), 3.0, 0.7, 8, 8)
    return replace(view, condition=replace(view.condition, cameras=cameras))


@pytest.mark.parametrize("loss", ["sigma", "eps", "alpha", "v", "x0"])
def test_the_estimator_learns_on_t_and_noise_of_its_own(loss: Any) -> None:
    """For eps_phi = 0 the loss is mean w(t) eps^2, eps = (x_t - alpha x) / sigma of the x_t that it was shown."""
    prior, *_ = two_gaussians()
    network = Recorder()
    score = RenderScore(Estimator(loss=loss, low=0.2, high=0.6), network)
    view = seen_by_cameras(make_view(prior, renders(64), 0.9))
    got = score.learn(replace(view, seed=5), prior)
    ((x_t, t, _),) = network.asked
    a, s = alpha_sigma(prior.schedule, t, x_t)
    noise = (x_t - a * view.x) / s
    weights = {"sigma": s**2, "eps": torch.ones_like(s), "alpha": a**2, "v": 1 / a**2, "x0": s**2 / a**2}
    torch.testing.assert_close(got, (weights[loss] * noise.square()).mean(), rtol=1e-4, atol=1e-4)
    assert 0.2 <= t.min() < 0.25 and 0.55 < t.max() <= 0.6 and noise.std().item() == pytest.approx(1, abs=0.1)
    again = score.learn(replace(view, seed=5, x_t=view.x_t + 1, t=view.t / 2, noise=view.noise * 0), prior)
    assert torch.equal(got, again) and not torch.equal(got, score.learn(replace(view, seed=6), prior))


def test_weights_of_the_loss_are_errors_of_other_predictions() -> None:
    """|v' - v| = |eps' - eps| / alpha and |x0' - x0| = (sigma/alpha) |eps' - eps|."""
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    assert loss_weight("v", alpha, sigma).item() == pytest.approx(1 / 0.36)
    assert loss_weight("x0", alpha, sigma).item() == pytest.approx(0.64 / 0.36)
    assert loss_weight("alpha", alpha, sigma).item() == pytest.approx(0.36)


def test_it_is_told_the_plain_text_and_now_and_then_no_camera() -> None:
    """Camera and text are dropped independently, with their probabilities, for a whole step."""
    prior, *_ = two_gaussians()
    network = Recorder()
    spec = Estimator(camera_dropout=0.3, text_dropout=0.1)
    view = seen_by_cameras(make_view(prior, renders(2), 0.5, text="u", uncond="c"))
    view = replace(view, condition=replace(view.condition, plain=prior.embed(["c"] * 2), uncond=prior.embed(["u"] * 2)))
    for seed in range(800):
        RenderScore(spec, network).learn(replace(view, seed=seed), prior)
    (queries,) = zip(*(queries for *_, queries in network.asked), strict=True)
    blind = [query.cameras is None for query in queries]
    wordless = [query.text is view.condition.uncond for query in queries]
    assert all(query.text is view.condition.plain for query, none in zip(queries, wordless, strict=True) if not none)
    assert sum(blind) / 800 == pytest.approx(0.3, abs=0.05) and sum(wordless) / 800 == pytest.approx(0.1, abs=0.035)
    both = sum(a and b for a, b in zip(blind, wordless, strict=True)) / 800
    assert both == pytest.approx(0.03, abs=0.02)


def test_the_estimator_is_asked_with_the_plain_text_and_guided_from_the_empty_one() -> None:
    """eps_phi sees neither the view's words nor a negative text; guided it is empty + s (plain - empty)."""
    prior, *_ = two_gaussians()
    view = seen_by_cameras(make_view(prior, renders(2), 0.5, text="c", uncond="u"))
    plain, empty = prior.embed(["u"] * 2), prior.embed(["c"] * 2)
    view = replace(view, condition=replace(view.condition, plain=plain, empty=empty))

    class ByText:
        def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
            known = {id(plain): 5.0, id(empty): 2.0}
            return [torch.full_like(x_t, known[id(query.text)]) for query in queries]

    score = RenderScore(Estimator(), ByText())
    for scale, wanted in ((1.0, 5.0), (3.0, 2.0 + 3.0 * (5.0 - 2.0))):
        for eps in score.eps(view, [view.condition.cameras, None], scale):
            assert eps.eq(wanted).all()


def test_random_cfg_is_one_scale_a_step_for_both() -> None:
    """SNOOPI: s ~ U(low, high) drawn from the view's seed; eps_phi = empty + s (plain - empty) with the same s."""
    prior, m_c, m_u = two_gaussians(STD)
    view = seen_by_cameras(make_view(prior, renders(2), 0.5))
    a, s = alpha_sigma(prior.schedule, view.t, view.x)
    eps_c, eps_u = (exact(view.x_t, m, STD, a, s) for m in (m_c, m_u))
    spec = VSD(random_cfg=(0.5, 4.0), guided_estimator=True, weighting="uniform", estimator=Estimator(text_dropout=0.1))
    scales = []
    for seed in range(300):
        grad = spec.gradient(replace(view, seed=seed), prior, RenderScore(spec.estimator, Recorder(1.0))).x
        # The recorder answers 1 to the plain text and 2 to the empty one: grad = eps_u + s (eps_c - eps_u) - (2 - s).
        scale = ((grad - eps_u + 2) / (eps_c - eps_u + 1)).mean()
        torch.testing.assert_close(grad, eps_u + scale * (eps_c - eps_u) - (2 - scale), rtol=1e-3, atol=1e-3)
        scales.append(scale.item())
    assert 0.5 <= min(scales) < 0.6 and 3.9 < max(scales) <= 4.0
    assert sum(scales) / 300 == pytest.approx(2.25, abs=0.25)


def test_gradient_and_learning_leave_each_other_alone() -> None:
    """phi gets nothing from the scene's gradient, the scene nothing from the estimator's loss."""
    prior, *_ = two_gaussians(STD)
    made = VSD().build(prior, 0)
    view = seen_by_cameras(make_view(prior, renders(2), 0.5))
    assert not made.grad(view, prior).x.requires_grad, "what has no graph teaches phi nothing"
    parameters = made.param_groups()[0]["params"]
    made.learn(view, prior).backward()
    assert all(p.grad is not None for p in parameters)


def test_learning_moves_no_scene() -> None:
    """By the engine: with a gradient of zero and an estimator that learns, the picture stays and phi moves."""
    prior = MixturePrior(lambda prompt: gaussian(MEAN, TARGET_STD), SIZE)
    made = Learned(lambda view, prior, score: Gradient(torch.zeros_like(view.x)), Estimator().start(prior, 0))
    before = made.state()
    scene = Canvas(SIZE).build(0)
    start = scene.logits.detach().clone()
    term = BuiltTerm(
        prior, made, ViewPrompts(enabled=False).build("c", prior), OrbitSampler(), Uniform(0.2, 0.8), Gaussian(),
        views=1, resolution=SIZE, background="scene", learner=adam(made.param_groups(), Optimiser()),
    )  # fmt: skip
    fit(scene, [term], adam(scene.param_groups(), Optimiser()), 2, 0)
    assert torch.equal(scene.logits, start)
    assert any(not torch.equal(value, before[name]) for name, value in made.state().items())


@pytest.mark.parametrize("kind", ["lora", "full", "small"])
def test_every_estimator_learns_goes_in_and_out_and_takes_a_rate(kind: Any) -> None:
    prior, *_ = two_gaussians(STD)
    spec = VSD(estimator=Estimator(kind, lr=0.02, learn_steps=3))
    made, fresh = spec.build(prior, 0), spec.build(prior, 0)
    assert [group["lr"] for group in made.param_groups()] == [0.02] and made.learn_steps == 3
    view = seen_by_cameras(make_view(prior, renders(1).expand(32, *SHAPE), 0.5))
    optimiser = torch.optim.Adam(made.param_groups())
    losses = []
    for seed in range(60):
        optimiser.zero_grad()
        loss = made.learn(replace(view, seed=seed), prior)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    fresh.load_state(made.state())
    assert torch.equal(fresh.grad(view, prior).x, made.grad(view, prior).x)
    other = spec.build(prior, 0)
    assert not torch.equal(other.grad(view, prior).x, made.grad(view, prior).x)


def test_a_small_estimator_starts_as_a_unit_gaussian_and_sees_cameras() -> None:
    """v = 0: eps = sigma x_t, the answer of N(0, I); its weights are a function of the seed."""
    prior, *_ = two_gaussians(STD)
    view = seen_by_cameras(make_view(prior, renders(2), torch.tensor([0.01, 0.9])))
    one, two = (VSD(estimator=Estimator("small")).build(prior, 3) for _ in range(2))
    (eps,) = one.score.eps(view, [view.condition.cameras])
    assert torch.equal(eps, prior.schedule.sigma(view.t)[:, None, None, None] * view.x_t)
    for made in (one, two):
        made.load_state({name: torch.full_like(value, 0.1) for name, value in made.state().items()})
    asked = [view.condition.cameras, None]
    seeing, blind = one.score.eps(view, asked)
    assert not torch.allclose(seeing, blind) and torch.equal(seeing, two.score.eps(view, asked)[0])


PARTICLES, TARGET_STD = 12, 0.3
MEAN = torch.linspace(-0.3, 0.3, 12).view(SHAPE)


def particles(guidance: Any, steps: int = 500) -> Tensor:
    """x ``[particles,C,h,w]`` of an ensemble of pictures after descending on N(MEAN, TARGET_STD^2)."""
    prior = MixturePrior(lambda prompt: gaussian(MEAN, TARGET_STD), SIZE)
    scene = Ensemble(Canvas(SIZE, lr=0.03), PARTICLES, "spread").build(0)
    made = guidance.build(prior, 0) if isinstance(guidance, VSD) else guidance
    learner = adam(made.param_groups(), Optimiser()) if isinstance(guidance, VSD) else None
    term = BuiltTerm(
        prior, made, ViewPrompts(enabled=False).build("c", prior), OrbitSampler(), Uniform(0.2, 0.8), Gaussian(),
        views=PARTICLES, resolution=SIZE, background="scene", learner=learner,
    )  # fmt: skip
    fall = [[0.0, 1.0], [0.5, 1.0], [1.0, 0.02]]
    optimiser = adam(scene.param_groups(), Optimiser())
    fit(scene, [term], optimiser, steps, 0, lr_scale=lambda progress: curve(fall, progress))
    return torch.stack([2 * one.logits[0].detach().sigmoid().movedim(-1, 0) - 1 for one in scene.particles])


def test_particles_keep_the_targets_variance_where_sds_collapses() -> None:
    """VSD's particles end as samples of N(m, s^2): mean (x - m)^2 = s^2 within 10 %; those of SDS all end at m."""
    estimator = Estimator("full", camera=False, lr=0.03, learn_steps=2)
    ours = particles(VSD(1.0, weighting="uniform", estimator=estimator))
    assert (ours - MEAN).square().mean().item() == pytest.approx(TARGET_STD**2, rel=0.1)
    assert (ours.mean(0) - MEAN).square().mean() < 0.02 * TARGET_STD**2
    collapsed = particles(SDS(1.0, weighting="uniform"), steps=300)
    assert (collapsed - MEAN).square().mean() < 0.05 * TARGET_STD**2


def test_two_steps_on_the_embedded_prior_stopped_in_between_end_in_the_same_bytes(tmp_path: Path) -> None:
    """The adapter, its optimiser and the picture: a run of two steps, and one stopped after the first and resumed."""
    overrides = ["guidance={use: vsd.VSD}", "guidance.estimator.rank=2", "steps=2", "views=1", "scene.pictures=1"]
    recipe = config.load("canvas", [*overrides, "checkpoint_every=1", "preview_every=0"], {"prompt": "a red mushroom"})
    whole = runs.generate(recipe, tmp_path / "whole")
    stop_after = iter([True])
    with pytest.raises(runs.Interrupted):
        runs.generate(recipe, tmp_path / "stopped", listener=runs.Listener(stop=lambda: next(stop_after, False)))
    stopped = runs.resume(tmp_path / "stopped")
    assert [line["step"] for line in stopped.metrics()] == [1, 2] and "learn" in stopped.metrics()[0]
    last = "checkpoints/step_000002.safetensors"
    assert (whole.path / last).read_bytes() == (stopped.path / last).read_bytes()
    assert whole.asset.read_bytes() == stopped.asset.read_bytes()


def test_wrong_settings_are_said() -> None:
    for wrong, words in [
        ({"cfg_scale": -1.0}, "cfg_scale of VSD is -1.0, but a finite number of at least 0"),
        ({"cfg_scale": float("nan")}, "cfg_scale of VSD is nan"),
        ({"random_cfg": (4.0, 0.5)}, r"random_cfg\[1\] of VSD is 0.5, but a finite number of at least 4"),
        ({"guided_estimator": True}, "always sees the text.*text_dropout"),
    ]:
        with pytest.raises(DreamforgeError, match=words):
            VSD(**wrong)
    for wrong, words in [
        ({"camera_dropout": 1.1}, r"camera_dropout is 1.1.*in \[0, 1\]"),
        ({"rank": 0}, "rank is 0"),
        ({"learn_steps": 0}, "learn_steps is 0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"low": 0.7, "high": 0.3}, "low 0.7 above high 0.3"),
        ({"low": 0.0}, "low of estimator is 0.0, but every value must be above 0"),
        ({"kind": "small", "text_dropout": 0.1}, "'small' estimator sees no text"),
    ]:
        with pytest.raises(DreamforgeError, match=words):
            Estimator(**wrong)
    with pytest.raises(DreamforgeError, match=r"no key 'rnk' in guidance.estimator: did you mean 'rank'"):
        config.load("canvas", ["guidance={use: vsd.VSD, estimator: {rnk: 2}}"])
