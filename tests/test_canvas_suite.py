"""The suite of canvas claims: independence of pictures, what is counted, the measured variance, and going on."""

import html
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.evaluation import suites
from dreamforge.reproduce import lab as lab_module
from dreamforge.reproduce import plan, suite
from dreamforge.reproduce.claims import CLAIMS
from dreamforge.reproduce.estimate import Kind, kind_of, kinds, seconds
from dreamforge.reproduce.lab import SEED, TRUE, Job, Lab
from dreamforge.reproduce.methods import DRAWS, METHODS, TRIED, NamedPrior, by_name, content, drawing
from dreamforge.reproduce.plan import Scale
from dreamforge.rng import generator
from dreamforge.runs import Interrupted
from dreamforge.types import DreamforgeError, Gradient, Prior, View

TINY = Scale(prompts=2, tuning_prompts=1, steps=2, truths=2, draws=16)
PRIOR = NamedPrior("tiny", "exact prior", {"use": "mixture.Mixture", "size": 8}, "")
PROMPTS = plan.judging_prompts(TINY)


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab.open(dict(PRIOR.values), PROMPTS, 2, torch.device("cpu"))


# --- pictures of one canvas ---


def painted(lab: Lab, method: str, pictures: int, start: Tensor | None) -> Tensor:
    recipe = content("a red owl", 7, 3, pictures, by_name(method).values)
    return lab.paint(recipe, start).pictures


@pytest.mark.parametrize("method", ["sds", "balanced-15", "ism", "consistent"])
def test_pictures_of_a_canvas_are_independent_where_nothing_is_learnt(lab: Lab, method: str) -> None:
    """The first of two pictures is that of a run by itself, whatever the second one is."""
    start = torch.rand(2, 64, 64, 3, generator=generator(0))
    other = torch.cat([start[:1], 1 - start[1:]])
    both = painted(lab, method, 2, start)
    assert (both[0] - painted(lab, method, 2, other)[0]).abs().max() < 1.5 / 255
    assert (both[0] - painted(lab, method, 1, start[:1])[0]).abs().max() < 1.5 / 255
    assert (both[0] - both[1]).abs().max() > 0.1
    assert (both - start).abs().max() > 0.02  # three steps of Adam have moved it


def test_pictures_of_a_canvas_share_what_is_learnt_from_them(lab: Lab) -> None:
    """Particles: the estimator has seen all of them, so the first changes with the second."""
    start = torch.rand(2, 64, 64, 3, generator=generator(0))
    other = torch.cat([start[:1], 1 - start[1:]])
    lr = {"guidance.estimator.lr": 0.05}
    recipe = content("a red owl", 7, 12, 2, by_name("vsd").values, lr)
    first, second = (lab.paint(recipe, one).pictures[0] for one in (start, other))
    assert (first - second).abs().max() > 5 / 255


def test_seeds_are_views_of_one_run_or_runs_of_their_own() -> None:
    jobs = {job.method: job for job in plan.judging(TINY, PRIOR, dict.fromkeys(TRIED, 0)) if job.prompt == PROMPTS[0]}
    assert [run["views"] for run in jobs["sds"].runs] == [4] == [run["views"] for run in jobs["vsd-particles"].runs]
    assert [run["views"] for run in jobs["vsd"].runs] == [1, 1, 1, 1]
    assert len({run["seed"] for run in jobs["vsd"].runs}) == 4
    assert jobs["sds"].runs[0]["seed"] == jobs["ism"].runs[0]["seed"] == jobs["vsd"].runs[0]["seed"]
    told = plan.judging(TINY, replace(PRIOR, own={"ism": {"guidance.start": 0.1}}), dict.fromkeys(TRIED, 0))
    starts = {job.method: job.runs[0]["guidance"].get("start") for job in told if job.runs}
    assert starts.pop("ism") == 0.1 and set(starts.values()) == {None}
    others = {job.runs[0]["seed"] for job in plan.judging(TINY, PRIOR, dict.fromkeys(TRIED, 0)) if job.runs}
    assert len(others) == len(PROMPTS)


