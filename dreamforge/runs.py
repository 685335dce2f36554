"""A run is a folder that explains itself, and goes on after a kill at any moment to the same bytes.

    recipe.yaml     the resolved recipe, prompt and seed included: ``generate --recipe`` of it repeats the run
    manifest.json   where it ran: versions, device, threads, hash of the prior's files, git state
    metrics.jsonl   one line per step
    previews/       pictures on the way
    checkpoints/    the last two states
    asset.glb       the result (asset.png of a scene without a surface), with turntable.webp and report.html
    start-*         the mesh (.glb), points or Gaussians (.ply) that it starts from, where it starts from a file
    result.json     written last: the run is done

Nothing but the last checkpoint is needed to go on: randomness is a function of (seed, step), ``metrics.jsonl`` is cut
back to that step, everything after it is made again.
"""

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamforge import checkpoints, config, devices, run_folder
from dreamforge.assembly import Priors, Workshop, build_scene, build_stage
from dreamforge.checkpoints import Checkpoint, unnest
from dreamforge.config import Recipe
from dreamforge.engine import StepInfo, fit, steps_behind
from dreamforge.files import atomic_write
from dreamforge.finish import finish, finished_mesh
from dreamforge.forecast import check_memory
from dreamforge.manifest import manifest, thread_warning
from dreamforge.pictures import png, preview
from dreamforge.rng import derive
from dreamforge.schedule import curve
from dreamforge.start_file import StartFile, files, kept_by, start_file
from dreamforge.types import Cameras, DreamforgeError, Mesh, RenderOutput, Scene


class Interrupted(Exception):
    """A run was asked to stop and has written a checkpoint."""


