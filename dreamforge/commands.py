"""What each command of the command line does: options in, an ``Outcome`` out."""

import argparse
import inspect
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dreamforge import config, data, finish, runs
from dreamforge.overrides import parse
from dreamforge.runs import Listener, Progress, Run
from dreamforge.slots import SLOTS, typed
from dreamforge.start_file import place
from dreamforge.types import DreamforgeError

if TYPE_CHECKING:
    from dreamforge.bench import Split

BUSY = 0.5  # processes: a load above it disturbs a measurement
TOO_BUSY = f"The load was above {BUSY} before it began: other work slowed this down, measure again without."


@dataclass(frozen=True)
class Outcome:
    """``lines`` for people, ``facts`` for ``--json``; ``failed`` decides the exit code."""

    lines: list[str]
    facts: dict[str, Any] | list[dict[str, Any]] = field(default_factory=dict)
    failed: bool = False


def generate(options: argparse.Namespace) -> Outcome:
    given = {"prompt": options.prompt, "seed": options.seed, "device": options.device}
    values = {key: value for key, value in given.items() if value is not None}
    recipe = _within(config.load(options.recipe, options.overrides, values, options.start), options.vram)
    out = Path(options.out) if options.out else runs.default_folder(recipe)
    with watched() as listener:
        return _done(lambda: runs.generate(recipe, out, overwrite=options.overwrite, listener=listener))


def resume(options: argparse.Namespace) -> Outcome:
    with watched() as listener:
        return _done(lambda: runs.resume(options.path, listener))


def convert(options: argparse.Namespace) -> Outcome:
    from dreamforge.conversion import convert

    given = {"overwrite": options.overwrite, "overrides": options.overrides}
    with watched() as listener:
        return _done(lambda: convert(options.path, options.to, options.out, listener=listener, **given))


def export(options: argparse.Namespace) -> Outcome:
    from dreamforge.export.write import writer_of

    writer_of(options.format)  # a wrong name is refused before the work
    run = runs.load(options.path)
    path = run.path / f"asset.{options.format}"
    finish.write_asset(run.mesh(), path, run.recipe, options.format)
    return _made(path)


def render(options: argparse.Namespace) -> Outcome:
    run = runs.load(options.path)
    path = run.path / "turntable.webp"
    finish.write_turntable(run.mesh(), path)
    return _made(path)


def evaluate(options: argparse.Namespace) -> Outcome:
    from dreamforge.evaluation.judge import judge_asset

    judged = []
    for path in options.paths:
        run = runs.load(path)
        given = place(run.recipe)
        verdict = judge_asset(run.asset, run.recipe.prompt, stand=None if given is None else given.mesh_inside)
        judged.append({"run": str(run.path), "prompt": run.recipe.prompt, **verdict})
    lines = [", ".join(f"{key} {value}" for key, value in one.items()) for one in judged]
    return Outcome(lines, {"status": "done", "runs": judged})


def compare(options: argparse.Namespace) -> Outcome:
    from dreamforge import compare

    rows = compare.compare(Path(options.first), Path(options.second), Path(options.out), tell)
    return Outcome([*compare.lines(rows), options.out], {"status": "done", "path": options.out, "rows": rows})


def reproduce(options: argparse.Namespace) -> Outcome:
    from dreamforge.reproduce import suite

    out = Path(options.out or f"runs/{options.suite}{'-quick' if options.quick else ''}")
    given = {"quick": options.quick, "device": options.device, "say": tell}
    if options.estimate:
        seconds = suite.forecasts(out, options.prior, **given)
        return Outcome([f"about {seconds / 60:.0f} minutes"], {"status": "done", "seconds": round(seconds)})
    content = suite.reproduce(out, options.prior, **given)
    claims = {one["prior"]: one["claims"] for one in content["priors"]}
    report = str(out / "report.html")
    lines = [
        f"{prior}: {claim['verdict']}: {claim['sentence']} (n {claim['n']})"
        for prior, rows in claims.items()
        for claim in rows
    ]
    return Outcome([*lines, report], {"status": "done", "path": report, "claims": claims})


def list_choices(options: argparse.Namespace) -> Outcome:
    if options.what == "recipes":
        found = {name: _headline(path.read_text("utf-8")) for name, path in config.available().items()}
    else:
        slot = SLOTS[{"guidance": "guidance", "priors": "prior", "scenes": "scene"}[options.what]]
        found = {use: (inspect.getdoc(cls) or "").split("\n")[0] for use, cls in slot.choices().items()}
    width = max((len(name) for name in found), default=0)
    return Outcome([f"{name:{width}}  {text}" for name, text in found.items()], {"status": "done", options.what: found})


