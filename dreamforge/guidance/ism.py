"""ISM, interval score matching: LucidDreamer (Liang et al., CVPR 2024, arXiv 2311.11284).

    x_s = inversion of x up to s = t - delta with eps(., ., empty text);  x_t = one more step of it
    grad_x = w(t) (eps_hat(x_t, t; y) - eps(x_s, s; empty text)),    w = sigma/alpha

The prior's own prediction at the beginning of the interval takes the place of random noise, so equal renders get equal
gradients. For a unit Gaussian around m and exact inversion it is w (sigma_t - sigma_s) (x - m).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamforge.guidance.combine import empty_text, predict, uncond_cameras
from dreamforge.guidance.inversion import EARLIEST, ddim, invert
from dreamforge.guidance.sds import Weighting, weight
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.schedule import check_curve, check_number, curve
from dreamforge.types import Gradient, Prior, Query, View


@dataclass(frozen=True)
class ISM:
    """Interval score matching (LucidDreamer): the prior's noise at t minus its own at s, on the path of an inversion.

    Asks the prior s / inversion_step times, rounded up, more than SDS, and once more at s. Where the inversion starts
    it uses the view's noise: of the first step of Stable Diffusion's schedule nobody sees it. The embedded pixel prior,
    which predicts x0, knows no noise below 0.1 and wants ``start: 0.1``, where equal renders get similar gradients.
    The authors' constant factor 0.1 belongs into the term's weight, their anneal of t into ``timesteps``.
    """

    cfg_scale: float = 7.5
    delta: Any = 0.08  # t - s, a curve over progress; the authors anneal it [[0, 0.1], [0.3, 0.08]]
    start: float = 4e-4  # of the inversion
    inversion_step: float = 0.2  # of its grid up to s
    weighting: Weighting = "recon"  # sigma/alpha
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the unconditional half of CFG and in the inversion too

    def __post_init__(self) -> None:
        check_number("cfg_scale of ISM", self.cfg_scale, 0.0)
        check_number("start of ISM", self.start, EARLIEST, 1.0)
        check_number("inversion_step of ISM", self.inversion_step, 1e-3, 1.0)
        check_curve("delta of ISM", self.delta, above=0.0, below=1.0)

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        """w(t) (eps_hat(x_t, t) - eps(x_s, s)) on ``view.x``."""
        t, condition = view.t, view.condition
        asked = Query(empty_text(condition), uncond_cameras(self, condition))

        def eps_empty(x_t: Tensor, at: Tensor) -> Tensor:
            return prior.predict_noise(x_t, at, [asked])[0]

        s = torch.maximum(t - curve(self.delta, view.progress), t.clamp(max=self.start))
        x_s = invert(prior.schedule, view.x, view.noise, s, self.start, self.inversion_step, eps_empty)
        eps_s = eps_empty(x_s, s)
        x_t = ddim(prior.schedule, x_s, eps_s, s, t, None, 0.0)
        eps = predict(self, prior, x_t, t, condition)
        w = weight(self.weighting, *alpha_sigma(prior.schedule, t, view.x))
        grad = w * (eps.guided(self.cfg_scale) - eps_s)
        return Gradient(grad.to(view.x.dtype), stats={"steering": eps.strength()})
