"""THE loop: cameras -> render -> encode -> guidance -> one backward -> optimiser step. Nothing else.

A method that trains a network instead of a scene brings its own loop and calls the same ``grad`` and ``learn``.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dreamforge import losses
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.render.background import muted
from dreamforge.rng import derive, generator
from dreamforge.types import (
    Cameras,
    CameraSampler,
    Condition,
    DreamforgeError,
    Guidance,
    LearnedGuidance,
    Noise,
    Prior,
    RenderOutput,
    Scene,
    Timesteps,
    View,
)

Background = Literal["random", "scene"] | tuple[float, float, float]


class ViewTexts(Protocol):
    """What ``prompts.ViewPrompts.build`` returns: conditions for cameras (None: a prior without cameras, one view)."""

    def at(self, cameras: Cameras | None, views: int) -> Condition: ...


@dataclass(frozen=True)
class BuiltTerm:
    """One summand of a step, ready to run. ``every``/``offset`` alternate terms; ``image`` is what the prior sees."""

    prior: Prior
    guidance: Guidance | LearnedGuidance
    prompts: ViewTexts
    cameras: CameraSampler
    timesteps: Timesteps
    noise: Noise
    losses: dict[str, object] = field(default_factory=dict)  # name -> weight: a number or [[progress, value], ...]
    views: int = 4
    resolution: int = 64
    background: Background = "random"
    image: Literal["rgb", "normal", "depth"] = "rgb"
    parts: tuple[str, ...] | None = None
    weight: float = 1.0
    every: int = 1
    offset: int = 0
    learner: torch.optim.Optimizer | None = None  # of a LearnedGuidance


class Readings:
    """The scalars of a step, which stay on their device until somebody asks: reading one would wait for the device."""

    def __init__(self, step: int, device: torch.device | str) -> None:
        self.step, self.device = step, device
        self.values: dict[str, Tensor] = {}
        self.finite: list[tuple[Tensor, str, Tensor, int]] = []  # whether it is, what it is, t and seed
        self.event: Any = None

    def add(self, values: Mapping[str, Tensor | float], prefix: str) -> None:
        """Scalars by name; of several terms each has its ``prefix``."""
        for name, value in values.items():
            self.values[prefix + name] = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()

    def expect_finite(self, what: str, values: Sequence[Tensor | None], t: Tensor, seed: int) -> None:
        """Noted here, checked when the step is read: one wait for the device instead of one for every number."""
        fine = [torch.isfinite(value).all() for value in values if value is not None]
        self.finite.append((torch.stack(fine).all(), what, t, seed))

    def leave(self) -> None:
        """Send everything to the host, without waiting for it."""
        scalars = [*self.values.values(), *(fine.float() for fine, *_ in self.finite)]
        self.host = torch.stack(scalars) if scalars else torch.zeros(0)
        if self.host.is_cuda:
            self.host = torch.empty(self.host.shape, pin_memory=True).copy_(self.host, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> dict[str, float]:
        """The scalars, when the device has come to them. Raises FloatingPointError where something is not finite."""
        if self.event is not None:
            self.event.synchronize()
        numbers = self.host.tolist()
        for fine, (_, what, t, seed) in zip(numbers[len(self.values) :], self.finite, strict=True):
            if not fine:
                raise FloatingPointError(
                    f"The {what} is not finite at step {self.step}, t {t.tolist()}, seed {seed}: lower the learning "
                    "rate or the CFG scale, or run the prior in float32."
                )
        return dict(zip(self.values, numbers, strict=False))


@dataclass(frozen=True)
class StepInfo:
    """What ``on_step`` hears after step ``step`` (0-based) of ``steps``."""

    step: int
    steps: int
    readings: Readings
    seconds: float

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Scalars by name. The first look waits for the device; a step later it has long been there."""
        return self.readings.read()


def fit(
    scene: Scene,
    terms: Sequence[BuiltTerm],
    optimiser: torch.optim.Optimizer,
    steps: int,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    start_step: int = 0,
    lr_scale: Callable[[float], float] = lambda progress: 1.0,
    on_step: Callable[[StepInfo], None] = lambda info: None,
) -> None:
    """Optimise ``scene`` from ``start_step`` to ``steps``.

    The same (seed, step) draws the same randomness, so a run continued from step k with the state it had there ends
    in the same bytes. ``lr_scale(progress)`` multiplies every group's ``initial_lr``. Of several terms each one's
    metrics are named with its number, as "1.grad". Raises FloatingPointError with step, t and seed when a gradient or
    a loss is not finite. Nothing here waits for a GPU, which is a step behind: there the error comes a step late.
    """
    behind = steps_behind(device)
    unread: deque[StepInfo] = deque()
    base_lr = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
    prefixes = [f"{number}." if len(terms) > 1 else "" for number in range(len(terms))]
    for step in range(start_step, steps):
        began, progress = time.perf_counter(), step / max(steps - 1, 1)
        for group, lr in zip(optimiser.param_groups, base_lr, strict=True):
            group["lr"] = lr * lr_scale(progress)
        optimiser.zero_grad(set_to_none=True)
        readings = Readings(step, device)
        now = [(number, term) for number, term in enumerate(terms) if step % term.every == term.offset]
        for number, term in now:
            readings.add(_descend(scene, term, progress, derive(seed, step, number), readings), prefixes[number])
        optimiser.step()
        scene.adapt(step, derive(seed, step, "adapt"))
        for number, term in now:
            if isinstance(term.guidance, LearnedGuidance):
                learnt = _learn(scene, term, progress, derive(seed, step, number, "learn"), readings)
                readings.add(learnt, prefixes[number])
        readings.leave()
        unread.append(StepInfo(step, steps, readings, time.perf_counter() - began))
        on_step(unread[-1])
        while len(unread) > behind:
            _ = unread.popleft().metrics
    for info in unread:
        _ = info.metrics


