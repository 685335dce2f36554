"""What is published: verdicts follow from the rows by the rule, and the README says what the rows say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dreamforge.reproduce import claims, plan
from dreamforge.reproduce.methods import METHODS, PRIORS

ROOT = Path(__file__).parents[1]
CONTENT: dict[str, Any] = json.loads((ROOT / "assets/results/canvas-claims/claims.json").read_text("utf-8"))
RESULTS = {result["prior"]: result for result in CONTENT["priors"]}


def test_both_priors_are_there() -> None:
    assert list(RESULTS) == [prior.name for prior in PRIORS]
    assert not any(result["quick"] for result in RESULTS.values())


@pytest.mark.parametrize("prior", RESULTS)
def test_verdicts_follow_from_the_rows(prior: str) -> None:
    """Every claim, every prompt, every method and seed; none was left out."""
    rows = [row for row in CONTENT["rows"][prior] if row["stage"] != "tuning"]
    found = claims.measured(rows)
    assert json.loads(json.dumps([claims.decide(claim, found) for claim in claims.CLAIMS])) == RESULTS[prior]["claims"]
    prompts = {prompt.prompt for prompt in plan.judging_prompts(plan.FULL)}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method.name]
        assert {row["prompt"] for row in own} == prompts and len(own) == len(prompts) >= 32
        assert all(len(row["metrics"]["right"]) == 4 for row in own)


@pytest.mark.parametrize("prior", RESULTS)
def test_the_settings_follow_from_the_tuning(prior: str) -> None:
    chosen, tried = plan.choose([row for row in CONTENT["rows"][prior] if row["stage"] == "tuning"])
    assert json.loads(json.dumps(tried)) == RESULTS[prior]["tuning"]
    for method in RESULTS[prior]["methods"]:
        assert method["tuned"] == RESULTS[prior]["tuning"][method["family"]][chosen[method["family"]]]["setting"]
    tuned_on = {row["prompt"] for row in CONTENT["rows"][prior] if row["stage"] == "tuning"}
    assert len(tuned_on) == 8 and not tuned_on & {prompt.prompt for prompt in plan.judging_prompts(plan.FULL)}


@pytest.mark.parametrize("number", range(len(claims.CLAIMS)), ids=[claim.name for claim in claims.CLAIMS])
def test_the_readme_says_what_was_measured(number: int) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    found = [RESULTS[prior.name]["claims"][number] for prior in PRIORS]
    cells = [f"{one['verdict']} ({one['difference']:+.2g} ± {one['error']:.1g})" for one in found]
    line = f"| {found[0]['sentence']} | {found[0]['metric']} | {cells[0]} | {cells[1]} |"
    assert line in re.sub(r" +", " ", text), line
