"""VSD, variational score distillation: ProlificDreamer (Wang et al., arXiv 2305.16213), eq. 8 and 9.

    grad_x = w(t) (eps_hat(x_t; y^c, t) - eps_phi(x_t; y, c, t)),    x_t = alpha x + sigma eps
    phi <- argmin_phi E |eps_phi(alpha sg(x) + sigma eps; y, c, t) - eps|^2

eps_hat is the prior's guided prediction for the view's text y^c, eps_phi the learnt score of the renders (plain text y,
camera c), so that particles become samples of the prior instead of its mode and a CFG scale of 7.5 is enough. DMD
(arXiv 2311.18828, as in DMD2's code) is weighting "recon" with the normaliser "dmd"; SNOOPI (arXiv 2412.02687) draws
the scale.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from dreamforge.guidance.combine import Asking, Predictions, predict
from dreamforge.guidance.estimator import Estimator, Learned, RenderScore
from dreamforge.guidance.sds import Weighting, weight
from dreamforge.priors.parametrisation import alpha_sigma, per_view, to_x0
from dreamforge.rng import generator
from dreamforge.schedule import check_number
from dreamforge.types import DreamforgeError, Gradient, Prior, View


@dataclass(frozen=True)
class VSD:
    """Variational score distillation (ProlificDreamer): the prior's guided noise minus the renders' learnt noise."""

    cfg_scale: float = 7.5  # of the prior
    random_cfg: tuple[float, float] | None = None  # SNOOPI: one scale a step ~ U(low, high); SD 0.5 to 4
    guided_estimator: bool = False  # the same scale for eps_phi (SwiftBrush, SNOOPI); wants estimator.text_dropout
    weighting: Weighting = "sds"
    normaliser: Literal["none", "dmd"] = "none"  # "dmd": divided by the mean of |x - x0_hat| of each view
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the unconditional half of CFG too
    estimator: Estimator = field(default_factory=Estimator)

    def __post_init__(self) -> None:
        check(self)

    def build(self, prior: Prior, seed: int) -> Learned:
        """With an estimator at its start."""
        return Learned(self.gradient, self.estimator.start(prior, seed))

    def gradient(self, view: View, prior: Prior, score: RenderScore) -> Gradient:
        """w(t) (eps_hat - eps_phi) on ``view.x``."""
        scale = drawn_scale(self, view.seed)
        (eps_phi,) = score.eps(view, [view.condition.cameras], scale if self.guided_estimator else 1.0)
        return difference(self, view, prior, predict(self, prior, view.x_t, view.t, view.condition), scale, eps_phi)


class Variational(Asking, Protocol):
    """What the methods that subtract an estimator have in common; the fields are those of ``VSD``."""

    @property
    def cfg_scale(self) -> float: ...
    @property
    def random_cfg(self) -> tuple[float, float] | None: ...
    @property
    def guided_estimator(self) -> bool: ...
    @property
    def weighting(self) -> Weighting: ...
    @property
    def normaliser(self) -> str: ...
    @property
    def estimator(self) -> Estimator: ...


def difference(
    spec: Variational, view: View, prior: Prior, eps: Predictions, scale: float, eps_phi: Tensor
) -> Gradient:
    """w(t) (eps_hat - eps_phi), normalised. Stats: root mean square of text - uncond and of the difference."""
    alpha, sigma = alpha_sigma(prior.schedule, view.t, view.x)
    eps_hat = eps.guided(scale)
    apart = eps_hat - eps_phi
    grad = weight(spec.weighting, alpha, sigma) * apart
    if spec.normaliser == "dmd":
        distance = (view.x - to_x0(eps_hat, view.x_t, alpha, sigma)).abs().flatten(1).mean(1)
        grad = grad / per_view(distance.clamp_min(1e-8), grad)
    stats = {"steering": eps.strength(), "apart": apart.square().mean().sqrt()}
    return Gradient(grad.to(view.x.dtype), stats=stats)


def drawn_scale(spec: Variational, seed: int) -> float:
    """The CFG scale of this step, one for all views."""
    if spec.random_cfg is None:
        return spec.cfg_scale
    low, high = spec.random_cfg
    return low + (high - low) * float(torch.rand((), generator=generator(seed, "cfg")))


def check(spec: Variational) -> None:
    """Raise DreamforgeError for settings without a meaning."""
    name = type(spec).__name__
    check_number(f"cfg_scale of {name}", spec.cfg_scale, 0.0)
    if spec.random_cfg is not None:
        low, high = spec.random_cfg
        check_number(f"random_cfg[0] of {name}", low, 0.0)
        check_number(f"random_cfg[1] of {name}", high, low)
    if spec.guided_estimator and spec.estimator.text_dropout == 0:
        raise DreamforgeError(
            f"{name} got guided_estimator, but an estimator that always sees the text has no unconditional half: set "
            "estimator.text_dropout, for example 0.1."
        )
