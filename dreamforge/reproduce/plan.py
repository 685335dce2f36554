"""Which rows a prior's claims are made of: jobs of tuning, of judging, and of the gradient's variance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dreamforge.evaluation import suites
from dreamforge.evaluation.suites import Prompt
from dreamforge.reproduce.lab import SEED, SEEDS, TRUE, Job, Row
from dreamforge.reproduce.methods import DRAWS, METHODS, TRIED, Method, NamedPrior, Values, content, drawing
from dreamforge.rng import derive

JUDGING, TUNING = "canvas-32", "canvas-tuning-8"
EXPLODED = 8.0  # octaves


@dataclass(frozen=True)
class Scale:
    """How much is measured; ``draws`` noises in all make one variance, ``truths`` renders one reference."""

    prompts: int = 32
    tuning_prompts: int = 8
    steps: int = 120
    truths: int = 16
    draws: int = 32


FULL = Scale()
QUICK = Scale(prompts=4, tuning_prompts=1, steps=6, truths=4, draws=16)  # shows that it works


def judging_prompts(scale: Scale) -> list[Prompt]:
    return _spread(suites.load(JUDGING), scale.prompts)


def tuning_prompts(scale: Scale) -> list[Prompt]:
    return _spread(suites.load(TUNING), scale.tuning_prompts)


def tuning(scale: Scale, named: NamedPrior) -> list[Job]:
    """Every setting of every family on every tuning prompt, one picture each, by the family's tuned method."""
    jobs = []
    for method in (method for method in METHODS if method.tuned):
        for number, values in enumerate(TRIED[method.family]):
            for prompt in tuning_prompts(scale):
                runs = _runs(method, named, prompt, scale.steps, 1, values)
                jobs.append(Job("tuning", method.name, prompt, runs, number))
    return jobs


def judging(scale: Scale, named: NamedPrior, chosen: Mapping[str, int]) -> list[Job]:
    """Every method, with the setting chosen for its family, and true renders, prompt by prompt."""
    jobs = []
    for prompt in judging_prompts(scale):
        for method in METHODS:
            number = chosen[method.family]
            runs = _runs(method, named, prompt, scale.steps, SEEDS, TRIED[method.family][number])
            jobs.append(Job("judging", method.name, prompt, runs, number))
        jobs.append(Job("judging", TRUE, prompt))
    return jobs


def variance(scale: Scale) -> list[Job]:
    """For every prompt and number of draws the gradient at pictures that stay: a learning rate of 0.

    Each number gets as many evaluations, so more draws a step means fewer steps to take the variance of.
    """
    still: Values = {"scene.lr": 0.0}
    return [
        Job(
            "variance",
            name,
            prompt,
            (_content(prompt, scale.draws // draws, SEEDS, drawing(name), still),),
        )
        for prompt in judging_prompts(scale)
        for name, (draws, _) in DRAWS.items()
    ]


def choose(rows: Sequence[Row]) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]]]:
    """The setting of every family, and what was tried with what it gave.

    The criterion, fixed beforehand: the share of right pictures; among equals the lowest sharpness error, for what has
    not arrived is blurred and what went too far is noisy; then the first. A setting that exploded on a prompt has no
    sharpness there and counts with that of plain noise.
    """
    chosen: dict[str, int] = {}
    tried: dict[str, list[dict[str, Any]]] = {}
    for family, settings in TRIED.items():
        (name,) = [method.name for method in METHODS if method.family == family and method.tuned]
        found: list[dict[str, Any]] = []
        for number, values in enumerate(settings):
            own = [row["metrics"] for row in rows if row["method"] == name and row["setting"] == number]
            right = fmean(value for one in own for value in one["right"])
            error = fmean(value for one in own for value in one.get("sharpness error", [EXPLODED]))
            found.append({"setting": values, "right": round(right, 4), "sharpness error": round(error, 4)})
        chosen[family] = min(range(len(found)), key=lambda k: (-found[k]["right"], found[k]["sharpness error"]))
        tried[family] = found
    return chosen, tried


def _runs(
    method: Method, named: NamedPrior, prompt: Prompt, steps: int, seeds: int, tuned: Values
) -> tuple[dict[str, Any], ...]:
    values = {**method.values, **named.own.get(method.family, {})}
    if not method.apart:
        return (_content(prompt, steps, seeds, values, tuned),)
    return tuple(_content(prompt, steps, 1, values, tuned, seed=k) for k in range(seeds))


def _content(prompt: Prompt, steps: int, pictures: int, *layers: Values, seed: int = 0) -> dict[str, Any]:
    """All methods draw from the same seed of a prompt; no two prompts share one, so that they are independent."""
    return content(prompt.prompt, derive(SEED, "canvas", prompt.prompt, seed), steps, pictures, *layers)


def _spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """``count`` of the prompts, evenly over the list, so that every group has its share."""
    return [prompts[k * len(prompts) // count] for k in range(count)]
