"""One parametrisation at the border: whatever a network predicts, a prior answers eps, in float32.

Everything is the variance-preserving process x_t = alpha x + sigma eps, alpha^2 + sigma^2 = 1. Networks differ:

    eps    the noise itself                                 (Ho et al. 2020, arXiv 2006.11239)
    v      v = alpha eps - sigma x                          (Salimans & Ho 2022, arXiv 2202.00512, appendix D)
    x0     the clean picture
    flow   u = n - x = dz/dtau on the straight path z = (1 - tau) x + tau n   (Liu et al. 2022, arXiv 2209.03003)

A flow state becomes variance preserving when divided by s = sqrt((1 - tau)^2 + tau^2): alpha = (1 - tau)/s,
sigma = tau/s, hence alpha + sigma = 1/s. ``t`` of a flow prior is tau.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.types import DreamforgeError, Schedule

Prediction = Literal["eps", "v", "x0", "flow"]


def per_view(value: Tensor, like: Tensor) -> Tensor:
    """``[B]`` -> ``[B,1,1,1]``: one number a view, ready to multiply ``like [B,C,h,w]``."""
    return value.view(-1, *[1] * (like.dim() - 1))


def alpha_sigma(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha(t) and sigma(t) of t ``[B]``, each shaped to multiply ``like [B,C,h,w]``."""
    return per_view(schedule.alpha(t), like), per_view(schedule.sigma(t), like)


def to_eps(output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
    """eps from a network's ``output`` at ``x_t``, both ``[B,C,h,w]``; alpha, sigma broadcast to them.

    Computed in float32 at least: from x0 the rounding of a half-precision network grows as alpha/sigma.
    A flow network answers at the flow state ``flow_state(x_t, ...)``; its ``output`` is the velocity u. Both hold for
    flows between the data and noise of unit variance, alpha : sigma = 1 - tau : tau.
    """
    output, x_t = _wide(output), _wide(x_t)
    if prediction == "eps":
        return output
    if prediction == "v":
        return sigma * x_t + alpha * output
    if prediction == "x0":
        return (x_t - alpha * output) / sigma
    if prediction == "flow":
        return (x_t + alpha * output) / (alpha + sigma)
    raise DreamforgeError(f"Prediction type {prediction!r} was given, but eps, v, x0 or flow was expected.")


def to_x0(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The one-step denoised estimate x0 = (x_t - sigma eps) / alpha, in float32 at least."""
    return (_wide(x_t) - sigma * _wide(eps)) / alpha


def to_v(eps: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = alpha eps - sigma x with x = ``to_x0``, which is (eps - sigma x_t) / alpha."""
    return (_wide(eps) - sigma * _wide(x_t)) / alpha


def flow_state(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The flow state z = (1 - tau) x + tau n that belongs to the variance-preserving ``x_t``: z = s x_t."""
    return _wide(x_t) / (alpha + sigma)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True)
class FlowSchedule:
    """The straight path, made variance preserving: t = tau, alpha = (1 - t)/s, sigma = t/s.

    A few models take noise of another unit, z = (1 - tau) x + tau c n: then s = sqrt((1 - tau)^2 + (c tau)^2) and
    sigma = c tau/s with c = ``noise_scale``.
    """

    noise_scale: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) / self.norm(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise_scale * t / self.norm(t)

    def norm(self, t: Tensor) -> Tensor:
        """s of t ``[B]``: the flow state is z = s x_t."""
        return torch.hypot(1 - t, self.noise_scale * t)


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A schedule that exists at N steps only, as Stable Diffusion's: ``alphas_cumprod [N]`` = alpha^2.

    t in (0, 1) means step ``index(t)`` = round(t N), at most N - 1: the network was trained at whole steps, so
    alpha, sigma and the index it is asked with always belong together.
    """

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> "DiscreteSchedule":
        """Stable Diffusion's betas: linear in the square root from ``start`` to ``end`` (arXiv 2112.10752)."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, 0))

    def index(self, t: Tensor) -> Tensor:
        """The network's timestep ``[B]`` int64 in [0, N) of t ``[B]`` in (0, 1)."""
        steps = len(self.alphas_cumprod)
        return (t * steps).round().long().clamp(0, steps - 1)

    def alpha(self, t: Tensor) -> Tensor:
        return self._at(t).sqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._at(t)).sqrt().to(t.dtype)

    def _at(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[self.index(t)]
