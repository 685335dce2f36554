"""``dreamforge bench --prior``: a short run of the recipe, through ``runs``, under a stopwatch.

Its parts are those of ``stopwatch``; the rest has previews and checkpoints too.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from dreamforge import devices, runs
from dreamforge.config import Recipe, Stage
from dreamforge.runs import Interrupted, Listener, Progress
from dreamforge.stopwatch import (
    PARTS,
    REST,
    Clock,
    Step,
    Stopwatch,
    backward_and_optimisers,
    followed_by,
    watch_learned,
    watch_prior,
    watch_scene,
)
from dreamforge.types import DreamforgeError

CHECKPOINT_EVERY, PREVIEW_EVERY = 4, 5  # steps of the short run: often apart, so that each can be timed alone
LEAST = 2 * PREVIEW_EVERY + 1  # steps after the warm-up: without the last one there is a preview, a checkpoint alone
PROMPT = "a red mushroom"  # of a recipe without one


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
    watch = Stopwatch(devices.pick(recipe.device), clock)
    short = replace(
        recipe,
        stages=tuple(_watched_stage(replace(stage, steps=steps), watch) for stage in recipe.stages),
        preview_every=PREVIEW_EVERY if recipe.preview_every else 0,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    made = _steps(short, watch, listener or Listener())
    stages = [made[first : first + steps] for first in range(0, len(made), steps)]
    return [_split(stage, recipe, warmup, number * steps) for number, stage in enumerate(stages)]


def _steps(recipe: Recipe, watch: Stopwatch, listener: Listener) -> list[Step]:
    """Run the recipe into a folder that is thrown away, without its export."""
    made: list[Step] = []

    def stop() -> bool:  # asked when a step is done and logged: after it come preview and checkpoint
        made.append(watch.take())
        return listener.stop() or len(made) == recipe.steps

    def step(progress: Progress) -> None:
        made[-1].after = watch.take().seconds
        listener.step(progress)  # a progress bar is the next step's rest

    with tempfile.TemporaryDirectory() as folder, backward_and_optimisers(watch):
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


def _watched_stage(stage: Stage, watch: Stopwatch) -> Stage:
    """The stage with specs of its own, whose ``build`` makes watched objects."""
    scene, terms = replace(stage.scene), []
    followed_by(scene, "build", lambda built: watch_scene(built, watch))
    for term in stage.terms:
        prior, guidance = replace(term.prior), replace(term.guidance)
        followed_by(prior, "build", lambda built: watch_prior(built, watch))
        if hasattr(guidance, "build"):
            followed_by(guidance, "build", lambda built: watch_learned(built, watch))
        terms.append(replace(term, prior=prior, guidance=guidance, prompt=term.prompt.strip() or PROMPT))
    return replace(stage, scene=scene, terms=tuple(terms))
