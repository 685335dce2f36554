"""Memory presets and the forecast of memory and time: counted on shapes alone, compared with what is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dreamforge import cli, config, forecast, runs
from dreamforge.doctor import examine_recipe
from dreamforge.forecast import check_memory, forecasts, questions
from dreamforge.priors import estimate
from dreamforge.priors.deepfloyd import DeepFloyd
from dreamforge.priors.estimate import Load, Meter, cost
from dreamforge.priors.memory import PRESETS, limited, preset
from dreamforge.priors.pretrained import Pretrained
from dreamforge.priors.sdxl import SDXL
from dreamforge.priors.sizes import SIZES
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.priors.toybox import ToyboxPrior
from dreamforge.types import DreamforgeError
from tests import tiny_pipelines as tiny

CPU = torch.device("cpu")
HALF: dict[str, Any] = {"precision": "bfloat16"}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("memory") / "sd")


# Counts of the published weights, in millions; IF-I-XL's authors say 4.3 billion, PixArt's 0.6.
PUBLISHED = {
    "sd15": 859.52, "sd21": 865.91, "sd21-base": 865.91, "sdxl": 2567.46, "sdxl-turbo": 2567.46, "sd3-medium": 2028.33,
    "if-xl": 4304.70, "pixart-alpha": 610.86,
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_shapes_are_those_of_the_published_networks(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        network = getattr(diffusers, SIZES[name].network).from_config(SIZES[name].shape)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.005)


def test_the_cost_of_stable_diffusion_is_what_is_known_of_it() -> None:
    """Network 860 M and autoencoder 84 M weights in 2 bytes; 0.68 TFLOP a prediction (339 G multiplications)."""
    two = cost(StableDiffusion("sd15", **HALF), CPU, Load(views=1, texts=2))
    four = cost(StableDiffusion("sd15", **HALF), CPU, Load(views=1, texts=4))
    assert two.weights == pytest.approx(2 * (859.5e6 + 83.65e6), rel=1e-3)
    assert (four.flops - two.flops) / 2 == pytest.approx(2 * 339e9, rel=0.2)
    assert two.text == pytest.approx(2 * 123e6, rel=0.01)
    assert 4e9 < two.peak("cuda") < 7e9


def test_a_preset_keeps_stable_diffusion_within_six_gigabytes() -> None:
    """Four views with CFG: with vram 6 in 6 GB, without a limit far from it; an adapter's backward pass in 10 GB."""
    load = Load(views=4, texts=2)
    assert cost(StableDiffusion("sd15", vram=6, **HALF), CPU, load).peak("cuda") < 6e9
    assert cost(StableDiffusion("sd15", **HALF), CPU, load).peak("cuda") > 9e9
    vsd = Load(views=1, texts=4, learnt=1)
    assert cost(StableDiffusion("sd21-base", vram=8, **HALF), CPU, vsd).peak("cuda") < 10e9


def test_a_text_encoder_is_not_counted_into_a_step() -> None:
    found = cost(DeepFloyd("if-xl", **HALF), CPU, Load(views=1))
    assert found.text == pytest.approx(2 * 4.76e9) and found.peak("cuda") < 16e9


@pytest.mark.parametrize("vram", [12, 24])
def test_presets_hold_for_sdxl(vram: int) -> None:
    size = {12: 512, 24: 1024}[vram]
    assert cost(SDXL(vram=vram, size=size, **HALF), CPU, Load(views=1)).peak("cuda") < vram * 1e9


def test_a_local_model_is_measured_by_its_files(folder: Path) -> None:
    from dreamforge.priors.weights import find, parameters

    prior = Pretrained(str(folder), precision="float32")
    built, found = prior.build(), cost(prior, CPU, Load(views=2))
    own = sum(p.numel() for p in built.network.parameters())
    assert found.parameters == own == parameters(find(str(folder)), "unet")
    assert found.weights == 4 * (own + sum(p.numel() for p in built.vae.parameters()))
    one, more = (cost(prior, CPU, Load(views=views)) for views in (1, 4))
    assert more.activations > 2 * one.activations and more.flops == pytest.approx(4 * one.flops, rel=0.1)


def test_the_meter_counts_what_lives() -> None:
    """a (4 MB) and b = 2 a (4 MB) live together; after a is gone c = b + 1 finds the same 8 MB."""
    with Meter() as meter:
        a = torch.empty(1024, 1024, device="meta")
        b = a * 2
        assert meter.live == meter.peak == 2 * 4 * 2**20
        del a
        assert meter.live == 4 * 2**20
        c = b + 1
        view = c[0]
    assert meter.peak == 2 * 4 * 2**20 and len(view) == 1024
    outside = torch.empty(1024, 1024, device="meta")
    with Meter() as meter:
        outside.t()
    assert meter.peak == 0, "a view of what was there before is no new memory"
    with Meter() as meter:
        torch.empty(8, 16, device="meta") @ torch.empty(16, 4, device="meta")
    assert meter.flops == 2 * 8 * 16 * 4


def test_fused_attention_keeps_no_matrix_of_pairs_and_is_put_back() -> None:
    """Its operations: 2 L L d for q k^T and as many for the sum over v."""
    genuine, q = F.scaled_dot_product_attention, torch.empty(1, 1, 4096, 64, device="meta")
    with Meter() as meter, estimate.fused_attention() as operations:
        F.scaled_dot_product_attention(q, q, q)
    assert meter.peak < 4096 * 4096 and operations == [4.0 * 4096 * 4096 * 64]
    assert F.scaled_dot_product_attention is genuine


def test_presets_are_told() -> None:
    assert set(PRESETS) == {0, 6, 8, 12, 24, 80} and preset(8).chunk == 4
    with pytest.raises(DreamforgeError, match="6, 8, 12, 24, 80 GB"):
        preset(7)
    assert limited(StableDiffusion(), 6) == StableDiffusion(vram=6)
    assert limited(ToyboxPrior(), 6) == ToyboxPrior()


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
    assert vsd == forecast.Questions(asked=9, learnt=3)


def test_the_doctor_says_what_a_recipe_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = {finding.name: finding for finding in examine_recipe(recipe(folder), CPU)}
    assert not here["weights"].wrong and not here["memory"].wrong and "10 steps" in here["time"].text
    away = {finding.name: finding for finding in examine_recipe(recipe("sd15", "prior.vram=6"), CPU)}
    assert away["weights"].wrong and "hf download" in away["weights"].text
    assert "of 6.0 GB on cpu" in away["memory"].text
    assert cli.main(["doctor", "--recipe", "canvas"]) == 0
    assert "uses no pretrained model" in capsys.readouterr().out
    arguments = ["prior.use=stable_diffusion.StableDiffusion", f"prior.model={folder}", "--vram", "8", "--json"]
    assert cli.main(["doctor", "--recipe", "canvas", *arguments]) == 0
    assert "of 8.0 GB" in capsys.readouterr().out


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
    monkeypatch.setattr("dreamforge.forecast.total_memory", lambda device: 10**12)
    check_memory(recipe(folder), CPU)
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
