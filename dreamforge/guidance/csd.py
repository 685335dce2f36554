"""CSD, classifier score distillation (Yu et al., ICLR 2024, arXiv 2310.19415).

    grad_x = w(t) [eps(x_t; y, t) - eps(x_t; t)]                                      the text's classifier alone
    grad_x = w(t) [eps(x_t; y, t) + (omega - 1) eps(x_t; t) - omega eps(x_t; y_neg, t)]     away from a negative text

The steering half of SDS without its denoising half: what CFG multiplies. omega anneals: the authors' texture stage
lets it fall from 1 to 0.5, their shape stage rise from 0 to 1. Formulas from the paper as recalled, checked against
the authors' code, which differs in two things: with Perp-Neg its directions start at the negative text and have a
scale of their own, here they start at the empty one; and its stage on DeepFloyd divides by the gradient's norm.
"""

from dataclasses import dataclass
from typing import Any

import torch

from dreamforge.guidance.combine import empty_text, predict, uncond_cameras
from dreamforge.guidance.sds import Weighting, weight
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.schedule import check_curve, curve
from dreamforge.types import DreamforgeError, Gradient, Prior, Query, View


@dataclass(frozen=True)
class CSD:
    """Classifier score distillation: text minus no text, no denoising; it has no CFG scale."""

    omega: Any = 0.0  # weight of the recipe's negative text, a curve over progress; 0 leaves it out
    weighting: Weighting = "sds"
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the questions for the empty and the negative text too

    def __post_init__(self) -> None:
        check_curve("omega of CSD", self.omega, least=0.0)

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        """w(t) [(eps_text - eps_empty) + omega (eps_empty - eps_negative)] on ``view.x``."""
        omega, condition = curve(self.omega, view.progress), view.condition
        eps = predict(self, prior, view.x_t, view.t, condition, uncond=empty_text(condition))
        grad = eps.direction
        if omega != 0:
            if condition.empty is None:
                raise DreamforgeError(f"CSD got omega {omega}, but the term has no negative text: give it `negative`.")
            asked = Query(condition.uncond, uncond_cameras(self, condition))
            (eps_negative,) = prior.predict_noise(view.x_t, view.t, [asked])
            grad = grad + omega * (eps.uncond - eps_negative)
        w = weight(self.weighting, *alpha_sigma(prior.schedule, view.t, view.x))
        return Gradient((w * grad).to(view.x.dtype), stats={"steering": eps.strength()})
