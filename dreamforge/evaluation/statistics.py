"""How sure a figure is: intervals for shares and means."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

DECISIVE = 2.0  # standard errors
Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(right: int, of: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), meant for small counts: never empty, never outside [0, 1]."""
    if of == 0:
        return 0.0, 1.0
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(outcomes: Sequence[bool]) -> dict[str, Any]:
    """How many are true, as a share with its 95 % interval; ready for JSON. ``share`` is None without outcomes."""
    right, of = sum(map(bool, outcomes)), len(outcomes)
    low, high = wilson(right, of)
    value = round(right / of, 4) if of else None
    return {"right": right, "of": of, "share": value, "low": round(low, 4), "high": round(high, 4)}


Found = Literal["yes", "no", "reversed"]


def shown(gain: float, error: float) -> Found:
    """Whether ``gain`` is shown to be above 0: by more than 2 standard errors; "reversed": as surely below 0.

    "no" is neither, so too few values (``error`` NaN) or none (``gain`` NaN) show nothing.
    """
    return "yes" if gain > DECISIVE * error else "reversed" if gain < -DECISIVE * error else "no"


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (NaN where there are too few values)."""
    count = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return (float(np.mean(values)) if count else math.nan), error


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """The mean of first - second on the same prompts, with the 95 % interval of the normal approximation.

    The difference of pairs, not of means: what makes a prompt hard is in both. Sequences of unequal length raise
    ValueError.
    """
    difference, error = mean([a - b for a, b in zip(first, second, strict=True)])
    low, high = difference - Z95 * error, difference + Z95 * error
    return {"of": len(first), "difference": difference, "error": error, "low": low, "high": high}
