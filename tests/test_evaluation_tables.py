"""The tables of the evaluation: statistics, prompts and their words, runs, samples."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamforge.evaluation import runner, suites, table
from dreamforge.evaluation.network import Judge, Labels
from dreamforge.evaluation.samples import near_front, samples
from dreamforge.evaluation.statistics import mean, paired, share, wilson
from dreamforge.evaluation.suites import ACCESSORY, HELD_OUT, TRAINED, Prompt
from dreamforge.evaluation.verdict import Verdict
from dreamforge.evaluation.wanted import Wanted, right, second_right, wanted
from dreamforge.export.write import export
from dreamforge.priors.mixture import MixturePrior, gaussian, known
from dreamforge.toybox import captions
from dreamforge.toybox.catalog import KINDS, held_out
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import make
from dreamforge.types import DreamforgeError


@pytest.fixture
def judge() -> Judge:
    return Judge(Labels.of_toybox(), (8, 8, 8, 8)).eval()


# --- statistics ---


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_published_one(right: int, of: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3."""
    assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_solve_the_score_equation() -> None:
    for end in wilson(34, 40):
        assert abs(34 / 40 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 40))


def test_share_mean_and_paired_difference() -> None:
    assert share([True, True, False, True])["share"] == 0.75
    assert share([]) == {"right": 0, "of": 0, "share": None, "low": 0.0, "high": 1.0}
    assert mean([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))
    found = paired([True, True, False, True], [False, True, False, False])
    assert (found["difference"], found["error"]) == pytest.approx((0.5, math.sqrt(1 / 3) / 2))
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])


# --- words ---


def test_every_caption_is_understood() -> None:
    for number in range(600):
        rng = np.random.default_rng(number)
        kind = list(KINDS.values())[number % len(KINDS)]
        color, second = rng.choice(list(COLORS), 2, replace=False)
        worn = str(rng.choice(kind.accessories)) if kind.accessories and number % 2 else None
        label = captions.Label(kind.name, str(color), worn, str(second) if worn else None, azimuth=rng.uniform(-3, 3))
        found = wanted(captions.caption(label, rng, color_share=1.0))
        assert found == Wanted(kind.name, str(color), worn, label.second)


def test_prompts_beyond_the_templates() -> None:
    assert wanted("A tiny TV, turquoise and shiny!") == Wanted("television", "cyan")
    assert wanted("snowman with a scarf") == Wanted("snowman", None, "scarf", None)
    assert wanted("a snowman wearing a grey scarf, red") == Wanted("snowman", "red", "scarf", "gray")
    assert wanted("the meaning of life in blue") is None


def test_right_asks_for_kind_colour_and_accessory() -> None:
    seen = Verdict("snowman", "red", "scarf", "green", agreement=1.0, empty=0.0)
    asked = Wanted("snowman", "red", "scarf", "blue")
    assert right(seen, asked) and second_right(seen, asked) is False
    assert right(seen, Wanted("snowman")) and second_right(seen, Wanted("snowman")) is None
    assert not right(seen, replace(asked, kind="penguin"))
    assert not right(seen, replace(asked, color="blue"))
    assert not right(seen, replace(asked, accessory="hat"))


# --- suites ---


def test_committed_suites_are_the_drawn_ones() -> None:
    for name, prompts in suites.draw().items():
        path = Path(__file__).parents[1] / "assets" / "suites" / f"{name}.json"
        assert path.read_text("utf-8") == suites.text(name, prompts)
        assert suites.load(name) == prompts


