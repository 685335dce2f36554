"""Every scene with every guidance on both embedded priors: two steps, and the second once more from a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamforge import checkpoints, config
from dreamforge.assembly import Priors, Workshop, build_stage
from dreamforge.checkpoints import Checkpoint
from dreamforge.config import Recipe
from dreamforge.engine import fit
from dreamforge.slots import SLOTS

SCENES: dict[str, dict[str, Any]] = {
    "canvas.Canvas": {"size": 16},
    "hash_nerf.HashNerf": {
        "levels": 3,
        "log2_entries": 9,
        "finest": 16,
        "samples": 24,
        "occupancy_cells": 12,
        "occupancy_every": 1,
    },
    "gaussians.Gaussians": {"count": 40, "capacity": 60, "refine_from": 1, "refine_every": 1},
    "mesh.SdfMesh": {"resolution": 8, "levels": 3, "log2_entries": 9, "finest": 16},
    "textured.Textured": {"size": 64},
    "ensemble.Ensemble": {"particles": 2, "of": {"use": "gaussians.Gaussians", "count": 40, "capacity": 40}},
}
GUIDANCE = sorted(SLOTS["guidance"].choices())
PRIORS = ["toybox", "toybox-latent"]


@pytest.fixture(scope="module")
def priors() -> Priors:
    """Both are loaded once."""
    return Priors(torch.device("cpu"))


def recipe(scene: str, guidance: str, prior: str) -> Recipe:
    values = {
        "prompt": "a red mushroom",
        "scene": {"use": scene, **SCENES[scene]},
        "guidance": {"use": guidance},
        "losses": {"sparsity": 0.1},
        "views": 2,
        "resolution": 16,
        "steps": 2,
    }
    loaded = config.load("toybox-latent" if prior == "toybox-latent" else "default", values=values)
    return replace(loaded, name="matrix")


def run(work: Workshop, steps: range) -> dict[str, torch.Tensor]:
    fit(work.scene, work.terms, work.optimiser, steps.stop, seed=5, start_step=steps.start)
    return {name: tensor.clone() for name, tensor in work.state().items()}


def test_every_scene_is_here() -> None:
    assert set(SCENES) == set(SLOTS["scene"].choices())


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("scene", list(SCENES))
def test_two_steps_and_a_checkpoint_between(
    scene: str, guidance: str, prior: str, priors: Priors, tmp_path: Path
) -> None:
    made = recipe(scene, guidance, prior)
    start = {name: tensor.clone() for name, tensor in build_stage(made, 0, priors).state().items()}
    whole = run(build_stage(made, 0, priors), range(0, 2))
    first = run(build_stage(made, 0, priors), range(0, 1))
    checkpoints.save(tmp_path / "checkpoints", Checkpoint(0, 1, 1, first))
    kept = checkpoints.latest(tmp_path / "checkpoints")
    assert kept is not None
    again = build_stage(made, 0, priors)
    again.load_state(kept.state)
    resumed = run(again, range(1, 2))
    assert set(resumed) == set(whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    moved = [name for name in start if name.startswith("scene") and not torch.equal(start[name], whole[name])]
    assert moved and all(tensor.isfinite().all() for tensor in whole.values() if tensor.is_floating_point())
