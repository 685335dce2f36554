"""Training of the embedded prior on toybox pictures: text only as word tokens, camera as a token that may drop.

One loss: the x0 error, weighted as flow matching's velocity error (Li & He 2025, arXiv 2511.13720: x-prediction with
v-loss), plus the same for differences of neighbouring pixels. Both are quadratic in x0, so their minimiser is the
posterior mean; the second weighs sharp detail and the borders of patches.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge import devices
from dreamforge.priors.card import write_card
from dreamforge.priors.toybox import MAX_TOKENS, camera_token, load_parts, quiet, tokenize
from dreamforge.render.background import muted
from dreamforge.rng import derive, generator
from dreamforge.toybox import captions
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.pictures import Pictures, choose_color, compose, draw, shade_of
from dreamforge.types import DreamforgeError


@dataclass(frozen=True)
class Training:
    """All settings of one training; those of the shipped weights stand in their ``training.json``."""

    steps: int = 20_000  # of the whole training, earlier pieces included
    toys: int = 24_000  # drawn once, two pictures each; colours, backgrounds, mirror images anew every time
    batch: int = 64
    size: int = 64  # side of a picture in pixels
    patch: int = 8
    width: int = 256
    depth: int = 6
    heads: int = 4
    text_width: int = 192
    text_depth: int = 3
    lr: float = 1e-3
    warmup: int = 300
    decay_share: float = 0.25  # of the steps, at the end: the learning rate falls linearly to 2 %
    average: float = 0.999  # decay of the moving average of the weights
    text_dropout: float = 0.1  # drawn independently of the camera's
    camera_dropout: float = 0.3
    word_dropout: float = 0.02  # a word becomes <unk>: unknown words must not disturb
    every: int = 500  # steps between two checkpoints
    seed: int = 0


def train(out: Path, settings: Training, report: Callable[[str], None] = print, device: str = "auto") -> None:
    """Train into ``out`` (a pipeline folder, averaged weights in float16), resuming what is there.

    ``out/state.safetensors`` holds the full state; without it a resumed training starts from the averaged weights
    with a fresh optimiser. ``out/log.jsonl`` gets a line every 50 steps. Interrupt at any time: the same command goes
    on from the last checkpoint, one every ``settings.every`` steps, to the same weights.
    """
    place = devices.pick(device)
    torch.manual_seed(derive(settings.seed, "weights"))
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(out, settings, report)
    transformer, encoder, tokenizer = load_parts(out) if (out / "model_index.json").exists() else new_parts(settings)
    model = torch.nn.ModuleDict({"transformer": transformer, "text_encoder": encoder}).to(place).train()
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimisers = _optimisers(model, settings.lr)
    first = _resume(out, model, average, optimisers)
    if shutil.which("g++") and settings.steps - first > 500:  # a third faster, after a minute or two of compiling
        if place.type == "cpu":  # torch's own attention has a slow backward pass there; plain products compile well
            hush = quiet()
            transformer.set_attention_backend("_native_math")
            hush()
        transformer = torch.compile(transformer, dynamic=False)
    began, losses = time.monotonic(), []
    for step, batch in zip(range(first, settings.steps), _batches(pictures, tokenizer, settings, first), strict=False):
        rate = _rate(step, settings)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * rate
        batch = {name: value.to(place) for name, value in batch.items()}
        loss = _loss(transformer, encoder, batch, generator(settings.seed, "noise", step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        _follow(average, model, min(settings.average, (step + 1) / (step + 10)))
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds, began = time.monotonic() - began, time.monotonic()
            line = {"step": step + 1, "loss": round(float(np.mean(losses)), 5), "seconds": round(seconds, 1)}
            losses = []
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(f"step {line['step']}/{settings.steps}  loss {line['loss']}  {seconds / 50:.2f} s a step")
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            save(out, model, average, optimisers, tokenizer, step + 1, settings)
            report(f"checkpoint after step {step + 1}")


def new_parts(settings: Training) -> tuple[Any, Any, Any]:
    """A fresh transformer, text encoder and tokenizer of these sizes."""
    from diffusers import PRXTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = new_tokenizer()
    transformer = PRXTransformer2DModel(
        in_channels=3,
        patch_size=settings.patch,
        context_in_dim=settings.text_width,
        hidden_size=settings.width,
        mlp_ratio=3.0,
        num_heads=settings.heads,
        depth=settings.depth,
        axes_dim=[settings.width // settings.heads // 2] * 2,
        theta=100,  # the picture is a few patches wide: short wavelengths tell them apart
        bottleneck_size=64,
    )
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.text_width,
        intermediate_size=2 * settings.text_width,
        num_hidden_layers=settings.text_depth,
        num_attention_heads=settings.text_width // 64,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # not 2: that number switches CLIP to its legacy pooling
    )
    return transformer, CLIPTextModel(config), tokenizer


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


def save(
    out: Path, model: Any, average: dict[str, Tensor], optimisers: Any, tokenizer: Any, step: int, settings: Training
) -> None:
    """Write the averaged weights as a stock pipeline folder, and the state to go on from."""
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPixelPipeline
    from safetensors.torch import save_file

    live = {name: p.detach().clone() for name, p in model.named_parameters()}
    _load(model, average)
    pipeline = PRXPixelPipeline(
        model["transformer"],
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        model["text_encoder"],
        tokenizer,
        default_sample_size=settings.size,
        prompt_max_tokens=MAX_TOKENS,
        noise_scale=1.0,
    )
    hush = quiet()
    torch.nn.Module.to(model, torch.float16)
    pipeline.save_pretrained(out, max_shard_size="15MB")
    torch.nn.Module.to(model, torch.float32)
    hush()
    _forget_paths(out)
    _load(model, live)
    state = {f"live.{name}": value for name, value in live.items()}
    state |= {f"average.{name}": value for name, value in average.items()}
    for k, optimiser in enumerate(optimisers):
        for i, values in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{k}.{i}.{key}": torch.as_tensor(v).clone() for key, v in values.items()}
    save_file(state, out / "state.tmp")
    (out / "state.tmp").rename(out / "state.safetensors")
    known = json.loads((out / "training.json").read_text()) if (out / "training.json").exists() else {}
    card = {"step": step, "settings": asdict(settings), "history": known.get("history", [])}
    (out / "training.json").write_text(json.dumps(card, indent=1) + "\n")
    write_card(out)


def _forget_paths(out: Path) -> None:
    """Drop the place of this machine that the library writes into the network's configuration."""
    path = out / "transformer" / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _resume(out: Path, model: Any, average: dict[str, Tensor], optimisers: Any) -> int:
    from safetensors.torch import load_file

    if not (out / "training.json").exists():
        return 0
    if (out / "state.safetensors").exists():
        state = load_file(out / "state.safetensors")
        _load(model, {name: state[f"live.{name}"] for name in average})
        average.update({name: state[f"average.{name}"] for name in average})
        for k, optimiser in enumerate(optimisers):
            stored = optimiser.state_dict()
            for key, value in state.items():
                if key.startswith(f"optimiser.{k}."):
                    _, _, i, name = key.split(".", 3)
                    stored["state"].setdefault(int(i), {})[name] = value
            optimiser.load_state_dict(stored)
    return int(json.loads((out / "training.json").read_text())["step"])


