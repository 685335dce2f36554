"""DeepFloyd IF as a prior against the stock pipeline: pixels, learned variance dropped, T5 let go."""

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamforge.priors.deepfloyd import DeepFloyd
from dreamforge.priors.stock import StockPrior
from dreamforge.types import DreamforgeError, Query
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
    """DDIM on IF's cosine schedule in the stock pipeline, which splits the variance off as well."""
    from diffusers import DDIMScheduler

    pipeline = tiny.stock(folder)
    settings = {**pipeline.scheduler.config, "variance_type": "fixed_small"}
    pipeline.scheduler = DDIMScheduler.from_config(settings, clip_sample=False, timestep_spacing="leading")
    states = [draw(1, 3, 32, 32)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=3.0, output_type="pt",
        generator=torch.Generator().manual_seed(0), clean_caption=False,
        callback=lambda _i, _t, picture: states.append(picture.clone()),
    )  # fmt: skip
    times = [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    texts = [Query(prior.embed([text])) for text in (NEGATIVE, PROMPT)]
    assert times == [0.75, 0.5, 0.25, 0.0]
    # Its very first step has sigma_0 > 0, so the last entry of times is asked as any other.
    assert max(tiny.follow(prior, texts, 3.0, times, states)) < 1e-4


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