def steps_behind(device: torch.device | str) -> int:
    """How many steps late a step's numbers are read: a GPU has come to them one step later, a CPU at once."""
    return 1 if torch.device(device).type == "cuda" else 0


def _descend(
    scene: Scene, term: BuiltTerm, progress: float, seed: int, readings: Readings
) -> dict[str, Tensor | float]:
    """Add one term's gradient to the parameters of the scene: the guidance's, exactly, and its regularisers'."""
    cameras, render, picture = look(scene, term, progress, seed, readings.device)
    x = term.prior.encode(picture, derive(seed, "encode"))
    scale = term.weight / (len(x) * term.noise.draws)
    regulariser, terms_of_loss = losses.total(render, term.losses, progress)
    roots: list[Tensor] = []
    grads: list[Tensor | None] = []
    stats: dict[str, Tensor | float] = {}
    for draw in range(term.noise.draws):
        number, sign = (draw // 2, 1 - 2 * (draw % 2)) if term.noise.antithetic else (draw, 1)
        view = _view(term, x, cameras, render, progress, derive(seed, number), sign)
        with torch.no_grad():
            gradient = term.guidance.grad(view, term.prior)
        if gradient is None:
            continue
        readings.expect_finite("guidance's gradient", (gradient.x, gradient.rgb), view.t, seed)
        roots.append(x)
        grads.append(gradient.x.to(x.dtype) * scale)
        if gradient.rgb is not None:
            roots.append(picture)
            grads.append(gradient.rgb * scale)
        stats |= {"grad": gradient.x.square().mean().sqrt(), "t": view.t.mean(), **gradient.stats}
    if regulariser.requires_grad:
        roots.append(regulariser * term.weight)
        grads.append(None)
    if roots:
        torch.autograd.backward(roots, grads)  # exact: no pretended loss, see design, section 4
    return {**stats, "alpha": render.alpha.mean(), **terms_of_loss}


def _learn(scene: Scene, term: BuiltTerm, progress: float, seed: int, readings: Readings) -> dict[str, Tensor]:
    """Let a guidance with weights learn on independent draws of the scene as it is now; its last loss."""
    assert isinstance(term.guidance, LearnedGuidance) and term.learner is not None
    stats = {}
    for k in range(term.guidance.learn_steps):
        with torch.no_grad():
            cameras, render, picture = look(scene, term, progress, derive(seed, k), readings.device)
            x = term.prior.encode(picture, derive(seed, k, "encode"))
        view = _view(term, x, cameras, render, progress, derive(seed, k, "draw"))
        term.learner.zero_grad(set_to_none=True)
        loss = term.guidance.learn(view, term.prior)
        readings.expect_finite("loss of the guidance's estimator", (loss,), view.t, seed)
        loss.backward()
        term.learner.step()
        stats = {"learn": loss}
    return stats


def look(
    scene: Scene, term: BuiltTerm, progress: float, seed: int, device: torch.device | str
) -> tuple[Cameras, RenderOutput, Tensor]:
    """Draw cameras and background, render, and pick the picture that the prior will see."""
    cameras = term.cameras.sample(term.views, term.resolution, progress, derive(seed, "cameras")).to(device)
    background = None
    if term.background == "random":
        background = muted(term.views, generator(seed, "background")).to(device)
    elif term.background != "scene":
        background = torch.tensor(term.background, device=device)
    render = scene.render(cameras, background, derive(seed, "render"), term.parts)
    return cameras, render, _picture(render, cameras, term.image)


def _picture(render: RenderOutput, cameras: Cameras, image: str) -> Tensor:
    if image == "rgb":
        return render.rgb
    if image == "normal":
        if render.normal is None:
            raise DreamforgeError("A term has image: normal, but its scene renders no normals: use rgb or depth.")
        return (render.normal + 1) / 2 * render.alpha + 0.5 * (1 - render.alpha)
    near = cameras.distance[:, None, None, None] - 1.0  # the object lives in the unit ball
    return ((near + 2.0 - render.depth) / 2).clamp(0, 1).expand_as(render.rgb) * render.alpha


def _view(
    term: BuiltTerm, x: Tensor, cameras: Cameras, render: RenderOutput, progress: float, seed: int, sign: int = 1
) -> View:
    """Draw t and noise, with this sign, for the encoded render ``x``; everything in a View is detached."""
    x, seen = x.detach(), _detached(render)
    t = term.timesteps.sample(len(x), progress, derive(seed, "t")).to(x.device)
    noise = sign * term.noise.sample(x, cameras, seen, derive(seed, "noise"))
    alpha, sigma = alpha_sigma(term.prior.schedule, t, x)
    condition = term.prompts.at(cameras, len(x))
    return View(x, alpha * x + sigma * noise, noise, t, condition, cameras, seen, progress, derive(seed, "grad"))


def _detached(render: RenderOutput) -> RenderOutput:
    normal, semantic = (None if image is None else image.detach() for image in (render.normal, render.semantic))
    return RenderOutput(render.rgb.detach(), render.alpha.detach(), render.depth.detach(), normal, semantic)