# --- what a step costs ---


@pytest.mark.parametrize(("method", "asked"), [("sds", 2), ("balanced-60", 2), ("consistent", 2), ("vsd", 4)])
def test_evaluations_are_predictions_for_a_picture(lab: Lab, method: str, asked: int) -> None:
    """Text and empty text; VSD asks its estimator too, and teaches it."""
    recipe = content("a red owl", 0, 3, 2, by_name(method).values)
    assert lab.paint(recipe).evaluations == asked * 3 * 2


def test_kinds_and_their_time(lab: Lab) -> None:
    known = kinds(lab, "a red owl")
    assert set(known) == {kind_of(method) for method in METHODS} | {"draws"}
    assert kind_of(by_name("vsd-particles")) != kind_of(by_name("vsd"))
    for kind in known.values():
        assert sum(kind.parts.values()) == pytest.approx(1.0) and kind.step > 0
    assert known["ism"].evaluations > known["sds"].evaluations == 2


def test_an_estimate_is_steps_times_pictures_times_draws(lab: Lab) -> None:
    known = dict.fromkeys([*map(kind_of, METHODS), "draws"], Kind(4, start=1.0, step=0.1, evaluations=2, parts={}))
    sds = Job("judging", "sds", PROMPTS[0], (content("x", 0, 10, 4),))
    apart = Job("judging", "vsd", PROMPTS[0], tuple(content("x", k, 10, 1) for k in range(4)))
    true = Job("judging", TRUE, PROMPTS[0])
    draws = Job("variance", "draws-8", PROMPTS[0], (content("x", 0, 2, 4, drawing("draws-8")),))
    told = [seconds([job], known, judging=0.5) for job in (sds, apart, true, draws)]
    assert told == pytest.approx([2.5, 0.5 + 4 + 1.0, 0.5, 1.0 + 1.6])


# --- the gradient's variance ---


@dataclass(frozen=True)
class Ones:
    """A guidance whose gradient is 1 in every draw."""

    def grad(self, view: View, prior: Prior) -> Gradient:
        return Gradient(torch.ones_like(view.x))


@pytest.mark.parametrize("draws", [1, 2])
def test_the_gradient_is_heard_once_a_step_as_the_engine_adds_it_up(lab: Lab, draws: int) -> None:
    """The mean over draws, divided by the number of pictures; and the pictures stay at a learning rate of 0."""
    still = torch.rand(3, 64, 64, 3, generator=generator(4))
    ones = {"guidance": {"use": f"{__name__}.Ones"}, "scene.lr": 0.0}
    lab.gradients = []
    after = lab.paint(content("a red owl", 5, 2, 3, drawing(f"draws-{draws}"), ones), still).pictures
    heard, lab.gradients = lab.gradients, None
    assert len(heard) == 2
    for one in heard:
        torch.testing.assert_close(one, torch.full((3, 3, 8, 8), 1 / 3))
    torch.testing.assert_close(after, still, atol=1 / 255, rtol=0)


@dataclass(frozen=True)
class Noisy:
    """A guidance whose gradient is the draw's own noise: of variance 1."""

    def grad(self, view: View, prior: Prior) -> Gradient:
        return Gradient(view.noise)


def test_the_variance_is_that_of_the_guidance_and_draws_divide_it(lab: Lab) -> None:
    """1 for one draw, 1/8 for eight, whatever the number of pictures; read off as many draws in all."""
    jobs = {job.method: job for job in plan.variance(replace(TINY, draws=64)) if job.prompt == PROMPTS[0]}
    assert [jobs[name].runs[0]["steps"] * draws for name, (draws, _) in DRAWS.items()] == [64] * len(DRAWS)
    for draws in (1, 8):
        job = jobs[f"draws-{draws}"]
        noisy = replace(job, runs=({**job.runs[0], "guidance": {"use": f"{__name__}.Noisy"}},))
        assert lab.variance(noisy)["variance"] == pytest.approx([1 / draws] * 4, rel=0.15)
        found = lab.variance(job)  # of SDS: two evaluations a draw
        ratio = [b / a for a, b in zip(found["variance"], found["variance per evaluation"], strict=True)]
        assert ratio == pytest.approx([2.0 * draws] * 4)


