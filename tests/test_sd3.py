"""Stable Diffusion 3 as a prior against the stock pipeline: the flow turned into eps, three text encoders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.priors.parametrisation import FlowSchedule, alpha_sigma
from dreamforge.priors.sd3 import SD3
from dreamforge.priors.stock import StockPrior, silent
from dreamforge.types import Query
from tests import samplers
from tests import tiny_pipelines as tiny

PROMPT, NEGATIVE = "a red mushroom", "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sd3(tmp_path_factory.mktemp("sd3") / "flow")


def open_(folder: Path, **options: Any) -> StockPrior:
    return SD3(str(folder), **{"precision": "float32", **options}).build()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_our_steps_are_the_stock_pipelines(folder: Path) -> None:
    """Euler on the flow, z' = z + (t' - t) u, is alpha' x0 + sigma' eps with x_t = z/s; the shift only spaces t."""
    pipeline, prior, flow = tiny.stock(folder), open_(folder), [draw(1, 8, 16, 16)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, sigmas=[0.9, 0.5, 0.2], guidance_scale=3.0, latents=flow[0],
        height=32, width=32, output_type="latent",
        callback_on_step_end=lambda _p, _i, _t, got: flow.append(got["latents"]) or got,
    )  # fmt: skip
    times = pipeline.scheduler.sigmas
    assert times[0] == pytest.approx(3 * 0.9 / (1 + 2 * 0.9)) and times[-1] == 0
    states = [z / torch.hypot(1 - t, t) for z, t in zip(flow, times, strict=True)]
    texts = [Query(prior.embed([text])) for text in (NEGATIVE, PROMPT)]
    assert max(samplers.follow(prior, texts, 3.0, times[:-1].tolist(), states)) < 1e-4


def test_the_velocity_becomes_eps(folder: Path) -> None:
    """eps = (x_t + alpha u)/(alpha + sigma), and z = x_t/(alpha + sigma) is what the network sees at 1000 t."""
    prior, x_t, t = open_(folder), draw(2, 8, 16, 16), torch.tensor([0.3, 0.8])
    text = prior.embed([PROMPT] * 2)
    alpha, sigma = alpha_sigma(FlowSchedule(), t, x_t)
    with torch.no_grad():
        u = prior.network(
            hidden_states=x_t / (alpha + sigma), timestep=1000 * t, encoder_hidden_states=text.tensors["text"],
            pooled_projections=text.tensors["pooled"], return_dict=False,
        )[0]  # fmt: skip
        (eps,) = prior.predict_noise(x_t, t, [Query(text)])
    torch.testing.assert_close(eps, (x_t + alpha * u) / (alpha + sigma), rtol=1e-4, atol=1e-5)


def test_latents_are_shifted_and_scaled(folder: Path) -> None:
    """x = (mean - 0.0609) 1.5305, and back."""
    prior, vae = open_(folder, encode="mode"), tiny.stock(folder).vae
    rgb = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
        torch.testing.assert_close(prior.encode(rgb, 0), (mean - 0.0609) * 1.5305, rtol=1e-3, atol=1e-4)
        shown = (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(prior.decode((mean - 0.0609) * 1.5305), shown, rtol=1e-3, atol=1e-4)


def test_the_third_text_encoder_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    """Its tokens are zeros then, as in the stock pipeline without it; a folder that never had it is read too."""
    pipeline = tiny.stock(folder)
    pipeline.text_encoder_3 = None
    expected = pipeline.encode_prompt([PROMPT], None, None, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(open_(folder, t5=False).embed([PROMPT]).tensors["text"], expected, rtol=1e-4, atol=1e-5)
    never = open_(tiny.sd3(tmp_path / "two", t5=False)).embed([PROMPT]).tensors["text"]
    assert never.shape == expected.shape and not never[:, 77:].any()
    assert open_(folder).embed([PROMPT]).tensors["text"][:, 77:].any()


def test_a_lora_file_is_the_stock_pipelines(folder: Path, tmp_path: Path) -> None:
    file, pipeline = tiny.lora_file(folder, tmp_path / "flow.safetensors"), tiny.stock(folder)
    prior = open_(folder, lora=(str(file),), lora_scale=0.5)
    with silent():
        pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="flow")
    pipeline.set_adapters("flow", 0.5)
    x_t, t, text = draw(1, 8, 16, 16), torch.tensor([0.5]), prior.embed([PROMPT])
    alpha, sigma = alpha_sigma(prior.schedule, t, x_t)
    with torch.no_grad():
        given = {"encoder_hidden_states": text.tensors["text"], "pooled_projections": text.tensors["pooled"]}
        z = x_t / (alpha + sigma)
        u = pipeline.transformer(hidden_states=z, timestep=1000 * t, return_dict=False, **given)[0]
        (eps,) = prior.predict_noise(x_t, t, [Query(text)])
    torch.testing.assert_close(eps, (x_t + alpha * u) / (alpha + sigma), rtol=1e-3, atol=1e-4)
