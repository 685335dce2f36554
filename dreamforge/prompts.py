"""View-dependent prompts: what is asked for from each camera (DreamFusion, arXiv 2209.14988, section 3.2).

The angles, their order and the Perp-Neg weights are those of threestudio; azimuth 0 is the front.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamforge.types import Cameras, Condition, DreamforgeError, Embedding, Prior

SIDE, FRONT, BACK, OVERHEAD = range(4)


@dataclass(frozen=True)
class ViewPrompts:
    """How a text is changed by the direction it is looked at from."""

    enabled: bool = True  # False: the plain text from everywhere
    front_deg: float = 45.0  # front where |azimuth| is below it; 30 in ProlificDreamer's and MVDream's recipes
    back_deg: float = 45.0  # back where |azimuth| is above 180 - back_deg
    overhead_deg: float = 60.0  # overhead where the elevation is above it, whatever the azimuth
    side: str = ", side view"
    front: str = ", front view"
    back: str = ", back view"
    overhead: str = ", top view"
    perp_neg: bool = False  # blend the texts of neighbouring views and add the wrong ones as negatives

    def __post_init__(self) -> None:
        for name, most in (("front_deg", 180.0), ("back_deg", 180.0), ("overhead_deg", 90.0)):
            if not 0 <= getattr(self, name) <= most:
                raise DreamforgeError(f"prompts.{name} is {getattr(self, name)}; choose degrees from 0 to {most:g}.")

    @torch.no_grad()
    def build(self, text: str, prior: Prior, negative: str = "") -> "Prompts":
        """Embed ``text`` once for every direction; ``negative`` is the unconditional text of CFG."""
        if not text.strip():
            raise DreamforgeError("The prompt is empty; write what to make, for example 'a red mushroom'.")
        suffixes = [self.side, self.front, self.back, self.overhead]
        views = prior.embed([text + suffix for suffix in suffixes])
        # Calls of their own: a prior may pad the rows of one call to the longest.
        empty = prior.embed([""]) if negative else None
        return Prompts(self, views, prior.embed([text]), prior.embed([negative]), empty)


class Prompts:
    """A text embedded for all directions: ``views`` holds the rows side, front, back, overhead."""

    def __init__(
        self, spec: ViewPrompts, views: Embedding, plain: Embedding, uncond: Embedding, empty: Embedding | None = None
    ) -> None:
        self.spec, self.views, self.plain, self.uncond, self.empty = spec, views, plain, uncond, empty

    def at(self, cameras: Cameras | None, views: int) -> Condition:
        """The condition of ``views`` views; without cameras no text gets a view word."""
        first = [0] * views
        plain, uncond = self.plain[first], self.uncond[first]
        empty = None if self.empty is None else self.empty[first]
        condition = Condition(plain, plain, uncond, cameras=cameras, empty=empty)
        if cameras is None or not self.spec.enabled:
            return condition
        azimuth, elevation = cameras.azimuth.rad2deg(), cameras.elevation.rad2deg()
        if self.spec.perp_neg:
            text, negatives = _perp_neg(self.views, azimuth, elevation > self.spec.overhead_deg)
            return replace(condition, text=text, negatives=negatives)
        return replace(condition, text=self.views[directions(self.spec, azimuth, elevation)])


def wrap_deg(azimuth: Tensor) -> Tensor:
    """Degrees into [-180, 180)."""
    return (azimuth + 180.0) % 360.0 - 180.0


def directions(spec: ViewPrompts, azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Rows ``[B]`` of the direction that each view, in degrees, is called by; a later rule overrides an earlier one."""
    away = wrap_deg(azimuth).abs()
    row = torch.full_like(azimuth, SIDE, dtype=torch.long)
    row[away < spec.front_deg] = FRONT
    row[away > 180.0 - spec.back_deg] = BACK
    row[elevation > spec.overhead_deg] = OVERHEAD
    return row


def blend(a: Embedding, b: Embedding, share: Tensor) -> Embedding:
    """Row by row ``share a + (1 - share) b``, share ``[B]``.

    Masks (bool) become the union of both, so that no token of either text is lost; other integers cannot be blended
    and are taken from the row with the larger share.
    """

    def mix(x: Tensor, y: Tensor) -> Tensor:
        s = share.to(x.device).view(-1, *[1] * (x.dim() - 1))
        if x.dtype == torch.bool:
            return x | y
        if not x.is_floating_point():
            return torch.where(s >= 0.5, x, y)
        return (s * x + (1 - s) * y).to(x.dtype)

    return Embedding({name: mix(x, b.tensors[name]) for name, x in a.tensors.items()})


def shifted_decay(a: float, b: float, c: float, r: Tensor) -> Tensor:
    """f(r) = a exp(-b r) + c, the shape of all Perp-Neg weights."""
    return a * torch.exp(-b * r) + c


# a, b, c of f for the four pairs of neighbouring views (threestudio's defaults).
FRONT_SIDE = SIDE_FRONT = (4.0, 0.5, -2.426)
SIDE_BACK = (1.0, 0.5, -0.606)
FRONT_SIDE_BACK = (1.0, 0.5, 0.967)


def _perp_neg(
    views: Embedding, azimuth: Tensor, overhead: Tensor
) -> tuple[Embedding, tuple[tuple[Embedding, Tensor], ...]]:
    """The blended text of each view and its two negatives (Perp-Neg, arXiv 2304.04968)."""
    away = wrap_deg(azimuth).abs() / 90.0
    near = away < 1  # between front and side, else between side and back
    r = torch.where(near, 1 - away, 2 - away).clamp(0, 1)

    def pick(if_near: int, if_far: int, if_overhead: int) -> Embedding:
        row = torch.where(near, if_near, if_far)
        return views[torch.where(overhead, if_overhead, row)]

    text = blend(pick(FRONT, SIDE, OVERHEAD), pick(SIDE, BACK, OVERHEAD), r)
    first = torch.where(near, shifted_decay(*FRONT_SIDE, r), shifted_decay(*SIDE_BACK, r))
    second = torch.where(near, shifted_decay(*SIDE_FRONT, 1 - r), shifted_decay(*FRONT_SIDE_BACK, r))
    none = torch.zeros_like(r)
    # From above nothing is pushed away: the weight is 0, the text does not matter.
    return text, (
        (pick(FRONT, SIDE, OVERHEAD), torch.where(overhead, none, -first)),
        (pick(SIDE, FRONT, OVERHEAD), torch.where(overhead, none, -second)),
    )
