"""What a recipe will take: counted from shapes, timed where its priors come along, told by the doctor."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamforge import cli, config, forecast, runs
from dreamforge.doctor import examine_recipe
from dreamforge.engine import StepInfo
from dreamforge.forecast import check_memory, forecasts, questions
from dreamforge.priors import estimate
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.types import DreamforgeError
from tests import tiny_pipelines as tiny

pytestmark = pytest.mark.usefixtures("empty_cache")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # no GPU is touched: costs are counted on shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("forecast") / "sd")


def recipe(folder: object, *overrides: str) -> config.Recipe:
    use = ["prior.use=stable_diffusion.StableDiffusion", f"prior.model={folder}"]
    return config.load("canvas", [*use, "views=3", "steps=10", *overrides], {"prompt": "a red mushroom"})


def test_questions_are_counted_by_the_guidance_itself() -> None:
    """SDS asks twice a view, Perp-Neg twice more, VSD its estimator too, which learns on one more."""
    term = recipe("sd15").stages[0].terms[0]
    assert questions(term) == forecast.Questions(asked=6, learnt=0)
    assert questions(recipe("sd15", "prompts.perp_neg=true").stages[0].terms[0]).asked == 12
    assert questions(recipe("sd15", "noise.draws=2").stages[0].terms[0]).asked == 12
    vsd = questions(recipe("sd15", "guidance.use=vsd.VSD").stages[0].terms[0])
    assert vsd == forecast.Questions(asked=9, learnt=3, lessons=1)
    full = ["guidance.use=vsd.VSD", "guidance.estimator.kind=full", "guidance.estimator.learn_steps=2"]
    assert questions(recipe("sd15", *full).stages[0].terms[0]) == forecast.Questions(9, 6, 2, full=True)
    small = questions(recipe("sd15", "guidance.use=vsd.VSD", "guidance.estimator.kind=small").stages[0].terms[0])
    assert small == forecast.Questions(asked=6, learnt=0), "its own network is small"


def test_the_doctor_says_what_a_recipe_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = {finding.name: finding for finding in examine_recipe(recipe(folder), CPU)}
    assert not here["weights"].wrong and not here["memory"].wrong and "10 steps" in here["time"].text
    assert "the scene's own time is not in it" in here["time"].text
    away = {finding.name: finding for finding in examine_recipe(recipe("sd15", "prior.vram=6"), CPU)}
    assert away["weights"].wrong and "hf download" in away["weights"].text
    assert "of 6.0 GB on cpu" in away["memory"].text and "GB text encoder beside them" in away["memory"].text
    arguments = ["prior.use=stable_diffusion.StableDiffusion", f"prior.model={folder}", "--vram", "8", "--json"]
    assert cli.main(["doctor", "--recipe", "canvas", *arguments]) == 0
    assert "of 8.0 GB" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["canvas", "toybox-latent"])
def test_steps_with_an_embedded_prior_are_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real ones, scene included; the time of the whole is theirs times the steps."""
    heard: list[float] = []

    def timed(*given: Any) -> list[float]:
        heard.extend(forecast.timed(*given))
        return [3.0]

    monkeypatch.setattr("dreamforge.doctor.timed", timed)
    small = ["views=1", "resolution=16", "steps=600", "prior.precision=float32"]
    found = {one.name: one for one in examine_recipe(config.load(name, small), CPU)}
    assert not any(one.wrong for one in found.values())
    assert len(heard) == 1 and 0 < heard[0] < 60
    assert (
        found["time"].text.startswith("about 30.0 minutes for 600 steps on cpu: 3 s a step")
        and "now" in found["time"].text
    )
    assert "GB at most" in found["memory"].text


