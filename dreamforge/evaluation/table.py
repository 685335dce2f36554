"""The tables of the README, resumable and for the background: ``python -m dreamforge.evaluation.table``.

    assets [--quick] [--camera-blind] [--recipe NAME] [--suite NAME] [--out DIR] [key=value ...]
    prior [--n 4] [--folder PRIOR] [--out DIR]

``assets`` makes an asset of every prompt with seed 0, once, and judges the exported file; ``prior`` judges samples of
the 2D prior. A command that was stopped goes on when repeated; ``dreamforge compare`` takes two such folders or tables.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge.evaluation import statistics, suites
from dreamforge.evaluation.judge import DISTANCE, FOV, judge_asset, shipped
from dreamforge.evaluation.network import Judge
from dreamforge.evaluation.runner import Stopped, make
from dreamforge.evaluation.samples import right_samples
from dreamforge.evaluation.sheet import sheet
from dreamforge.evaluation.suites import Prompt
from dreamforge.files import atomic_write
from dreamforge.priors.pretrained import trained
from dreamforge.types import DreamforgeError

BLIND = "guidance.use_camera=false"
ROWS, TABLE = "table.jsonl", "table.json"
SAMPLES = 4  # of the prior for every prompt of the assets
THUMBNAIL = 112  # pixels


def assets(options: argparse.Namespace) -> None:
    """Make, judge, and write ``table.jsonl`` row by row; at the end ``table.json`` and ``sheet.png``."""
    judge, prompts = shipped(), suites.load(options.suite)
    prompts = suites.quick(prompts) if options.quick else prompts
    overrides = [*options.overrides, *([BLIND] if options.camera_blind else [])]
    out = options.out or Path("runs") / f"{options.suite}-{options.recipe}{'-blind' if options.camera_blind else ''}"
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows(out)
    for number, prompt in enumerate(prompts, 1):
        _say(f"{number}/{len(prompts)} {prompt.prompt}")
        rows[prompt.prompt] = _row(prompt, options.recipe, out, overrides, judge, rows.get(prompt.prompt))
        atomic_write(out / ROWS, "".join(json.dumps(row) + "\n" for row in rows.values()).encode())
        _say(f"    {_outcome(rows[prompt.prompt])}")
    chosen = [rows[prompt.prompt] for prompt in prompts]
    in_2d = {} if options.no_samples else _in_2d(judge, prompts, options.folder, camera=not options.camera_blind)
    table = {
        "command": f"python -m dreamforge.evaluation.table {' '.join(options.given)}",
        "recipe": options.recipe,
        "overrides": overrides,
        "suite": options.suite,
        "seed": 0,
        "made with": _manifest(out, chosen),
        "figures": {**figures(chosen), **in_2d},
        "rows": chosen,
    }
    if in_2d:
        table["figures"]["efficiency"] = efficiency(table["figures"])
    atomic_write(out / TABLE, (json.dumps(table, indent=1) + "\n").encode())
    atomic_write(out / "sheet.png", _sheet(out, chosen))
    print(out / TABLE)


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of rows: shares with 95 % intervals, seconds and memory. A failed run is a wrong asset."""
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    memory = [row["peak_mb"] for row in rows if row["peak_mb"] is not None]
    average, error = statistics.mean(seconds)
    dressed = [row for row in rows if row["wanted"]["accessory"] is not None]
    found: dict[str, Any] = {"right": statistics.share([row["right"] for row in rows])}
    for group in dict.fromkeys(row["group"] for row in rows):
        found[group] = statistics.share([row["right"] for row in rows if row["group"] == group])
    found |= {
        head: statistics.share([row.get(head) == row["wanted"][head] for row in rows]) for head in ("kind", "color")
    }
    found |= {
        "accessory in its colour": statistics.share([bool(row.get("second_right")) for row in dressed]),
        "one face": statistics.share([row["faces"] == 1 for row in rows if row.get("faces") is not None]),
        "seconds": {
            "of": len(seconds),
            "mean": _number(average),
            "error": _number(error),
            "max": max(seconds, default=None),
        },
        "peak_mb": max(memory, default=None),
    }
    return found


def efficiency(figures: dict[str, Any]) -> float | None:
    """Right in 3D over right in 2D, for the same prompts; None where nothing is right in 2D."""
    flat = figures["right in 2D"]["share"]
    return round(figures["right"]["share"] / flat, 4) if flat else None


def prior(options: argparse.Namespace) -> None:
    """Samples of trained and held-out pairs, camera given (where it can be) and dropped: ``prior.json``, sheets."""
    if not 1 <= options.n <= 64:
        raise DreamforgeError(f"--n was given {options.n}, but expects a number of samples from 1 to 64.")
    judge, model, prompts = shipped(), trained(options.folder).build(), suites.load("prior")
    out = options.out or Path("runs/prior-table")
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"command": f"python -m dreamforge.evaluation.table {' '.join(options.given)}"}
    for name, camera in (("camera given", True), ("camera dropped", False)):
        if camera and not model.knows_cameras:
            continue
        figures = right_samples(judge, model, prompts, count=options.n, camera=camera)
        first = figures.pop("first")
        found[name] = figures
        _say(
            f"{name}: " + ", ".join(f"{group} {figures[group]['share']}" for group in (suites.TRAINED, suites.HELD_OUT))
        )
        lines = [(p.prompt, f"{v.color} {v.kind}") for p, (_, v, _) in zip(prompts, first, strict=True)]
        shown = [picture.repeat_interleave(2, 0).repeat_interleave(2, 1) for picture, _, _ in first]
        content = sheet(shown, lines, [good for _, _, good in first], columns=10)
        atomic_write(out / f"{name.replace(' ', '-')}.png", content)
        atomic_write(out / "prior.json", (json.dumps(found, indent=1) + "\n").encode())
    print(out / "prior.json")


