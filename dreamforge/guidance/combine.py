"""How several predictions of one prior become one: classifier-free guidance and Perp-Neg.

One convention everywhere, ``uncond + s (cond - uncond)``. A paper that writes ``cond + s (cond - uncond)`` means
s + 1 here.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from dreamforge.priors.parametrisation import per_view
from dreamforge.types import Cameras, Condition, Embedding, Prior, Query


class Asking(Protocol):
    """How a guidance asks its prior; every guidance that uses CFG has these fields."""

    @property
    def perp_neg(self) -> bool:
        """Use the negatives of the condition where the prompts make some."""
        ...

    @property
    def use_camera(self) -> bool:
        """Tell the cameras to a prior that knows them."""
        ...

    @property
    def uncond_camera(self) -> bool:
        """Keep them in the unconditional half of CFG too."""
        ...


class Predictions(NamedTuple):
    """What a prior answers, each ``[B,C,h,w]``: ``direction`` is text - uncond, or what Perp-Neg makes of it."""

    uncond: Tensor
    text: Tensor
    direction: Tensor

    def guided(self, scale: float) -> Tensor:
        """uncond + s direction: CFG, or Perp-Neg where there are negatives."""
        return self.uncond + scale * self.direction

    def strength(self) -> Tensor:
        """Root mean square of text - uncond, for the log."""
        return (self.text - self.uncond).square().mean().sqrt()


def predict(
    asking: Asking, prior: Prior, x_t: Tensor, t: Tensor, condition: Condition, uncond: Embedding | None = None
) -> Predictions:
    """The prior's predictions at ``x_t [B,C,h,w]``, t ``[B]``, in one batched question.

    ``uncond`` takes the place of the condition's own unconditional text.
    """
    cameras = condition.cameras if asking.use_camera else None
    negatives = condition.negatives if asking.perp_neg else ()
    queries = [Query(condition.uncond if uncond is None else uncond, uncond_cameras(asking, condition))]
    queries += [Query(text, cameras) for text in (condition.text, *(text for text, _ in negatives))]
    eps_uncond, eps_text, *others = prior.predict_noise(x_t, t, queries)
    weights = [weight for _, weight in negatives]
    return Predictions(eps_uncond, eps_text, steering(eps_uncond, eps_text, list(zip(others, weights, strict=True))))


def uncond_cameras(asking: Asking, condition: Condition) -> Cameras | None:
    """The cameras that go with an unconditional text."""
    return condition.cameras if asking.use_camera and asking.uncond_camera else None


def empty_text(condition: Condition) -> Embedding:
    """The embedding of the empty text, also where ``uncond`` is a negative one."""
    return condition.uncond if condition.empty is None else condition.empty


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): scale 0 = ``uncond``, 1 = ``cond``."""
    return uncond + scale * (cond - uncond)


def perp(a: Tensor, b: Tensor) -> Tensor:
    """The part of ``a`` perpendicular to ``b``, both ``[B,C,h,w]``: a - (<a,b> / |b|^2) b per view."""
    dot = (a * b).flatten(1).sum(1)
    square = b.square().flatten(1).sum(1).clamp_min(1e-6)
    return a - per_view(dot / square, b) * b


def steering(uncond: Tensor, pos: Tensor, negatives: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """``e_pos + sum_i w_i perp(e_i, e_pos)``, e = prediction - uncond; e_pos alone without negatives.

    Perp-Neg (Armandpour et al., arXiv 2304.04968): push away from texts without undoing the wanted one.
    ``negatives`` are pairs of (prediction ``[B,C,h,w]``, weight ``[B]``); a negative weight pushes away.
    """
    e_pos = pos - uncond
    total = e_pos
    for eps, weight in negatives:
        total = total + per_view(weight.to(uncond), uncond) * perp(eps - uncond, e_pos)
    return total
