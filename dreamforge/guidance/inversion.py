"""DDIM backwards: from a picture to the noise that a prior would have made it of (Song et al., arXiv 2010.02502).

    x0_hat = (x_a - sigma_a eps) / alpha_a,    x_b = alpha_b x0_hat + sqrt(sigma_b^2 - s^2) eps + s z

With a < b it adds noise, with s = 0 deterministically (eq. 12). For a unit Gaussian around m a step multiplies
x_a - alpha_a m by cos(phi_b - phi_a), alpha = cos(phi): coarse inversion contracts.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dreamforge.priors.parametrisation import alpha_sigma, per_view, to_x0
from dreamforge.rng import generator
from dreamforge.types import Schedule

EARLIEST = 1e-4  # where an inversion may begin: at 0 there is no noise to predict


def ddim(schedule: Schedule, x_a: Tensor, eps: Tensor, a: Tensor, b: Tensor, z: Tensor | None, eta: float) -> Tensor:
    """One step from time ``a [B]`` to ``b [B]``; views with b <= a stay where they are.

    ``eta`` scales the fresh noise ``z``: s = eta (sigma_a / sigma_b) sqrt(1 - alpha_b^2 / alpha_a^2).
    """
    (alpha_a, sigma_a), (alpha_b, sigma_b) = (alpha_sigma(schedule, t, x_a) for t in (a, b))
    s = eta * sigma_a / sigma_b * (1 - (alpha_b / alpha_a) ** 2).clamp_min(0).sqrt()
    x_b = alpha_b * to_x0(eps, x_a, alpha_a, sigma_a) + (sigma_b**2 - s**2).clamp_min(0).sqrt() * eps
    x_b = x_b if z is None else x_b + s * z
    return torch.where(per_view(b > a, x_a), x_b, x_a)


def invert(
    schedule: Schedule,
    x: Tensor,
    noise: Tensor,
    t: Tensor,
    start: float,
    step: float,
    predict: Callable[[Tensor, Tensor], Tensor],
    eta: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """x_t of the picture ``x [B,C,h,w]`` at times ``t [B]``, over the grid start, step, 2 step, ..., t.

    It begins at ``start`` (or t) with ``noise``; ``predict(x_t, t)`` answers eps. A network that predicts x0 knows eps
    only up to its error in x0 times alpha/sigma, so it wants a later start than one that predicts eps. ``eta`` adds
    fresh noise, drawn from ``seed``: one picture of it for all views, so that none depends on how many there are (its
    error is then shared by the views of a step; over steps it averages out). The number of questions follows from the
    latest t, so a GPU is waited for once.
    """
    now = t.clamp(max=start)
    alpha, sigma = alpha_sigma(schedule, now, x)
    x_t, last = alpha * x.float() + sigma * noise.float(), float(t.max())
    for k in range(math.floor(start / step + 1e-6) + 1, math.ceil(last / step - 1e-6) + 1):
        then = t.clamp(max=k * step)
        z = torch.randn((1, *x.shape[1:]), generator=generator(seed, "inversion", k)).to(x_t) if eta else None
        x_t = ddim(schedule, x_t, predict(x_t, now), now, then, z, eta)
        now = then
    return x_t
