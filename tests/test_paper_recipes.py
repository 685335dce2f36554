"""The recipes of papers: each value with its source, and run with tiny weights of the same family."""

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge import config
from dreamforge.assembly import Priors, build_stage
from dreamforge.config import load
from dreamforge.engine import StepInfo, fit
from dreamforge.priors import known
from dreamforge.scenes.hash_nerf import HashNerf
from dreamforge.types import LearnedGuidance

pytestmark = pytest.mark.usefixtures("no_network")
PROMPT = "a red mushroom"
PAPERS = {
    "dreamfusion-sd": "2209.14988",
    "dreamfusion-if": "2209.14988",
    "prolificdreamer": "2305.16213",
    "esd": "2401.00909",
}
PLAIN = ("noise: {use: noise.Gaussian}", "  use: schedule.Uniform")  # as every diffusion model is trained
TINY_SCENE = [
    "resolution=12", "steps=2", "scene.levels=4", "scene.log2_entries=10", "scene.coarsest=4", "scene.finest=32",
    "scene.samples=24", "scene.occupancy_cells=16", "scene.hidden=16", "prior.precision=float32",
]  # fmt: skip


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_paper_recipes_run_with_tiny_weights(name: str, folders: dict[str, Path]) -> None:
    family = "deepfloyd" if name == "dreamfusion-if" else "stable_diffusion"
    made = load(name, [*TINY_SCENE, f"prior.model={folders[family]}"], {"prompt": PROMPT})
    work = build_stage(made, 0, Priors(torch.device("cpu")))
    before = {key: value.clone() for key, value in work.scene.state().items()}
    heard: list[StepInfo] = []
    fit(work.scene, work.terms, work.optimiser, 2, seed=0, on_step=heard.append)
    assert len(heard) == 2 and all(torch.tensor(list(info.metrics.values())).isfinite().all() for info in heard)
    term = work.terms[0]
    learnt = {"learn"} if isinstance(term.guidance, LearnedGuidance) else set()
    assert {"grad", *term.losses, *learnt} <= {*heard[0].metrics, *heard[1].metrics}  # some losses begin later
    assert any(not torch.equal(value, before[key]) for key, value in work.scene.state().items())


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_paper_recipes_name_the_source_of_every_value(name: str) -> None:
    """In its line or in a line of its own above; the two ends of one range of t may share theirs."""
    text = config.available()[name].read_text("utf-8")
    values = text[text.index("steps:") : text.index("export:")].splitlines()
    bare = []
    for above, line in pairwise(["", *values]):
        named = "#" in line or above.startswith("#") or ("#" in above and line.lstrip().startswith("high:"))
        if not named and not line.endswith(":") and line not in PLAIN:
            bare.append(line)
    assert bare == []
    paper = load(name).paper
    assert paper["arxiv"] == PAPERS[name] and set(paper["needs"]) == {"weights", "memory", "time"}
    assert all(set(entry) == {"key", "theirs", "ours", "reason"} for entry in paper["departures"])
    model = load(name).stages[0].terms[0].prior.model
    assert f"{known.KNOWN[model].gigabytes} GB" in paper["needs"]["weights"]
    assert known.KNOWN[model].licence in paper["needs"]["weights"]


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_paper_recipes_state_all_of_their_scene(name: str) -> None:
    """The scene's own defaults are for runs of some hundred steps."""
    content = OmegaConf.load(config.available()[name])
    unsaid = {"background_color", "backend"}  # of a solid background; not the paper's
    unsaid |= {"sdf_radius", "sdf_sharpness", "lr_sharpness"} if content.scene.surface == "density" else set()
    unsaid |= {"lit_from", "lit_share", "textureless_share"} if content.scene.shading != "random" else set()
    unsaid |= {"levels_from", "level_start"} if content.scene.level_every == 0 else set()
    assert set(content.scene) == {"use", *(field.name for field in fields(HashNerf))} - unsaid