# --- rows ---


def test_every_metric_of_a_true_render(lab: Lab) -> None:
    row, pictures = lab.row(Job("judging", TRUE, PROMPTS[0]))
    assert pictures is not None and pictures.shape == (4, 64, 64, 3)
    found = row["metrics"]
    assert {len(found[name]) for name in ("right", "r-precision", "sharpness", "colour distance")} == {4}
    assert len(found["feature diversity"]) == len(found["colour diversity"]) == 1
    assert found["saturation error"] == [abs(value) for value in found["saturation excess"]]
    assert found["detail"] == [min(value, 0.0) for value in found["sharpness"]]
    truth = lab.truth(PROMPTS[0])
    same = lab.measured(PROMPTS[0], truth)  # against themselves: the mean excess is nothing
    assert sum(same["saturation excess"]) == pytest.approx(0.0, abs=1e-4)
    assert sum(same["sharpness"]) == pytest.approx(0.0, abs=1e-4)


def test_numbers_that_explode_are_wrong_and_nothing_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*arguments: Any, **options: Any) -> None:
        raise FloatingPointError("not finite")

    monkeypatch.setattr(lab_module, "fit", explode)
    row, pictures = lab.row(plan.judging(TINY, PRIOR, dict.fromkeys(TRIED, 0))[0])
    assert row["error"] == "not finite" and row["metrics"] == {"right": [0.0] * 4, "r-precision": [0.0] * 4}
    assert pictures is not None and len(pictures) == 4


def test_the_criterion_of_tuning() -> None:
    rights = {"sds": [(0.5, 0.1), (0.6, 0.3), (0.6, 0.2), (0.6, 0.2)]}
    rows = []
    for method in (method for method in METHODS if method.tuned):
        for number, (right, error) in enumerate(rights.get(method.family, [(1.0, 0.5)] * 4)):
            metrics = {"right": [right], "sharpness error": [error]}
            rows.append({"method": method.name, "setting": number, "metrics": metrics})
    rows[-1]["metrics"] = {"right": [1.0]}  # exploded: no sharpness error
    chosen, tried = plan.choose(rows)
    assert chosen["sds"] == 2 and chosen["vsd"] == 0
    assert [one["right"] for one in tried["sds"]] == [0.5, 0.6, 0.6, 0.6]
    assert tried[METHODS[-1].family][-1]["sharpness error"] == plan.EXPLODED


