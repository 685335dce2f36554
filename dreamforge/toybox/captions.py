"""Captions of toys: templates with synonyms and varied order, with or without a view phrase; and their words."""

import re
from dataclasses import dataclass

import numpy as np

from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLOR_SYNONYMS, COLORS

# {c} colour, {n} noun, {e} " with a green scarf" or "", {v} a view phrase; chosen uniformly within a group
PLAIN = (
    "a {c} {n}{e}",
    "a {c} {n}{e}",
    "{c} {n}{e}",
    "the {c} {n}{e}",
    "a photo of a {c} {n}{e}",
    "a picture of a {c} {n}{e}",
    "a 3d model of a {c} {n}{e}",
    "a toy {n} in {c}{e}",
    "a {n} in {c}{e}",
    "a {c} toy {n}{e}",
    "a {n}{e}, {c}",
)
COLORLESS = ("a {n}{e}", "a photo of a {n}{e}", "a toy {n}{e}", "{n}{e}")
VIEWED = ("{p}, {v} view", "{p}, {v} view", "{p}, seen from the {s}", "{p} from the {s}", "{v} view of {p}")
EXTRAS = (" with a {c} {a}", " with a {c} {a}", " with {c} {a}", " and a {c} {a}", " having a {c} {a}")
VIEWS = {
    "front": (("front", "front"),),
    "side": (("side", "side"),),
    "back": (("back", "back"), ("rear", "back"), ("back", "behind")),
    "top": (("top", "top"), ("overhead", "above")),
}


@dataclass(frozen=True)
class Label:
    """What is in a picture. ``color`` and ``second`` are names of COLORS; angles in radians."""

    kind: str
    color: str
    accessory: str | None = None
    second: str | None = None
    azimuth: float = 0.0
    elevation: float = 0.0


def direction(azimuth: float, elevation: float) -> str:
    """front, side, back or top: the bins of view-dependent prompting (front and back 45 degrees, top above 60)."""
    wrapped = abs((np.degrees(azimuth) + 180.0) % 360.0 - 180.0)
    if np.degrees(elevation) > 60.0:
        return "top"
    return "front" if wrapped < 45.0 else "back" if wrapped > 135.0 else "side"


def caption(label: Label, rng: np.random.Generator, view_share: float = 0.45, color_share: float = 0.9) -> str:
    """One of the many ways to say it. ``view_share`` of captions name the view, ``color_share`` the colour."""
    noun = _one_of(rng, (label.kind, label.kind, *KINDS[label.kind].synonyms))
    extra = ""
    if label.accessory is not None and label.second is not None:
        extra = _one_of(rng, EXTRAS).format(c=_color(label.second, rng), a=label.accessory)
        extra = extra.replace(" a ", " ") if label.accessory.endswith("s") else extra
    template = _one_of(rng, PLAIN if rng.random() < color_share else COLORLESS)
    text = template.format(c=_color(label.color, rng), n=noun, e=extra)
    if rng.random() < view_share:
        variants = VIEWS[direction(label.azimuth, label.elevation)]
        adjective, place = variants[rng.integers(len(variants))]
        text = _one_of(rng, VIEWED).format(p=text, v=adjective, s=place)
    return _articles(text)


def words() -> list[str]:
    """Every word a caption can contain, sorted: the vocabulary of the prior's tokenizer."""
    templates = " ".join((*PLAIN, *COLORLESS, *VIEWED, *EXTRAS, "an"))
    text = re.sub(r"\{\w\}", " ", templates)
    nouns = [n for kind in KINDS.values() for n in (kind.name, *kind.synonyms)]
    shades = [s for color in COLORS for s in (color, *COLOR_SYNONYMS.get(color, ()))]
    views = [word for variants in VIEWS.values() for pair in variants for word in pair]
    return sorted({*re.findall(r"[a-z0-9]+|,", text), *nouns, *shades, *views, *ACCESSORIES})


def _color(name: str, rng: np.random.Generator) -> str:
    return _one_of(rng, (name, name, *COLOR_SYNONYMS.get(name, ())))


def _one_of(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _articles(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)
