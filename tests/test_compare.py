"""``dreamforge compare``: what belongs together, what is measured, what is told of wrong input."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dreamforge import compare, config, runs
from dreamforge.compare import Pair, match, summary
from dreamforge.evaluation.network import Judge, Labels
from dreamforge.evaluation.suites import Wanted
from dreamforge.types import DreamforgeError

TINY = {
    "prior": {"use": "mixture.Mixture", "size": 8},
    "scene.size": 8,
    "resolution": 8,
    "steps": 2,
    "preview_every": 0,
    "views": 1,
    "scene.pictures": 1,
}


def make(folder: Path, prompt: str, seed: int = 0) -> None:
    runs.generate(config.load("canvas", values={**TINY, "prompt": prompt, "seed": seed}), folder)


def verdict(kind: str) -> dict[str, Any]:
    """What ``judge_asset`` says of an asset that shows a red thing of this kind."""
    return {"kind": kind, "color": "red", "right": kind == "apple", "agreement": 1.0, "faces": None}


@pytest.fixture
def two_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of two prompts in A, and in B of one of them and another, nested as a loop over seeds leaves them."""
    for name, prompt in (("a/1", "a red apple"), ("a/2", "a red owl"), ("b/x/1", "a red apple"), ("b/3", "a red cat")):
        make(tmp_path / name, prompt)
    monkeypatch.setattr(compare, "shipped", lambda: Judge(Labels.of_toybox(), (8, 8, 8, 8)).eval())
    said = {"a": verdict("apple"), "b": verdict("owl")}
    monkeypatch.setattr(compare, "judge_asset", lambda path, prompt, judge: said[path.relative_to(tmp_path).parts[0]])
    return tmp_path


def test_pairs_are_judged_and_written(two_sides: Path) -> None:
    out, said = two_sides / "pairs.csv", list[str]()
    rows = {row["metric"]: row for row in compare.compare(two_sides / "a", two_sides / "b", out, said.append)}
    assert said == ["judging pair 1 of 1: a red apple"]
    assert (rows["right"]["a"], rows["right"]["b"], rows["right"]["difference"]) == (1.0, 0.0, 1.0)
    assert rows["kind"]["difference"] == 1.0 and rows["colour"]["difference"] == 0.0
    assert rows["right"]["error"] is None and rows["right"]["verdict"] == "fewer than 5 pairs"  # one is no proof
    assert rows["colour distance"]["a"] > 0, "flat pictures are compared with true renders too"
    assert "one face" not in rows and rows["seconds of steps"]["a"] > 0
    written = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    assert [row["metric"] for row in written] == list(rows)
    first = written[0]
    assert (first["prompt"], first["seed_a"], first["a"], first["difference"]) == ("a red apple", "0", "1.0", "1.0")


def test_only_runs_of_a_prompt_belong_together_else_those_of_one_seed() -> None:
    a, b = [("x", 0), ("y", 0), ("y", 1), ("z", 0)], [("x", 5), ("y", 1), ("y", 2)]
    assert match(a, b) == [(("x", 0), ("x", 5)), (("y", 1), ("y", 1))]


def pairs(prompt: str, *differences: float) -> list[Pair]:
    return [Pair(prompt, (seed, seed), {"right": (d, 0.0)}) for seed, d in enumerate(differences)]


def test_seeds_of_a_prompt_are_one_witness() -> None:
    (row,) = summary([*pairs("x", 1.0, 1.0, 1.0, 1.0), *pairs("y", 0.0)])
    assert (row["n"], row["over"], row["difference"]) == (2, "prompts", 0.5)
    assert row["error"] == pytest.approx(0.5) and row["verdict"] == "fewer than 5 pairs"
    (row,) = summary([pair for prompt in "abcde" for pair in pairs(prompt, 1.0 if prompt < "c" else -1.0)])
    assert row["verdict"] == "no difference shown"
    (row,) = summary([pair for prompt in "abcdef" for pair in pairs(prompt, -1.0, -0.9)])
    assert row["verdict"] == "B is higher"


def test_seeds_of_the_only_prompt_take_the_place_of_prompts() -> None:
    (row,) = summary(pairs("x", 1.0, 0.9, 1.1, 1.0, 0.9))
    assert (row["n"], row["over"], row["verdict"]) == (5, "seeds", "A is higher")


def test_tables_are_compared_without_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "shipped", lambda: None)
    asked = vars(Wanted("owl", "red"))
    for name, rights in (("a", [True, True, True]), ("b", [True, False, False])):
        rows = [{"prompt": str(i), "right": r, "wanted": asked, "seconds": 1.0} for i, r in enumerate(rights)]
        (tmp_path / name).write_text(json.dumps({"seed": 0, "rows": rows}))
    found = compare.compare(tmp_path / "a", tmp_path / "b", tmp_path / "out.csv", lambda text: None)
    assert found[0]["metric"] == "right" and found[0]["difference"] == pytest.approx(2 / 3)


def test_wrong_input_is_one_sentence_and_writes_nothing(two_sides: Path) -> None:
    def refused(first: str, second: str) -> str:
        with pytest.raises(DreamforgeError) as error:
            compare.compare(two_sides / first, two_sides / second, two_sides / "out.csv", lambda text: None)
        assert not (two_sides / "out.csv").exists()
        return str(error.value)

    (two_sides / "empty").mkdir()
    (two_sides / "no.json").write_text('{"rows": 3}')
    assert "neither a run nor a folder" in refused("a", "empty")
    assert "not a table" in refused("no.json", "a")
    assert "no run in common" in refused("a/2", "b")
    make(two_sides / "b/again", "a red cat")
    assert "two runs of 'a red cat'" in refused("a", "b")
    (two_sides / "a/1/result.json").unlink()
    assert "dreamforge resume" in refused("a", "b/3")
