"""The command line: last lines, exit codes, and one sentence for everything that a user can get wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dreamforge import cli, commands, config, devices
from dreamforge.doctor import package_name, prior_files
from tests.kill_and_resume import fingerprint
from tests.tools import require_tool

TINY = ["prior={use: mixture.Mixture, size: 8}", "scene.size=8", "resolution=8", "steps=6", "checkpoint_every=2"]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
CANVAS = ["generate", "a red mushroom", "--recipe", "canvas", *TINY]


class Answer:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out.splitlines(), err

    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.out[-1])
        return content


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> Answer:
        try:
            code = cli.main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def run(ask: Any) -> Path:
    answer = ask(*CANVAS, "--out", "run")
    assert answer.code == 0, answer.err
    return Path("run")


def test_the_last_line_is_the_path_of_the_result(ask: Any) -> None:
    answer = ask(*CANVAS, "--out", "run")
    assert (answer.code, answer.out) == (0, [str(Path("run/asset.png"))])
    assert "6/6" in answer.err


def test_json_is_one_line(ask: Any) -> None:
    answer = ask(*CANVAS, "--out", "run", "--json")
    assert len(answer.out) == 1
    facts = answer.json()
    assert facts["status"] == "done" and Path(facts["asset"]).is_file()
    assert facts["run"] == "run" and facts["steps"] == 6


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_memory_comes_in_large_pages_unless_the_user_says_no(given: str | None, expected: str) -> None:
    script = (
        "import sys; assert 'torch' not in sys.modules; from dreamforge.cli import main; main(['list', 'recipes'])\n"
    )
    script += "import os; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if given is None else {"THP_MEM_ALLOC_ENABLE": given}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == expected


def test_the_folder_is_named_after_prompt_and_seed(ask: Any) -> None:
    assert ask(*CANVAS, "--seed", "3").out == [str(Path("runs/a-red-mushroom-3/asset.png"))]


def test_options_may_stand_between_overrides(ask: Any) -> None:
    answer = ask("generate", "--recipe", "canvas", "a red mushroom", *TINY[:3], "--out", "run", *TINY[3:], "seed=4")
    assert answer.code == 0
    recipe = config.load("run/recipe.yaml")
    assert (recipe.seed, recipe.steps, recipe.prompt) == (4, 6, "a red mushroom")


def test_the_recipe_of_a_run_repeats_it(ask: Any, run: Path) -> None:
    assert ask("generate", "--recipe", str(run / "recipe.yaml"), "--out", "again").code == 0
    assert fingerprint(Path("again")) == fingerprint(run)


def test_a_guidance_of_the_current_folder(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "my_lab.py").write_text(
        "from dataclasses import dataclass\nfrom dreamforge.types import Gradient\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n    pull: float = 1.0\n"
        "    def grad(self, view, prior):\n        return Gradient(self.pull * view.x)\n"
    )
    assert ask(*CANVAS, "--out", "run", "guidance.use=my_lab.Mine", "guidance.pull=2").code == 0
    assert "use: my_lab.Mine" in Path("run/recipe.yaml").read_text()


def test_resume_and_overwrite(ask: Any, run: Path) -> None:
    expected = fingerprint(run)
    assert ask("resume", "run").out == [str(run / "asset.png")]
    (run / "asset.png").unlink()
    assert ask("resume", "run").code == 0
    assert fingerprint(run) == expected
    assert ask(*CANVAS, "--out", "run", "--overwrite").code == 0
    assert fingerprint(run) == expected


def test_mesh_commands(ask: Any) -> None:
    sizes = ["steps=2", "resolution=16", "export.resolution=24", "prior={use: mixture.Mixture, size: 16}"]
    assert ask("generate", "a red mushroom", "--recipe", "smoke", "--out", "run", *sizes).code == 0
    turntable = Path("run/turntable.webp").read_bytes()
    asset = Path("run/asset.glb").read_bytes()
    for kind in ("obj", "ply", "glb"):
        answer = ask("export", "run", "--format", kind)
        assert (answer.code, answer.out) == (0, [str(Path(f"run/asset.{kind}"))])
    assert Path("run/asset.glb").read_bytes() == asset
    Path("run/turntable.webp").unlink()
    assert ask("render", "run").out == [str(Path("run/turntable.webp"))]
    assert Path("run/turntable.webp").read_bytes() == turntable


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", ""], ["prompt is empty"]),
        (["generate", "   "], ["prompt is empty"]),
        (["generate", "--recipe", "canvas"], ["prompt is empty"]),
        (["generate", "x", "--recipe", "defualt"], ["'defualt'", "'default'"]),
        (["generate", "x", "--recipe", "missing.yaml"], ["missing.yaml"]),
        (["generate", "x", "guidence.cfg_scale=3"], ["guidence", "'guidance'"]),
        (["generate", "x", "guidance.cfg_scal=3"], ["cfg_scal", "'cfg_scale'"]),
        (["generate", "x", "guidance.use=sds.SSD"], ["sds.SSD", "'sds.SDS'"]),
        (["generate", "x", "guidance.cfg_scale=much"], ["guidance.cfg_scale", "float"]),
        (["generate", "x", "steps=-1"], ["steps", "-1"]),
        (["generate", "x", "resolution=99999999"], ["resolution", "1024"]),
        (["generate", "x", "export.format=gbl"], ["export.format", "gbl"]),
        (["generate", "x", "--seed", "-4"], ["seed", "-4"]),
        (["generate", "x", "--seed", "many"], ["--seed", "many"]),
        (["generate", "x", "--device", "cdua"], ["cdua", "'cuda'"]),
        (["generate", "x", "--what"], ["--what"]),
        (["generate", "x", "y", "z"], ["y"]),
        (["resume", "nowhere"], ["nowhere", "not a run"]),
        (["render", "nowhere"], ["nowhere", "not a run"]),
        (["eval", "nowhere"], ["nowhere", "not a run"]),
        (["compare", "nowhere", "neither"], ["nowhere", "neither a run"]),
        (["reproduce", "canvas-claim"], ["canvas-claims"]),
        (["reproduce", "canvas-claims", "--prior", "toybix"], ["toybix", "toybox"]),
        (["export", "nowhere", "--format", "glbb"], ["glbb", "glb"]),
        (["list", "recipe"], ["recipes"]),
        (["prior", "sample", ""], ["prompt is empty"]),
        (["prior", "sample", "x", "--n", "0"], ["--n", "0"]),
        (["prior", "info", "--folder", "nowhere"], ["nowhere"]),
        (["prior", "train", "--out", "p", "stepps=3"], ["stepps", "'steps'"]),
        (["nothing"], ["nothing"]),
        ([], ["COMMAND"]),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(arguments: list[str], words: list[str], ask: Any) -> None:
    answer = ask(*arguments)
    assert answer.code == 2
    assert all(word in answer.err for word in words), answer.err
    assert "Traceback" not in answer.err
    assert answer.out == []
    assert list(Path().iterdir()) == []


def test_wrong_input_with_json_says_so_in_json(ask: Any) -> None:
    answer = ask("generate", "", "--json")
    assert (answer.code, answer.json()["status"]) == (2, "wrong input")
    assert "empty" in answer.json()["error"]


def test_a_device_that_is_not_there(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = ask(*CANVAS, "--device", "cuda", "--out", "run")
    assert answer.code == 2 and "'cuda' is not on this machine" in answer.err and "cpu" in answer.err
    assert not Path("run").exists()


def test_auto_takes_the_fastest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert devices.pick("auto").type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert devices.pick("auto").type == "cuda"
    assert devices.pick("cpu").type == "cpu"


def test_an_output_folder_in_use_is_refused(ask: Any, run: Path) -> None:
    answer = ask(*CANVAS, "--out", "run", "--seed", "1")
    assert answer.code == 2 and "--overwrite" in answer.err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    answer = ask(*CANVAS, "--out", "locked/run")
    assert answer.code == 2 and "locked/run" in answer.err and "Permission denied" in answer.err


@pytest.mark.parametrize("when", ["metrics.jsonl", "checkpoints", "asset.png"])
def test_a_full_disk_is_said_and_the_run_can_go_on(when: str, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool(Path("/dev/full").exists(), "there is no /dev/full")
    expected = ask(*CANVAS, "--out", "whole")
    Path("run").mkdir()
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if when in str(target):
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    answer = ask(*CANVAS, "--out", "run")
    assert answer.code == 2 and "full" in answer.err and "Traceback" not in answer.err
    monkeypatch.setattr(os, "replace", real)
    assert ask(*CANVAS, "--out", "run").code == expected.code == 0
    assert fingerprint(Path("run")) == fingerprint(Path("whole"))


def test_numbers_that_explode_are_a_failure(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "wild.py").write_text(
        "from dataclasses import dataclass\nfrom dreamforge.types import Gradient\n\n"
        "@dataclass(frozen=True)\nclass Wild:\n"
        "    def grad(self, view, prior):\n        return Gradient(view.x / 0)\n"
    )
    answer = ask(*CANVAS, "--out", "run", "guidance.use=wild.Wild", "--json")
    assert answer.code == 1 and "step 0" in answer.json()["error"] and "Traceback" not in answer.err


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_says_how_to_resume(asked: signal.Signals, tmp_path: Path) -> None:
    many = [*CANVAS, "steps=100000", "--out", str(tmp_path / "run")]
    root = Path(cli.__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-m", "dreamforge", *many], cwd=root, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run").glob("checkpoints/*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(asked)
    error = process.communicate()[1]
    assert process.returncode == 1
    stopped = re.search(r"interrupted after step (\d+) of 100000; 'dreamforge resume (\S+)'", error)
    assert stopped and Path(stopped[2]) == tmp_path / "run" and "Traceback" not in error
    assert (tmp_path / "run" / "checkpoints" / f"step_{int(stopped[1]):06d}.json").is_file()


def interrupted_by(number: signal.Signals) -> bool:
    """Whether this signal to this process raises KeyboardInterrupt."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        return True
    return False