def test_every_stage_is_timed_with_every_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps do not count, and a term of every fourth step has its turn among those that do."""
    steps: list[int] = []

    def fit(scene: Any, terms: Any, optimiser: Any, count: int, seed: int, **more: Any) -> None:
        steps.append(count)
        for step in range(count):
            more["on_step"](StepInfo(step, count, {}, 100.0 if step < forecast.WARM else float(len(steps))))

    monkeypatch.setattr(forecast, "fit", fit)
    stages: list[dict[str, Any]] = [{"steps": 10}, {"steps": 20, "terms": [{}, {"every": 4}], "from": "previous"}]
    two = config.load("canvas", values={"stages": stages, "prior": {"use": "mixture.Mixture", "size": 8}, "views": 1})
    assert forecast.timed(two, CPU) == [1.0, 2.0]
    assert steps == [forecast.WARM + forecast.TIMED, forecast.WARM + 4]


def test_a_recipe_that_cannot_be_built_is_a_problem(tmp_path: Path) -> None:
    (one,) = examine_recipe(config.load("canvas", [f"prior.folder={tmp_path}"]), CPU)
    assert one.wrong and str(tmp_path) in one.text


@pytest.mark.parametrize("given", [["--vram", "8"], ["--device", "cpu"], ["steps=3"]])
def test_what_is_about_a_recipe_is_refused_without_one(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *given]) == cli.WRONG_INPUT
    assert f"{' '.join(given)} was given without a recipe" in capsys.readouterr().err


def test_the_forecast_adds_up_the_terms_of_one_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "speed", lambda device, dtype: 1e9)
    (one,) = forecasts(recipe(folder), CPU)
    both = config.load(
        "canvas", values={"terms": [{"views": 3}, {"views": 3, "every": 2}], "steps": 10, "prompt": "a",
                          "prior": {"use": "stable_diffusion.StableDiffusion", "model": str(folder)}},
    )  # fmt: skip
    (two,) = forecasts(both, CPU)
    assert two.seconds == pytest.approx(1.5 * one.seconds) and two.cost == one.cost
    assert one.seconds == pytest.approx(10 * one.cost.flops / (estimate.EFFICIENCY * 1e9))


def test_too_little_memory_is_told_before_the_first_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamforge.forecast.total_memory", lambda device: 10**6)
    with pytest.raises(DreamforgeError, match=r"takes at least .* GB, but the device has 0\.0 GB: take a smaller"):
        runs.generate(recipe(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing was written"
    full = recipe(folder, "guidance.use=vsd.VSD", "guidance.estimator.kind=full")
    with pytest.raises(DreamforgeError, match=r"take guidance\.estimator\.kind=lora"):
        check_memory(full, CPU)
    needed = forecast._cost(full.stages[0].terms[0], CPU)
    monkeypatch.setattr("dreamforge.forecast.total_memory", lambda device: needed.least - 1)
    check_memory(recipe(folder, "guidance.use=vsd.VSD"), CPU)
    with pytest.raises(DreamforgeError, match="A step with"):
        check_memory(full, CPU)
    monkeypatch.setattr("dreamforge.forecast._cost", lambda term, device: replace(needed, copied=0, text=10**13))
    monkeypatch.setattr("dreamforge.forecast.total_memory", lambda device: 10**7)
    with pytest.raises(DreamforgeError, match=r"Embedding the prompts for .* .a T5 then stays on the CPU"):
        check_memory(recipe(folder), CPU)
    monkeypatch.undo()
    check_memory(full, CPU)
    monkeypatch.setattr("dreamforge.priors.loading.total_memory", lambda device: 10**5)
    with pytest.raises(DreamforgeError, match=r"The network of .* alone takes"):
        StableDiffusion(str(folder)).build()


def test_memory_that_ends_in_a_run_is_told_with_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runs, "generate", full)
    assert cli.main(["generate", "a red mushroom", "--out", str(tmp_path / "run"), "--vram", "8"]) == cli.FAILED
    assert "take a smaller --vram" in capsys.readouterr().err


def test_the_limit_of_the_command_line_is_in_the_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[config.Recipe] = []
    monkeypatch.setattr(runs, "generate", lambda made, out, **more: given.append(made))
    arguments = ["prior.use=stable_diffusion.StableDiffusion", f"prior.model={folder}", "--out", str(tmp_path / "run")]
    cli.main(["generate", "a", "--recipe", "canvas", *arguments, "--vram", "7"])
    assert "presets are for 6, 8, 12, 24, 80 GB" in capsys.readouterr().err and not given
    with pytest.raises(AttributeError):  # the stand-in made no run
        cli.main(["generate", "a", "--recipe", "canvas", *arguments, "--vram", "12"])
    assert given[0].stages[0].terms[0].prior == StableDiffusion(str(folder), vram=12)


@pytest.mark.parametrize("name", ["dreamfusion-if", "dreamfusion-sd", "prolificdreamer", "esd"])
def test_a_paper_recipe_needs_what_it_says(name: str) -> None:
    """Hours = steps x operations a step / the throughput that is named; GB with and without the preset."""
    made = config.load(name)
    ((term,),) = (stage.terms for stage in made.stages)
    needs = made.paper["needs"]
    said = re.search(r"([\d.]+) hours .* at (\d+) TFLOP/s sustained \((\d+) steps of ([\d.]+) TFLOP\)", needs["time"])
    gigabytes = re.match(r"([\d.]+) GB .*?([\d.]+) GB with --vram (\d+)", needs["memory"])
    assert said and gigabytes
    whole, kept = (
        forecast._cost(replace(term, prior=replace(term.prior, vram=vram, precision="bfloat16")), CUDA)
        for vram in (0, int(gigabytes[3]))
    )
    hours = made.steps * whole.flops / (float(said[2]) * 1e12) / 3600
    assert said.groups() == (f"{hours:.1f}", said[2], str(made.steps), f"{whole.flops / 1e12:.1f}")
    assert gigabytes.groups()[:2] == tuple(f"{one.peak('cuda') / 1e9:.1f}" for one in (whole, kept))
    apart = re.search(r"T5 and its ([\d.]+) GB to the CPU", needs["memory"])
    assert kept.text_apart == bool(apart) and (not apart or apart[1] == f"{kept.text / 1e9:.1f}")
