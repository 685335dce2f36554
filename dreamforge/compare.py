"""``dreamforge compare A B``: the paired difference between runs of two settings, judged by the evaluator.

Each side is a run, a folder with runs in it (as a loop over prompts or ``evaluation.table assets`` leaves it), or a
``table.json``, which holds verdicts already. Pairs have the prompt in common, and the seed where a prompt has several
runs. What makes a prompt hard is in both of a pair, so differences are taken first:

    d_p = mean over the seeds of prompt p of (A - B),   mean and standard error over prompts

Where all runs are of one prompt, its seeds take the place of prompts. Pictures of flat scenes are compared with true
renders of their prompt too, as ``reproduce canvas-claims`` does it.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from dreamforge import runs
from dreamforge.evaluation import picture_metrics, statistics
from dreamforge.evaluation.judge import judge_asset, read_picture, shipped
from dreamforge.evaluation.network import SIZE, Judge
from dreamforge.evaluation.truths import true_renders
from dreamforge.evaluation.verdict import resized
from dreamforge.evaluation.wanted import Wanted, wanted
from dreamforge.files import atomic_write
from dreamforge.rng import derive
from dreamforge.runs import Run
from dreamforge.types import DreamforgeError

COLUMNS = ("prompt", "seed_a", "seed_b", "metric", "a", "b", "difference")
FEWEST = 5  # differences of which a standard error says something
TRUTHS = 16  # true renders of a prompt
SAID: dict[statistics.Found, str] = {"yes": "A is higher", "reversed": "B is higher", "no": "no difference shown"}
TOO_FEW = f"fewer than {FEWEST} pairs"
Key = tuple[str, int]  # prompt and seed
Source = tuple[Run, Path] | Mapping[str, Any]  # a run with its asset, or a row of a table


@dataclass(frozen=True)
class Pair:
    """Two runs of one prompt, and the metrics that both have."""

    prompt: str
    seeds: tuple[int, int]
    values: Mapping[str, tuple[float, float]]


def compare(first: Path, second: Path, out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Judge both sides, write the pairs to the CSV ``out``, and answer a row for each metric.

    A row has ``metric``, ``n`` (prompts, or seeds of the only one), means ``a`` and ``b``, ``difference``, ``error``
    (None where one value cannot tell) and ``verdict``, by two standard errors of at least ``FEWEST`` differences.
    Raises DreamforgeError, one sentence.
    """
    found = (_listed(first), _listed(second))
    matched = match(*found)
    if not matched:
        raise DreamforgeError(
            f"'{first}' and '{second}' have no run in common: give runs of the same prompts, and of the same seeds "
            "where a prompt has several."
        )
    judge, pairs = shipped(), []
    for number, (a, b) in enumerate(matched, 1):
        say(f"judging pair {number} of {len(matched)}: {a[0]}")
        ours, theirs = facts(found[0][a], judge), facts(found[1][b], judge)
        both = {name: (ours[name], theirs[name]) for name in ours if name in theirs}
        pairs.append(Pair(a[0], (a[1], b[1]), both))
    atomic_write(out, text(pairs).encode())
    return summary(pairs)


def match(first: Collection[Key], second: Collection[Key]) -> list[tuple[Key, Key]]:
    """Keys that belong together: the only runs of a prompt whatever their seeds, else those of one seed."""
    pairs = []
    for prompt in dict.fromkeys(key[0] for key in first):
        ours, theirs = ([key for key in side if key[0] == prompt] for side in (first, second))
        if len(ours) == len(theirs) == 1:
            pairs.append((ours[0], theirs[0]))
        else:
            pairs += [(key, key) for key in ours if key in theirs]
    return pairs


