"""What the embedded priors learn from: batches of captioned toybox pictures. Text only as word tokens."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dreamforge.priors.toybox import MAX_TOKENS, tokenize
from dreamforge.render.background import muted
from dreamforge.rng import derive, generator
from dreamforge.schedule import check_number
from dreamforge.toybox import captions
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.pictures import Pictures, choose_color, compose, draw, shade_of
from dreamforge.types import DreamforgeError


class Settings(Protocol):
    """The part of a training's settings that decides what it sees."""

    @property
    def toys(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def text_dropout(self) -> float: ...

    @property
    def camera_dropout(self) -> float: ...

    @property
    def word_dropout(self) -> float: ...

    @property
    def seed(self) -> int: ...


SHARES = ("text_dropout", "camera_dropout", "word_dropout", "decay_share", "average")
MAY_BE_0 = ("seed", "warmup", "vae_steps")


def check_settings(settings: Any) -> None:
    """Raise DreamforgeError for a number of a training, a dataclass, that is outside its meaning."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        least = 0 if one.name in (*SHARES, *MAY_BE_0) or isinstance(value, float) else 1
        check_number(f"training.{one.name}", value, least, 1.0 if one.name in SHARES else math.inf)


def new_tokenizer() -> Any:
    """A word-level tokenizer of the captions' words; anything else is <unk>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<reserved>", "<end>"]
    vocabulary = {word: i for i, word in enumerate([*special, *captions.words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", vocabulary["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        model_max_length=MAX_TOKENS,
        padding_side="right",
    )


def new_text_encoder(tokenizer: Any, width: int, depth: int) -> Any:
    """A fresh CLIPTextModel for the tokenizer's words."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # not 2: that number switches CLIP to its legacy pooling
    )
    return CLIPTextModel(config)


def batches(pictures: Pictures, tokenizer: Any, settings: Settings, start: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches; the one of step k depends on (seed, k) alone."""
    step = start
    while True:
        rng = np.random.default_rng(derive(settings.seed, "batch", step))
        yield one_batch(pictures, tokenizer, settings, rng, generator(settings.seed, "background", step))
        step += 1


def one_batch(
    pictures: Pictures, tokenizer: Any, settings: Settings, rng: np.random.Generator, draw: torch.Generator
) -> dict[str, Tensor]:
    """``pictures [B,S,S,3]``, ``ids`` and ``mask [B,MAX_TOKENS]``, ``camera [B]`` bool, ``azimuth``, ``elevation``."""
    rows = torch.from_numpy(rng.integers(len(pictures), size=settings.batch))
    mirror = torch.from_numpy(rng.random(settings.batch) < 0.5)
    layers = pictures.layers[rows]
    layers = torch.where(mirror.view(-1, 1, 1, 1), layers.flip(-1), layers)
    azimuth = torch.where(mirror, -pictures.azimuth[rows], pictures.azimuth[rows])
    elevation = pictures.elevation[rows]
    texts, main, second = [], [], []
    for i, row in enumerate(rows.tolist()):
        kind = list(KINDS)[int(pictures.kind[row])]
        which = int(pictures.accessory[row])
        color = choose_color(kind, rng, trained_only=True)
        other = [c for c in COLORS if c != color][rng.integers(len(COLORS) - 1)]
        accessory = None if which < 0 else ACCESSORIES[which]
        label = captions.Label(kind, color, accessory, other, float(azimuth[i]), float(elevation[i]))
        texts.append("" if rng.random() < settings.text_dropout else captions.caption(label, rng))
        main.append(shade_of(color, rng))
        second.append(shade_of(other, rng))
    mains, seconds = (torch.from_numpy(np.stack(shades)).float() for shades in (main, second))
    tokens = tokenize(tokenizer, texts)
    ids, special = tokens["input_ids"], 4
    lost = torch.from_numpy(rng.random(tuple(ids.shape)) < settings.word_dropout) & (ids >= special)
    return {
        "pictures": compose(layers, mains, seconds, muted(settings.batch, draw)),
        "ids": ids.masked_fill(lost, tokenizer.unk_token_id),
        "mask": tokens["attention_mask"],
        "camera": torch.from_numpy(rng.random(settings.batch) >= settings.camera_dropout),
        "azimuth": azimuth,
        "elevation": elevation,
    }


def cached_pictures(out: Path, settings: Settings, report: Callable[[str], None]) -> Pictures:
    """The pictures of the settings, drawn into the folder ``out`` at the first call."""
    path = out / f"pictures-{settings.toys}-{settings.size}-{settings.seed}.safetensors"
    if not path.exists():
        report(f"drawing {settings.toys} toys from two views each ...")
        draw(settings.toys, settings.seed, settings.size).save(path)
    pictures = Pictures.load(path)
    if int(pictures.kind.max()) >= len(KINDS):
        raise DreamforgeError(f"{path} was drawn with another toybox: delete it and train again.")
    return pictures


def forget_paths(folder: Path) -> None:
    """Drop from a pipeline's configurations the path that a network was loaded from: no file names one machine's."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
