"""The prompts that assets and samples are judged on, drawn by lot: ``python -m dreamforge.evaluation.suites``.

``assets-40`` is what the table of the README is made of; nothing may be tuned on it. ``tuning-16`` is for tuning: it
shares no (kind, colour) pair with it, and kinds only as far as the toybox has too few. ``canvas-32`` is what claims
about guidances are judged on, ``canvas-tuning-8`` what each guidance is tuned on before: no kind is in both, and no
pair of the latter in ``assets-40``. ``prior`` holds pairs for samples of the 2D prior, two of every kind trained and
two held out. The lots are hashes, so a library's random numbers cannot change them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamforge import data
from dreamforge.evaluation.wanted import Wanted
from dreamforge.files import atomic_write
from dreamforge.rng import derive
from dreamforge.toybox.catalog import KINDS, held_out
from dreamforge.toybox.colors import COLORS

SEED = 2026
TRAINED, HELD_OUT, ACCESSORY = "trained", "held out", "accessory"
TABLE = {TRAINED: 24, HELD_OUT: 8, ACCESSORY: 8}
TUNING = {TRAINED: 8, HELD_OUT: 4, ACCESSORY: 4}
CANVAS = {TRAINED: 24, HELD_OUT: 8, ACCESSORY: 0}  # the table's proportion; flat pictures of one thing, undressed
CANVAS_TUNING = {TRAINED: 6, HELD_OUT: 2, ACCESSORY: 0}
QUICK = {TRAINED: 6, HELD_OUT: 2, ACCESSORY: 2}  # the first of each group
PER_KIND = 2  # pairs of a kind in each list of the prior's suite
UNCOUNTED = ("icing",)


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for."""

    group: str
    prompt: str
    asked: Wanted


def draw(seed: int = SEED) -> dict[str, list[Prompt]]:
    """All suites by the name of their file."""
    kinds = _by_lot(KINDS, seed, "kinds")
    table = _suite(kinds, TABLE, [], seed)
    taken = [prompt.asked.kind for prompt in table]
    others_first = sorted(kinds, key=lambda kind: kind in taken)
    tuning = _suite(others_first, TUNING, table, seed)
    canvas = _suite(_by_lot(KINDS, seed, "canvas"), CANVAS, tuning, seed)
    judged = [prompt.asked.kind for prompt in canvas]
    free = [kind for kind in _by_lot(KINDS, seed, "canvas tuning") if kind not in judged]
    canvas_tuning = _suite(free, CANVAS_TUNING, [*table, *canvas], seed)
    return {
        "assets-40": table,
        "tuning-16": tuning,
        "canvas-32": canvas,
        "canvas-tuning-8": canvas_tuning,
        "prior": _prior(seed),
    }


def load(name: str) -> list[Prompt]:
    """A committed suite."""
    content = json.loads(data.asset(f"suites/{name}.json").read_text("utf-8"))
    return [Prompt(row.pop("group"), row.pop("prompt"), Wanted(**row)) for row in content["prompts"]]


def quick(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Ten of the forty."""
    return [p for group, count in QUICK.items() for p in [q for q in prompts if q.group == group][:count]]


def sentence(asked: Wanted) -> str:
    """``a green snowman with an orange scarf``: no view phrase, no synonym."""
    words = f"{_article(asked.color or asked.kind)}{asked.color or ''} {asked.kind}".replace("  ", " ")
    if asked.accessory is None:
        return words
    uncounted = asked.accessory.endswith("s") or asked.accessory in UNCOUNTED
    second = asked.second or ""
    article = "" if uncounted else _article(second or asked.accessory)
    return f"{words} with {article}{second} {asked.accessory}".replace("  ", " ")


def text(name: str, prompts: Iterable[Prompt], seed: int = SEED) -> str:
    """The file of a suite."""
    rows = [json.dumps({"group": p.group, "prompt": p.prompt, **asdict(p.asked)}) for p in prompts]
    head = json.dumps({"name": name, "made by": "python -m dreamforge.evaluation.suites", "seed": seed})
    return head[:-1] + ', "prompts": [\n' + ",\n".join(rows) + "\n]}\n"


def _suite(kinds: Sequence[str], counts: dict[str, int], others: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Prompts of different kinds, the first ones first, in pairs that ``others`` do not have.

    Those with accessories choose first, because few kinds have any.
    """
    dressed = [kind for kind in kinds if KINDS[kind].accessories][: counts[ACCESSORY]]
    plain = [kind for kind in kinds if kind not in dressed]
    held, trained = plain[: counts[HELD_OUT]], plain[counts[HELD_OUT] :][: counts[TRAINED]]
    chosen = {TRAINED: trained, HELD_OUT: held, ACCESSORY: dressed}
    if any(len(chosen[group]) < count for group, count in counts.items()):
        raise ValueError(f"the toybox has too few kinds for {counts}")
    drawn: list[Prompt] = []
    for group in counts:
        for kind in chosen[group]:
            drawn.append(_prompt(group, kind, [*others, *drawn], seed))
    return drawn


def _prompt(group: str, kind: str, others: Sequence[Prompt], seed: int) -> Prompt:
    color = _color(kind, held=group == HELD_OUT, others=others, seed=seed)
    if group != ACCESSORY:
        asked = Wanted(kind, color)
    else:
        accessory = _by_lot(KINDS[kind].accessories, seed, "accessory", kind)[0]
        second = _by_lot([name for name in COLORS if name != color], seed, "second", kind)[0]
        asked = Wanted(kind, color, accessory, second)
    return Prompt(group, sentence(asked), asked)


def _color(kind: str, *, held: bool, others: Sequence[Prompt], seed: int) -> str:
    """Of the colours that are used least so far, one by lot."""
    taken = [prompt.asked.color for prompt in others if prompt.asked.kind == kind]
    allowed = [color for color in COLORS if held_out(kind, color) == held and color not in taken]
    used = Counter(prompt.asked.color for prompt in others)
    return min(_by_lot(allowed, seed, "color", kind), key=lambda name: used[name])


def _prior(seed: int) -> list[Prompt]:
    rows = []
    for group, held in ((TRAINED, False), (HELD_OUT, True)):
        for kind in KINDS:
            colors = [color for color in COLORS if held_out(kind, color) == held]
            chosen = [Wanted(kind, color) for color in _by_lot(colors, seed, "prior", kind)[:PER_KIND]]
            rows += [Prompt(group, sentence(asked), asked) for asked in chosen]
    return rows


def _by_lot(names: Iterable[str], seed: int, *purpose: str) -> list[str]:
    return sorted(names, key=lambda name: derive(seed, *purpose, name))


def _article(word: str) -> str:
    return "an " if word[0] in "aeiou" else "a "


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dreamforge.evaluation.suites", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/suites"))
    options: Any = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, prompts in draw().items():
        atomic_write(options.out / f"{name}.json", text(name, prompts).encode())


if __name__ == "__main__":
    main()
