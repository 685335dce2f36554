"""Every shipped recipe loads, survives its own YAML, and runs two steps on the exact prior at 16x16."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge import config
from dreamforge.assembly import Priors, build_stage
from dreamforge.config import Recipe, Stage
from dreamforge.engine import StepInfo, fit
from dreamforge.forecast import is_pretrained
from dreamforge.priors.mixture import Mixture
from dreamforge.slots import SLOTS
from tests import tiny_pipelines

RECIPES = sorted(config.available())
LATENT = "toybox-latent"  # the default recipe with the other embedded prior
TWINS = [name for name in RECIPES if name.startswith("toybox-") and name != LATENT]
PAPERS = [name for name in RECIPES if config.load(name).paper]
PRETRAINED = [name for name in RECIPES if is_pretrained(config.load(name).stages[0].terms[0].prior)]


def small(stage: Stage, prior: Callable[[Any], Any]) -> Stage:
    """Two steps at 16x16 with ``prior(the recipe's own)``."""
    tiny = [
        replace(term, prior=prior(term.prior), prompt="a red mushroom", resolution=16, views=min(term.views, 2))
        for term in stage.terms
    ]
    return replace(stage, steps=2, terms=tuple(tiny))


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_two_steps(name: str) -> None:
    recipe = config.load(name)
    two_steps(replace(recipe, stages=tuple(small(stage, lambda own: Mixture(size=16)) for stage in recipe.stages)))


@pytest.mark.parametrize("name", PRETRAINED)
def test_it_runs_two_steps_with_tiny_weights_of_its_genuine_class(name: str, tmp_path: Path) -> None:
    """The class, its options and its pipeline are the recipe's own; the scene's table is cut."""

    def own(prior: Any) -> Any:
        family = type(prior).__module__.rpartition(".")[2]
        return replace(prior, model=str(tiny_pipelines.FAMILIES[family](tmp_path / family)))

    recipe = config.load(name)
    stages = [small(stage, own) for stage in recipe.stages]
    cut = tuple(replace(stage, scene=replace(stage.scene, log2_entries=10)) for stage in stages)
    two_steps(replace(recipe, stages=cut))


def two_steps(recipe: Recipe) -> None:
    priors = Priors(torch.device("cpu"))
    scene = None
    for number, stage in enumerate(recipe.stages):
        work = build_stage(recipe, number, priors, scene)
        before = {key: value.clone() for key, value in work.scene.state().items()}
        heard: list[StepInfo] = []
        fit(work.scene, work.terms, work.optimiser, stage.steps, seed=0, on_step=heard.append)
        assert [info.step for info in heard] == [0, 1]
        assert all(torch.tensor(list(info.metrics.values())).isfinite().all() for info in heard)
        after = work.scene.state()
        assert any(not torch.equal(after[key], before[key]) for key in before)
        scene = work.scene


@pytest.mark.parametrize("name", RECIPES)
def test_its_resolved_yaml_builds_an_equal_recipe(name: str) -> None:
    recipe = config.load(name, values={"prompt": "a red mushroom", "seed": 3})
    content = OmegaConf.to_container(OmegaConf.create(config.dump(recipe)))
    assert isinstance(content, dict)
    assert config.build({str(key): value for key, value in content.items()}) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_it_says_what_it_is(name: str) -> None:
    assert config.available()[name].read_text("utf-8").startswith("# ")
    assert config.load(name).name == name


def test_the_recipes_of_the_readme_are_shipped() -> None:
    assert {"default", "smoke", "canvas"} <= set(RECIPES)


def test_every_method_has_a_recipe_with_the_embedded_prior() -> None:
    terms = [term for name in ["default", *TWINS] for stage in config.load(name).stages for term in stage.terms]
    for slot in ("guidance", "noise"):
        used = {SLOTS[slot].content(getattr(term, slot))["use"] for term in terms}
        assert used == set(SLOTS[slot].choices())
    assert {SLOTS["prior"].content(term.prior)["use"] for term in terms} == {"toybox.ToyboxPrior"}


@pytest.mark.parametrize("name", TWINS)
def test_twins_differ_from_the_default_in_their_method_only(name: str) -> None:
    own, default = config.load(name), config.load("default")
    (stage,), (like,) = own.stages, default.stages
    (term,), (usual) = stage.terms, like.terms[0]
    # the losses have weights that fit the size of the method's gradient
    method = {slot: getattr(usual, slot) for slot in ("guidance", "timesteps", "noise", "weight", "losses")}
    assert set(term.losses) == set(usual.losses)
    assert replace(term, **method) == usual
    assert replace(stage, terms=like.terms) == like
    assert replace(own, name=default.name, stages=default.stages) == default


def test_the_latent_twin_differs_from_the_default_in_its_prior_only() -> None:
    """And in the weights of its losses, which fit the size of what the prior answers."""
    own, default = config.load(LATENT), config.load("default")
    (stage,), (like,) = own.stages, default.stages
    (term,), (usual) = stage.terms, like.terms[0]
    assert SLOTS["prior"].content(term.prior)["model"] == "toybox-latent"
    assert set(term.losses) == set(usual.losses)
    same = replace(term, prior=usual.prior, losses=usual.losses)
    assert replace(own, name="default", stages=(replace(stage, terms=(same,)),)) == default


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_what_it_needs_and_where_it_departs(name: str) -> None:
    paper = config.load(name).paper
    assert paper["title"] and paper["arxiv"] and set(paper["needs"]) == {"weights", "memory", "time"}
    assert all(set(one) == {"key", "theirs", "ours", "reason"} for one in paper["departures"])
    assert set(paper) <= {"title", "arxiv", "needs", "departures", "unknown"}


def test_esd_is_prolificdreamer_with_one_number_changed() -> None:
    """As its authors' README says; lambda is one minus theirs."""
    vsd, esd = (config.load(name).stages[0] for name in ("prolificdreamer", "esd"))
    ours, theirs = vsd.terms[0].guidance, esd.terms[0].guidance
    assert theirs.lambda_entropy == 0.5
    assert all(getattr(theirs, name) == value for name, value in vars(ours).items())
    assert replace(esd, terms=(replace(esd.terms[0], guidance=ours),)) == vsd
