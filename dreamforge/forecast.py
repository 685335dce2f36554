"""What a recipe will take in memory and time, before its first step: ``dreamforge doctor --recipe``.

A recipe whose priors come with the package is tried: a few real steps, scene included. A large prior's share is worked
out from its shapes, whether it is on this machine or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.assembly import Priors, Workshop, adam, build_stage, build_term
from dreamforge.config import Optimiser, Recipe, Term
from dreamforge.engine import StepInfo, fit
from dreamforge.priors.estimate import EFFICIENCY, Cost, Load, cost, speed
from dreamforge.priors.known import EMBEDDED
from dreamforge.priors.memory import dtype_of, total_memory
from dreamforge.priors.mixture import Mixture
from dreamforge.priors.pretrained import family_of
from dreamforge.priors.weights import find, parameters
from dreamforge.scenes.canvas import Canvas
from dreamforge.types import DreamforgeError, Embedding, Prior, Query, Scene, TrainablePrior

SIZE = 8  # pixels of the rehearsal
PROMPT = "a red mushroom"  # of a recipe without one
WARM, TIMED, MOST = 2, 3, 20  # steps before the clock counts; counted at least, and at most


@dataclass(frozen=True)
class Forecast:
    """What one prior of a recipe takes, the scene apart: ``cost`` of its fullest step, ``seconds`` over all steps."""

    model: str
    cost: Cost
    seconds: float
    missing: str  # why its weights are not there, "" where they are


def forecasts(recipe: Recipe, device: torch.device) -> list[Forecast]:
    """One entry for each pretrained prior of the recipe. Raises DreamforgeError for a model of unknown size."""
    found: dict[str, Forecast] = {}
    for stage in recipe.stages:
        for term in stage.terms:
            if is_pretrained(term.prior):
                one = _forecast(term, stage.steps // term.every, device)
                before = found.get(one.model, one)
                fullest = max(one, before, key=lambda entry: entry.cost.least)
                total = one.seconds + (before.seconds if before is not one else 0.0)
                found[one.model] = replace(fullest, seconds=total)
    return list(found.values())


def check_memory(recipe: Recipe, device: torch.device) -> None:
    """Raise DreamforgeError where a prior with its text encoders, estimator and step cannot fit into the memory.

    Models that are not here are told of when they are opened; one that fills less than a hundredth is not looked at.
    """
    there = total_memory(device)
    for stage in recipe.stages:
        for term in stage.terms:
            if not there or not is_pretrained(term.prior) or not _large(term.prior, there):
                continue
            if (needed := _cost(term, device)).least > there:
                when = "A step with" if needed.least > needed.embedding else "Embedding the prompts for"
                raise DreamforgeError(
                    f"{when} '{term.prior.model}' takes at least {needed.least / 1e9:.1f} GB, but the device has "
                    f"{there / 1e9:.1f} GB: {advice(needed)}."
                )


def advice(needed: Cost) -> str:
    """What to lower where memory is too small."""
    if needed.copied:
        return "take guidance.estimator.kind=lora, which copies no network, or another model"
    if needed.least == needed.embedding:
        return "take --vram 12 on a GPU (a T5 then stays on the CPU), prior.precision=bfloat16 or another model"
    return "take a smaller --vram, fewer views, a smaller prior.size or another model"


def at_hand(recipe: Recipe) -> bool:
    """Whether steps of the recipe can be tried at once: its priors come with the package, or are no models."""
    priors = [term.prior for stage in recipe.stages for term in stage.terms]
    return all(not is_pretrained(prior) or prior.model in EMBEDDED for prior in priors)


def timed(recipe: Recipe, device: torch.device) -> list[float]:
    """Seconds of a step of each stage, everything included: the mean of a few real ones, made here and now.

    Raises DreamforgeError where the recipe cannot be built.
    """
    stages = [replace(stage, terms=tuple(map(_prompted, stage.terms))) for stage in recipe.stages]
    recipe, priors = replace(recipe, stages=tuple(stages)), Priors(device)
    seconds: list[float] = []
    scene: Scene | None = None
    for number, stage in enumerate(recipe.stages):
        work = build_stage(recipe, number, priors, scene)
        counted = max(TIMED, *(min(term.every, MOST) for term in stage.terms))  # every term has its turn
        seconds.append(_seconds(work, counted, recipe.seed, device))
        scene = work.scene
    return seconds


def _seconds(work: Workshop, counted: int, seed: int, device: torch.device) -> float:
    heard: list[StepInfo] = []
    fit(work.scene, work.terms, work.optimiser, WARM + counted, seed, device=device, on_step=heard.append)
    return fmean(info.seconds for info in heard[WARM:])


def is_pretrained(prior: Any) -> bool:
    """Whether a prior's spec names a published or local model, whose size can be found."""
    return {"model", "precision", "vram"} <= {one.name for one in fields(prior)}


