"""``dreamforge convert``: a run that goes on from the end of another as a scene of another kind."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamforge import checkpoints, config, devices, run_folder, runs
from dreamforge.config import Stage
from dreamforge.manifest import manifest
from dreamforge.overrides import parse
from dreamforge.runs import Listener, Run
from dreamforge.slots import make
from dreamforge.start_file import files, kept_by, start_file
from dreamforge.types import DreamforgeError

# sizes for an asset of the default recipe; a recipe's stages state their own
TARGETS: dict[str, dict[str, Any]] = {
    "mesh": {"use": "mesh.SdfMesh", "resolution": 80, "levels": 8, "finest": 256},
    # not widened by a part of a pixel, so that they look alike at any size of the picture
    "gaussians": {
        "use": "gaussians.Gaussians",
        "count": 20_000,
        "capacity": 20_000,
        "strategy": "none",
        "antialiased": True,
    },
    "hash_nerf": {"use": "hash_nerf.HashNerf", "levels": 8, "finest": 128, "samples": 128, "density_scale": 10.0},
}


def convert(
    path: str | Path,
    to: str,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Run:
    """The finished run ``path`` with one more stage, which turns its scene into a mesh, gaussians or hash_nerf.

    It becomes a run of its own in ``out`` (default: ``path`` with the kind behind it). ``overrides`` are ``key=value``
    texts for the new scene. Raises DreamforgeError for a run that is not done and for what cannot be converted.
    """
    run = runs.load(path)
    kept = checkpoints.latest(run.path / "checkpoints")
    if kept is None or kept.done < run.recipe.steps:
        raise DreamforgeError(f"The run {run.path} is not done: finish it with 'dreamforge resume {run.path}'.")
    if to not in TARGETS:
        raise DreamforgeError(f"--to {to} was given, but {', '.join(TARGETS)} are expected: choose one.")
    scene = make("scene", {**TARGETS[to], **parse(overrides)})
    stage = Stage(steps=0, origin="previous", scene=scene, terms=run.recipe.stages[-1].terms)
    recipe = replace(run.recipe, stages=(*run.recipe.stages, stage))
    target = Path(out) if out else run.path.with_name(f"{run.path.name}-{to}")
    given = start_file(recipe)
    text = config.dump(kept_by(recipe, given))
    if overwrite or not run_folder.holds(target, text):
        run_folder.check_free(target, overwrite)
        with run_folder.claimed(target):
            run_folder.begin(target, text, manifest(devices.pick(recipe.device), []), files(given))
            shutil.copy(run.path / "metrics.jsonl", target)
            checkpoints.save(target / "checkpoints", kept)
    return runs.generate(recipe, target, listener=listener)
