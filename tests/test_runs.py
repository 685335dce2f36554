"""Runs: a folder that explains itself, and the same bytes however often it was stopped."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dreamforge
from dreamforge import checkpoints, config, run_folder, runs
from dreamforge.assembly import Priors, build_stage
from dreamforge.cameras import turntable
from dreamforge.checkpoints import Checkpoint
from dreamforge.config import Recipe
from dreamforge.files import hashes
from dreamforge.rng import derive
from dreamforge.runs import Interrupted, Listener, Progress, Run
from dreamforge.types import DreamforgeError, Gradient, NoMesh, ParamGroup, Prior, State, View
from tests.kill_and_resume import fingerprint

CANVAS: dict[str, object] = {
    "prior": {"use": "mixture.Mixture", "size": 8},
    "scene.size": 8,
    "resolution": 8,
    "steps": 6,
    "preview_every": 3,
    "checkpoint_every": 2,
    "prompt": "a red mushroom",
}
FLAT = {"use": "canvas.Canvas", "size": 8}
SPREAD = {"use": "ensemble.Ensemble", "particles": 3, "views": "spread", "of": FLAT}
NERF: dict[str, object] = {
    "prior": {"use": "mixture.Mixture", "size": 16},
    "resolution": 16,
    "steps": 4,
    "checkpoint_every": 2,
    "export.resolution": 24,
    "prompt": "a red mushroom",
}


@dataclass(frozen=True)
class Learned:
    """A guidance with one weight, for the tests of what checkpoints must hold."""

    def build(self, prior: Prior, seed: int) -> "Learner":
        return Learner(seed)


class Learner:
    learn_steps = 2

    def __init__(self, seed: int) -> None:
        self.weight = torch.tensor([float(seed % 7)], requires_grad=True)

    def grad(self, view: View, prior: Prior) -> Gradient:
        return Gradient(view.x - self.weight.detach())

    def learn(self, view: View, prior: Prior) -> Tensor:
        return (view.noise.mean() - self.weight).square().sum()

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.weight], "lr": 0.1, "name": "learner"}]

    def state(self) -> State:
        return {"weight": self.weight.detach().clone()}

    def load_state(self, state: State) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])


def canvas(**changes: object) -> Recipe:
    return config.load("canvas", values={**CANVAS, **changes})


def stop_after(step: int) -> Listener:
    seen: list[int] = []
    return Listener(step=lambda progress: seen.append(progress.done), stop=lambda: len(seen) + 1 >= step)


@pytest.fixture(scope="module")
def nerf_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return runs.generate(config.load("smoke", values=NERF), tmp_path_factory.mktemp("runs") / "nerf")


def test_a_run_explains_itself(nerf_run: Run) -> None:
    names = {path.name for path in nerf_run.path.iterdir()}
    expected = "recipe.yaml manifest.json metrics.jsonl previews checkpoints asset.glb turntable.webp report.html"
    assert names == {*expected.split(), "result.json"}
    manifest = json.loads((nerf_run.path / "manifest.json").read_text())
    assert manifest["packages"]["torch"] == torch.__version__
    assert [row["step"] for row in nerf_run.metrics()] == [1, 2, 3, 4]
    assert nerf_run.result is not None
    assert nerf_run.result["triangles"] == len(nerf_run.mesh().faces) <= 2000
    assert nerf_run.asset.read_bytes()[:4] == b"glTF"


def test_the_report_is_one_file_with_pictures_and_curves(nerf_run: Run) -> None:
    page = (nerf_run.path / "report.html").read_text("utf-8")
    assert "a red mushroom" in page
    assert page.count('src="data:image/') == 2  # turntable and the preview of the last step
    assert "<svg" in page and "polyline" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_report_escapes_what_users_write(tmp_path: Path) -> None:
    run = runs.generate(canvas(prompt="<script>alert(1)</script>", steps=1), tmp_path / "run")
    assert "<script>" not in (run.path / "report.html").read_text("utf-8")


def test_a_loaded_run_renders_and_has_a_mesh(nerf_run: Run) -> None:
    run = dreamforge.load_run(nerf_run.path)
    assert run.recipe == nerf_run.recipe
    image = run.render(turntable(2, height=12, width=10)).rgb
    assert image.shape == (2, 12, 10, 3)
    assert torch.equal(run.mesh().vertices, nerf_run.mesh().vertices)


def test_its_own_recipe_repeats_it(nerf_run: Run, tmp_path: Path) -> None:
    again = dreamforge.generate(None, recipe=nerf_run.path / "recipe.yaml", out=tmp_path / "again")
    assert fingerprint(again.path) == fingerprint(nerf_run.path)


def test_another_seed_is_another_asset(tmp_path: Path) -> None:
    one, two = (runs.generate(canvas(seed=seed), tmp_path / str(seed)).asset.read_bytes() for seed in (0, 1))
    assert one != two


def test_a_flat_scene_ends_in_a_picture(tmp_path: Path) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    assert run.asset.name == "asset.png"
    assert run.asset.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(NoMesh):
        run.mesh()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_a_stopped_run_resumes_to_the_same_bytes(step: int, tmp_path: Path) -> None:
    whole = runs.generate(canvas(), tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"step {step} of 6.*dreamforge resume"):
        runs.generate(canvas(), tmp_path / "stopped", listener=stop_after(step))
    latest = checkpoints.latest(tmp_path / "stopped" / "checkpoints")
    assert latest is not None and latest.done == step
    runs.resume(tmp_path / "stopped")
    expected, found = fingerprint(whole.path), fingerprint(tmp_path / "stopped")
    if step == 5:  # the checkpoint of the stop stands among the last two
        assert "checkpoints/step_000005.safetensors" in found
        for content in (expected, found):
            content.pop("files")
            for name in ("checkpoints/step_000004.safetensors", "checkpoints/step_000005.safetensors"):
                content.pop(name, None)
    assert found == expected


STAGES = [
    {"steps": 3},
    {"steps": 3, "guidance": {"use": "tests.test_runs.Learned"}, "resolution": 12},
    {"steps": 2, "from": "scratch", "terms": [{}, {"every": 2, "offset": 1, "weight": 0.5}]},
]


@pytest.mark.parametrize("step", [2, 3, 5, 6, 7])
def test_stages_terms_and_learned_guidance_resume_too(step: int, tmp_path: Path) -> None:
    recipe = canvas(stages=STAGES, checkpoint_every=1)
    whole = runs.generate(recipe, tmp_path / "whole")
    assert [row["stage"] for row in whole.metrics()] == [0, 0, 0, 1, 1, 1, 2, 2]
    with pytest.raises(Interrupted):
        runs.generate(recipe, tmp_path / "stopped", listener=stop_after(step))
    runs.resume(tmp_path / "stopped")
    assert fingerprint(tmp_path / "stopped") == fingerprint(whole.path)


def test_a_checkpoint_holds_what_a_guidance_learned(tmp_path: Path) -> None:
    recipe = canvas(guidance={"use": "tests.test_runs.Learned"})
    run = runs.generate(recipe, tmp_path / "run")
    latest = checkpoints.latest(run.path / "checkpoints")
    assert latest is not None
    fresh = build_stage(recipe, 0, Priors(torch.device("cpu")))
    learner = fresh.terms[0].guidance
    assert isinstance(learner, Learner)
    start = learner.state()["weight"].item()
    assert start == derive(recipe.seed, "guidance", 0, 0) % 7
    fresh.load_state(latest.state)
    assert learner.state()["weight"].item() != start
    assert fresh.state().keys() == latest.state.keys()
    assert all(torch.equal(value, latest.state[name]) for name, value in fresh.state().items())


def test_a_torn_line_of_the_log_and_lost_files_are_made_again(tmp_path: Path) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    expected = fingerprint(run.path)
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "gra')
    (run.path / "checkpoints" / ".dreamforge-00.part").write_bytes(b"half a checkpo")
    run.asset.unlink()
    runs.resume(run.path)
    assert fingerprint(run.path) == expected


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    heard: list[object] = []
    runs.generate(canvas(), tmp_path / "run", listener=Listener(step=heard.append))
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert heard == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_another_process_works_on_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    with pytest.raises(Interrupted):
        runs.generate(canvas(), tmp_path / "run", listener=Listener(stop=lambda: True))
    before = hashes(tmp_path / "run")
    with run_folder.claimed(tmp_path / "run"), pytest.raises(DreamforgeError, match="Another process is working on"):
        runs.generate(canvas(), tmp_path / "run", overwrite=overwrite)
    assert hashes(tmp_path / "run") == before
    assert runs.generate(canvas(), tmp_path / "run", overwrite=overwrite).asset.is_file()


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    expected = fingerprint(run.path)
    for folder, words in (("run", "another run"), ("mine", "holds files"), ("file", "is a file")):
        with pytest.raises(DreamforgeError, match=words):
            runs.generate(canvas(seed=1), tmp_path / folder)
    assert fingerprint(run.path) == expected
    for folder in ("run", "mine"):
        runs.generate(canvas(seed=1), tmp_path / folder, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "mine" / "thesis.txt").unlink()
    assert fingerprint(tmp_path / "mine") == fingerprint(tmp_path / "run") != expected


def test_wrong_input_writes_nothing(tmp_path: Path) -> None:
    for changes in ({"prompt": "  "}, {"device": "cuda" if not torch.cuda.is_available() else "mps"}):
        with pytest.raises(DreamforgeError):
            runs.generate(canvas(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"scene": SPREAD}, {"views": 3}),
        ({"guidance": {"use": "csd.CSD", "omega": 1.0}}, {"negative": "a blue mushroom"}),
        ({"image": "normal"}, {"image": "rgb"}),
    ],
)
def test_a_run_refused_at_its_first_step_leaves_the_folder_to_the_corrected_one(
    wrong: dict[str, object], right: dict[str, object], tmp_path: Path
) -> None:
    values = {name: value for name, value in {**CANVAS, **wrong, "views": 2}.items() if name != "scene.size"}
    with pytest.raises(DreamforgeError):
        runs.generate(config.load("canvas", values=values), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    assert runs.generate(config.load("canvas", values={**values, **right}), tmp_path / "run").asset.is_file()


def test_an_error_after_a_checkpoint_keeps_the_run(tmp_path: Path) -> None:
    """Only what was refused before it saved a step gives its folder back."""
    expected = fingerprint(runs.generate(canvas(), tmp_path / "whole").path)

    def full_disk(progress: Progress) -> None:
        if progress.done == 4:
            raise DreamforgeError("no space is left")

    with pytest.raises(DreamforgeError, match="no space"):
        runs.generate(canvas(), tmp_path / "run", listener=Listener(step=full_disk))
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert fingerprint(runs.resume(tmp_path / "run").path) == expected


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("step_000006.safetensors", damage_bytes),
        ("step_000006.safetensors", lambda path: path.write_bytes(b"")),
        ("step_000006.safetensors", Path.unlink),
        ("step_000006.json", lambda path: path.write_text("{")),
        ("step_000006.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_advice_works(
    file: str, damage: Callable[[Path], Any], tmp_path: Path
) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    expected = fingerprint(run.path)
    run.asset.unlink()
    damage(run.path / "checkpoints" / file)
    with pytest.raises(DreamforgeError, match=file) as caught:
        runs.resume(run.path)
    advised = re.search(r"delete (\S+\.json) to go on", str(caught.value))
    assert advised
    Path(advised[1]).unlink()
    runs.resume(run.path)
    assert fingerprint(run.path) == expected


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run = runs.generate(canvas(), tmp_path / "run")
    run.asset.unlink()
    latest = checkpoints.latest(run.path / "checkpoints")
    assert latest is not None
    checkpoints.save(run.path / "checkpoints", Checkpoint(0, 5, 7, {"scene/other": torch.zeros(1)}))
    with pytest.raises(DreamforgeError):
        runs.resume(run.path)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    for done in (1, 2, 30):
        checkpoints.save(tmp_path, Checkpoint(0, done, done, {"x": torch.full((2,), float(done))}))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step_{done:06d}.{kind}" for done in (2, 30) for kind in ("json", "safetensors")]
    latest = checkpoints.latest(tmp_path)
    assert latest is not None and latest.done == 30 and torch.equal(latest.state["x"], torch.full((2,), 30.0))


def test_words_that_a_prior_does_not_know_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamforge.priors.mixture import MixturePrior

    monkeypatch.setattr(MixturePrior, "warnings", lambda self, prompt: [f"no '{prompt}' here"], raising=False)
    heard: list[str] = []
    runs.generate(canvas(prompt="blorp"), tmp_path / "run", listener=Listener(warn=heard.append))
    assert heard == ["no 'blorp' here"]


def test_another_number_of_threads_is_warned_of(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        runs.generate(canvas(), tmp_path / "run", listener=stop_after(2))
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 99}))
    heard: list[str] = []
    runs.resume(tmp_path / "run", Listener(warn=heard.append))
    assert len(heard) == 1 and "99 threads" in heard[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("recipe", "moments", "values"), [("canvas", 12, CANVAS), ("smoke", 3, NERF)], ids=["canvas", "smoke"]
)
def test_a_run_killed_at_any_moment_ends_in_the_same_bytes(
    recipe: str, moments: int, values: dict[str, object]
) -> None:
    texts = [f"{key}={json.dumps(value)}" for key, value in values.items() if key != "prompt"]
    command = [sys.executable, "-m", "tests.kill_and_resume", "--recipe", recipe, "--moments", str(moments), *texts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{moments} of {moments} runs ended in the same bytes" in done.stdout
