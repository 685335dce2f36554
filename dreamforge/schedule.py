"""Values that change over a stage, and the draws of the diffusion time t.

A *curve* in a recipe is a number (constant) or knots ``[[progress, value], ...]``, piecewise linear in progress
(0 = start of the stage, 1 = its end), constant outside. Two knots at one progress make a jump. It is kept as it was
written, so that a recipe can be stored and read again; ``check_curve`` looks at it when a recipe is built.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dreamforge.rng import generator
from dreamforge.types import DreamforgeError


def curve(value: Any, progress: float) -> float:
    """The value of a curve at ``progress`` in [0, 1]."""
    knots = _knots(value)
    if progress < knots[0][0]:
        return knots[0][1]
    for (p0, v0), (p1, v1) in pairwise(knots):
        if progress < p1:
            return v0 + (v1 - v0) * (progress - p0) / (p1 - p0)
    return knots[-1][1]


def check_curve(
    name: str, value: Any, above: float | None = None, below: float | None = None, least: float | None = None
) -> None:
    """Raise DreamforgeError unless ``value`` is a curve whose values lie in (above, below) and are >= ``least``."""
    knots = _knots(value)
    if not knots or any(a[0] > b[0] for a, b in pairwise(knots)) or knots[0][0] < 0 or knots[-1][0] > 1:
        raise DreamforgeError(
            f"{name} is {value!r}, but a number or [[progress, value], ...] with progress rising from 0 to 1 was "
            "expected."
        )
    values = [v for _, v in knots]
    low_ok = above is None or min(values) > above
    high_ok = below is None or max(values) < below
    if not (low_ok and high_ok and (least is None or min(values) >= least)):
        named = {"above": above, "below": below, "at least": least}
        limits = " and ".join(f"{word} {limit}" for word, limit in named.items() if limit is not None)
        raise DreamforgeError(f"{name} is {value!r}, but every value must be {limits}.")


def check_number(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise DreamforgeError unless ``value`` is a finite number in the closed interval [low, high]."""
    if not (low <= value <= high and math.isfinite(value)):  # also refuses NaN
        limits = f"in [{low:g}, {high:g}]" if high < math.inf else f"of at least {low:g}"
        raise DreamforgeError(f"{name} is {value}, but a finite number {limits} was expected.")


def _knots(value: Any) -> list[tuple[float, float]]:
    """The knots of a curve; empty when it is not one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return [(0.0, float(value))]
    try:
        return [(float(progress), float(v)) for progress, v in value]
    except (TypeError, ValueError):
        return []


def check_range(name: str, low: Any, high: Any) -> None:
    """Raise DreamforgeError unless both are curves within (0, 1) and low never exceeds high."""
    check_curve(f"low of {name}", low, above=0.0, below=1.0)
    check_curve(f"high of {name}", high, above=0.0, below=1.0)
    # Both are piecewise linear, so low <= high everywhere if it holds at every knot (and just before a jump).
    for progress, _ in _knots(low) + _knots(high):
        for at in (progress, max(progress - 1e-9, 0.0)):
            if curve(low, at) > curve(high, at) + 1e-6:
                raise DreamforgeError(f"{name} got low {low!r} above high {high!r}; swap them.")


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high), one a view, or one for all (``shared``, MVDream). Curves for low and high are anneals:

    ProlificDreamer lets high jump 0.98 -> 0.5, DreamCraft3D and MVDream let both fall linearly.
    """

    low: Any = 0.02  # DreamFusion's code in threestudio
    high: Any = 0.98
    shared: bool = False

    def __post_init__(self) -> None:
        check_range(type(self).__name__, self.low, self.high)

    def sample(self, views: int, progress: float, seed: int) -> Tensor:
        low, high = curve(self.low, progress), curve(self.high, progress)
        u = torch.rand(1 if self.shared else views, generator=generator(seed, "t"))
        return (low + (high - low) * u).expand(views)


@dataclass(frozen=True)
class SquareRoot:
    """HiFA (arXiv 2305.18766): t = low + (high - low) (1 - sqrt(progress)) for all views, no randomness."""

    low: float = 0.3
    high: float = 0.98

    def __post_init__(self) -> None:
        check_range(type(self).__name__, self.low, self.high)

    def sample(self, views: int, progress: float, seed: int) -> Tensor:
        return torch.full((views,), self.low + (self.high - self.low) * (1 - progress**0.5))


@dataclass(frozen=True)
class Deterministic:
    """DreamGaussian (arXiv 2309.16653): t = 1 - progress, held within [low, high], no randomness."""

    low: float = 0.02
    high: float = 0.98

    def __post_init__(self) -> None:
        check_range(type(self).__name__, self.low, self.high)

    def sample(self, views: int, progress: float, seed: int) -> Tensor:
        return torch.full((views,), min(max(1 - progress, self.low), self.high))
