"""Training of the embedded prior, at tiny sizes: what it sees, and that it goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamforge.priors import examples
from dreamforge.priors.latent_training import LatentTraining
from dreamforge.priors.toybox import ToyboxPrior
from dreamforge.priors.training import Training, train
from dreamforge.rng import generator
from dreamforge.toybox.catalog import KINDS, held_out
from dreamforge.toybox.pictures import Pictures, choose_color, draw
from dreamforge.types import DreamforgeError

TINY = Training(steps=4, toys=4, batch=4, size=32, width=64, depth=1, heads=2, text_width=64, text_depth=1, every=2)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return draw(TINY.toys, TINY.seed, TINY.size, workers=1)


@pytest.fixture
def folder(tmp_path: Path, pictures: Pictures) -> Path:
    pictures.save(tmp_path / f"pictures-{TINY.toys}-{TINY.size}-{TINY.seed}.safetensors")
    return tmp_path


@pytest.mark.parametrize("kind", [Training, LatentTraining])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": -3}, "training.steps is -3, but a finite number of at least 1"),
        ({"text_dropout": 1.5}, r"training.text_dropout is 1.5, but a finite number in \[0, 1\]"),
        ({"lr": float("nan")}, "training.lr is nan"),
    ],
)
def test_settings_outside_their_meaning_are_refused(kind: Any, wrong: dict[str, float], words: str) -> None:
    with pytest.raises(DreamforgeError, match=words):
        kind(**wrong)


def test_a_stopped_training_ends_in_the_same_weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("stopped")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())

    def stop(text: str) -> None:
        if "step 2" in text:
            raise KeyboardInterrupt

    train(folder, TINY, lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        train(other, TINY, stop)
    assert json.loads((other / "training.json").read_text())["step"] == 2
    train(other, TINY, lambda text: None)
    names = ["state.safetensors", "transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    prior = ToyboxPrior(str(folder)).build()
    assert prior.size == 32 and prior.embed(["a red car"]).tensors["text"].shape[-1] == 64
    assert "steps=4" in (folder / "README.md").read_text()
    assert not any(str(other) in path.read_text() for path in other.rglob("*.json")), "no path of this machine"


def test_half_weights_alone_are_enough_to_go_on(folder: Path) -> None:
    train(folder, Training(**{**TINY.__dict__, "steps": 2}), lambda text: None)
    (folder / "state.safetensors").unlink()
    train(folder, TINY, lambda text: None)
    assert json.loads((folder / "training.json").read_text())["step"] == 4


def test_pictures_of_another_toybox_are_refused(folder: Path, pictures: Pictures) -> None:
    wrong = Pictures(
        pictures.layers, pictures.kind + len(KINDS), pictures.accessory, pictures.azimuth, pictures.elevation
    )
    wrong.save(folder / f"pictures-{TINY.toys}-{TINY.size}-{TINY.seed}.safetensors")
    with pytest.raises(DreamforgeError, match="another toybox"):
        train(folder, TINY)


def test_text_and_camera_are_dropped_independently(pictures: Pictures) -> None:
    """All four combinations are trained, in the shares that two independent draws give."""
    tokenizer = examples.new_tokenizer()
    settings = Training(batch=400, text_dropout=0.3, camera_dropout=0.4, size=32)
    batch = examples.one_batch(pictures, tokenizer, settings, np.random.default_rng(0), generator(0))
    empty = batch["ids"][:, 0] == tokenizer.eos_token_id
    for text, camera, share in ((0, 0, 0.42), (0, 1, 0.28), (1, 0, 0.18), (1, 1, 0.12)):
        found = ((empty == bool(text)) & (batch["camera"] != bool(camera))).float().mean()
        assert abs(float(found) - share) < 4 * (share * (1 - share) / 400) ** 0.5


def test_held_out_pairs_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    assert not any(held_out(kind, choose_color(kind, rng, trained_only=True)) for kind in KINDS for _ in range(40))
    assert any(held_out(kind, choose_color(kind, rng, trained_only=False)) for kind in KINDS for _ in range(40))


def test_text_reaches_the_network_as_words_only(pictures: Pictures) -> None:
    """A batch holds pictures, token ids with their mask, and camera angles: no label."""
    batch = examples.one_batch(pictures, examples.new_tokenizer(), TINY, np.random.default_rng(0), generator(0))
    assert set(batch) == {"pictures", "ids", "mask", "camera", "azimuth", "elevation"}
    assert float(batch["pictures"].min()) >= 0 and float(batch["pictures"].max()) <= 1


def test_mirrored_pictures_get_mirrored_cameras(pictures: Pictures) -> None:
    batch = examples.one_batch(pictures, examples.new_tokenizer(), TINY, np.random.default_rng(3), generator(0))
    known = torch.cat([pictures.azimuth, -pictures.azimuth])
    assert all(bool((known == angle).any()) for angle in batch["azimuth"])
