"""What a recipe will take in memory and time, before its first step: ``dreamforge doctor --recipe``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.assembly import Priors, adam, build_term
from dreamforge.config import Optimiser, Recipe, Term
from dreamforge.engine import fit
from dreamforge.priors.estimate import EFFICIENCY, Cost, Load, cost, speed
from dreamforge.priors.memory import dtype_of, total_memory
from dreamforge.priors.mixture import Mixture
from dreamforge.priors.pretrained import family_of
from dreamforge.priors.weights import find, parameters
from dreamforge.scenes.canvas import Canvas
from dreamforge.types import DreamforgeError, Embedding, Prior, Query, TrainablePrior

SIZE = 8  # pixels of the rehearsal


@dataclass(frozen=True)
class Forecast:
    """What one prior of a recipe takes: ``cost`` of its fullest step, ``seconds`` over all its steps, about."""

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
                fullest = max(one, before, key=lambda entry: entry.cost.activations)
                total = one.seconds + (before.seconds if before is not one else 0.0)
                found[one.model] = replace(fullest, seconds=total)
    return list(found.values())


def check_memory(recipe: Recipe, device: torch.device) -> None:
    """Raise DreamforgeError where a step of the recipe cannot fit into the device's memory.

    Models that are not here are told of when they are opened; one that fills less than a hundredth is not looked at.
    """
    there = total_memory(device)
    for stage in recipe.stages:
        for term in stage.terms:
            if not there or not is_pretrained(term.prior) or not _large(term.prior, there):
                continue
            if (least := _cost(term, device).least) > there:
                raise DreamforgeError(
                    f"A step with '{term.prior.model}' takes at least {least / 1e9:.1f} GB, but the device has "
                    f"{there / 1e9:.1f} GB: take a smaller --vram, fewer views, a smaller prior.size or another model."
                )


def is_pretrained(prior: Any) -> bool:
    """Whether a prior's spec names a published or local model, whose size can be found."""
    return {"model", "precision", "vram"} <= {one.name for one in fields(prior)}


def _forecast(term: Term, steps: int, device: torch.device) -> Forecast:
    needed, dtype = _cost(term, device), dtype_of(term.prior.precision, term.prior.vram, device)
    seconds = steps * needed.flops / (EFFICIENCY * speed(device, dtype))
    return Forecast(term.prior.model, needed, seconds, _missing(term.prior))


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
    return cost(term.prior, device, Load(term.views, texts, term.noise.draws, asked.learnt, term.resolution))


@dataclass(frozen=True)
class Questions:
    """Predictions of one step: ``asked`` of the prior or a twin of it, ``learnt`` those that a twin learns from."""

    asked: int
    learnt: int


def questions(term: Term, seed: int = 0) -> Questions:
    """Count them in a rehearsal of one step, by the term's own guidance, on the exact prior with a tiny canvas."""
    counter = Counter(Mixture(size=SIZE).build())
    small = replace(
        term, prior=counter, prompt=term.prompt or "a thing", resolution=SIZE, image="rgb", losses={}, parts=None,
        background="scene", every=1, offset=0,
    )  # fmt: skip
    scene = Canvas(size=SIZE, pictures=term.views).build(seed)
    try:
        built = build_term(small, Priors(torch.device("cpu")), seed)
        counter.asked = counter.learnt = 0
        fit(scene, [built], adam(scene.param_groups(), Optimiser()), 1, seed)
    except DreamforgeError:  # a guidance that this prior cannot serve: two texts a view is the least
        return Questions(2 * term.views, 0)
    return Questions(counter.asked, counter.learnt)


class Counter:
    """A prior that counts what it, and twins of it, are asked. It is its own spec."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.schedule, self.knows_cameras = prior, prior.schedule, prior.knows_cameras
        self.asked = self.learnt = 0

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
        return self.twin.predict_noise(x_t, t, queries)