def _row(
    prompt: Prompt, recipe: str, out: Path, overrides: Sequence[str], judge: Judge, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Make or find the asset and judge it. Time and memory of an asset that was made earlier are those of then."""
    name = "-".join(prompt.prompt.split())
    made = make(prompt.prompt, recipe, out / name, out / f"{name}.log", overrides)
    row = {"prompt": prompt.prompt, "group": prompt.group, "run": name, "wanted": asdict(prompt.asked), "right": False}
    row |= {key: made.get(key) for key in ("status", "error", "seconds", "peak_mb", "sha256", "triangles")}
    if made["status"] != "done":
        return row
    if before is not None and before["sha256"] == row["sha256"]:
        row |= {"seconds": before["seconds"], "peak_mb": before["peak_mb"]}
    row["asset"] = Path(made["asset"]).name
    return row | judge_asset(made["asset"], prompt.prompt, judge)


def _in_2d(judge: Judge, prompts: Sequence[Prompt], folder: str, *, camera: bool) -> dict[str, Any]:
    _say("sampling the prior for the same prompts")
    found = right_samples(judge, trained(folder).build(), prompts, count=SAMPLES, camera=camera)
    return {"right in 2D": found["all"], "right in 2D of each prompt": found["prompts"]}


def _sheet(out: Path, rows: Sequence[dict[str, Any]]) -> bytes:
    """All assets, nothing left out: near front and back of each, the prompt, and what the judge says."""
    pictures = [_front_and_back(out / row["run"], row.get("asset")) for row in rows]
    lines = [(row["prompt"], _outcome(row)) for row in rows]
    return sheet(pictures, lines, [row["right"] for row in rows], columns=5)


def _front_and_back(run: Path, asset: str | None) -> Tensor:
    """``[H,2H,3]``; gray where there is no mesh."""
    from dreamforge.cameras import orbit
    from dreamforge.export.read import load_mesh
    from dreamforge.render.raster import render_mesh

    paper = torch.full((3,), 0.93)
    if asset is None or asset.endswith(".png"):
        return paper.expand(THUMBNAIL, 2 * THUMBNAIL, 3)
    azimuth = torch.tensor([25.0, 205.0]).deg2rad()
    cameras = orbit(azimuth, torch.full((2,), math.radians(15.0)), DISTANCE, FOV, THUMBNAIL, THUMBNAIL)
    return torch.cat(list(render_mesh(load_mesh(run / asset), cameras, paper).rgb), 1)


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] != "done":
        return f"failed: {row['error']}"
    dressed = f" with {row['second']} {row['accessory']}" if row["accessory"] else ""
    faces = "" if row["faces"] in (None, 1) else f", {row['faces']} faces"
    return f"{'right' if row['right'] else 'wrong'}: {row['color']} {row['kind']}{dressed}{faces}"


def _rows(out: Path) -> dict[str, dict[str, Any]]:
    """The rows written so far, by prompt."""
    lines = (out / ROWS).read_text("utf-8").splitlines() if (out / ROWS).exists() else []
    return {row["prompt"]: row for row in map(json.loads, lines)}


def _manifest(out: Path, rows: Sequence[dict[str, Any]]) -> Any:
    """What the first run says of versions and machine; the prior by the name of its folder, wherever that lies."""
    path = out / rows[0]["run"] / "manifest.json"
    if not path.exists():
        return None
    facts = json.loads(path.read_text("utf-8"))
    return {**facts, "prior": {Path(folder).name: hashes for folder, hashes in facts["prior"].items()}}


def _number(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dreamforge.evaluation.table", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    made = commands.add_parser("assets", help="make an asset of every prompt of a suite and judge it")
    made.set_defaults(run=assets)
    made.add_argument("--quick", action="store_true", help="ten of the prompts")
    made.add_argument("--camera-blind", action="store_true", help=f"drop the camera: {BLIND}")
    made.add_argument("--no-samples", action="store_true", help="do not sample the prior for the same prompts")
    made.add_argument("--recipe", default="default")
    made.add_argument("--suite", default="assets-40", choices=["assets-40", "tuning-16"])
    made.add_argument("overrides", nargs="*", metavar="key=value")
    flat = commands.add_parser("prior", help="judge samples of the prior")
    flat.set_defaults(run=prior)
    flat.add_argument("--n", type=int, default=SAMPLES, help=f"samples of every pair (default: {SAMPLES})")
    for one in (made, flat):
        one.add_argument(
            "--folder", default="", help="folder of the prior, or toybox-latent (default: the one in pixels)"
        )
        one.add_argument("--out", type=Path, help="folder of the result")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    options.given = given
    try:
        options.run(options)
    except DreamforgeError as error:
        _say(str(error))
        return 2
    except (Stopped, KeyboardInterrupt) as error:
        _say(f"{error or 'interrupted'}; the same command goes on from here".lstrip())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
