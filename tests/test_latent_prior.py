"""The embedded latent prior: a stock Stable Diffusion pipeline in small, which has learnt what it was shown."""

import pytest
import torch
from torch import Tensor

from dreamforge import data
from dreamforge.evaluation.judge import shipped
from dreamforge.evaluation.samples import judged
from dreamforge.evaluation.truths import true_renders
from dreamforge.evaluation.wanted import wanted
from dreamforge.priors.sampling import sample
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.priors.stock import StockPrior
from dreamforge.rng import generator
from dreamforge.types import Query
from tests import samplers

MIB = 2**20
PROMPTS = ["a red mushroom", "a blue car", "a purple frog", "a yellow duck", "a green cactus", "an orange pumpkin"]


@pytest.fixture(scope="module")
def prior() -> StockPrior:
    return StableDiffusion("toybox-latent", precision="float32").build()


def noise(views: int) -> Tensor:
    return torch.randn(views, 8, 16, 16, generator=generator(1))


def test_it_is_small_and_holds_no_working_files() -> None:
    files = [path for path in data.asset("latent").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * MIB
    assert not [path for path in files if path.name.startswith(("pictures-", "state"))]


@pytest.mark.parametrize("folder", ["prior", "latent"])
def test_no_configuration_names_a_machine(folder: str) -> None:
    configs = list(data.asset(folder).rglob("*.json"))
    assert configs
    assert not [path for path in configs if "_name_or_path" in path.read_text("utf-8")]


def test_plain_diffusers_samples_it_and_our_steps_are_its() -> None:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(data.asset("latent"))
    assert type(pipeline) is StableDiffusionPipeline
    parts = {name: type(getattr(pipeline, name)).__name__ for name in ("vae", "unet", "text_encoder")}
    assert parts == {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
    pipeline.set_progress_bar_config(disable=True)
    states = [noise(1)]
    pipeline(
        PROMPTS[0], num_inference_steps=4, guidance_scale=4.0, latents=states[0], output_type="latent",
        callback_on_step_end=lambda _p, _i, _t, got: states.append(got["latents"]) or got,
    )  # fmt: skip
    prior = StableDiffusion("toybox-latent", precision="float32").build()
    queries = [Query(prior.embed([text])) for text in ("", PROMPTS[0])]
    times = [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    *errors, _last = samplers.follow(
        prior, queries, 4.0, times, states
    )  # Stable Diffusion's ends at step 0, not at t = 0
    assert len(errors) == 3 and max(errors) < 1e-3
    assert pipeline(PROMPTS[0], num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)


def test_its_autoencoder_gives_toys_back(prior: StockPrior) -> None:
    """Peak signal-to-noise ratio of true renders with backgrounds and shades that no training saw."""
    seen = torch.cat([true_renders(wanted(prompt), 2, 77, 64) for prompt in PROMPTS])
    with torch.no_grad():
        back = prior.decode(prior.encode(seen, 0))
    assert back.shape == seen.shape and -10 * (back - seen).square().mean().log10() > 28


def test_words_steer_it(prior: StockPrior) -> None:
    drawn = sample(prior, PROMPTS, steps=20)
    (verdicts,) = judged(shipped(), drawn[None])
    asked = [wanted(prompt) for prompt in PROMPTS]
    assert sum(verdict.color == one.color for verdict, one in zip(verdicts, asked, strict=True)) >= 5
    assert sum(verdict.kind == one.kind for verdict, one in zip(verdicts, asked, strict=True)) >= 4
    assert prior.warnings("a red unicorn") and not prior.warnings("a red mushroom")
