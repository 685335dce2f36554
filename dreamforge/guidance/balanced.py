"""Balanced score distillation: PlacidDreamer (Huang et al., arXiv 2407.13976), where it is called BSD.

    g_c = kappa (eps_text - eps_uncond)      steering          g_s = eps_uncond [ - eps ]      denoising
    a* = clip(<g_s - g_c, g_s> / |g_s - g_c|^2, 0, 1)          grad_x = w(t) (a* g_c + (1 - a*) g_s)

The shortest vector between both: a step along it harms neither (MGDA, Desideri 2012), and inside the interval
<G, g_c> = <G, g_s> = |G|^2. It is an adaptive CFG scale, about |eps_uncond|^2 / (kappa |eps_text - eps_uncond|^2): a
larger kappa means *less* saturation. From the authors' code; their paper's text was not at hand.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.guidance.combine import predict
from dreamforge.priors.parametrisation import alpha_sigma, per_view
from dreamforge.types import DreamforgeError, Gradient, Prior, View


@dataclass(frozen=True)
class Balanced:
    """Balanced score distillation (PlacidDreamer): a CFG scale found anew for every view and step.

    "standard": as above, w = alpha. "auto": kappa 1, g_s = 1.25 (eps_uncond - eps), w = |eps_uncond - eps| sigma / 50
    (its norm over a view; the authors' is over the batch). Their constant factor 0.1 belongs into the term's weight.
    kappa is relative to |g_s|: with the control variate g_s is far shorter, and wants a far smaller one.
    """

    variant: Literal["standard", "auto"] = "standard"
    kappa: float = 15.0  # hard-coded in the authors' code, where the option of 18 never arrives; not used by "auto"
    control_variate: bool = False  # g_s = eps_uncond - eps: the same mean, less variance at large t; "auto" has it
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the unconditional text's question too

    def __post_init__(self) -> None:
        if not 0 < self.kappa < float("inf"):
            raise DreamforgeError(
                f"kappa of Balanced is {self.kappa}, but a finite number above 0 was expected (0 would leave the text "
                "out): choose one, as 15."
            )

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        """w(t) (a* g_c + (1 - a*) g_s) on ``view.x``. Stats: mean a* and CFG scale, a* kappa/(1 - a*) of standard."""
        eps = predict(self, prior, view.x_t, view.t, view.condition)
        alpha, sigma = alpha_sigma(prior.schedule, view.t, view.x)
        denoising = eps.uncond - view.noise
        if self.variant == "auto":
            kappa, stretch = 1.0, 1.25
            g_s = stretch * denoising
            w = per_view(denoising.flatten(1).norm(dim=1), sigma) * sigma / 50
        else:
            kappa, stretch = self.kappa, 1.0
            g_s, w = denoising if self.control_variate else eps.uncond, alpha
        g_c = kappa * eps.direction
        a = min_norm_share(g_c, g_s)
        scale = kappa * a / (stretch * (1 - a)).clamp_min(1e-6)
        stats = {"steering": eps.strength(), "share": a.mean(), "cfg_scale": scale.mean()}
        return Gradient((w * (a * g_c + (1 - a) * g_s)).to(view.x.dtype), stats=stats)


def min_norm_share(g_c: Tensor, g_s: Tensor) -> Tensor:
    """a* ``[B,1,1,1]`` in [0, 1] that makes ``a g_c + (1 - a) g_s`` shortest, per view over all elements."""
    apart = g_s - g_c
    dot = (apart * g_s).flatten(1).sum(1)
    return per_view((dot / apart.square().flatten(1).sum(1).clamp_min(1e-12)).clamp(0, 1), g_s)
