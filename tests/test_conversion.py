"""Runs that become other kinds of scenes: as a command, and as stages of a recipe."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dreamforge import config, runs
from dreamforge.conversion import convert
from dreamforge.geometry.splats import read_splats
from dreamforge.scenes import convert as scenes_convert
from dreamforge.scenes.convert import Effort
from dreamforge.scenes.gaussians import GaussianScene
from dreamforge.scenes.mesh import MeshScene
from dreamforge.types import DreamforgeError

TINY = ["steps=4", "views=1", "resolution=16", "export.resolution=32", "scene.samples=32", "scene.levels=3"]
TINY += ["scene.occupancy_cells=16", "checkpoint_every=2", "device=cpu"]
SMALL = ["count=200", "capacity=300"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions of a few pictures."""
    for name in ("MESH", "SPLATS", "USUAL"):
        monkeypatch.setattr(scenes_convert, name, Effort(points=2, batch=64, steps=3, views=1, resolution=16))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    recipe = config.load("default", TINY, {"prompt": "a red mushroom"})
    return runs.generate(recipe, tmp_path_factory.mktemp("runs") / "nerf")


def test_a_run_becomes_gaussians_and_says_so(run: runs.Run) -> None:
    made = convert(run.path, "gaussians", overrides=SMALL)
    assert made.path == run.path.with_name("nerf-gaussians") and made.asset.is_file()
    scene = made.scene("cpu")
    assert isinstance(scene, GaussianScene) and int(scene.alive.sum()) == 200
    assert len(read_splats(made.path / "splats.ply").means) == 200
    stages = made.recipe.stages
    assert [stage.steps for stage in stages] == [4, 0] and stages[1].origin == "previous"
    assert json.loads((made.path / "result.json").read_text())["splats"] == "splats.ply"
    assert convert(run.path, "gaussians", overrides=SMALL).path == made.path, "done already"
    with pytest.raises(DreamforgeError, match="already holds another run"):
        convert(run.path, "gaussians", overrides=["count=100", "capacity=300"])
    again = convert(run.path, "gaussians", overrides=["count=100", "capacity=300"], overwrite=True)
    assert len(read_splats(again.path / "splats.ply").means) == 100


def test_its_recipe_makes_it_again(run: runs.Run, tmp_path: Path) -> None:
    """From the prompt on, in the same bytes; also when it is stopped before the conversion."""
    said: list[str] = []
    given = runs.Listener(say=said.append)
    made = convert(run.path, "mesh", tmp_path / "mesh", ["resolution=16", "levels=3"], listener=given)
    assert isinstance(made.scene("cpu"), MeshScene) and made.path == tmp_path / "mesh"
    assert [line["step"] for line in made.metrics()] == [1, 2, 3, 4] and "extracting the surface" in said
    whole = runs.generate(config.load(made.path / "recipe.yaml"), tmp_path / "whole")
    assert whole.asset.read_bytes() == made.asset.read_bytes()
    assert [line["step"] for line in whole.metrics()] == [1, 2, 3, 4]


def test_a_stage_goes_on_with_the_converted_scene(tmp_path: Path) -> None:
    stages: list[dict[str, Any]] = [
        {"steps": 2},
        {"steps": 2, "scene": {"use": "gaussians.Gaussians", "count": 50, "capacity": 80}, "losses": {}},
    ]
    recipe = config.load("default", TINY, {"prompt": "a red mushroom", "stages": stages})
    done = runs.generate(recipe, tmp_path / "two")
    assert isinstance(done.scene("cpu"), GaussianScene) and len(done.metrics()) == 4
    assert torch.isfinite(done.scene("cpu").state()["means"]).all()


def test_a_stage_says_how_much_work_its_conversion_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Effort] = []
    learn = scenes_convert._learn_pictures

    def heard(source: Any, target: Any, effort: Effort, *rest: Any) -> None:
        given.append(effort)
        learn(source, target, effort, *rest)

    monkeypatch.setattr(scenes_convert, "_learn_pictures", heard)
    second = {"steps": 0, "scene": {"use": "gaussians.Gaussians", "count": 50, "capacity": 50}}
    second["conversion"] = {"steps": 2, "views": 1, "resolution": 8}
    recipe = config.load("default", TINY, {"prompt": "a red mushroom", "stages": [{"steps": 1}, second]})
    assert config.build(yaml.safe_load(config.dump(recipe))) == recipe
    assert recipe.stages[0].conversion is None
    runs.generate(recipe, tmp_path / "two")
    assert given == [Effort(steps=2, views=1, resolution=8)]
    for wrong in ({"views": 0}, {"points": -1}, {"rate": 0}, {"rate": float("inf")}):
        second["conversion"] = wrong
        with pytest.raises(DreamforgeError, match="sizes of at least 1 and a rate above 0"):
            config.load("default", TINY, {"stages": [{"steps": 1}, second]})
    second["conversion"] = {"picture": 2}
    with pytest.raises(DreamforgeError, match="did you mean 'pictures'"):
        config.load("default", TINY, {"stages": [{"steps": 1}, second]})


def test_what_follows_has_the_terms_of_the_last_stage(tmp_path: Path) -> None:
    stages = [{"steps": 1}, {"steps": 1, "views": 2}]
    recipe = config.load("default", TINY, {"prompt": "a red mushroom", "stages": stages})
    made = convert(runs.generate(recipe, tmp_path / "two").path, "gaussians", overrides=SMALL)
    assert [term.views for stage in made.recipe.stages for term in stage.terms] == [1, 2, 2]


def test_a_run_that_is_not_done_is_not_converted(tmp_path: Path) -> None:
    recipe = config.load("default", TINY, {"prompt": "a red mushroom"})
    seen: list[int] = []
    stop = runs.Listener(step=lambda progress: seen.append(progress.done), stop=lambda: len(seen) > 1)
    with pytest.raises(runs.Interrupted):
        runs.generate(recipe, tmp_path / "stopped", listener=stop)
    with pytest.raises(DreamforgeError, match=r"is not done: finish it with 'dreamforge resume"):
        convert(tmp_path / "stopped", "mesh")


def test_what_cannot_be_is_told(run: runs.Run, tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match="choose one"):
        convert(run.path, "mash")
    with pytest.raises(DreamforgeError, match="did you mean 'count'"):
        convert(run.path, "gaussians", overrides=["cuont=3"])
    with pytest.raises(DreamforgeError, match="is not a run"):
        convert(tmp_path, "mesh")
    with pytest.raises(DreamforgeError, match="'steps' was given 0"):
        config.load("default", ["steps=0"])
