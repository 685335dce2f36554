"""The loop: the gradient arrives exactly, terms alternate, guidances learn, what is not finite is said."""

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dreamforge.cameras import OrbitSampler
from dreamforge.engine import BuiltTerm, Readings, StepInfo, fit
from dreamforge.noise import Gaussian
from dreamforge.priors.mixture import Mixture
from dreamforge.prompts import ViewPrompts
from dreamforge.schedule import Uniform
from dreamforge.types import Gradient, LearnedGuidance, Mesh, NoMesh, ParamGroup, Prior, RenderOutput, State, View

SIZE = 8
PRIOR = Mixture(size=SIZE).build()


class Sheet:
    """A scene whose picture is its parameter, the same for every view: d rgb / d pixels = 1 a view."""

    def __init__(self, value: float = 0.5) -> None:
        self.pixels = torch.full((SIZE, SIZE, 3), value).requires_grad_()
        self.adapted: list[bool] = []

    def render(self, cameras, background, seed, parts=None) -> RenderOutput:
        rgb = self.pixels.expand(len(cameras), SIZE, SIZE, 3)
        return RenderOutput(rgb, torch.ones_like(rgb[..., :1]), torch.zeros_like(rgb[..., :1]))

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.pixels], "lr": 1.0, "name": "pixels"}]

    def adapt(self, step: int, seed: int) -> None:
        self.adapted.append(self.pixels.grad is not None)

    def extract(self, resolution: int) -> Mesh:
        raise NoMesh("a sheet is flat")

    def state(self) -> State:
        return {"pixels": self.pixels.detach().clone()}

    def load_state(self, state: State) -> None:
        self.pixels.data.copy_(state["pixels"])


@dataclass(frozen=True)
class Fixed:
    """A guidance that answers the same gradient always."""

    value: float = 1.0
    rgb: float | None = None

    def grad(self, view: View, prior: Prior) -> Gradient | None:
        on_rgb = None if self.rgb is None else torch.full((len(view.x), SIZE, SIZE, 3), self.rgb)
        return Gradient(torch.full_like(view.x, self.value), on_rgb, {"value": self.value})


@dataclass(frozen=True)
class Shy:
    """No scene step, ever."""

    def grad(self, view: View, prior: Prior) -> Gradient | None:
        return None


@dataclass
class Pupil:
    """A guidance with one weight that learns to be 3, in three steps a scene step."""

    learn_steps: int = 3
    weight: Tensor = field(default_factory=lambda: torch.zeros(1, requires_grad=True))
    seen: list[Tensor] = field(default_factory=list)
    asked: list[View] = field(default_factory=list)

    def grad(self, view: View, prior: Prior) -> Gradient | None:
        self.asked.append(view)
        return Gradient(torch.zeros_like(view.x))

    def learn(self, view: View, prior: Prior) -> Tensor:
        self.seen.append(view.noise)
        return (self.weight - 3).square().sum()

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.weight], "lr": 0.5, "name": "pupil"}]

    def state(self) -> State:
        return {"weight": self.weight.detach()}

    def load_state(self, state: State) -> None:
        self.weight.data.copy_(state["weight"])


def term(guidance, **changes) -> BuiltTerm:
    built = BuiltTerm(
        prior=PRIOR,
        guidance=guidance,
        prompts=ViewPrompts().build("a red car", PRIOR),
        cameras=OrbitSampler(),
        timesteps=Uniform(0.1, 0.9),
        noise=Gaussian(),
        views=3,
        resolution=SIZE,
    )
    return replace(built, **changes)


def run(scene: Sheet, *terms: BuiltTerm, steps: int = 1, start: int = 0, seed: int = 0, **options) -> list[StepInfo]:
    heard: list[StepInfo] = []
    optimiser = torch.optim.SGD(scene.param_groups(), lr=1.0)
    fit(scene, list(terms), optimiser, steps, seed, start_step=start, on_step=heard.append, **options)
    return heard


@pytest.mark.parametrize("views", [1, 3, 4])
def test_the_gradient_is_divided_by_views_and_nothing_else(views: int) -> None:
    """x = 2 rgb - 1, so d/d pixels of sum over views of G x / views is 2 G, however many views."""
    scene = Sheet()
    run(scene, term(Fixed(0.125), views=views))
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.5 - 2 * 0.125), rtol=0, atol=1e-7)


def test_terms_weights_and_gradients_on_pixels_add_up() -> None:
    scene = Sheet()
    run(scene, term(Fixed(0.125), weight=0.5), term(Fixed(0.0, rgb=0.25)))
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.5 - 2 * 0.125 * 0.5 - 0.25))


def test_draws_of_noise_are_averaged() -> None:
    scene = Sheet()
    run(scene, term(Fixed(0.125), noise=Gaussian(draws=4)))
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.25))


def test_antithetic_draws_are_pairs_of_opposite_noise_at_one_t() -> None:
    """The mean of a gradient that is linear in the noise, as a Gaussian prior's, is exact: of 0.125 + n it is 0.125."""
    heard = []

    class Linear:
        def grad(self, view: View, prior: Prior) -> Gradient:
            heard.append(view)
            return Gradient(0.125 + view.noise)

    scene = Sheet()
    run(scene, term(Linear(), noise=Gaussian(draws=4, antithetic=True)))
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.25), atol=1e-6)
    (a, b, c, d) = heard[:4]
    assert a.t.equal(b.t) and c.t.equal(d.t) and not a.t.equal(c.t)
    assert a.noise.equal(-b.noise) and c.noise.equal(-d.noise) and not a.noise.equal(c.noise)
    assert not a.x_t.equal(b.x_t)


