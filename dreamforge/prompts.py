"""View-dependent prompts: what is asked for from each camera (DreamFusion, arXiv 2209.14988, section 3.2).

The angles, their order and the Perp-Neg weights are those of threestudio; azimuth 0 is the front.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dreamforge.types import Cameras, Condition, DreamforgeError, Embedding, Prior

SIDE, FRONT, BACK, OVERHEAD = range(4)
VIEW_WORDS = ("side", "front", "back", "overhead")  # in that order


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
    debias: str = ""  # folder of a masked language model (BERT) that drops words which speak against a view; "": off

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
        texts = debiased(text, MaskedLanguageModel(Path(self.debias))) if self.debias else [text] * 4
        views = prior.embed([text + suffix for text, suffix in zip(texts, suffixes, strict=True)])
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


def debiased(text: str, view_probability: Callable[[str], Tensor]) -> list[str]:
    """The text for each direction, without the words that speak against it (Hong et al., arXiv 2303.15413).

    ``view_probability(text)`` is p(view | text) ``[4]``, side, front, back, overhead. A word is dropped from the text
    of a view where p_full / (p_full / 2 + p_part / 2) < 0.95, p_part that of the text without the word: where the word
    makes the view less likely. The threshold is threestudio's.
    """
    words = text.split()
    full = view_probability(text)
    kept: list[list[str]] = [[] for _ in VIEW_WORDS]
    for k, word in enumerate(words):
        part = view_probability(" ".join(words[:k] + words[k + 1 :]))
        for view, ratio in enumerate((full / (0.5 * full + 0.5 * part)).tolist()):
            if ratio >= 0.95:
                kept[view].append(word)
    return [" ".join(view) for view in kept]


class MaskedLanguageModel:
    """p(view word | text) by a masked language model of transformers, as BERT, in a local folder."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.words = self.tokenizer.convert_tokens_to_ids(list(VIEW_WORDS))
            known = self.tokenizer.mask_token_id is not None and self.tokenizer.unk_token_id not in self.words
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DreamforgeError(
                f"prompts.debias is '{folder}', but a folder of a masked language model with safetensors weights, for "
                f"example a copy of google-bert/bert-base-uncased, was expected ({reason}): set it to that, or to ''."
            ) from error
        if not known:
            raise DreamforgeError(
                f"The language model in '{folder}' does not know all of the words {', '.join(VIEW_WORDS)} and a mask; "
                "use another model for prompts.debias, for example google-bert/bert-base-uncased."
            )

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """``[4]``, summing to 1: how well each view word fills the gap in a sentence about the text."""
        sentence = f"This image is depicting a {self.tokenizer.mask_token} view of {text}"
        tokens = self.tokenizer(sentence, return_tensors="pt", truncation=True)
        (gap,) = (tokens.input_ids[0] == self.tokenizer.mask_token_id).nonzero()
        p: Tensor = self.model.eval()(**tokens).logits[0, gap[0]].softmax(-1)[self.words]
        return p / p.sum()
