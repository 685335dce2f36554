"""SDI, score distillation via inversion (Lukoianov et al., NeurIPS 2024, arXiv 2405.15891).

    kappa(x, t; y) = (x_t - alpha x) / sigma,  x_t = DDIM inversion of x with eps_hat at a *negative* CFG scale
    grad_x = x - x0_hat = (sigma/alpha) (eps_hat(x_t; y, t) - kappa),    x_t = alpha x + sigma kappa

SDS is DDIM in other variables, but for its noise: DDIM infers the noise from the last step, SDS draws it anew. kappa is
what DDIM would have inferred. t falls evenly over a run: schedule.Uniform with low = high = [[0, 0.98], [1, 0.25]].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.guidance.combine import predict
from dreamforge.guidance.inversion import EARLIEST, invert
from dreamforge.guidance.sds import Weighting, weight
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.schedule import check_number
from dreamforge.types import DreamforgeError, Gradient, Prior, View


@dataclass(frozen=True)
class SDI:
    """Score distillation via inversion: SDS with the noise that inverting DDIM finds in the render.

    Formula and abstract are the paper's, the numbers those of threestudio's configs/sdi.yaml, which has Perp-Neg on
    (without it that code's CFG is cond + s (cond - uncond), and 7.5 and -7.5 act as 8.5 and -6.5 here). The code
    inverts to a time up to a step later than t and asks at t; here both are t. Its fresh noise comes on top of the
    whole of the predicted noise; here both together keep DDIM's variance (arXiv 2010.02502, eq. 12).
    """

    cfg_scale: float = 7.5
    inversion_scale: float = -7.5  # CFG scale of the inversion: minus the other one
    start: float = EARLIEST  # of the inversion; the embedded pixel prior, which predicts x0, wants 0.1
    inversion_step: float = 0.1  # of its grid
    eta: float = 0.3  # fresh noise in the inversion, 0: none
    weighting: Weighting = "recon"  # sigma/alpha: the gradient is x - x0_hat
    perp_neg: bool = True  # use the negatives of the condition where the prompts make some
    use_camera: bool = True  # tell the cameras to a prior that knows them
    uncond_camera: bool = True  # keep them in the unconditional half of CFG too

    def __post_init__(self) -> None:
        check_number("cfg_scale of SDI", self.cfg_scale, 0.0)
        check_number("start of SDI", self.start, EARLIEST, 1.0)
        check_number("inversion_step of SDI", self.inversion_step, 1e-3, 1.0)
        check_number("eta of SDI", self.eta, 0.0, 1.0)
        if not abs(self.inversion_scale) < float("inf"):
            raise DreamforgeError(
                f"inversion_scale of SDI is {self.inversion_scale}, but a finite number was expected."
            )

    @torch.no_grad()
    def grad(self, view: View, prior: Prior) -> Gradient:
        """w(t) (eps_hat(x_t) - kappa) on ``view.x``."""
        t, condition, schedule = view.t, view.condition, prior.schedule

        def eps_inverted(x_t: Tensor, at: Tensor) -> Tensor:
            return predict(self, prior, x_t, at, condition).guided(self.inversion_scale)

        x_t = invert(
            schedule, view.x, view.noise, t, self.start, self.inversion_step, eps_inverted, self.eta, view.seed
        )
        alpha, sigma = alpha_sigma(schedule, t, view.x)
        kappa = (x_t - alpha * view.x.float()) / sigma
        eps = predict(self, prior, x_t, t, condition)
        grad = weight(self.weighting, alpha, sigma) * (eps.guided(self.cfg_scale) - kappa)
        return Gradient(grad.to(view.x.dtype), stats={"steering": eps.strength()})
