"""Where the time of a step goes, seen from outside: nothing in the loop knows of it.

    network   the prior's predictions, and an estimator's: there its backward pass and optimiser too
    encode    from the picture to what the prior sees, and the gradient's way back
    scene     render, the gradient's way back to the parameters, optimiser, adapt
    rest      all else: cameras, texts, noise, the guidance's own arithmetic, regularisers, log

Every moment belongs to exactly one part. Methods of single objects are replaced, on these objects alone, by the same
methods between two looks at the clock. On a GPU each look waits for the device, so a watched step is slower than an
unwatched one by what would have overlapped.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from dreamforge.guidance.estimator import Learned
from dreamforge.types import LearnedGuidance, Prior, Scene, TrainablePrior

NETWORK, ENCODE, SCENE, REST = PARTS = ("network", "encode", "scene", "rest")
Clock = Callable[[], float]


@dataclass
class Step:
    """Seconds of one step by part; ``after`` is what follows it: preview and checkpoint, where there is one."""

    parts: dict[str, float]
    after: float = 0.0
    asked: int = 0  # predictions, one picture and one text each
    learnt: int = 0  # those that an estimator learned from
    pictures: int = 0  # that the scene's gradient went through

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())


@dataclass
class Stopwatch:
    """Exclusive time: every moment is of the part that was switched to last."""

    device: torch.device
    clock: Clock = time.perf_counter
    part: str = REST
    since: float = math.nan
    step: Step = field(default_factory=lambda: Step(dict.fromkeys(PARTS, 0.0)))
    learning: bool = False  # an estimator's loss was computed: what follows is its backward pass and its optimiser

    def __post_init__(self) -> None:
        self.since = self.clock()

    def switch(self, part: str) -> str:
        """From now on it is ``part``'s time. Answers whose it was."""
        wait(self.device)
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


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def load() -> float | None:
    """How many processes wanted to compute in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def watch_scene(scene: Scene, watch: Stopwatch) -> None:
    """Its renders and adaptations are the scene's time."""
    for name in ("render", "adapt"):
        _around(scene, name, watch, SCENE)


def watch_prior(prior: Prior, watch: Stopwatch) -> None:
    """Its predictions, those of its twins, and its encoding there and back are timed and counted."""
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
    followed_by(prior, "trainable", lambda twin: _watch_predictions(twin, watch))


def watch_learned(guidance: LearnedGuidance, watch: Stopwatch) -> None:
    """Its predictions are timed, and what follows its loss is known as learning."""
    if isinstance(guidance, Learned):
        _watch_predictions(guidance.score.network, watch)  # a small network is no twin of the prior

    def learnt(loss: Tensor) -> None:
        watch.learning = True

    followed_by(guidance, "learn", learnt)


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
def backward_and_optimisers(watch: Stopwatch) -> Iterator[None]:
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


def followed_by(target: Any, name: str, look: Callable[[Any], None]) -> None:
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
