"""All kinds of the toybox, and the (kind, colour) pairs that the prior never sees in training."""

from dreamforge.rng import derive
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.kind import Kind
from dreamforge.toybox.kinds import (
    animals,
    buildings,
    characters,
    food,
    furniture,
    household,
    plants,
    tools,
    vehicles,
)

_MODULES = (furniture, household, tools, vehicles, buildings, food, plants, animals, characters)
KINDS: dict[str, Kind] = {kind.name: kind for module in _MODULES for kind in module.KINDS}
ACCESSORIES: tuple[str, ...] = tuple(sorted({name for kind in KINDS.values() for name in kind.accessories}))


def held_out(kind: str, color: str) -> bool:
    """Whether the pair is kept out of the prior's training pictures: two or three of each kind's twelve colours.

    A rule instead of a table, so that a new kind changes no other kind's pairs; ``assets/toybox/held_out.json``
    publishes the list.
    """
    return (derive(0, "held out", kind) + 2 * list(COLORS).index(color)) % 5 == 0


def pairs(*, held: bool) -> list[tuple[str, str]]:
    """The held-out (kind, colour) pairs, or the trained ones."""
    return [(kind, color) for kind in KINDS for color in COLORS if held_out(kind, color) == held]