def test_suites_keep_their_rules() -> None:
    drawn = suites.draw()
    table_, tuning = drawn["assets-40"], drawn["tuning-16"]
    assert _counts(table_) == {TRAINED: 24, HELD_OUT: 8, ACCESSORY: 8}
    assert _counts(tuning) == {TRAINED: 8, HELD_OUT: 4, ACCESSORY: 4}
    assert _counts(suites.quick(table_)) == {TRAINED: 6, HELD_OUT: 2, ACCESSORY: 2}
    kinds = [{p.asked.kind for p in suite} for suite in (table_, tuning)]
    assert [len(k) for k in kinds] == [40, 16]
    assert len(kinds[0] & kinds[1]) == max(0, 56 - len(KINDS))
    pairs = [{(p.asked.kind, p.asked.color) for p in suite} for suite in (table_, tuning)]
    assert not pairs[0] & pairs[1]
    canvas, canvas_tuning = drawn["canvas-32"], drawn["canvas-tuning-8"]
    assert _counts(canvas) == {TRAINED: 24, HELD_OUT: 8} and _counts(canvas_tuning) == {TRAINED: 6, HELD_OUT: 2}
    judged, tuned = ({p.asked.kind for p in suite} for suite in (canvas, canvas_tuning))
    assert len(judged) == 32 and len(tuned) == 8 and not judged & tuned
    assert not {(p.asked.kind, p.asked.color) for p in canvas_tuning} & pairs[0]
    assert not {(p.asked.kind, p.asked.color) for p in canvas} & pairs[1]
    for prompt in [p for suite in drawn.values() for p in suite]:
        asked = prompt.asked
        assert wanted(prompt.prompt) == asked
        assert asked.color is not None and held_out(asked.kind, asked.color) == (prompt.group == HELD_OUT)
        assert (asked.accessory in KINDS[asked.kind].accessories) == (prompt.group == ACCESSORY)
        assert asked.accessory is None or asked.second not in (None, asked.color)
    assert max(_counts(table_, color=True).values()) <= 5  # of 12 colours for 40 prompts


def test_sentences() -> None:
    assert suites.sentence(Wanted("owl", "orange", "hat", "orange")) == "an orange owl with an orange hat"
    assert suites.sentence(Wanted("rocket", "red", "fins", "blue")) == "a red rocket with blue fins"
    assert suites.sentence(Wanted("owl")) == "an owl"


def _counts(prompts: list[Prompt], color: bool = False) -> dict[Any, int]:
    names = [p.asked.color if color else p.group for p in prompts]
    return {name: names.count(name) for name in names}


# --- tables ---


def test_a_process_is_watched(tmp_path: Path) -> None:
    big = "x = bytearray(300 << 20); x[::4096] = b'1' * len(x[::4096]); print('{}'); raise SystemExit(3)"
    code, printed, peak = runner._watched([sys.executable, "-c", big], tmp_path / "log")
    assert (code, printed) == (3, "{}\n") and (peak is None or peak > 300)
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert runner._watched([sys.executable, "-c", kill], tmp_path / "log")[0] == -9


