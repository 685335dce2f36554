"""What a step costs: predictions of the network, and how its seconds split."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.forecast import Counter
from dreamforge.types import Cameras, Embedding, Prior, Query, RenderOutput, Scene, TrainablePrior

PARTS = ("network", "encode", "scene")


@dataclass
class Clock:
    """Seconds by part, added up."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


class Meter:
    """A prior that counts what it, and twins of it, predict (``evaluations``), times it, and is its own spec.

    ``gradients``: a list that receives every gradient on x, as the engine adds it up; None listens to nothing.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior, self.clock = Counter(prior), Clock()
        self.schedule, self.knows_cameras = prior.schedule, prior.knows_cameras
        self.gradients: list[Tensor] | None = None

    @property
    def evaluations(self) -> int:
        """One for every query and picture, those that a twin learns from too."""
        return self.prior.asked + self.prior.learnt

    def build(self, device: torch.device) -> "Meter":
        return self

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        with self.clock.of("encode"):
            x = self.prior.encode(rgb, seed)
        if self.gradients is not None and x.requires_grad:
            heard = self.gradients
            x.register_hook(lambda gradient: heard.append(gradient.detach().clone()))
        return x

    def decode(self, x: Tensor) -> Tensor:
        return self.prior.decode(x)

    def embed(self, prompts: Sequence[str]) -> Embedding:
        return self.prior.embed(prompts)

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        with self.clock.of("network"):
            return self.prior.predict_noise(x_t, t, queries)

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> "TimedTwin":
        return TimedTwin(self.clock, self.prior.trainable(mode, camera, rank, seed))


class TimedTwin:
    """A trainable twin whose predictions are timed; what it learns backwards is not the network's but the rest."""

    def __init__(self, clock: Clock, twin: TrainablePrior) -> None:
        self.clock, self.twin = clock, twin
        self.param_groups, self.state, self.load_state = twin.param_groups, twin.state, twin.load_state

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        with self.clock.of("network"):
            return self.twin.predict_noise(x_t, t, queries)


class TimedScene:
    """A scene whose renders are timed."""

    def __init__(self, clock: Clock, scene: Scene) -> None:
        self.clock, self.scene = clock, scene
        self.param_groups, self.adapt, self.extract = scene.param_groups, scene.adapt, scene.extract
        self.state, self.load_state = scene.state, scene.load_state

    def render(
        self, cameras: Cameras, background: Tensor | None, seed: int, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        with self.clock.of("scene"):
            return self.scene.render(cameras, background, seed, parts)


def split(clock: Clock, total: float) -> dict[str, Any]:
    """The parts of ``total`` seconds; "rest" is backward passes, the optimiser and the method's own arithmetic."""
    return {**clock.seconds, "rest": max(0.0, total - sum(clock.seconds.values()))}