def prior_train(options: argparse.Namespace) -> Outcome:
    from dreamforge.priors import latent_training, training

    if options.model == "latent":
        latent: latent_training.LatentTraining = typed(
            latent_training.LatentTraining, parse(options.overrides), "training"
        )
        latent_training.train(Path(options.out), latent, tell, options.device)
    else:
        pixels: training.Training = typed(training.Training, parse(options.overrides), "training")
        training.train(Path(options.out), pixels, tell, options.device)
    return _made(Path(options.out))


def prior_sample(options: argparse.Namespace) -> Outcome:
    from dreamforge.priors.sampling import sample_sheet

    path = Path(options.out)
    if not options.prompt.strip():
        raise DreamforgeError("The prompt is empty: write what to draw, for example 'a blue car'.")
    if not 1 <= options.n <= 256:
        raise DreamforgeError(f"--n was given {options.n}, but expects a number of pictures from 1 to 256.")
    for warning in sample_sheet(_prior_folder(options), options.prompt, options.n, options.seed, path):
        tell(f"warning: {warning}")
    return _made(path)


def prior_info(options: argparse.Namespace) -> Outcome:
    folder = _prior_folder(options)
    card = folder / "README.md"
    if not card.is_file():
        raise DreamforgeError(f"The prior {folder} has no card (README.md): give a folder that 'prior train' wrote.")
    return Outcome([card.read_text("utf-8").rstrip(), str(folder)], {"status": "done", "folder": str(folder)})


def toybox_show(options: argparse.Namespace) -> Outcome:
    from dreamforge.toybox.show import show

    path = Path(options.out)
    show(path)
    return _made(path)


def bench(options: argparse.Namespace) -> Outcome:
    if options.growth:
        return _bench_growth(options)
    if options.prior:
        return _bench_prior(options)
    from dreamforge.bench_kernels import rows
    from dreamforge.stopwatch import load

    if options.overrides:
        raise DreamforgeError(f"{options.overrides[0]} was given, but only bench --prior has a recipe: add --prior.")
    busy, found = load(), []
    lines = [f"{torch.get_num_threads()} threads, load before {busy}"]
    if busy is not None and busy > BUSY:
        lines.append(TOO_BUSY)
    for row in rows(options.only):
        found.append(asdict(row))
        peers = "".join(f", {name} {ms:g} ms" for name, ms in row.peers_ms.items())
        reference = "" if row.reference_ms is None else f", torch reference {row.reference_ms:g} ms"
        lines.append(f"{row.name} ({row.size}): ours {row.ours_ms:g} ms{reference}{peers}")
    return Outcome(lines, found)