PARENT = """
import os, signal, sys
from pathlib import Path
from dreamforge.evaluation import runner
child = '''
import os, signal
signal.signal(signal.SIGTERM, lambda *given: open("ended", "w").close() or exit(1))
signal.alarm(30)  # whatever happens, it does not stay
os.kill(os.getppid(), signal.SIGTERM)
while True:
    signal.pause()
'''
try:
    runner._watched([sys.executable, "-c", child], Path("log"))
except runner.Stopped as error:
    print(error, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
def test_the_run_of_a_table_that_is_ended_ends_with_it(tmp_path: Path) -> None:
    """The child asks its parent to end and waits: it ends itself only if it is told, and is waited for."""
    path = os.pathsep.join([str(Path(runner.__file__).parents[2]), *sys.path])
    command, here = [sys.executable, "-c", PARENT], {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=here)
    assert (ended.returncode, ended.stdout.strip()) == (0, "asked to end (SIGTERM) True"), ended.stderr
    assert (tmp_path / "ended").exists()


def test_what_becomes_of_a_run(tmp_path: Path, monkeypatch: Any) -> None:
    def answer(code: int, line: str) -> None:
        monkeypatch.setattr(runner, "_watched", lambda command, log: (code, line, 512.0))

    def made() -> dict[str, Any]:
        return runner.make("a red owl", "smoke", tmp_path / "owl", tmp_path / "log", [])

    answer(0, 'noise\n{"status": "done", "asset": "a.glb"}\n')
    assert made()["peak_mb"] == 512.0 and made()["seconds"] is not None
    answer(1, '{"status": "failed", "error": "NaN in step 3"}')
    assert made()["error"] == "NaN in step 3"
    answer(2, '{"status": "wrong input", "error": "no such recipe"}')
    with pytest.raises(DreamforgeError, match="no such recipe"):
        made()
    for code, line in ((-9, ""), (1, '{"status": "failed", "error": "interrupted after step 2 of 9"}')):
        answer(code, line)
        with pytest.raises(runner.Stopped):
            made()
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "recipe.yaml").write_text("")
    answer(0, '{"status": "done"}')
    assert made()["seconds"] is None  # begun before: nobody knows how long it took


def test_the_table_of_assets(tmp_path: Path, judge: Judge, monkeypatch: Any, capsys: Any) -> None:
    seconds = iter([9.0, 5.0, 1.0])

    def fake(prompt: str, recipe: str, out: Path, log: Path, overrides: list[str]) -> dict[str, Any]:
        assert overrides == ["steps=5", table.BLIND]
        out.mkdir(exist_ok=True)
        if "owl" in prompt:
            return {"status": "failed", "error": "NaN", "seconds": 3.0, "peak_mb": 10.0}
        export(make("apple", None, 3).mesh((0.8, 0.1, 0.1)), out / "asset.glb", "glb")
        facts = {"status": "done", "asset": str(out / "asset.glb"), "sha256": "1", "triangles": 9}
        return {**facts, "seconds": next(seconds), "peak_mb": 100.0}

    asked = [Wanted("apple", "red"), Wanted("pig", "red", "hat", "blue"), Wanted("owl", "red")]
    prompts = [Prompt(TRAINED, suites.sentence(a), a) for a in asked]
    monkeypatch.setattr(table, "make", fake)
    monkeypatch.setattr(table, "shipped", lambda: judge)
    verdict = {"kind": "apple", "color": "red", "accessory": None, "second": None, "faces": None, "second_right": False}
    monkeypatch.setattr(table, "judge_asset", lambda path, prompt, judge: {**verdict, "right": "apple" in prompt})
    monkeypatch.setattr(suites, "load", lambda name: prompts)
    command = ["assets", "steps=5", "--camera-blind", "--no-samples", "--out", str(tmp_path)]
    assert table.main(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert [row["status"] for row in found["rows"]] == ["done", "done", "failed"]
    figures = found["figures"]
    assert (figures["right"]["right"], figures["kind"]["right"], figures["color"]["right"]) == (1, 1, 2)
    assert (figures["right"]["of"], figures["accessory in its colour"]["of"], figures["one face"]["of"]) == (3, 1, 0)
    assert figures["seconds"] == {"of": 3, "mean": 5.67, "error": 1.76, "max": 9.0} and figures["peak_mb"] == 100.0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    prompts[:] = prompts[:1]
    assert table.main(command) == 0  # the same asset keeps its time
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["seconds"] == 9.0
    assert len((tmp_path / "table.jsonl").read_text().splitlines()) == 3


def test_efficiency() -> None:
    assert table.efficiency({"right": {"share": 0.6}, "right in 2D": {"share": 0.8}}) == 0.75
    assert table.efficiency({"right": {"share": 0.6}, "right in 2D": {"share": 0.0}}) is None


def test_samples_belong_to_their_prompts() -> None:
    world = known({name: gaussian(torch.full((3, 8, 8), level), 0.05) for name, level in (("a", -0.8), ("b", 0.8))})
    drawn = samples(MixturePrior(world, 8), ["a", "b"], count=9, camera=False)
    assert drawn.shape == (2, 9, 8, 8, 3)
    assert (drawn[0].mean((1, 2, 3)) < 0.3).all() and (drawn[1].mean((1, 2, 3)) > 0.7).all()
    assert len(drawn.flatten(0, 1).flatten(1).unique(dim=0)) == 18
    cameras = near_front(50, 1)
    assert cameras.azimuth.abs().max() < math.radians(45) and cameras.elevation.min() >= 0