def facts(source: Source, judge: Judge) -> dict[str, float]:
    """The metrics of a run, or of a row of a table: shares in [0, 1], seconds; only those that mean something."""
    row: Mapping[str, Any]
    costs: dict[str, float | None]
    if isinstance(source, tuple):
        run, asset = source
        row, asked = judge_asset(asset, run.recipe.prompt, judge), wanted(run.recipe.prompt)
        costs = {"seconds of steps": sum(step["seconds"] for step in run.metrics())}
        if asset.suffix == ".png" and asked is not None and asked.color is not None:
            costs |= beside_truth(asset, asked)
    else:
        row, asked = source, Wanted(**source["wanted"])
        costs = {name: source.get(name) for name in ("seconds", "peak_mb")}
    known = {
        "right": row["right"],
        "kind": None if asked is None else row.get("kind") == asked.kind,
        "colour": None if asked is None or asked.color is None else row.get("color") == asked.color,
        "accessory in its colour": row.get("second_right"),
        "one face": None if row.get("faces") is None else row["faces"] == 1,
        "views that agree": row.get("agreement"),
        **costs,
    }
    return {name: float(value) for name, value in known.items() if value is not None}


def beside_truth(asset: Path, asked: Wanted) -> dict[str, float]:
    """The metrics of a flat picture beside true renders of its prompt."""
    picture = picture_metrics.as_saved(resized(read_picture(asset)))
    return {name: float(value) for name, value in picture_metrics.against(picture, _truth(asked)).items()}


@lru_cache(maxsize=1)  # the two sides of a pair ask for the same
def _truth(asked: Wanted) -> Tensor:
    return picture_metrics.as_saved(true_renders(asked, TRUTHS, derive(0, "compare"), SIZE))


def summary(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row for each metric, over the prompts whose pairs have it."""
    rows = []
    for metric in dict.fromkeys(name for pair in pairs for name in pair.values):
        having = [pair for pair in pairs if metric in pair.values]
        alone = len({pair.prompt for pair in pairs}) == 1
        groups: dict[Any, list[tuple[float, float]]] = {}
        for pair in having:
            groups.setdefault(pair.seeds if alone else pair.prompt, []).append(pair.values[metric])
        a, b = ([fmean(values[side] for values in group) for group in groups.values()] for side in (0, 1))
        found = statistics.paired(a, b)
        error = found["error"] if math.isfinite(found["error"]) else None
        verdict = SAID[statistics.shown(found["difference"], found["error"])] if len(groups) >= FEWEST else TOO_FEW
        means = {"a": fmean(a), "b": fmean(b)}
        numbers = {**means, "difference": found["difference"], "error": error}
        counted = {"n": len(groups), "over": "seeds" if alone else "prompts"}
        rows.append({"metric": metric, **counted, **numbers, "verdict": verdict})
    return rows


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as a table of text."""
    shown = [f"{'metric':<24} {'n':>3} {'A':>9} {'B':>9} {'A - B':>9} {'error':>9}  verdict"]
    for row in rows:
        error = "-" if row["error"] is None else f"{row['error']:.4g}"
        numbers = f"{row['a']:>9.4g} {row['b']:>9.4g} {row['difference']:>+9.4g} {error:>9}"
        shown.append(f"{row['metric']:<24} {row['n']:>3} {numbers}  {row['verdict']}")
    return shown


def text(pairs: Sequence[Pair]) -> str:
    """The CSV: a row for each pair and metric."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        for metric, (a, b) in pair.values.items():
            writer.writerow([pair.prompt, *pair.seeds, metric, a, b, a - b])
    return buffer.getvalue()


def _listed(path: Path) -> dict[Key, Source]:
    """The runs of a side by prompt and seed, every one of them done."""
    if path.is_file():
        return _of_table(path)
    found: dict[Key, Source] = {}
    for recipe in sorted(path.rglob("recipe.yaml")):
        run = runs.load(recipe.parent)
        key = run.recipe.prompt, run.recipe.seed
        if key in found:
            raise DreamforgeError(
                f"'{path}' holds two runs of '{key[0]}' with seed {key[1]}: give a folder with runs of one setting."
            )
        found[key] = run, run.asset  # a run that is not done is told of before anything is judged
    if not found:
        raise DreamforgeError(f"'{path}' is neither a run nor a folder with runs in it: give what 'generate' made.")
    return found


def _of_table(path: Path) -> dict[Key, Source]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return {(row["prompt"], int(content["seed"])): row for row in content["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DreamforgeError(
            f"'{path}' is not a table of assets: give the table.json of 'evaluation.table assets', or a folder of runs."
        ) from error
