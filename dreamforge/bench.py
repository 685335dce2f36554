"""Where the time of a step goes: ``dreamforge bench --prior``. A short run of the recipe, through ``runs``, is watched.

    network   the prior's predictions, and an estimator's: there its backward pass and optimiser too
    encode    from the picture to what the prior sees, and the gradient's way back
    scene     render, the gradient's way back to the parameters, optimiser, adapt
    rest      all else: cameras, texts, noise, the guidance's own arithmetic, regularisers, log, previews, checkpoints

Every moment belongs to exactly one part. The loop knows nothing of it: methods of the objects that a recipe builds are
replaced, on these objects alone, by the same methods between two looks at the clock. On a GPU each look waits for the
device, so a watched step is slower than an unwatched one by what would have overlapped.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from dreamforge import devices, runs
from dreamforge.config import Recipe, Stage
from dreamforge.guidance.estimator import Learned
from dreamforge.runs import Interrupted, Listener, Progress
from dreamforge.types import DreamforgeError, LearnedGuidance, Prior, Scene, TrainablePrior

NETWORK, ENCODE, SCENE, REST = PARTS = ("network", "encode", "scene", "rest")
CHECKPOINT_EVERY, PREVIEW_EVERY = 4, 5  # steps of the short run: often apart, so that each can be timed alone
LEAST = 2 * PREVIEW_EVERY + 1  # steps after the warm-up: without the last one there is a preview, a checkpoint alone
PROMPT = "a red mushroom"  # of a recipe without one
Clock = Callable[[], float]


@dataclass
class Step:
    """Seconds of one step by part; ``after`` is what follows it: preview and checkpoint, where there is one."""

    parts: dict[str, float]
    after: float = 0.0
    asked: int = 0  # predictions, one picture and one text each
    learnt: int = 0  # those that an estimator learned from
    pictures: int = 0  # that the scene's gradient went through


@dataclass(frozen=True)
class Split:
    """One stage. ``ms``: median milliseconds of a step by part; ``rest`` has its share of ``preview``, ``checkpoint``.

    ``asked``, ``learnt``: predictions for each picture of a step. ``preview``, ``checkpoint``: ms of one.
    """

    ms: dict[str, float]
    asked: float
    learnt: float
    preview: float
    checkpoint: float
    steps: int

    @property
    def total(self) -> float:
        return sum(self.ms.values())


def split(
    recipe: Recipe, steps: int, warmup: int, listener: Listener | None = None, clock: Clock = time.perf_counter
) -> list[Split]:
    """One entry a stage, from ``steps`` steps of each, the first ``warmup`` left out.

    A shortened run goes through all of its curves over progress. Previews and checkpoints are made more often than the
    recipe asks, timed apart, and counted as often as it asks. Raises DreamforgeError for too few steps, and whatever
    ``runs.generate`` raises; Interrupted when ``listener.stop`` said so.
    """
    if warmup < 1 or steps < warmup + LEAST:
        raise DreamforgeError(
            f"{steps} steps of which {warmup} warm up were given, but at least {LEAST} after a warm-up of at least 1 "
            "are expected: raise --steps."
        )
    device = devices.pick(recipe.device)
    watch = Stopwatch(clock, _waiting(device))
    short = replace(
        recipe,
        stages=tuple(_watched_stage(replace(stage, steps=steps), watch) for stage in recipe.stages),
        preview_every=PREVIEW_EVERY if recipe.preview_every else 0,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    made = _steps(short, watch, listener or Listener())
    stages = [made[first : first + steps] for first in range(0, len(made), steps)]
    return [_split(stage, recipe, warmup, number * steps) for number, stage in enumerate(stages)]


def load() -> float | None:
    """How many processes wanted to compute in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@dataclass
class Stopwatch:
    """Exclusive time: every moment is of the part that was switched to last."""

    clock: Clock
    wait: Callable[[], None]  # for the device
    part: str = REST
    since: float = math.nan
    step: Step = field(default_factory=lambda: Step(dict.fromkeys(PARTS, 0.0)))
    learning: bool = False  # an estimator's loss was computed: what follows is its backward pass and its optimiser

    def __post_init__(self) -> None:
        self.since = self.clock()

    def switch(self, part: str) -> str:
        """From now on it is ``part``'s time. Answers whose it was."""
        self.wait()
        now = self.clock()
        self.step.parts[self.part] += now - self.since
        self.since, before, self.part = now, self.part, part
        return before

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    def take(self) -> Step:
        """What was measured since the last time."""
        self.switch(self.part)
        taken, self.step = self.step, Step(dict.fromkeys(PARTS, 0.0))
        return taken


def _steps(recipe: Recipe, watch: Stopwatch, listener: Listener) -> list[Step]:
    """Run the recipe into a folder that is thrown away, without its export."""
    made: list[Step] = []

    def stop() -> bool:  # asked when a step is done and logged: after it come preview and checkpoint
        made.append(watch.take())
        return listener.stop() or len(made) == recipe.steps

    def step(progress: Progress) -> None:
        made[-1].after = sum(watch.take().parts.values())
        listener.step(progress)  # a progress bar is the next step's rest

    with tempfile.TemporaryDirectory() as folder, _backward_and_optimisers(watch):
        try:
            runs.generate(recipe, Path(folder) / "run", listener=replace(listener, step=step, stop=stop))
        except Interrupted as error:
            if len(made) < recipe.steps:
                raise Interrupted(f"interrupted after step {len(made)} of {recipe.steps}: nothing is kept") from error
    return made