def _bench_growth(options: argparse.Namespace) -> Outcome:
    from tqdm import tqdm

    from dreamforge.bench_growth import facts, made, measure, row, save
    from dreamforge.devices import pick
    from dreamforge.stopwatch import load

    if options.prior or options.only or options.overrides:
        raise DreamforgeError("--growth was given with --prior, --only or a key=value, but stands alone: choose one.")
    folder, busy = made(Path(options.growth)), load()
    device = pick(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    points = list(tqdm(measure(device), unit="point"))
    found = facts(points, device, busy)
    lines = [f"{found['threads']} threads of {found['device']}, load before {busy}", *map(row, points)]
    return Outcome([*lines, *map(str, save(found, folder))], found)


def _bench_prior(options: argparse.Namespace) -> Outcome:
    from dreamforge.bench import split
    from dreamforge.devices import pick
    from dreamforge.manifest import describe
    from dreamforge.stopwatch import load

    busy = load()
    values = {} if options.device is None else {"device": options.device}
    recipe = _within(config.load(options.recipe, options.overrides, values), options.vram)
    facts: dict[str, Any] = {
        "status": "done",
        "recipe": recipe.name,
        "device": describe(pick(recipe.device)),
        "threads": torch.get_num_threads(),
        "load": busy,
    }
    with watched() as listener:
        splits = split(recipe, options.steps, options.warmup, listener)
    lines = [f"recipe {recipe.name} on {facts['device']}, {facts['threads']} threads, load before {busy}"]
    if busy is not None and busy > BUSY:
        lines.append(TOO_BUSY)
    for number, one in enumerate(splits):
        lines += _table(one, recipe, f"stage {number}: " if len(splits) > 1 else "")
    return Outcome(lines, facts | {"prior": [asdict(one) for one in splits]})


def _table(one: "Split", recipe: config.Recipe, title: str) -> list[str]:
    """The rows of a stage."""
    rows = [f"{part:<10}{ms:>10.2f} ms{ms / one.total:>8.1%}" for part, ms in one.ms.items()]
    asked = f"{one.asked:.3g} evaluations of the network a picture and step"
    learnt = f", {one.learnt:.3g} more that an estimator learns from" if one.learnt else ""
    aside = [f"{one.checkpoint:.1f} ms a checkpoint, every {recipe.checkpoint_every} steps"]
    if recipe.preview_every:
        aside.append(f"{one.preview:.1f} ms a preview, every {recipe.preview_every} steps")
    return [
        f"{title}median of {one.steps} steps",
        *rows,
        f"{'step':<10}{one.total:>10.2f} ms",
        asked + learnt,
        f"rest has its share of {' and of '.join(aside)}",
    ]


def doctor(options: argparse.Namespace) -> Outcome:
    from dreamforge.devices import pick
    from dreamforge.doctor import examine, examine_recipe

    given = [f"--{name} {value}" for name in ("device", "vram") if (value := getattr(options, name)) is not None]
    if options.recipe:
        recipe = _within(config.load(options.recipe, options.overrides), options.vram)
        findings = examine_recipe(recipe, pick(options.device or recipe.device))
    elif given := [*given, *options.overrides]:
        raise DreamforgeError(
            f"{' '.join(given)} was given without a recipe, but is about one: add --recipe NAME, or leave it out."
        )
    else:
        findings = examine()
    lines = [f"{finding.name:<12} {finding.text}" for finding in findings]
    wrong = [finding for finding in findings if finding.wrong]
    lines.append(f"{len(wrong)} problem{'s' * (len(wrong) != 1)} found" if wrong else "all is well")
    facts = {"status": "failed" if wrong else "done", "findings": [asdict(finding) for finding in findings]}
    return Outcome(lines, facts, failed=bool(wrong))


@contextmanager
def watched() -> Iterator[Listener]:
    """A listener that draws the progress bar; the first Ctrl-C ends the run after the step, the second at once.

    SIGTERM, which schedulers send, is as the first Ctrl-C however often it comes: only the step is waited for.
    """
    from tqdm import tqdm

    bars: list[Any] = []
    asked: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell("stopping after this step; press Ctrl-C again to stop at once")

    def step(progress: Progress) -> None:
        if not bars:
            every = 0.2 if sys.stderr.isatty() else 10.0
            bars.append(tqdm(total=progress.steps, initial=progress.done - 1, unit="step", mininterval=every))
        bars[0].set_postfix({name: f"{value:.3g}" for name, value in progress.metrics.items()}, refresh=False)
        bars[0].update()

    def say(text: str) -> None:
        for number in before:
            signal.signal(number, signal.default_int_handler)  # the steps are safe on disk: no need to wait for one
        for bar in bars:
            bar.close()
        tell(text)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield Listener(step, say, lambda text: tell(f"warning: {text}"), lambda: bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for bar in bars:
            bar.close()


def _within(recipe: config.Recipe, vram: int | None) -> config.Recipe:
    """The recipe with every pretrained prior kept to ``vram`` GB."""
    if vram is None:
        return recipe
    from dreamforge.priors.memory import limited

    stages = [
        replace(stage, terms=tuple(replace(term, prior=limited(term.prior, vram)) for term in stage.terms))
        for stage in recipe.stages
    ]
    return replace(recipe, stages=tuple(stages))


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _done(work: Callable[[], Run]) -> Outcome:
    began = time.perf_counter()
    run = work()
    took = round(time.perf_counter() - began, 2)
    facts = {"status": "done", "run": str(run.path), **(run.result or {}), "asset": str(run.asset), "seconds": took}
    return Outcome([str(run.asset)], facts)


def _made(path: Path) -> Outcome:
    return Outcome([str(path)], {"status": "done", "path": str(path)})


def _prior_folder(options: argparse.Namespace) -> Path:
    from dreamforge.priors.known import EMBEDDED

    own = EMBEDDED.get(options.folder) if options.folder else "prior"
    return data.asset(own) if own else Path(options.folder)


def _headline(text: str) -> str:
    """The first comment of a recipe."""
    first = text.split("\n", 1)[0]
    return first.lstrip("# ") if first.startswith("#") else ""
