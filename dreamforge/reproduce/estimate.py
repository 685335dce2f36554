"""How long it will take, measured before it starts: a few timed steps of every kind, and where their time goes."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from dreamforge.reproduce import plan
from dreamforge.reproduce.lab import SEED, SEEDS, SIZE, TRUE, Job, Lab
from dreamforge.reproduce.methods import METHODS, Method, by_name, content, drawing
from dreamforge.rng import derive
from dreamforge.stopwatch import PARTS

WARM, TIMED = 2, 4  # steps before the clock counts, and counted


@dataclass(frozen=True)
class Kind:
    """A run of one kind: ``start`` seconds before its steps, ``step`` seconds of one, for ``pictures`` at once.

    ``evaluations`` of a step and picture; ``parts``: shares of the seconds, adding up to 1.
    """

    pictures: int
    start: float
    step: float
    evaluations: float
    parts: Mapping[str, float]

    def seconds(self, run: Mapping[str, Any]) -> float:
        """Of a run of this kind; its steps scale with pictures and draws."""
        steps = int(run["steps"]) * int(run["noise"].get("draws", 1))
        return self.start + steps * self.step * int(run["views"]) / self.pictures


def kinds(lab: Lab, prompt: str) -> dict[str, Kind]:
    """Timed runs of every kind: one for each family of methods, particles by themselves, and draws as ``draws-1``."""
    found = {}
    for method in METHODS:
        if kind_of(method) not in found:
            pictures = 1 if method.apart else SEEDS
            found[kind_of(method)] = _timed(lab, pictures, prompt, method.values)
    return found | {"draws": _timed(lab, SEEDS, prompt, drawing("draws-1"))}


def kind_of(method: Method) -> str:
    return method.family if method.apart or method.family != "vsd" else method.name


def seconds(jobs: Sequence[Job], known: Mapping[str, Kind], judging: float) -> float:
    """Of all jobs; ``judging`` seconds for each that makes pictures."""
    total = 0.0
    for job in jobs:
        if job.stage == "variance":
            total += sum(known["draws"].seconds(run) for run in job.runs)
        else:
            kind = None if job.method == TRUE else known[kind_of(by_name(job.method))]
            total += judging + sum(kind.seconds(run) for run in job.runs if kind is not None)
    return total


def overhead(lab: Lab) -> tuple[float, float]:
    """Seconds that the true renders of a prompt take, and seconds to judge and store the pictures of a row."""
    prompt = plan.tuning_prompts(plan.FULL)[0]
    began = time.perf_counter()
    lab.truth(prompt)
    drawn = time.perf_counter()
    lab.measured(prompt, torch.full((SEEDS, SIZE, SIZE, 3), 0.5))
    return drawn - began, time.perf_counter() - drawn


def table(known: Mapping[str, Kind]) -> list[str]:
    """A line for each kind: evaluations per step and picture, seconds per step, and how these split."""
    rows = [f"{'a step of':<14} {'evaluations':>11} {'ms/picture':>10}  network  encode   scene    rest"]
    for name, kind in known.items():
        shares = "".join(f"{share:8.0%}" for share in kind.parts.values())
        rows.append(f"{name:<14} {kind.evaluations:>11.2f} {1000 * kind.step / kind.pictures:>10.1f} {shares}")
    return rows


def remaining(jobs: Sequence[Job], there: Mapping[str, Any]) -> list[Job]:
    """The jobs without a row; whether a row's settings are today's shows itself when it is its turn."""
    return [job for job in jobs if job.key not in there]


def by_stage(jobs: Sequence[Job]) -> dict[str, int]:
    counted: dict[str, int] = defaultdict(int)
    for job in jobs:
        counted[job.stage] += 1
    return dict(counted)


def _timed(lab: Lab, pictures: int, prompt: str, values: dict[str, Any]) -> Kind:
    recipe = content(prompt, derive(SEED, "estimate"), WARM + TIMED, pictures, values)
    painted = lab.paint(recipe)
    steps = painted.steps[WARM:]
    parts = {part: sum(step.parts[part] for step in steps) / sum(step.seconds for step in steps) for part in PARTS}
    evaluations = painted.evaluations / (WARM + TIMED) / pictures
    start = painted.seconds - sum(step.seconds for step in painted.steps)
    return Kind(pictures, start, fmean(step.seconds for step in steps), evaluations, parts)