def _forecast(term: Term, steps: int, device: torch.device) -> Forecast:
    needed, dtype = _cost(term, device), dtype_of(term.prior.precision, term.prior.vram, device)
    seconds = steps * needed.flops / (EFFICIENCY * speed(device, dtype))
    return Forecast(term.prior.model, needed, seconds, _missing(term.prior))


def _prompted(term: Term) -> Term:
    return replace(term, prompt=term.prompt.strip() or PROMPT)


def _large(prior: Any, there: int) -> bool:
    try:
        source = find(prior.model, prior.config if hasattr(prior, "config") else "")
        return 100 * 4 * parameters(source, family_of(source).network) > there
    except DreamforgeError:
        return False


def _missing(prior: Any) -> str:
    """Why the model's files are not there, "" where they are."""
    try:
        find(prior.model, getattr(prior, "config", ""))
    except DreamforgeError as error:
        return str(error)
    return ""


def _cost(term: Term, device: torch.device) -> Cost:
    asked = questions(term)
    texts = -(-asked.asked // (term.views * term.noise.draws))
    load = Load(
        views=term.views,
        texts=texts,
        draws=term.noise.draws,
        learnt=asked.learnt,
        lessons=max(asked.lessons, 1),
        full=asked.full,
        resolution=term.resolution,
    )
    return cost(term.prior, device, load)


@dataclass(frozen=True)
class Questions:
    """Predictions of one step: ``asked`` of the prior or a twin of it, ``learnt`` those that a twin learns from.

    ``lessons``: the batches that it learns in; ``full``: the twin is a copy of the prior, not an adapter on it.
    """

    asked: int
    learnt: int
    lessons: int = 0
    full: bool = False


def questions(term: Term, seed: int = 0) -> Questions:
    """Count them in a rehearsal of one step, by the term's own guidance, on the exact prior with a tiny canvas."""
    counter = Counter(Mixture(size=SIZE).build())
    small = replace(
        _prompted(term), prior=counter, resolution=SIZE, image="rgb", losses={}, parts=None,
        background="scene", every=1, offset=0,
    )  # fmt: skip
    scene = Canvas(size=SIZE, pictures=term.views).build(seed)
    try:
        built = build_term(small, Priors(torch.device("cpu")), seed)
        counter.asked = counter.learnt = counter.lessons = 0
        fit(scene, [built], adam(scene.param_groups(), Optimiser()), 1, seed)
    except DreamforgeError:  # a guidance that this prior cannot serve: two texts a view is the least
        return Questions(2 * term.views, 0)
    return Questions(counter.asked, counter.learnt, counter.lessons, counter.full)


class Counter:
    """A prior that counts what it, and twins of it, are asked. It is its own spec."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.schedule, self.knows_cameras = prior, prior.schedule, prior.knows_cameras
        self.asked = self.learnt = self.lessons = 0
        self.full = False

    def build(self, device: torch.device) -> "Counter":
        return self

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        return self.prior.encode(rgb, seed)

    def decode(self, x: Tensor) -> Tensor:
        return self.prior.decode(x)

    def embed(self, prompts: Sequence[str]) -> Embedding:
        return self.prior.embed(prompts)

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        self.asked += len(x_t) * len(queries)
        return self.prior.predict_noise(x_t, t, queries)

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> "CountedTwin":
        self.full |= mode == "full"
        return CountedTwin(self, self.prior.trainable(mode, camera, rank, seed))


class CountedTwin:
    """A trainable twin that adds to its prior's count."""

    def __init__(self, counter: Counter, twin: TrainablePrior) -> None:
        self.counter, self.twin = counter, twin
        self.param_groups, self.state, self.load_state = twin.param_groups, twin.state, twin.load_state

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        rows = len(x_t) * len(queries)
        self.counter.asked += 0 if torch.is_grad_enabled() else rows
        self.counter.learnt += rows if torch.is_grad_enabled() else 0
        self.counter.lessons += torch.is_grad_enabled()
        return self.twin.predict_noise(x_t, t, queries)
