"""Recipes: what is written is what is built, and what is wrong is answered with one sentence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dreamforge import config
from dreamforge.cameras import OrbitSampler
from dreamforge.guidance.sds import SDS
from dreamforge.scenes.canvas import Canvas
from dreamforge.slots import SLOTS, locate
from dreamforge.types import DreamforgeError

FLAT: dict[str, Any] = {
    "name": "flat",
    "prompt": "a red mushroom",
    "steps": 10,
    "views": 2,
    "resolution": 16,
    "scene": {"use": "canvas.Canvas", "size": 16},
    "prior": {"use": "mixture.Mixture", "size": 16},
    "guidance": {"use": "sds.SDS", "cfg_scale": 3.0},
    "timesteps": "schedule.Uniform",
    "noise": "noise.Gaussian",
    "cameras": {"use": "cameras.OrbitSampler", "azimuth_deg": [-30, 30]},
    "prompts": "prompts.ViewPrompts",
}


def loaded(text: str, tmp_path: Path, *overrides: str) -> config.Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    return config.load(path, overrides)


def flat_text() -> str:
    return OmegaConf.to_yaml(OmegaConf.create(FLAT))


def again(recipe: config.Recipe) -> config.Recipe:
    content = OmegaConf.to_container(OmegaConf.create(config.dump(recipe)))
    assert isinstance(content, dict)
    return config.build({str(key): value for key, value in content.items()})


def test_a_flat_recipe_is_one_stage_with_one_term() -> None:
    recipe = config.build(FLAT)
    (stage,), (term,) = recipe.stages, recipe.stages[0].terms
    assert (stage.steps, stage.origin, stage.scene) == (10, "scratch", Canvas(size=16))
    assert (term.prompt, term.views, term.resolution) == ("a red mushroom", 2, 16)
    assert term.guidance == SDS(cfg_scale=3.0)
    assert term.cameras == OrbitSampler(azimuth_deg=(-30.0, 30.0))


def test_stages_and_terms_override_what_is_above_them() -> None:
    stages = [
        {
            "steps": 3,
            "terms": [{}, {"guidance": {"use": "sds.SDS", "weighting": "uniform"}, "weight": 0.5, "every": 2}],
        },
        {"steps": 4, "resolution": 32, "guidance": {"cfg_scale": 9.0}, "losses": {"sparsity": 1.0}},
    ]
    first, second = config.build({**FLAT, "losses": {"opaque": 1.0}, "stages": stages}).stages
    assert [stage.steps for stage in (first, second)] == [3, 4]
    assert (first.origin, second.origin) == ("scratch", "previous")
    assert [term.weight for term in first.terms] == [1.0, 0.5]
    assert first.terms[1].guidance == SDS(cfg_scale=3.0, weighting="uniform")  # the same class: laid over
    assert first.terms[0].losses == {"opaque": 1.0}
    assert second.terms[0].losses == {"sparsity": 1.0}  # no slot: replaced whole
    assert (second.terms[0].resolution, second.terms[0].guidance) == (32, SDS(cfg_scale=9.0))


def test_another_class_starts_from_its_own_defaults() -> None:
    stage = {"guidance": {"use": "tests.test_config.Mine"}}
    assert type(config.build({**FLAT, "stages": [stage]}).stages[0].terms[0].guidance).__name__ == "Mine"


def test_a_method_may_live_outside_the_package(tmp_path: Path) -> None:
    recipe = loaded(flat_text(), tmp_path, "guidance.strength=2", "guidance.use=tests.test_config.Mine")
    guidance = recipe.stages[0].terms[0].guidance
    assert (type(guidance).__name__, guidance.strength) == ("Mine", 2.0)
    assert config.dump(recipe).count("use: tests.test_config.Mine") == 1
    assert again(recipe) == recipe


@pytest.mark.parametrize("prompt", ["1e3", "yes", "a: b # c", "null", "größer ☃", 'it\'s "quoted"\nand broken'])
def test_a_dumped_recipe_builds_an_equal_recipe(prompt: str) -> None:
    stages: list[dict[str, Any]] = [
        {"terms": [{}, {"weight": 0.5, "background": [0, 0.5, 1], "parts": ["hat"], "every": 3, "offset": 2}]},
        {"from": "scratch", "scene": {"size": 8}, "optimiser": {"lr_scale": [[0, 1], [1, 0.1]]}},
        {"losses": {"sparsity": [[0.0, 0.0], [1.0, 2.0]]}, "terms": [{"noise": {"use": "noise.Gaussian", "draws": 2}}]},
    ]
    paper = {"title": "T", "departures": [{"key": "views", "paper": 8, "ours": 2, "why": "speed"}]}
    for content in (FLAT, {**FLAT, "terms": stages[0]["terms"]}, {**FLAT, "stages": stages, "paper": paper, "seed": 7}):
        recipe = config.build({**content, "prompt": prompt, "losses": {"opaque": 0.5}})
        assert again(recipe) == recipe
        assert config.dump(again(recipe)) == config.dump(recipe)


def test_overrides_reach_any_key(tmp_path: Path) -> None:
    text = flat_text() + "stages:\n- {steps: 5}\n- {steps: 6, terms: [{weight: 1.0}, {weight: 2.0}]}\n"
    overrides = ("guidance.cfg_scale=30", "stages[1].terms[0].weight=1e-3", "losses.sparsity=[[0,1],[1,2]]", "views=8")
    recipe = loaded(text, tmp_path, *overrides, "prior={use: mixture.Mixture, size: 8}", "cameras.distance=[2,2.5]")
    terms = recipe.stages[1].terms
    assert (terms[0].weight, terms[1].weight) == (0.001, 2.0)
    assert (terms[0].guidance.cfg_scale, terms[0].views, terms[0].prior.size) == (30.0, 8, 8)
    assert terms[0].losses == {"sparsity": [[0, 1], [1, 2]]}
    assert (terms[0].cameras.distance, terms[0].cameras.azimuth_deg) == ((2.0, 2.5), (-30.0, 30.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidence": {}}, ["guidence", "'guidance'"]),
        ({"stpes": 1}, ["stpes", "'steps'"]),
        ({"guidance": {"use": "sds.SDS", "cfg_scal": 1}}, ["cfg_scal", "guidance", "'cfg_scale'"]),
        ({"guidance": {"use": "sds.SDD"}}, ["sds.SDD", "'sds.SDS'"]),
        ({"guidance": {"use": "sd.SDS"}}, ["sd.SDS", "'sds.SDS'"]),
        ({"guidance": {"use": "math.pi"}}, ["math.pi", "cannot be a guidance"]),
        ({"guidance": {"use": "tests.test_config.NotFrozenAtAll"}}, ["cannot be a guidance"]),
        ({"guidance": 3}, ["guidance", "3", "use: file.Class"]),
        ({"guidance": {"cfg_scale": 3}}, ["guidance", "use: file.Class"]),
        ({"guidance": {"use": "sds.SDS", "cfg_scale": "much"}}, ["guidance.cfg_scale", "'much'", "float"]),
        ({"guidance": {"use": "sds.SDS", "weighting": "sdss"}}, ["guidance.weighting", "'sdss'", "uniform"]),
        ({"cameras": {"use": "cameras.OrbitSampler", "distance": [1, 2, 3]}}, ["cameras", "distance"]),
        ({"scene": {"use": "canvas.Canvas", "size": -3}}, ["-3"]),
        ({"steps": 0}, ["steps", "0", "1000000"]),
        ({"steps": 1.5}, ["steps", "1.5", "int"]),
        ({"steps": "many"}, ["steps", "'many'"]),
        ({"steps": None}, ["steps"]),
        ({"views": 65}, ["views", "65", "64"]),
        ({"views": -1}, ["views", "-1"]),
        ({"resolution": 100_000}, ["resolution", "1024"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"checkpoint_every": 0}, ["checkpoint_every", "0"]),
        ({"offset": 1}, ["offset", "1"]),
        ({"weight": float("nan")}, ["weight", "nan"]),
        ({"background": "randm"}, ["background", "randm"]),
        ({"background": [1, 2, 3]}, ["background", "from 0 to 1"]),
        ({"export": {"format": "glbb"}}, ["export.format", "glbb", "glb"]),
        ({"export": {"triangles": -5}}, ["export.triangles", "-5"]),
        ({"export": {"texture": 1000}}, ["export.texture", "1000", "power of two"]),
        ({"export": {"texture": 8192}}, ["export.texture", "4096"]),
        ({"export": {"texture": 512, "format": "ply"}}, ["export.texture", "ply", "glb or obj"]),
        ({"export": {"triangle": 5}}, ["triangle", "'triangles'"]),
        ({"export": 5}, ["export", "5"]),
        ({"optimiser": {"betas": [0.9, 1.5]}}, ["betas", "1.5"]),
        ({"optimiser": {"lr_scale": [[1, 1], [0, 1]]}}, ["lr_scale"]),
        ({"losses": {"sparsty": 1}}, ["sparsty", "'sparsity'"]),
        ({"losses": {"sparsity": "x"}}, ["sparsity"]),
        ({"losses": [1]}, ["losses"]),
        ({"stages": []}, ["stages"]),
        ({"stages": [{"stepps": 2}]}, ["stepps", "'steps'"]),
        ({"stages": [{"terms": [{"steps": 2}]}]}, ["steps", "terms[0]"]),
        ({"stages": [{"from": "previous"}]}, ["from: previous", "first stage"]),
        ({"stages": [{}, {"from": "prevous"}]}, ["prevous"]),
        ({"prompt": "${oc.env:HOME}x${"}, ["prompt"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DreamforgeError) as caught:
        config.build({**FLAT, **change})
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps", ["steps", "key=value"]),
        ("=3", ["=3", "key=value"]),
        ("steps=[1", ["steps=[1", "YAML"]),
        ("stages[3].steps=1", ["stages[3].steps", "nowhere"]),
        ("steps[0]=1", ["steps[0]", "nowhere"]),
        ("guidance.cfg_scal=1", ["cfg_scal", "cfg_scale"]),
    ],
)
def test_a_wrong_override_is_said_in_one_sentence(override: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError) as caught:
        loaded(flat_text(), tmp_path, override)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("text", ["a: [1", "- 1\n", "", "\tx: 1", "a: 1\na: 2\n"])
def test_a_file_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match="recipe"):
        loaded(text, tmp_path)


def test_a_prompt_that_no_term_would_take_is_refused(tmp_path: Path) -> None:
    """A user would wait for a dragon and get what the terms say."""
    terms = "terms: [{prompt: a red mushroom}, {prompt: a blue car}]"
    with pytest.raises(DreamforgeError, match="'a dragon' was given, but every term"):
        loaded(flat_text() + terms, tmp_path, "prompt=a dragon")
    assert loaded(flat_text() + terms, tmp_path, "terms[1].prompt=a dragon").stages[0].terms[1].prompt == "a dragon"
    half = loaded(flat_text() + "terms: [{weight: 2}, {prompt: a blue car}]", tmp_path, "prompt=a dragon")
    assert [term.prompt for term in half.stages[0].terms] == ["a dragon", "a blue car"]


@pytest.mark.parametrize("around", [False, True])
def test_parts_that_a_scene_does_not_have_are_seen_before_anything_is_made(around: bool) -> None:
    """Those of a second stage too, whose first render comes after all of the first."""
    scene: dict[str, Any] = {"use": "gaussians.Gaussians", "groups": {"hat": {}, "head": {}}}
    scene = {"use": "ensemble.Ensemble", "of": scene} if around else scene
    later = {"scene": scene, "terms": [{"parts": ["head"]}, {"parts": ["hut"]}]}
    with pytest.raises(DreamforgeError, match="no part 'hut' in this scene: did you mean 'hat'"):
        config.build({**FLAT, "stages": [{}, later]})
    assert config.build({**FLAT, "stages": [{}, {**later, "terms": [{"parts": ["head"]}]}]})
    only_converts = {"steps": 0, "scene": "gaussians.Gaussians"}  # its terms, those of before, are never asked
    whole = config.build({**FLAT, "scene": scene, "terms": [{"parts": ["hat"]}], "stages": [{}, only_converts]})
    assert whole.stages[1].terms[0].parts == ("hat",)
    with pytest.raises(DreamforgeError, match=r"parts \['hat'\] of a scene were asked for, but it has none"):
        config.build({**FLAT, "scene": "gaussians.Gaussians", "terms": [{"parts": ["hat"]}]})
    with pytest.raises(DreamforgeError, match="no part 'hat'"):
        objects = {"head": {"scene": {"use": "canvas.Canvas"}}}
        config.build({**FLAT, "scene": {"use": "composed.Composed", "objects": objects}, "terms": [{"parts": ["hat"]}]})


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(DreamforgeError, match=r"'defualt'.*did you mean 'default'"):
        config.load("defualt")


@pytest.mark.parametrize("slot", SLOTS)
def test_every_slot_lists_what_it_can_locate(slot: str) -> None:
    choices = SLOTS[slot].choices()
    assert choices
    assert all(locate(slot, use) is cls for use, cls in choices.items())


def test_a_module_that_fails_to_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_lab.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DreamforgeError, match=r"broken_lab.*a_package_that_is_not_there"):
        locate("guidance", "broken_lab.Mine")


class NotFrozenAtAll:
    """Has the method but is no dataclass, so it has no schema."""

    def grad(self) -> None: ...


@dataclass(frozen=True)
class Mine:
    """A guidance outside the package."""

    strength: float = 1.0

    def grad(self, view: object, prior: object) -> None: ...