def _optimisers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (Jordan et al. 2024, scaled to Adam's update size), AdamW for the rest."""
    blocks = [p for n, p in model.named_parameters() if ".blocks." in n and p.ndim == 2 and "modulation" not in n]
    chosen = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, lr=lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)]


def _rate(step: int, settings: Training) -> float:
    left = (settings.steps - step) / max(1.0, settings.decay_share * settings.steps)
    return min(1.0, (step + 1) / settings.warmup, max(left, 0.02))


def _follow(average: dict[str, Tensor], model: Any, decay: float) -> None:
    values = [p.detach() for _, p in model.named_parameters()]
    torch._foreach_lerp_(list(average.values()), values, 1.0 - decay)


def _load(model: Any, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(values[name])


def _loss(transformer: Any, encoder: Any, batch: dict[str, Tensor], draw_noise: torch.Generator) -> Tensor:
    x = batch["pictures"].permute(0, 3, 1, 2) * 2 - 1
    t = (
        torch.randn(len(x), generator=draw_noise).mul(1.2).add(0.9).sigmoid().clamp(0.005, 0.995)
    )  # words matter at high t
    noise = torch.randn(x.shape, generator=draw_noise)
    tau = t.view(-1, 1, 1, 1)
    state = (1 - tau) * x + tau * noise
    with torch.autocast(x.device.type, torch.bfloat16):
        text = encoder(input_ids=batch["ids"], attention_mask=batch["mask"]).last_hidden_state
        token = camera_token(batch["azimuth"], batch["elevation"], text.shape[-1]).to(text)
        context = torch.cat([text, token], 1)
        mask = torch.cat([batch["mask"].bool(), batch["camera"][:, None]], 1)
        x0 = transformer(state, t, context, mask, return_dict=False)[0]
    error = x0.float() - x
    sharp = error.diff(dim=-1).square().mean((1, 2, 3)) + error.diff(dim=-2).square().mean((1, 2, 3))
    weight = 1 / (t.square() + 0.05)  # the velocity's weight 1/t^2, bounded
    loss: Tensor = (weight * (error.square().mean((1, 2, 3)) + 0.5 * sharp)).mean()
    return loss


def _batches(pictures: Pictures, tokenizer: Any, settings: Training, start: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches; the one of step k depends on (seed, k) alone."""
    step = start
    while True:
        rng = np.random.default_rng(derive(settings.seed, "batch", step))
        yield _batch(pictures, tokenizer, settings, rng, generator(settings.seed, "background", step))
        step += 1


def _batch(
    pictures: Pictures, tokenizer: Any, settings: Training, rng: np.random.Generator, draw: torch.Generator
) -> dict[str, Tensor]:
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


def _pictures(out: Path, settings: Training, report: Callable[[str], None]) -> Pictures:
    path = out / f"pictures-{settings.toys}-{settings.size}-{settings.seed}.safetensors"
    if not path.exists():
        report(f"drawing {settings.toys} toys from two views each ...")
        draw(settings.toys, settings.seed, settings.size).save(path)
    pictures = Pictures.load(path)
    if int(pictures.kind.max()) >= len(KINDS):
        raise DreamforgeError(f"{path} was drawn with another toybox: delete it and train again.")
    return pictures