def test_terms_alternate() -> None:
    scene = Sheet()
    run(scene, term(Fixed(0.125), every=3, offset=1), steps=6)  # steps 1 and 4
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.5 - 2 * 2 * 0.125))


def test_no_answer_is_no_step() -> None:
    scene = Sheet()
    (info,) = run(scene, term(Shy()))
    assert scene.pixels.eq(0.5).all() and "grad" not in info.metrics


def test_a_regulariser_descends_its_own_gradient() -> None:
    """tv_rgb of a constant picture is 0; of a step it pulls the two sides together."""
    scene = Sheet()
    with torch.no_grad():
        scene.pixels[:, SIZE // 2 :] = 0.9
    run(scene, term(Shy(), losses={"tv_rgb": 0.1}))
    assert scene.pixels[:, : SIZE // 2].max() > 0.5 and scene.pixels[:, SIZE // 2 :].min() < 0.9


def test_a_guidance_learns_on_independent_draws() -> None:
    scene, pupil = Sheet(), Pupil()
    learner = torch.optim.SGD(pupil.param_groups(), lr=0.5)
    (info,) = run(scene, term(pupil, learner=learner))
    assert pupil.weight.item() == pytest.approx(3.0) and len(pupil.seen) == 3 and "learn" in info.metrics
    (asked,) = pupil.asked
    for one, other in combinations([asked.noise, *pupil.seen], 2):
        assert not one.equal(other)


def test_an_estimators_loss_that_is_not_finite_is_named() -> None:
    pupil = Pupil()
    pupil.weight.data.fill_(float("inf"))
    learner = torch.optim.SGD(pupil.param_groups(), lr=0.5)
    with pytest.raises(FloatingPointError, match=r"loss of the guidance's estimator is not finite at step 0, t \["):
        run(Sheet(), term(pupil, learner=learner))


def test_metrics_of_several_terms_keep_their_numbers() -> None:
    (info,) = run(Sheet(), term(Fixed(0.125)), term(Fixed(0.25)))
    assert info.metrics["0.grad"] == pytest.approx(0.125) and info.metrics["1.grad"] == pytest.approx(0.25)
    assert "grad" in run(Sheet(), term(Fixed(0.125)))[0].metrics


def test_a_gradient_that_is_not_finite_is_named() -> None:
    for broken in (Fixed(float("nan")), Fixed(0.0, rgb=float("inf"))):
        with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 2, t \[.*seed \d+"):
            run(Sheet(), term(broken, every=3, offset=2), steps=4)


def test_steps_are_a_function_of_seed_and_step() -> None:
    """A run continued from step 2 with the state it had there hears the same numbers as one never stopped."""
    from dreamforge.guidance.sds import SDS

    whole, stopped = Sheet(), Sheet()
    every = run(whole, term(SDS()), steps=4)
    first = run(stopped, term(SDS()), steps=2)
    second = run(stopped, term(SDS()), steps=4, start=2)
    assert whole.pixels.equal(stopped.pixels)
    assert [i.metrics for i in every] == [i.metrics for i in first] + [i.metrics for i in second]
    other = Sheet()
    run(other, term(SDS()), steps=4, seed=1)
    assert not other.pixels.equal(whole.pixels)


def test_learning_rates_follow_the_curve_and_adapt_sees_gradients() -> None:
    scene = Sheet()
    run(scene, term(Fixed(0.125)), steps=2, lr_scale=lambda progress: 1 - progress)  # rates 1 and 0
    assert torch.allclose(scene.pixels, torch.full_like(scene.pixels, 0.25)) and scene.adapted == [True, True]


class Unread(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: float(), bool() and item() of a tensor, and nonzero()."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), f"{func} waits"
        return func(*args, **(kwargs or {}))


def guidances() -> list[Any]:
    from dreamforge.guidance.balanced import Balanced
    from dreamforge.guidance.csd import CSD
    from dreamforge.guidance.entropic import Entropic
    from dreamforge.guidance.sds import SDS
    from dreamforge.guidance.vsd import VSD

    return [SDS(), SDS(weighting="recon", recon_rescale=0.5), VSD(), Entropic(), Balanced(), Balanced("auto"), CSD()]


@pytest.mark.parametrize("guidance", guidances(), ids=lambda guidance: type(guidance).__name__)
def test_a_guidance_reads_no_number(guidance: Any) -> None:
    """Prior and guidance make no host wait; ISM and SDI alone look at the latest t, once."""
    built = guidance.build(PRIOR, 0) if hasattr(guidance, "build") else guidance
    asked = []

    class Watched:
        def grad(self, view: View, prior: Prior) -> Gradient | None:
            with Unread():
                asked.append(built.grad(view, prior))
                if isinstance(built, LearnedGuidance):
                    built.learn(view, prior)
            return asked[0]

    run(Sheet(), term(Watched()))
    assert len(asked) == 1
    with Unread(), pytest.raises(AssertionError, match="waits"):
        torch.ones(1).item()


def test_numbers_of_a_step_are_read_once_and_by_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    read, genuine = [], Readings.read
    monkeypatch.setattr(Readings, "read", lambda self: read.append(self.step) or genuine(self))
    infos = run(Sheet(), term(Fixed(0.125)), steps=3)
    assert read == [0, 1, 2] and all(info.metrics["grad"] == pytest.approx(0.125) for info in infos)
    assert read == [0, 1, 2]
