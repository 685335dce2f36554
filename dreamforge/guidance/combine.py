"""How several predictions of one prior become one: classifier-free guidance and Perp-Neg.

One convention everywhere, ``uncond + s (cond - uncond)``. A paper that writes ``cond + s (cond - uncond)`` means
s + 1 here.
"""

from collections.abc import Sequence

from torch import Tensor

from dreamforge.priors.parametrisation import per_view


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): scale 0 = ``uncond``, 1 = ``cond``."""
    return uncond + scale * (cond - uncond)


def perp(a: Tensor, b: Tensor) -> Tensor:
    """The part of ``a`` perpendicular to ``b``, both ``[B,C,h,w]``: a - (<a,b> / |b|^2) b per view."""
    dot = (a * b).flatten(1).sum(1)
    square = b.square().flatten(1).sum(1).clamp_min(1e-6)
    return a - per_view(dot / square, b) * b


def perp_neg(uncond: Tensor, pos: Tensor, negatives: Sequence[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """Perp-Neg (Armandpour et al., arXiv 2304.04968): push away from texts without undoing the wanted one.

    ``uncond + s (e_pos + sum_i w_i perp(e_i, e_pos))`` with e = prediction - uncond. ``negatives`` are pairs of
    (prediction ``[B,C,h,w]``, weight ``[B]``); a negative weight pushes away. Without negatives this is ``cfg``.
    """
    e_pos = pos - uncond
    total = e_pos
    for eps, weight in negatives:
        total = total + per_view(weight.to(uncond), uncond) * perp(eps - uncond, e_pos)
    return uncond + scale * total
