"""Steps of the stock samplers in our terms (alpha, sigma, eps), to follow a pipeline's own scheduler state by state."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreamforge.priors.parametrisation import alpha_sigma, to_x0
from dreamforge.types import Prior, Query

Level = tuple[Tensor, Tensor]  # alpha and sigma, each [B,1,1,1]
Step = Callable[[Tensor, Tensor, Tensor, Level, Level], Tensor]  # x_t, t, eps, its level, the next level -> x_t'


def first_order(x_t: Tensor, t: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    """Every deterministic sampler of first order, DDIM or Euler: x_t' = alpha' x0 + sigma' eps."""
    return there[0] * to_x0(eps, x_t, *here) + there[1] * eps


def second_order() -> Step:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2), which extrapolates x0 in lambda = log alpha/sigma:

    x_t' = (sigma'/sigma) x_t - alpha' (e^-h - 1) (x0 + h/(2 h_before) (x0 - x0_before)), h = lambda' - lambda.
    Its first step, and its last to sigma' = 0, are of first order.
    """
    before: list[tuple[Tensor, Tensor]] = []  # x0 and lambda

    def step(x_t: Tensor, t: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
        x0 = guess = to_x0(eps, x_t, *here)
        level, following = ((alpha / sigma).log() for alpha, sigma in (here, there))
        if before and following.isfinite().all():
            (x0_before, level_before) = before.pop()
            guess = x0 + (following - level) / (2 * (level - level_before)) * (x0 - x0_before)
        before.append((x0, level))
        return first_order(x_t, t, (x_t - here[0] * guess) / here[1], here, there)

    return step


def follow(
    prior: Prior,
    texts: list[Query],
    scale: float,
    times: Sequence[float],
    states: Sequence[Tensor],
    step: Step = first_order,
) -> list[float]:
    """How far our steps are from a stock sampler's: it went from ``states[i]`` at ``times[i]`` to ``states[i + 1]``.

    ``states`` are in variance-preserving units; at the end t' = 0, x0 itself. ``texts``: unconditional, conditional.
    """
    errors = []
    for i in range(len(times)):
        t = torch.full((len(states[i]),), times[i])
        with torch.no_grad():
            uncond, cond = prior.predict_noise(states[i], t, texts)
        eps = uncond + scale * (cond - uncond)
        here, there = alpha_sigma(prior.schedule, t, eps), (torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
        if i + 1 < len(times):
            there = alpha_sigma(prior.schedule, torch.full_like(t, times[i + 1]), eps)
        made = step(states[i], t, eps, here, there)
        errors.append(float((made - states[i + 1]).abs().max() / states[i + 1].abs().max()))
    return errors