@dataclass(frozen=True)
class Progress:
    """What a listener hears after every step, counted over all stages."""

    done: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Listener:
    """Who watches a run: ``step`` after every step, ``say`` for what is happening, ``warn``, ``stop`` to end early."""

    step: Callable[[Progress], None] = lambda progress: None
    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Run:
    """A run folder. Make it with ``generate`` or ``load``."""

    path: Path
    recipe: Recipe

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``result.json`` says, or None while the run is not done."""
        path = self.path / "result.json"
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return content if (self.path / content["asset"]).is_file() else None

    @property
    def asset(self) -> Path:
        """The file that the run made. Raises DreamforgeError while it is not done."""
        if self.result is None:
            raise DreamforgeError(f"The run {self.path} is not done: finish it with 'dreamforge resume {self.path}'.")
        return self.path / str(self.result["asset"])

    def metrics(self) -> list[dict[str, float]]:
        """One dictionary per step."""
        return run_folder.logged(self.path)

    def scene(self, device: str = "auto") -> Scene:
        """The scene as the last checkpoint holds it."""
        checkpoint = checkpoints.latest(self.path / "checkpoints")
        if checkpoint is None:
            raise DreamforgeError(
                f"The run {self.path} has no checkpoint yet: 'dreamforge resume {self.path}' goes on."
            )
        return _scene_of(self.recipe, checkpoint, devices.pick(device))

    def mesh(self) -> Mesh:
        """The mesh as it is exported: surface, floaters removed, decimated. Raises NoMesh for a flat scene.

        It is in the unit volume; the asset of a run that started from a file stands where the file's own stood.
        """
        return finished_mesh(self.scene(self.recipe.device), self.recipe)

    @torch.no_grad()
    def render(self, cameras: Cameras) -> RenderOutput:
        """The scene, not the mesh, through ``cameras`` over its own background."""
        return self.scene(self.recipe.device).render(cameras.to(devices.pick(self.recipe.device)), None, seed=0)


def load(path: str | Path) -> Run:
    """The run in a folder. Raises DreamforgeError where there is none."""
    path = Path(path)
    if not (path / "recipe.yaml").is_file():
        raise DreamforgeError(f"'{path}' is not a run (it has no recipe.yaml): give the folder that 'generate' made.")
    return Run(path, config.load(path / "recipe.yaml"))


def generate(recipe: Recipe, out: str | Path, *, overwrite: bool = False, listener: Listener | None = None) -> Run:
    """Run ``recipe`` into the folder ``out``, or go on with the same run there.

    Nothing is written before everything that can be checked has been. Raises DreamforgeError for wrong input,
    Interrupted when ``listener.stop`` said so.
    """
    listener, out = listener or Listener(), Path(out)
    prompts = [term.prompt for stage in recipe.stages for term in stage.terms]
    if not all(prompt.strip() for prompt in prompts):
        raise DreamforgeError("The prompt is empty: write what to make, for example 'a red mushroom'.")
    given = start_file(recipe)
    text = config.dump(kept_by(recipe, given))
    run = Run(out, kept_by(recipe, given, out))
    known = not overwrite and run_folder.holds(run.path, text)
    if known and run.result is not None:
        return run
    if not known:
        run_folder.check_free(run.path, overwrite)
    priors = Priors(devices.pick(recipe.device))
    check_memory(recipe, priors.device)
    first, checkpoint = None, None
    if not known:
        first = _started(run, priors, given, None)  # what is wrong shows itself before the folder is made
    with run_folder.claimed(run.path):
        if known:
            run_folder.keep(run.path, files(given))
            checkpoint = checkpoints.latest(run.path / "checkpoints")
            first = _started(run, priors, given, checkpoint)
        else:
            run_folder.check_free(run.path, overwrite)
            run_folder.begin(run.path, text, manifest(priors.device, priors.folders()), files(given))
        said = [] if given is None else given.warnings
        for warning in [*said, *priors.warnings(recipe), *thread_warning(run.path)]:
            listener.warn(warning)
        try:
            _carry_on(run, priors, first, checkpoint, listener)
        except DreamforgeError:  # wrong input that only the first step could see
            run_folder.take_back(run.path)
            raise
    return run


def default_folder(recipe: Recipe) -> Path:
    """``runs/a-red-mushroom-0``."""
    words = re.findall(r"\w+", recipe.prompt.lower())[:8]
    return Path("runs") / "-".join([*words, str(recipe.seed)])


def resume(path: str | Path, listener: Listener | None = None) -> Run:
    """Go on with the run in a folder, from its last checkpoint."""
    run = load(path)
    return generate(run.recipe, run.path, listener=listener)


def _started(run: Run, priors: Priors, given: StartFile | None, checkpoint: Checkpoint | None) -> Workshop | None:
    """The stage to go on with, its state restored; None when every step is done and only the export is missing."""
    stages, device = run.recipe.stages, priors.device
    if checkpoint is None:
        return build_stage(run.recipe, 0, priors, start=None if given is None else given.start)
    if checkpoint.step < stages[checkpoint.stage].steps:
        workshop = build_stage(run.recipe, checkpoint.stage, priors)
        _restore(workshop.load_state, checkpoint, run)
        return workshop
    if checkpoint.stage + 1 < len(stages):
        before = _scene_of(run.recipe, checkpoint, device)
        return build_stage(run.recipe, checkpoint.stage + 1, priors, before)
    return None


def _carry_on(
    run: Run, priors: Priors, workshop: Workshop | None, checkpoint: Checkpoint | None, listener: Listener
) -> None:
    """The steps that are left, then the export."""
    stages = run.recipe.stages
    done = 0 if checkpoint is None else checkpoint.done
    run_folder.cut_back(run.path, done)
    checkpoints.tidy(run.path / "checkpoints")
    if workshop is None:
        assert checkpoint is not None
        finish(run.path, run.recipe, _scene_of(run.recipe, checkpoint, priors.device), priors.device, listener.say)
        return
    first, step = (0, 0) if checkpoint is None else (checkpoint.stage, checkpoint.step)
    if step == stages[first].steps:
        first, step = first + 1, 0
    for number in range(first, len(stages)):
        if number > first:
            workshop, step = build_stage(run.recipe, number, priors, workshop.scene), 0
        _run_stage(run, number, step, workshop, priors.device, listener)
    finish(run.path, run.recipe, workshop.scene, priors.device, listener.say)


def _run_stage(run: Run, number: int, start: int, workshop: Workshop, device: torch.device, listener: Listener) -> None:
    """One stage from step ``start``: log, previews, checkpoints; a last checkpoint at its end."""
    recipe, stage = run.recipe, run.recipe.stages[number]
    before = sum(earlier.steps for earlier in recipe.stages[:number])
    resolution = stage.terms[0].resolution
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as log:
        unread: deque[StepInfo] = deque()
        behind = steps_behind(device)

        def read(left: int) -> list[Progress]:
            """Log what was measured, but for the newest ``left`` steps."""
            told = []
            while len(unread) > left:
                info = unread.popleft()
                done = before + info.step + 1
                line = {"step": done, "stage": number, **info.metrics, "seconds": round(info.seconds, 4)}
                log.write(json.dumps(line) + "\n")
                told.append(Progress(done, recipe.steps, info.metrics))
            log.flush()
            return told

        def on_step(info: StepInfo) -> None:
            step, done = info.step + 1, before + info.step + 1
            unread.append(info)
            stop, last = listener.stop(), step == stage.steps
            checkpoint = stop or last or done % recipe.checkpoint_every == 0
            told = read(0 if checkpoint else behind)  # what is not finite is said before it is saved
            if recipe.preview_every and (done % recipe.preview_every == 0 or last):
                picture = preview(workshop.scene, resolution, device)
                atomic_write(run.path / "previews" / f"step_{done:06d}.png", png(picture))
            if checkpoint:
                checkpoints.save(run.path / "checkpoints", Checkpoint(number, step, done, workshop.state()))
            for progress in told:
                listener.step(progress)
            if stop:
                where = f"interrupted after step {done} of {recipe.steps}"
                raise Interrupted(f"{where}; 'dreamforge resume {run.path}' goes on from there")

        fit(
            workshop.scene,
            workshop.terms,
            workshop.optimiser,
            stage.steps,
            derive(recipe.seed, "stage", number),
            device=device,
            start_step=start,
            lr_scale=lambda progress: curve(stage.optimiser.lr_scale, progress),
            on_step=on_step,
        )
    if stage.steps == 0:  # converted, and nothing else
        checkpoints.save(run.path / "checkpoints", Checkpoint(number, 0, before, workshop.state()))


def _scene_of(recipe: Recipe, checkpoint: Checkpoint, device: torch.device) -> Scene:
    scene = build_scene(recipe, checkpoint.stage, device)
    scene.load_state({name: value.to(device) for name, value in unnest("scene", checkpoint.state).items()})
    return scene


def _restore(load_state: Callable[[dict[str, torch.Tensor]], None], checkpoint: Checkpoint, run: Run) -> None:
    try:
        load_state(checkpoint.state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise DreamforgeError(
            f"The checkpoint after step {checkpoint.done} in {run.path} does not fit its recipe.yaml ({error}): "
            "it was changed since; start again with --overwrite."
        ) from error
