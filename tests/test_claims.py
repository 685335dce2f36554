"""The claims about guidances: their rule, their methods, and the plots of what they rest on."""

import math
import re
from typing import Any

import pytest

from dreamforge import config
from dreamforge.evaluation.statistics import shown
from dreamforge.reproduce import methods, plots
from dreamforge.reproduce.claims import CLAIMS, METRICS, Claim, decide, judged, measured, summary
from dreamforge.reproduce.methods import COMMON, DRAWS, METHODS, PRIORS, TRIED, content, drawing
from dreamforge.reproduce.plots import Point
from dreamforge.types import DreamforgeError

MORE = Claim("more", "A has more", "nobody", "right", "a", "b", 1)


# --- rule ---


@pytest.mark.parametrize(
    ("difference", "error", "sign", "margin", "verdict"),
    [
        (0.21, 0.1, 1, 0.0, "reproduced"),
        (0.20, 0.1, 1, 0.0, "not reproduced"),  # two standard errors are not more than two
        (-0.21, 0.1, 1, 0.0, "reversed"),
        (-0.21, 0.1, -1, 0.0, "reproduced"),
        (0.21, 0.1, -1, 0.0, "reversed"),
        (0.0, 0.0, 1, 0.0, "not reproduced"),
        (math.nan, math.nan, 1, 0.0, "not reproduced"),
        (5.0, math.nan, 1, 0.0, "not reproduced"),  # one prompt
        (0.0, 0.1, 1, 0.25, "reproduced"),  # kept: a loss of 0.25 is excluded
        (0.0, 0.2, 1, 0.25, "not reproduced"),  # no difference seen, but none excluded
        (-0.1, 0.05, 1, 0.25, "reproduced"),
        (-0.5, 0.1, 1, 0.25, "reversed"),
    ],
)
def test_the_verdict(difference: float, error: float, sign: int, margin: float, verdict: str) -> None:
    assert judged(difference, error, sign, margin) == verdict


def test_shown_needs_more_than_two_standard_errors() -> None:
    assert [shown(gain, 1.0) for gain in (2.01, 1.99, -1.99, -2.01)] == ["yes", "no", "no", "reversed"]


def row(method: str, prompt: str, *values: float) -> dict[str, Any]:
    return {"method": method, "prompt": prompt, "metrics": {"right": list(values)}}


def test_seeds_of_a_prompt_are_one_witness() -> None:
    rows = [row("a", "x", 1, 1, 1, 1), row("a", "y", 1, 0, 0, 0), row("b", "x", 0, 0, 0, 0), row("b", "y", 0, 0, 0, 0)]
    found = decide(MORE, measured(rows))
    assert (found["difference"], found["n"]) == (0.625, 2)
    assert found["error"] == pytest.approx(0.375)  # of 1 and 0.25, not of eight seeds
    assert found["verdict"] == "not reproduced"


def test_only_prompts_that_both_methods_have_count() -> None:
    rows = [row("a", prompt, 1) for prompt in "vwxyz"] + [row("b", prompt, 0) for prompt in "xyz"]
    assert decide(MORE, measured(rows))["n"] == 3
    alone = decide(MORE, measured(rows[:5]))
    assert (alone["n"], alone["difference"], alone["verdict"]) == (0, None, "not reproduced")


def test_without_a_second_method_the_metric_is_the_difference() -> None:
    claim = Claim("less", "A has less than true renders", "nobody", "right", "a", None, -1)
    found = decide(claim, measured([row("a", prompt, -0.5) for prompt in "xyz"]))
    assert (found["difference"], found["n"], found["verdict"]) == (-0.5, 3, "reproduced")


def test_the_summary_has_an_error_over_prompts() -> None:
    found = summary(measured([row("a", "x", 1, 1), row("a", "y", 0, 0), row("b", "x", 1)]))
    assert found["a"]["right"] == {"mean": 0.5, "error": pytest.approx(0.5), "n": 2}
    assert found["b"]["right"]["error"] is None


# --- data ---


def test_every_claim_speaks_of_something_measured() -> None:
    names = {method.name for method in METHODS} | set(DRAWS)
    for claim in CLAIMS:
        assert claim.metric in METRICS and {claim.first, claim.second or claim.first} <= names
        assert claim.first != claim.second
        # "more than true renders" wants a metric that is a difference to them
        assert claim.second is not None or claim.metric.endswith("excess")
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


def test_every_family_has_the_same_budget_and_one_tuned_method() -> None:
    assert {len(tried) for tried in TRIED.values()} == {4}
    assert sorted(method.family for method in METHODS if method.tuned) == sorted(TRIED)
    for tried in TRIED.values():
        assert all(one not in tried[:k] for k, one in enumerate(tried))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_setting_is_a_recipe_without_cameras_and_view_words(method: methods.Method) -> None:
    for tuned in TRIED[method.family]:
        recipe = config.build({**content("a red owl", 3, 7, 2, method.values, tuned), "prior": "mixture.Mixture"})
        (term,) = recipe.stages[0].terms
        assert (recipe.seed, recipe.steps, term.views, recipe.stages[0].scene.pictures) == (3, 7, 2, 2)
        assert term.guidance.use_camera is False and term.prompts.enabled is False and term.prompt == "a red owl"


def test_layers_do_not_leak_into_each_other() -> None:
    before = repr((COMMON, METHODS, TRIED))
    one = content("x", 0, 5, 1, METHODS[0].values, {"scene.lr": 0.3, "guidance.cfg_scale": 2.0})
    assert one["scene"]["lr"] == 0.3 and one["guidance"]["cfg_scale"] == 2.0
    assert repr((COMMON, METHODS, TRIED)) == before
    assert content("x", 0, 5, 1, drawing("draws-8"))["noise"]["draws"] == 8


def test_a_prior_that_is_not_there_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    latent = next(named for named in PRIORS if named.name == "latent")

    def missing(name: str) -> None:
        raise DreamforgeError(f"no {name}")

    monkeypatch.setattr(methods.data, "asset", missing)
    with pytest.raises(DreamforgeError, match=r"'latent' is not there.*assets/latent"):
        methods.spec(latent)


# --- plots ---


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_rows_stand_where_their_means_are() -> None:
    svg = plots.rows([Point(0.0, 0.0, "none"), Point(0.5, 0.0, "half"), Point(1.0, 0.1, "<all>")])
    (none, _), (half, _), (whole, _) = circles(svg)
    assert half == pytest.approx((none + whole) / 2, abs=0.2)
    # of the whisker of two standard errors: 0.2 of the distance to either side
    ends = [float(x) for x in re.findall(r'<line x1="([\d.]+)"', svg)]
    assert ends[-1] == pytest.approx(whole - 0.2 * (whole - none), abs=0.2)
    assert "&lt;all&gt;" in svg


def test_a_curve_is_logarithmic_in_x_and_upwards() -> None:
    svg = plots.curve([Point(3.0, 0.0, x=4.0), Point(1.0, math.nan, x=1.0), Point(2.0, 0.0, x=2.0)], "kappa")
    places = circles(svg)
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert places[0][1] > places[1][1] > places[2][1]


def test_what_was_not_measured_is_left_out() -> None:
    assert len(circles(plots.rows([Point(math.nan, math.nan, "a"), Point(1.0, 0.1, "b")]))) == 1
    assert "nothing" in plots.rows([Point(math.nan, math.nan, "a")]) and "nothing" in plots.curve([], "x")