def test_sigterm_may_come_twice_and_ctrl_c_after_it_stops_at_once() -> None:
    """Once the steps are safe, both stop at once; at the end they do what they did before."""
    heard: list[int] = []
    before = {one: signal.signal(one, lambda number, frame: heard.append(number)) for one in SIGNALS}
    try:
        with commands.watched() as listener:
            assert not listener.stop()
            for _ in range(2):
                assert not interrupted_by(signal.SIGTERM) and listener.stop()
            assert interrupted_by(signal.SIGINT)
            listener.say("all steps are done")
            assert all(interrupted_by(one) for one in SIGNALS)
        assert heard == [] and not any(interrupted_by(one) for one in SIGNALS)
        assert heard == list(SIGNALS)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_lists(ask: Any) -> None:
    recipes = ask("list", "recipes").out
    assert any(re.match(r"canvas +A flat picture", line) for line in recipes)
    assert any(line.startswith("sds.SDS") for line in ask("list", "guidance").out)
    assert any(line.startswith("mixture.Mixture") for line in ask("list", "priors").out)
    assert {"canvas.Canvas", "hash_nerf.HashNerf"} <= set(ask("list", "scenes", "--json").json()["scenes"])


def test_every_command_has_help(ask: Any) -> None:
    text = "\n".join(ask("--help").out)
    commands = [
        "generate",
        "resume",
        "export",
        "render",
        "eval",
        "compare",
        "reproduce",
        "list",
        "prior",
        "toybox",
        "bench",
        "doctor",
    ]
    assert all(re.search(rf"^    {command}\b", text, re.MULTILINE) for command in commands)
    for command in [*map(str.split, commands), *(["prior", name] for name in ("train", "sample", "info"))]:
        assert ask(*command, "--help").code == 0
    assert ask("--version").out[0].startswith("dreamforge ")


def test_doctor_says_versions_device_and_precision(ask: Any) -> None:
    answer = ask("doctor", "--json")
    found = {finding["name"]: finding["text"] for finding in answer.json()["findings"]}
    assert "torch" in found["versions"] and "threads" in found["device"]
    assert re.search("float32|bfloat16", found["precision"])


def test_doctor_finds_a_stranger_of_the_same_name() -> None:
    assert not package_name(["dreamforge3d"]).wrong and not package_name([]).wrong
    finding = package_name(["dreamforge", "dreamforge3d"])
    assert finding.wrong and "pip uninstall dreamforge," in finding.text


def test_doctor_finds_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    weights = tmp_path / "transformer" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  transformer/model.safetensors\n")
    monkeypatch.setattr("dreamforge.data.asset", lambda name: tmp_path)
    assert not prior_files("prior").wrong
    weights.write_bytes(b"wieghts")
    assert prior_files("prior").wrong and "transformer/model.safetensors" in prior_files("prior").text
