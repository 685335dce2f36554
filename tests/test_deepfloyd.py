"""DeepFloyd IF as a prior against the stock pipeline: pixels, learned variance dropped, T5 let go."""

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamforge.priors.deepfloyd import DeepFloyd
from dreamforge.priors.parametrisation import to_x0
from dreamforge.priors.stock import StockPrior, silent
from dreamforge.types import DreamforgeError, Query
from tests import samplers
from tests import tiny_pipelines as tiny

PROMPT, NEGATIVE = "a red mushroom", "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.deepfloyd(tmp_path_factory.mktemp("if") / "if")


@pytest.fixture(scope="module")
def prior(folder: Path) -> StockPrior:
    return DeepFloyd(str(folder), precision="float32").build()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_our_steps_are_the_stock_pipelines(folder: Path, prior: StockPrior) -> None:
    """IF's own scheduler, DDPM with the learned range of variances and dynamic thresholding, on the noise n it draws:

    x_t' = alpha' (1 - r) x0 + (r/a) x_t + s n with a = alpha/alpha' and r = (a sigma'/sigma)^2. The network's v leads
    from log s^2 = log (r/a^2 (1 - a^2)) at -1 to log (1 - a^2) at 1 (arXiv 2102.09672, eq. 15). The last step is to x0.
    """
    pipeline, draws, states = tiny.stock(folder), torch.Generator().manual_seed(0), [draw(1, 3, 32, 32)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=3.0, output_type="pt",
        generator=torch.Generator().manual_seed(0), clean_caption=False,
        callback=lambda _i, _t, picture: states.append(picture.clone()),
    )  # fmt: skip
    times = [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    texts = [Query(prior.embed([text])) for text in (NEGATIVE, PROMPT)]
    torch.randn(1, 3, 32, 32, generator=draws)  # states[0]

    def step(x_t: Tensor, t: Tensor, eps: Tensor, here: samplers.Level, there: samplers.Level) -> Tensor:
        x0 = to_x0(eps, x_t, *here)
        most = x0.abs().quantile(0.95).clamp(1, 1.5)  # Imagen (arXiv 2205.11487), section 2.3
        x0 = x0.clamp(-most, most) / most
        a = here[0] / there[0]
        r = (a * there[1] / here[1]) ** 2
        mean = there[0] * (1 - r) * x0 + r / a * x_t
        if not there[1].any():
            return mean
        with torch.no_grad():
            text = texts[1].text.tensors["text"]
            v = prior.network(x_t, prior.schedule.index(t), encoder_hidden_states=text).sample[:, 3:]
        log_beta, log_least = (1 - a**2).log(), (r / a**2 * (1 - a**2)).log()
        log_variance = (1 + v) / 2 * log_beta + (1 - v) / 2 * log_least
        return mean + (log_variance / 2).exp() * torch.randn(x_t.shape, generator=draws)

    assert type(pipeline.scheduler).__name__ == "DDPMScheduler" and times == [0.75, 0.5, 0.25, 0.0]
    assert max(samplers.follow(prior, texts, 3.0, times, states, step)) < 1e-4


def test_the_learned_variance_is_dropped(prior: StockPrior) -> None:
    x_t, t, text = draw(2, 3, 32, 32), torch.tensor([0.3, 0.7]), prior.embed([PROMPT] * 2)
    with torch.no_grad():
        raw = prior.network(x_t, prior.schedule.index(t), encoder_hidden_states=text.tensors["text"]).sample
        (eps,) = prior.predict_noise(x_t, t, [Query(text)])
    assert raw.shape[1] == 6 and eps.shape == x_t.shape
    torch.testing.assert_close(eps, raw[:, :3])


def test_pictures_are_pixels(prior: StockPrior) -> None:
    rgb = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(rgb, 0)
    assert prior.vae is None and prior.size == 32
    torch.testing.assert_close(x, 2 * rgb.permute(0, 3, 1, 2) - 1)
    torch.testing.assert_close(prior.decode(x.detach()), rgb.detach())
    small = prior.encode(torch.full((1, 8, 8, 3), 0.75), 0)
    torch.testing.assert_close(small, torch.full((1, 3, 32, 32), 0.5))


def test_a_lora_file_is_the_stock_pipelines(folder: Path, prior: StockPrior, tmp_path: Path) -> None:
    file = tiny.lora_file(folder, tmp_path / "style.safetensors")
    ours = DeepFloyd(str(folder), precision="float32", lora=(str(file),), lora_scale=0.5).build()
    pipeline = tiny.stock(folder)
    with silent():
        pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="style")
    pipeline.set_adapters("style", 0.5)
    x_t, t, text = draw(1, 3, 32, 32), torch.tensor([0.5]), prior.embed([PROMPT])
    with torch.no_grad():
        given = {"encoder_hidden_states": text.tensors["text"]}
        expected = pipeline.unet(x_t, prior.schedule.index(t), **given).sample[:, :3]
        torch.testing.assert_close(ours.predict_noise(x_t, t, [Query(text)])[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("vram", [0, 8])
def test_t5_is_let_go_before_the_first_step(folder: Path, vram: int) -> None:
    prior = DeepFloyd(str(folder), vram=vram).build()
    text = prior.embed([PROMPT])
    t5 = weakref.ref(prior._text.text_encoder)
    prior.predict_noise(draw(1, 3, 32, 32), torch.tensor([0.5]), [Query(text)])
    assert t5() is None
    assert prior.embed([PROMPT]).tensors["text"].equal(text.tensors["text"]), "remembered"


def test_a_vocabulary_that_is_missing_is_told(folder: Path, tmp_path: Path) -> None:
    """Without its files transformers would build T5's tokenizer with an empty vocabulary, silently."""
    import shutil

    broken = tmp_path / "if"
    shutil.copytree(folder, broken)
    (broken / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(DreamforgeError, match="vocabulary of tokenizer is missing"):
        DeepFloyd(str(broken)).build()
    (broken / "tokenizer" / "spiece.model").write_bytes(b"")
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        with pytest.raises(DreamforgeError, match="pip install sentencepiece"):
            DeepFloyd(str(broken)).build()
