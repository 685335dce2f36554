"""SDS, score distillation sampling: DreamFusion (Poole et al., arXiv 2209.14988), eq. 3.

    grad_x = w(t) (eps_hat(x_t; y, t) - eps),    x_t = alpha x + sigma eps

eps_hat is the prior's guided prediction; its Jacobian is dropped. Options cover the variants of the same formula:
weightings, the reconstruction form of MVDream, clipping (D-SDS), Perp-Neg, cameras for multi-view priors.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.guidance.combine import predict
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.schedule import check_curve, check_number, curve
from dreamforge.types import DreamforgeError, Gradient, Prior, View

Weighting = Literal["sds", "uniform", "fantasia3d", "recon"]


@dataclass(frozen=True)
class SDS:
    """Score distillation sampling (DreamFusion): the prior's guided noise minus the noise, weighted."""

    cfg_scale: float = 7.5  # 100 in DreamFusion for large priors; uncond + s (cond - uncond)
    weighting: Weighting = "sds"
    recon_rescale: float = 0.5  # phi of "recon", in [0, 1]: MVDream's code has 0.5, its paper 0.7; 0 switches it off
    clip: Any = None  # largest |element| of the gradient: None, a number, or [[progress, value], ...] (D-SDS)
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the unconditional half of CFG too

    def __post_init__(self) -> None:
        check_number("cfg_scale of SDS", self.cfg_scale, 0.0)
        if not 0 <= self.recon_rescale <= 1:
            raise DreamforgeError(f"SDS got recon_rescale {self.recon_rescale}; choose a number in [0, 1].")
        if self.clip is not None:
            check_curve("clip of SDS", self.clip, above=0.0)

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        """w(t) (eps_hat - eps) on ``view.x``. Stats: root mean square of cond - uncond."""
        eps = predict(self, prior, view.x_t, view.t, view.condition)
        w = weight(self.weighting, *alpha_sigma(prior.schedule, view.t, view.x))
        grad = w * (eps.guided(self.cfg_scale) - view.noise)
        if self.weighting == "recon":
            grad = rescale_std(view.x, grad, w * (eps.text - view.noise), self.recon_rescale)
        if self.clip is not None:
            limit = curve(self.clip, view.progress)
            grad = grad.clamp(-limit, limit)
        return Gradient(grad.to(view.x.dtype), stats={"steering": eps.strength()})


def weight(weighting: Weighting, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w(t). "recon" is sigma/alpha: with it the gradient is x - x0_hat, of 1/2 |x - sg(x0_hat)|^2."""
    if weighting == "sds":
        return sigma**2  # DreamFusion, ProlificDreamer
    if weighting == "uniform":
        return torch.ones_like(sigma)  # Magic3D's coarse stage in threestudio
    if weighting == "fantasia3d":
        return alpha * sigma**2  # Fantasia3D
    if weighting == "recon":
        return sigma / alpha  # MVDream (arXiv 2308.16512); wants an annealed t: 13 at t = 0.98
    raise DreamforgeError(f"Weighting {weighting!r} was given; choose sds, uniform, fantasia3d or recon.")


def rescale_std(x: Tensor, grad: Tensor, grad_text: Tensor, phi: float) -> Tensor:
    """MVDream's remedy for over-saturation: x0_hat gets the spread of x0_text, the estimate without CFG.

    ``x0_hat <- phi x0_hat std(x0_text)/std(x0_hat) + (1 - phi) x0_hat``, std over all views and elements (Lin et al.,
    arXiv 2305.08891, eq. 15-16). ``grad`` = x - x0_hat in, the same with the rescaled x0_hat out. Meant for views of
    one t, as MVDream has them (``shared: true``): the spread of x0_hat grows with t, and unlike ones mix. It scales
    about x = 0: where x is a picture, plain backgrounds are pulled towards middle gray too.
    """
    x0_hat, x0_text = x - grad, x - grad_text
    ratio = x0_text.std(correction=0) / x0_hat.std(correction=0).clamp_min(1e-8)
    return x - (phi * ratio + (1 - phi)) * x0_hat
