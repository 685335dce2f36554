"""What a toybox kind is: a name, a short function that builds it, and what a caption may say of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dreamforge.toybox.shapes import Part

Build = Callable[[np.random.Generator, str | None], list[Part]]


@dataclass(frozen=True)
class Kind:
    """``build(rng, accessory)`` draws proportions from ``rng`` and returns parts coloured "main", "second" or a paint.

    ``synonyms`` are other single nouns for it; ``accessories`` are nouns that ``build`` can add, painted "second";
    ``front``: it has an unmistakable front (facing +Z) that cannot be seen from behind. The object may have any size
    and place: the toybox centres it and scales it into the unit ball.
    """

    name: str
    build: Build
    synonyms: tuple[str, ...] = ()
    accessories: tuple[str, ...] = ()
    front: bool = False
