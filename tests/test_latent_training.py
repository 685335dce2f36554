"""Training of the latent toybox prior, at tiny sizes: a stock pipeline comes out, and it goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamforge.priors import latent_training
from dreamforge.priors.latent_training import LatentTraining, network_loss, new_parts, train, vae_loss
from dreamforge.priors.pretrained import Pretrained, trained
from dreamforge.priors.toybox import MAX_TOKENS, ToyboxPrior
from dreamforge.rng import generator
from dreamforge.toybox.pictures import Pictures, draw
from dreamforge.types import Query

TINY = LatentTraining(
    vae_steps=2, steps=4, toys=4, batch=2, size=32, latent_channels=4, vae_width=8, width=32, text_width=64,
    text_depth=1, every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return draw(TINY.toys, TINY.seed, TINY.size, workers=1)


@pytest.fixture
def folder(tmp_path: Path, pictures: Pictures) -> Path:
    pictures.save(tmp_path / f"pictures-{TINY.toys}-{TINY.size}-{TINY.seed}.safetensors")
    return tmp_path


def test_plain_diffusers_samples_it(folder: Path) -> None:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    train(folder, TINY, lambda text: None)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is StableDiffusionPipeline
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline("a red car", num_inference_steps=2).images
    assert picture.size == (32, 32)
    latents = pipeline.vae.encode(torch.rand(2, 3, 32, 32) * 2 - 1).latent_dist.mean
    assert latents.shape == (2, 4, 8, 8)


def test_it_is_a_prior_as_stable_diffusion_is(folder: Path) -> None:
    """The same class reads it, its words are its vocabulary, and its card says what was done."""
    train(folder, TINY, lambda text: None)
    assert isinstance(trained(str(folder)), Pretrained) and isinstance(trained(), ToyboxPrior)
    prior = Pretrained(str(folder)).build()
    text = prior.embed(["a red car", "a red unicorn"])
    assert text.tensors["text"].shape == (2, MAX_TOKENS, TINY.text_width)
    x = prior.encode(torch.rand(2, 32, 32, 3), 0)
    (eps,) = prior.predict_noise(x, torch.tensor([0.3, 0.9]), [Query(text)])
    assert eps.shape == x.shape == (2, 4, 8, 8) and eps.isfinite().all()
    (warning,) = prior.warnings("a red unicorn")
    assert "'unicorn'" in warning and prior.warnings("a red car") == []
    card = (folder / "README.md").read_text()
    assert "prior train --model latent" in card and "2 steps of the autoencoder and 4 of the network" in card


def test_a_stopped_training_ends_in_the_same_weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """To rounding: Adam's steps of a fresh optimiser, or other batches, would differ in the third digit."""
    other = tmp_path_factory.mktemp("stopped")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())

    def stop(text: str) -> None:
        if text == "checkpoint of the network after step 2":
            raise KeyboardInterrupt

    train(folder, TINY, lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        train(other, TINY, stop)
    assert json.loads((other / "training.json").read_text())["network"] == 2
    train(other, TINY, lambda text: None)
    for config in other.glob("*/config.json"):  # a resumed network was loaded from a folder of this machine
        assert "_name_or_path" not in json.loads(config.read_text()), config
    whole, resumed = (load_file(one / "state-network.safetensors") for one in (folder, other))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():  # oneDNN's bias gradients of convolutions may differ in the last bit
        scale = value.abs().max().item()
        torch.testing.assert_close(
            resumed[name], value, rtol=0, atol=1e-6 * scale, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_latents_get_unit_variance(folder: Path, pictures: Pictures) -> None:
    """scaling_factor = 1 / std of the posterior means, over pictures of the training."""
    parts, tokenizer = new_parts(TINY), new_parts(TINY)["tokenizer"]
    feed = latent_training.batches(pictures, tokenizer, LatentTraining(**{**vars(TINY), "batch": 64}), 0)
    latent_training._standardise(parts["vae"], feed)
    seen = next(feed)["pictures"].permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        latents = parts["vae"].encode(seen).latent_dist.mean * parts["vae"].config.scaling_factor
    assert 0.8 < float(latents.std()) < 1.25


@pytest.mark.parametrize(("loss", "trained"), [(vae_loss, "vae"), (network_loss, "unet")])
def test_only_the_stage_in_hand_learns(pictures: Pictures, loss, trained) -> None:
    parts = new_parts(TINY)
    latent_training._learning(parts, "vae" if trained == "vae" else "network")
    batch = next(latent_training.batches(pictures, parts["tokenizer"], TINY, 0))
    loss(parts, batch, generator(0), TINY).backward()
    for name in ("vae", "unet"):
        assert any(p.grad is not None for p in parts[name].parameters()) == (name == trained)
