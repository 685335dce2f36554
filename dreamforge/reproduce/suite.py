"""``dreamforge reproduce canvas-claims``: claims about guidances, measured on flat pictures, whatever comes out.

    OUT/report.html, claims.json     all priors that are done, every row
    OUT/<prior>/rows.jsonl           a line for every row, as it is made: the same command goes on from there
    OUT/<prior>/<method>.png         all its pictures, none left out
    OUT/<prior>/result.json          written last: this prior is done

Each prior has a folder and a lock of its own, so two processes can work on two priors.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dreamforge import devices
from dreamforge.evaluation.sheet import cut, sheet
from dreamforge.files import atomic_write, remove_partial
from dreamforge.manifest import manifest
from dreamforge.reproduce import claims, estimate, methods, plan
from dreamforge.reproduce.lab import SEED, SEEDS, SIZE, Job, Lab, Row
from dreamforge.reproduce.methods import PRIORS, TRIED, NamedPrior
from dreamforge.reproduce.page import page, sheet_name
from dreamforge.reproduce.plan import FULL, QUICK, Scale
from dreamforge.reproduce.rows import Rows
from dreamforge.run_folder import claimed
from dreamforge.runs import Interrupted
from dreamforge.types import DreamforgeError

COLUMNS = 4  # prompts side by side on a sheet
TOLD_EVERY = 30.0  # seconds between two lines of progress
COMMAND = "dreamforge reproduce canvas-claims"
Say = Callable[[str], None]


def reproduce(
    out: Path, names: Sequence[str], *, quick: bool = False, device: str = "auto", say: Say
) -> dict[str, Any]:
    """Measure what is missing for the named priors (none named: all that are there) and write the report.

    Returns the content of ``claims.json``. Raises DreamforgeError for a prior that is not there, Interrupted when
    stopped from the keyboard.
    """
    scale = QUICK if quick else FULL
    for named, spec in present(names, say):
        folder = out / named.name
        with claimed(folder):
            remove_partial(folder)
            lab = Lab.open(spec, plan.judging_prompts(scale), scale.truths, devices.pick(device))
            forecast(lab, named, scale, Rows(folder / "rows.jsonl"), say)
            try:
                result = _measured(lab, named, scale, folder, say)
            except KeyboardInterrupt:
                raise Interrupted("interrupted; the same command goes on from here") from None
            command = f"{COMMAND} --prior {named.name}" + (" --quick" if quick else "")
            result = {"prior": named.name, "title": named.title, "command": command, "quick": quick, **result}
            atomic_write(folder / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    return publish(out)


def forecasts(out: Path, names: Sequence[str], *, quick: bool = False, device: str = "auto", say: Say) -> float:
    """Say how long it would take and what that rests on; nothing is written. Returns seconds."""
    scale, total = QUICK if quick else FULL, 0.0
    for named, spec in present(names, say):
        lab = Lab.open(spec, plan.judging_prompts(scale), scale.truths, devices.pick(device))
        total += forecast(lab, named, scale, Rows(out / named.name / "rows.jsonl"), say)
    say(f"all together: about {total / 60:.0f} minutes")
    return total


def present(names: Sequence[str], say: Say) -> list[tuple[NamedPrior, dict[str, Any]]]:
    """The priors to measure, with their slots. Raises DreamforgeError for one that was asked for and is not there."""
    unknown = [name for name in names if name not in [prior.name for prior in PRIORS]]
    if unknown:
        known = ", ".join(prior.name for prior in PRIORS)
        raise DreamforgeError(f"There is no prior '{unknown[0]}' in this suite: choose of {known}.")
    found = []
    for named in PRIORS:
        if names and named.name not in names:
            continue
        try:
            found.append((named, methods.spec(named)))
        except DreamforgeError as error:
            if names:
                raise
            say(f"warning: {error}")
    return found


def forecast(lab: Lab, named: NamedPrior, scale: Scale, rows: Rows, say: Say) -> float:
    """Seconds that are left for a prior, measured now, and said with what they rest on."""
    tuning = plan.tuning(scale, named)
    tuned = [rows.rows[job.key] for job in tuning if job.key in rows.rows]
    # Until tuning is done nobody knows what it chooses; the first settings cost about as much.
    chosen = plan.choose(tuned)[0] if len(tuned) == len(tuning) else dict.fromkeys(TRIED, 0)
    jobs = [*tuning, *plan.judging(scale, named, chosen), *plan.variance(scale)]
    missing = estimate.remaining(jobs, rows.rows)
    if not missing:
        say(f"{named.name}: every row is there")
        return 0.0
    prompt = plan.tuning_prompts(scale)[0].prompt
    known = estimate.kinds(lab, prompt)
    truth, judging = estimate.overhead(lab)
    prompts = {job.prompt.prompt for job in missing}
    total = estimate.seconds(missing, known, judging) + len(prompts) * truth
    counts = ", ".join(f"{count} rows of {stage}" for stage, count in estimate.by_stage(missing).items())
    for line in estimate.table(known):
        say(line)
    say(
        f"{named.name}: about {total / 60:.0f} minutes for {counts}. This rests on {estimate.TIMED} timed steps of "
        f"each kind ('{prompt}') under the machine's present load (threads: {torch.get_num_threads()}); "
        "rest is backward passes, the optimiser and the method's own arithmetic."
    )
    return total


def publish(out: Path) -> dict[str, Any]:
    """``claims.json`` and ``report.html`` of every prior in ``out`` that is done."""
    results = [
        json.loads((out / named.name / "result.json").read_text("utf-8"))
        for named in PRIORS
        if (out / named.name / "result.json").is_file()
    ]
    rows = {result["prior"]: list(Rows(out / result["prior"] / "rows.jsonl").rows.values()) for result in results}
    content = {"metrics": claims.METRICS, "priors": results, "rows": rows}
    atomic_write(out / "report.html", page(out, results).encode())
    atomic_write(out / "claims.json", (json.dumps(content, indent=1) + "\n").encode())
    return content


def _measured(lab: Lab, named: NamedPrior, scale: Scale, folder: Path, say: Say) -> dict[str, Any]:
    """Tuning, judging, variance; what was made before is taken as it is."""
    rows, began = Rows(folder / "rows.jsonl"), time.perf_counter()
    tuned = [_row(lab, job, rows, folder) for job in _told(plan.tuning(scale, named), say, began)]
    chosen, tried = plan.choose(tuned)
    judged = [_row(lab, job, rows, folder) for job in _told(plan.judging(scale, named, chosen), say, began)]
    varied = [_row(lab, job, rows, folder) for job in _told(plan.variance(scale), say, began)]
    found = claims.measured([*judged, *varied])
    facts = json.loads(manifest(lab.device, []))
    return {
        "scale": asdict(scale),
        "seed": SEED,
        "suites": [plan.JUDGING, plan.TUNING],
        "made with": {**facts, **lab.fingerprint},
        "common": methods.COMMON,
        "methods": [{**asdict(m), "tuned": TRIED[m.family][chosen[m.family]]} for m in methods.METHODS],
        "own": named.own,
        "tuning": tried,
        "claims": [claims.decide(claim, found) for claim in claims.CLAIMS],
        "summary": claims.summary(found),
        "failed": [row["key"] for row in [*tuned, *judged] if "error" in row],
    }


def _told(jobs: Sequence[Job], say: Say, began: float) -> Iterator[Job]:
    """The jobs as they are; now and then a line says how far they are."""
    last = began
    for number, job in enumerate(jobs):
        if time.perf_counter() - last > TOLD_EVERY:
            last = time.perf_counter()
            say(f"{job.stage}: {number} of {len(jobs)} rows, {(last - began) / 60:.0f} minutes since the start")
        yield job


def _row(lab: Lab, job: Job, rows: Rows, folder: Path) -> Row:
    picture = folder / sheet_name(job.method)
    row = rows.get(job.key, lab.digest(job))
    if row is not None and (job.stage != "judging" or picture.is_file()):
        return row
    row, pictures = lab.row(job)
    if job.stage == "judging" and pictures is not None:
        # The sheet first: a row says that its pictures are on it.
        atomic_write(picture, _with(picture, lab, job, pictures, row, rows))
    rows.put(row)
    return row


def _with(path: Path, lab: Lab, job: Job, pictures: torch.Tensor, row: Row, rows: Rows) -> bytes:
    """The sheet of a method with these pictures in their place."""
    prompts = [prompt.prompt for prompt in lab.prompts]
    count, width = len(prompts), SEEDS * SIZE
    blank = [torch.ones(SIZE, width, 3) for _ in prompts]
    strips = cut(path.read_bytes(), count, SIZE, width, COLUMNS) if path.is_file() else blank
    strips[prompts.index(job.prompt.prompt)] = torch.cat(list(pictures), 1)
    known = {one["prompt"]: one["metrics"]["right"] for one in rows.rows.values() if _same(one, job)}
    known[job.prompt.prompt] = row["metrics"]["right"]
    lines = [(prompt, _outcome(known.get(prompt))) for prompt in prompts]
    return sheet(strips, lines, [all(known.get(prompt, [0.0])) for prompt in prompts], COLUMNS)


def _same(row: Row, job: Job) -> bool:
    return (row["stage"], row["method"]) == (job.stage, job.method)


def _outcome(right: Sequence[float] | None) -> str:
    return "" if right is None else f"right: {sum(right):.0f} of {len(right)}"
