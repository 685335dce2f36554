"""PixArt and PRX as priors against their stock pipelines, and the embedded prior through PRX."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamforge import data
from dreamforge.priors.parametrisation import FlowSchedule, alpha_sigma, per_view
from dreamforge.priors.pixart import PixArt
from dreamforge.priors.prx import PRX
from dreamforge.priors.toybox import ToyboxPrior
from dreamforge.types import Query
from tests import samplers
from tests import tiny_pipelines as tiny

PROMPT, NEGATIVE = "a red mushroom", "blurry"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["PixArtAlphaPipeline", "PixArtSigmaPipeline"])
def test_pixarts_steps_are_the_stock_pipelines(name: str, tmp_path: Path) -> None:
    """DPM-Solver++(2M), its own scheduler; texts of 120 (alpha) and 300 (Sigma) tokens with their masks."""
    pipeline = tiny.stock(tiny.pixart(tmp_path / "pixart", name))
    prior, states = PixArt(str(tmp_path / "pixart"), precision="float32").build(), [draw(1, 4, 16, 16)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=3.0, latents=states[0], height=32,
        width=32, clean_caption=False, use_resolution_binning=False, output_type="latent",
        callback=lambda _i, _t, latents: states.append(latents.clone()),
    )  # fmt: skip
    times = [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    texts = [Query(prior.embed([text])) for text in (NEGATIVE, PROMPT)]
    assert texts[0].text.tensors["mask"].shape == (1, {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}[name])
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler" and times == [0.999, 0.749, 0.5, 0.25]
    assert max(samplers.follow(prior, texts, 3.0, times, states, samplers.second_order())) < 1e-4


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_prxs_steps_are_the_stock_pipelines(kind: str, tmp_path: Path) -> None:
    """Euler on the flow, its own scheduler, after the first step: at t = 1 there is no signal and x0 is not defined.
    The pixel pipeline's last step is left out too: below t = 0.05 it divides by 0.05.

    In pixel space the network predicts x0 and the noise has twice the unit: x_t = z/s with s of noise_scale 2.
    """
    folder = (tiny.prx if kind == "latent" else tiny.prx_pixel)(tmp_path / kind)
    pipeline, prior = tiny.stock(folder), PRX(str(folder), precision="float32").build()
    flow = [draw(1, 8, 16, 16) if kind == "latent" else 2 * draw(1, 3, 32, 32)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=3.0, latents=flow[0], height=32,
        width=32, use_resolution_binning=False, output_type="latent",
        callback_on_step_end=lambda _p, _i, _t, got: flow.append(got["latents"]) or got,
    )  # fmt: skip
    times, c = pipeline.scheduler.sigmas, {"latent": 1.0, "pixel": 2.0}[kind]
    states = [z / torch.hypot(1 - t, c * t) for z, t in zip(flow, times, strict=True)]
    texts = [Query(prior.embed([text])) for text in (NEGATIVE, PROMPT)]
    assert prior.convention.prediction == {"latent": "flow", "pixel": "x0"}[kind]
    errors = samplers.follow(prior, texts, 3.0, times[1:-1].tolist(), states[1:])
    assert max(errors if kind == "latent" else errors[:-1]) < 1e-4


def test_a_flow_with_noise_of_another_unit_is_variance_preserving() -> None:
    """z = (1 - t) x + t c n = s (alpha x + sigma n) with alpha^2 + sigma^2 = 1."""
    x, n, t = draw(3, 1, 2, 2), draw(3, 1, 2, 2, seed=1), torch.tensor([0.1, 0.5, 0.9])
    schedule = FlowSchedule(noise_scale=2.0)
    alpha, sigma = alpha_sigma(schedule, t, x)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    tau = per_view(t, x)
    torch.testing.assert_close(per_view(schedule.norm(t), x) * (alpha * x + sigma * n), (1 - tau) * x + 2 * tau * n)


def test_the_embedded_prior_is_a_prx() -> None:
    """The stock classes and our own of the embedded prior give the same eps, the camera dropped."""
    folder = str(data.asset("prior"))
    ours, stock = ToyboxPrior(precision="float32").build(), PRX(folder, precision="float32").build()
    x_t, t = draw(2, 3, 64, 64), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        (a,) = ours.predict_noise(x_t, t, [Query(ours.embed([PROMPT] * 2))])
        (b,) = stock.predict_noise(x_t, t, [Query(stock.embed([PROMPT] * 2))])
    assert stock.size == 64
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
