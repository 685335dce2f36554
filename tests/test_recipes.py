"""Every shipped recipe loads, survives its own YAML, and runs two steps on the exact prior at 16x16."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge import config
from dreamforge.assembly import Priors, build_stage
from dreamforge.config import Stage
from dreamforge.engine import StepInfo, fit
from dreamforge.priors.mixture import Mixture

RECIPES = sorted(config.available())


def small(stage: Stage) -> Stage:
    tiny = [
        replace(term, prior=Mixture(size=16), prompt="a red mushroom", resolution=16, views=min(term.views, 2))
        for term in stage.terms
    ]
    return replace(stage, steps=2, terms=tuple(tiny))


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_two_steps(name: str) -> None:
    recipe = config.load(name)
    recipe = replace(recipe, stages=tuple(small(stage) for stage in recipe.stages))
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
