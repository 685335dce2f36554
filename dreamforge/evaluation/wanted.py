"""What a prompt asks for, in the toybox's words, and whether a verdict grants it."""

import re
from dataclasses import dataclass

from dreamforge.evaluation.verdict import Verdict
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLOR_SYNONYMS, COLORS


@dataclass(frozen=True)
class Wanted:
    """Names of KINDS, COLORS and ACCESSORIES; None where the prompt leaves it open. ``second`` is the accessory's."""

    kind: str
    color: str | None = None
    accessory: str | None = None
    second: str | None = None


def wanted(prompt: str) -> Wanted | None:
    """The first kind, the accessory with the colour just before it, and the first other colour of a prompt.

    Synonyms are understood, other words skipped. None where no word is a kind.
    """
    words = re.findall(r"[^\W_]+", prompt.lower())
    nouns = {noun: kind.name for kind in KINDS.values() for noun in (kind.name, *kind.synonyms)}
    shades = {shade: color for color in COLORS for shade in (color, *COLOR_SYNONYMS.get(color, ()))}
    kind = next((nouns[word] for word in words if word in nouns), None)
    if kind is None:
        return None
    place = next((i for i, word in enumerate(words) if word in ACCESSORIES), len(words))
    accessory = words[place] if place < len(words) else None
    second = shades.get(words[place - 1]) if accessory is not None and place > 0 else None
    rest = words[: place - 1] + words[place:] if second is not None else words
    color = next((shades[word] for word in rest if word in shades), None)
    return Wanted(kind, color, accessory, second)


def right(verdict: Verdict, asked: Wanted) -> bool:
    """The kind, and where named the main colour and the accessory. Not the accessory's colour: see ``second_right``.

    An accessory that nobody asked for is not held against an asset.
    """
    color = asked.color is None or verdict.color == asked.color
    accessory = asked.accessory is None or verdict.accessory == asked.accessory
    return verdict.kind == asked.kind and color and accessory


def second_right(verdict: Verdict, asked: Wanted) -> bool | None:
    """Whether the accessory has the colour asked for; None where none was. Reported beside ``right``."""
    if asked.accessory is None or asked.second is None:
        return None
    return verdict.accessory == asked.accessory and verdict.second == asked.second