# --- the whole ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A suite of 54 rows, stopped after 30 and gone on with: the folder, its claims, and how many rows were made."""
    out, made = tmp_path_factory.mktemp("claims"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        _small(patch)
        row = Lab.row

        def counted(self: Lab, job: Job) -> Any:
            if len(made) == 30 and job.key not in made:
                made.append("stopped")
                raise KeyboardInterrupt
            made.append(job.key)
            return row(self, job)

        patch.setattr(Lab, "row", counted)
        said: list[str] = []
        with pytest.raises(Interrupted, match="goes on from here"):
            suite.reproduce(out, [], quick=True, say=said.append)
        assert not (out / "claims.json").exists()
        claims = suite.reproduce(out, [], quick=True, say=said.append)
    return out, claims, made, said


def _small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(suite, "PRIORS", (PRIOR,))
    patch.setattr(suite, "QUICK", TINY)


def test_a_stopped_suite_goes_on_and_makes_no_row_twice(whole: Any) -> None:
    out, claims, made, _ = whole
    keys = [key for key in made if key != "stopped"]
    jobs = 6 * 4 + 2 * (len(METHODS) + 1) + 2 * len(DRAWS)
    assert len(made) == jobs + 1 and len(set(keys)) == jobs
    assert {row["key"] for row in claims["rows"]["tiny"]} == set(keys)
    assert not list(out.rglob("*.part"))


def test_claims_are_written_with_all_that_they_rest_on(whole: Any) -> None:
    out, claims, _, _ = whole
    assert json.loads((out / "claims.json").read_text("utf-8")) == claims
    (prior,) = claims["priors"]
    assert [claim["name"] for claim in prior["claims"]] == [claim.name for claim in CLAIMS]
    assert {claim["n"] for claim in prior["claims"]} == {2} and prior["quick"] is True
    assert {"torch", "diffusers"} <= set(prior["made with"]["packages"]) and prior["seed"] == SEED
    assert prior["summary"]["sds"]["evaluations"]["mean"] == 2 * TINY.steps
    assert str(Path.cwd()) not in (out / "claims.json").read_text("utf-8")


def test_the_page_holds_everything_and_says_that_it_is_no_result(whole: Any) -> None:
    out, _, _, _ = whole
    page = (out / "report.html").read_text("utf-8")
    assert "is not a result" in page
    assert all(html.escape(claim.sentence) in page for claim in CLAIMS)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(METHODS) + 1 and all(source.startswith("data:image/webp") for source in sources)


def test_a_sheet_shows_the_pictures_that_were_judged(whole: Any, lab: Lab) -> None:
    out, claims, _, _ = whole
    width = 4 * 64
    strips = suite.cut((out / "tiny" / "sds.png").read_bytes(), 2, 64, width, suite.COLUMNS)
    for prompt, strip in zip(PROMPTS, strips, strict=True):
        found = lab.measured(prompt, torch.stack(list(strip.split(64, dim=1))))
        (row,) = [one for one in claims["rows"]["tiny"] if one["key"].endswith(f"/{prompt.prompt}")
                  and (one["stage"], one["method"]) == ("judging", "sds")]  # fmt: skip
        assert found["sharpness"] == pytest.approx(row["metrics"]["sharpness"], abs=1e-3)


def test_the_estimate_says_what_it_rests_on(whole: Any) -> None:
    _, _, _, said = whole
    told = "\n".join(said)
    assert re.search(r"tiny: about \d+ minutes for 24 rows of tuning, 22 rows of judging, 12 rows of variance", told)
    assert "for 24 rows of judging" not in told and "minutes for 16 rows of judging, 12 rows" in told
    assert "network" in told and "4 timed steps" in told


def test_an_estimate_alone_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    assert suite.forecasts(tmp_path / "out", ["tiny"], quick=True, say=lambda text: None) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_other_settings_is_made_again(lab: Lab, tmp_path: Path) -> None:
    job = plan.variance(TINY)[0]
    rows = suite.Rows(tmp_path / "rows.jsonl")
    suite._row(lab, job, rows, tmp_path)
    again = suite.Rows(tmp_path / "rows.jsonl")
    assert again.get(job.key, lab.digest(job)) is not None
    changed = replace(job, runs=({**job.runs[0], "steps": 99},))
    assert again.get(changed.key, lab.digest(changed)) is None


def test_a_prior_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DreamforgeError, match="There is no prior 'nobody'"):
        suite.present(["nobody"], print)
    gone = NamedPrior("gone", "a prior", {"use": "mixture.Mixture"}, "gone")
    monkeypatch.setattr(suite, "PRIORS", (PRIOR, gone))
    said: list[str] = []
    assert [named.name for named, _ in suite.present([], said.append)] == ["tiny"]
    assert len(said) == 1 and "'gone' is not there" in said[0]
    with pytest.raises(DreamforgeError, match="assets/gone"):
        suite.present(["gone"], said.append)


def test_prompts_are_spread_over_the_groups() -> None:
    chosen = plan.judging_prompts(replace(TINY, prompts=8))
    assert [prompt.group for prompt in chosen].count(suites.HELD_OUT) == 2
    assert len(plan.judging_prompts(plan.FULL)) == 32 and len(plan.tuning_prompts(plan.FULL)) == 8