def _split(made: Sequence[Step], recipe: Recipe, warmup: int, before: int) -> Split:
    """``before``: steps of the stages before, for previews and checkpoints are counted over all of them."""
    done = range(before + warmup + 1, before + len(made))  # the last one is not like the others
    after = {number: made[number - before - 1].after for number in done}
    saved = [after[n] for n in done if n % CHECKPOINT_EVERY == 0 and n % PREVIEW_EVERY]
    shown = [after[n] for n in done if n % PREVIEW_EVERY == 0 and n % CHECKPOINT_EVERY and recipe.preview_every]
    checkpoint, preview = 1e3 * median(saved), 1e3 * median(shown) if shown else 0.0
    steps = [made[number - before - 1] for number in done]
    ms = {part: 1e3 * median(step.parts[part] for step in steps) for part in PARTS}
    ms[REST] += checkpoint / recipe.checkpoint_every + (preview / recipe.preview_every if recipe.preview_every else 0.0)
    pictures = max(sum(step.pictures for step in steps), 1)
    asked, learnt = (sum(getattr(step, name) for step in steps) / pictures for name in ("asked", "learnt"))
    return Split(ms, asked, learnt, preview, checkpoint, len(steps))


def _waiting(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what it was given."""
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)


def _watched_stage(stage: Stage, watch: Stopwatch) -> Stage:
    """The stage with specs of its own, whose ``build`` makes watched objects."""
    scene, terms = replace(stage.scene), []
    _then(scene, "build", lambda built: _watch_scene(built, watch))
    for term in stage.terms:
        prior, guidance = replace(term.prior), replace(term.guidance)
        _then(prior, "build", lambda built: _watch_prior(built, watch))
        if hasattr(guidance, "build"):
            _then(guidance, "build", lambda built: _watch_learned(built, watch))
        terms.append(replace(term, prior=prior, guidance=guidance, prompt=term.prompt.strip() or PROMPT))
    return replace(stage, scene=scene, terms=tuple(terms))


def _watch_scene(scene: Scene, watch: Stopwatch) -> None:
    for name in ("render", "adapt"):
        _around(scene, name, watch, SCENE)


def _watch_prior(prior: Prior, watch: Stopwatch) -> None:
    encode = prior.encode

    def watched(rgb: Tensor, *rest: Any, **more: Any) -> Tensor:
        with watch.during(ENCODE):
            x = encode(rgb, *rest, **more)
        if x.requires_grad and rgb.requires_grad:
            watch.step.pictures += len(x)
            x.register_hook(lambda gradient: _turn(watch, ENCODE))  # runs before the gradient goes into the encoder
            rgb.register_hook(lambda gradient: _turn(watch, SCENE))  # and after it came out: the scene's way back
        return x

    _watch_predictions(prior, watch)
    _shadow(prior, "encode", watched)
    _then(prior, "trainable", lambda twin: _watch_predictions(twin, watch))


def _watch_learned(guidance: LearnedGuidance, watch: Stopwatch) -> None:
    if isinstance(guidance, Learned):
        _watch_predictions(guidance.score.network, watch)  # a small network is no twin of the prior

    def learnt(loss: Tensor) -> None:
        watch.learning = True

    _then(guidance, "learn", learnt)


def _watch_predictions(network: Prior | TrainablePrior, watch: Stopwatch) -> None:
    predict = network.predict_noise

    def watched(x_t: Tensor, t: Tensor, queries: Sequence[Any]) -> list[Tensor]:
        rows = len(x_t) * len(queries) if watch.part != NETWORK else 0  # one network may be watched twice
        watch.step.learnt += rows if torch.is_grad_enabled() else 0
        watch.step.asked += 0 if torch.is_grad_enabled() else rows
        with watch.during(NETWORK):
            return predict(x_t, t, queries)

    _shadow(network, "predict_noise", watched)


@contextmanager
def _backward_and_optimisers(watch: Stopwatch) -> Iterator[None]:
    """Within it a backward pass and an optimiser's step are the scene's time, or that of an estimator that learns."""
    genuine = torch.autograd.backward

    def whose() -> str:
        return NETWORK if watch.learning else SCENE

    def backward(*roots: Any, **options: Any) -> None:
        with watch.during(whose()):
            genuine(*roots, **options)

    def before(*call: Any) -> None:
        watch.switch(whose())

    def after(*call: Any) -> None:
        watch.switch(REST)
        watch.learning = False

    hooks = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = genuine
        for hook in hooks:
            hook.remove()


def _turn(watch: Stopwatch, part: str) -> None:
    """``switch`` for autograd, which would take an answer for another gradient."""
    watch.switch(part)


def _around(target: Any, name: str, watch: Stopwatch, part: str) -> None:
    method = getattr(target, name)

    def watched(*given: Any, **more: Any) -> Any:
        with watch.during(part):
            return method(*given, **more)

    _shadow(target, name, watched)


def _then(target: Any, name: str, look: Callable[[Any], None]) -> None:
    """After each call of the method ``look`` at what it answered."""
    method = getattr(target, name)

    def followed(*given: Any, **more: Any) -> Any:
        answer = method(*given, **more)
        look(answer)
        return answer

    _shadow(target, name, followed)


def _shadow(target: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function before the method of this one object, which may be frozen."""
    object.__setattr__(target, name, function)
