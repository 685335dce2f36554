"""The learnt score of the renders that variational methods subtract (ProlificDreamer, arXiv 2305.16213, eq. 8).

    phi <- argmin_phi E_{t, eps, c} w(t) |eps_phi(alpha sg(x) + sigma eps; y, c, t) - eps|^2

Own t and own noise, the text without view words, and now and then no camera: so that eps_phi knows the renders seen
from a camera and, with the camera dropped, the renders seen from anywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.guidance.combine import cfg, empty_text
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.priors.small import SmallEstimator
from dreamforge.rng import generator
from dreamforge.schedule import check_number, check_range
from dreamforge.types import Cameras, DreamforgeError, Gradient, ParamGroup, Prior, Query, State, TrainablePrior, View

Loss = Literal["sigma", "eps", "alpha", "v", "x0"]


@dataclass(frozen=True)
class Estimator:
    """What learns the score of the renders, and how.

    ``kind``: a low-rank adapter on the prior, a full copy of the prior, or a small network of its own. The camera is
    dropped for a whole step at once, as in ProlificDreamer's code: one batched question instead of two.
    """

    kind: Literal["lora", "full", "small"] = "lora"
    rank: int = 4  # of the adapter; SwiftBrush 64
    camera: bool = True  # False: it never sees a camera (DreamCraft3D's code)
    camera_dropout: float = 0.1  # probability of a step without camera
    text_dropout: float = 0.0  # of a step with the empty text; SwiftBrush 0.1, whose estimator is guided too
    learn_steps: int = 1  # K a scene step; DMD2 5
    lr: float | None = None  # None: 1e-4 for an adapter or a copy (ProlificDreamer), 1e-3 for a small network
    loss: Loss = "sigma"  # w(t), see ``loss_weight``; ProlificDreamer "eps", SwiftBrush "alpha"
    low: float = 0.02  # t ~ U(low, high) of learning, whatever t the scene's steps use
    high: float = 0.98

    def __post_init__(self) -> None:
        check_number("estimator.rank", self.rank, 1)
        check_number("estimator.camera_dropout", self.camera_dropout, 0.0, 1.0)
        check_number("estimator.text_dropout", self.text_dropout, 0.0, 1.0)
        check_number("estimator.learn_steps", self.learn_steps, 1)
        if self.lr is not None:
            check_number("estimator.lr", self.lr, 0.0)
        check_range("estimator", self.low, self.high)
        if self.kind == "small" and self.text_dropout > 0:
            raise DreamforgeError(
                f"estimator.text_dropout is {self.text_dropout}, but a 'small' estimator sees no text: use 'lora'."
            )

    def start(self, prior: Prior, seed: int) -> "RenderScore":
        """The estimator at its start. Raises DreamforgeError where the prior cannot be trained."""
        if self.kind != "small":
            return RenderScore(self, prior.trainable(self.kind, self.camera, self.rank, seed))
        x = prior.encode(torch.zeros(1, 8, 8, 3), 0)
        return RenderScore(self, SmallEstimator(x.shape[1], prior.schedule, self.camera, seed, x.device))


class RenderScore:
    """eps_phi: asked by the gradient of the scene, taught by renders."""

    def __init__(self, spec: Estimator, network: TrainablePrior) -> None:
        self.spec, self.network = spec, network

    @torch.no_grad()
    def eps(self, view: View, cameras: Sequence[Cameras | None], scale: float = 1.0) -> list[Tensor]:
        """eps_phi ``[B,C,h,w]`` at the view's x_t and t for each entry of ``cameras``, in one batched question.

        ``scale`` other than 1 guides it: empty + s (plain - empty).
        """
        plain, empty = view.condition.plain, empty_text(view.condition)
        queries = [Query(plain, one) for one in cameras]
        if scale == 1.0:
            return self.network.predict_noise(view.x_t, view.t, queries)
        found = self.network.predict_noise(view.x_t, view.t, queries + [Query(empty, one) for one in cameras])
        pairs = zip(found[len(cameras) :], found[: len(cameras)], strict=True)
        return [cfg(without, with_text, scale) for without, with_text in pairs]

    def learn(self, view: View, prior: Prior) -> Tensor:
        """Mean weighted |eps_phi - eps|^2 at the view's x, on a t and noise of its own drawn from ``view.seed``."""
        draws = generator(view.seed, "learn")
        lot_camera, lot_text = torch.rand(2, generator=draws).tolist()
        t = self.spec.low + (self.spec.high - self.spec.low) * torch.rand(len(view.x), generator=draws)
        noise = torch.randn(view.x.shape, generator=draws).to(view.x.device)
        t, x, condition = t.to(view.x.device), view.x.float(), view.condition
        alpha, sigma = alpha_sigma(prior.schedule, t, x)
        cameras = None if lot_camera < self.spec.camera_dropout else condition.cameras
        text = empty_text(condition) if lot_text < self.spec.text_dropout else condition.plain
        (eps,) = self.network.predict_noise(alpha * x + sigma * noise, t, [Query(text, cameras)])
        return (loss_weight(self.spec.loss, alpha, sigma) * (eps - noise).square()).mean()

    def param_groups(self) -> list[ParamGroup]:
        groups = self.network.param_groups()
        return groups if self.spec.lr is None else [{**group, "lr": self.spec.lr} for group in groups]


class Learned:
    """A ``LearnedGuidance``: a rule that turns a view into a gradient with the help of a learnt score."""

    def __init__(self, rule: Callable[[View, Prior, RenderScore], Gradient], score: RenderScore) -> None:
        self.rule, self.score, self.learn_steps = rule, score, score.spec.learn_steps

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        return self.rule(view, prior, self.score)

    def learn(self, view: View, prior: Prior) -> Tensor:
        return self.score.learn(view, prior)

    def param_groups(self) -> list[ParamGroup]:
        return self.score.param_groups()

    def state(self) -> State:
        return self.score.network.state()

    def load_state(self, state: State) -> None:
        self.score.network.load_state(state)


def loss_weight(loss: Loss, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w(t) on |eps_phi - eps|^2.

    "sigma": sigma^2, bounded for networks that predict eps and for those that predict x0, whose error in eps grows as
    alpha/sigma; "eps": 1; "alpha": alpha^2; "v": alpha^-2, the error of v; "x0": (sigma/alpha)^2, the error of x0.
    """
    weights = {"sigma": sigma**2, "eps": torch.ones_like(sigma), "alpha": alpha**2, "v": alpha**-2}
    return (sigma / alpha) ** 2 if loss == "x0" else weights[loss]
