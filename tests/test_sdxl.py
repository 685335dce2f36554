"""Stable Diffusion XL as a prior against the stock pipeline: two encoders, pooled vector, time ids, students."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.priors.sdxl import SDXL
from dreamforge.priors.stock import StockPrior, silent
from dreamforge.types import DreamforgeError, Query
from tests import samplers
from tests import tiny_pipelines as tiny

PROMPT, NEGATIVE = "a red mushroom", "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sdxl(tmp_path_factory.mktemp("sdxl") / "xl")


def open_(folder: Path, **options: Any) -> StockPrior:
    return SDXL(str(folder), **{"precision": "float32", **options}).build()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_our_steps_are_the_stock_pipelines(folder: Path, negative: str | None) -> None:
    """Euler in the stock pipeline: its sample y = x + s eps is sqrt(1 + s^2) x_t. No negative text: all zeros."""
    pipeline, prior, samples = tiny.stock(folder), open_(folder), [draw(1, 4, 16, 16)]
    pipeline(
        PROMPT, negative_prompt=negative, num_inference_steps=4, guidance_scale=3.0, latents=samples[0],
        output_type="latent", callback_on_step_end=lambda _p, _i, _t, got: samples.append(got["latents"]) or got,
    )  # fmt: skip
    sigmas, times = pipeline.scheduler.sigmas, [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    samples[0] = samples[0] * pipeline.scheduler.init_noise_sigma
    states = [sample / (1 + sigma**2).sqrt() for sample, sigma in zip(samples, sigmas, strict=True)]
    texts = [Query(prior.embed([text])) for text in (negative or "", PROMPT)]
    assert times == [0.751, 0.501, 0.251, 0.001]
    assert max(samplers.follow(prior, texts, 3.0, times, states)) < 1e-4


def test_the_empty_text_is_zero_and_the_sizes_are_told(folder: Path) -> None:
    text = open_(folder, size=48).embed(["", PROMPT]).tensors
    assert not text["text"][0].any() and not text["pooled"][0].any() and text["text"][1].any()
    assert text["time_ids"].tolist() == [[48, 48, 0, 0, 48, 48]] * 2
    assert text["text"].shape == (2, 77, 2 * tiny.WIDTH) and text["pooled"].shape == (2, tiny.WIDTH)


def test_a_few_step_student_answers_at_its_own_steps_only(folder: Path) -> None:
    """With 4 student steps t = 0.3 and t = 0.2 are both step 249: same schedule, same question to the network."""
    prior, x_t = open_(folder, student_steps=4), draw(1, 4, 16, 16)
    query = Query(prior.embed([PROMPT]))
    a, b, c = (prior.predict_noise(x_t, torch.tensor([t]), [query])[0] for t in (0.2, 0.3, 0.6))
    assert a.equal(b) and not a.equal(c)


def test_a_textual_inversion_teaches_both_encoders(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "glow.safetensors"
    vectors = {"clip_l": draw(1, tiny.WIDTH), "clip_g": draw(1, tiny.WIDTH, seed=1)}
    save_file(vectors, file)
    prior, pipeline = open_(folder, textual_inversion=(str(file),)), tiny.stock(folder)
    for name, side in (("clip_l", ""), ("clip_g", "_2")):
        with silent():
            pipeline.load_textual_inversion(
                {"glow": vectors[name]}, tokenizer=getattr(pipeline, f"tokenizer{side}"),
                text_encoder=getattr(pipeline, f"text_encoder{side}"),
            )  # fmt: skip
    text, _, pooled, _ = pipeline.encode_prompt(["a glow"], device="cpu", do_classifier_free_guidance=False)
    ours = prior.embed(["a glow"]).tensors
    torch.testing.assert_close(ours["text"], text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["pooled"], pooled, rtol=1e-4, atol=1e-5)
    assert not ours["text"].equal(open_(folder).embed(["a glow"]).tensors["text"])


def test_a_lora_file_is_the_stock_pipelines(folder: Path, tmp_path: Path) -> None:
    file, pipeline = tiny.lora_file(folder, tmp_path / "xl.safetensors"), tiny.stock(folder)
    prior = open_(folder, lora=(str(file),), lora_scale=0.5)
    with silent():
        pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="xl")
    pipeline.set_adapters("xl", 0.5)
    x_t, t, text = draw(1, 4, 16, 16), torch.tensor([0.5]), prior.embed([PROMPT])
    added = {"text_embeds": text.tensors["pooled"], "time_ids": text.tensors["time_ids"]}
    with torch.no_grad():
        expected = pipeline.unet(
            x_t, prior.schedule.index(t), encoder_hidden_states=text.tensors["text"], added_cond_kwargs=added
        ).sample
        torch.testing.assert_close(prior.predict_noise(x_t, t, [Query(text)])[0], expected, rtol=1e-3, atol=1e-4)


def test_half_float_does_not_overflow_in_the_autoencoder(folder: Path) -> None:
    """SDXL's autoencoder overflows in float16 (its configuration says force_upcast): it stays in float32."""
    prior = open_(folder, precision="float16")
    assert prior.network.dtype == torch.float16 and prior.vae.dtype == torch.float32
    assert open_(folder, precision="bfloat16").vae.dtype == torch.bfloat16


def test_a_model_of_another_family_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match=r"is a StableDiffusionPipeline, but sdxl\.SDXL expects.*Pretrained"):
        open_(tiny.stable_diffusion(tmp_path / "sd"))
