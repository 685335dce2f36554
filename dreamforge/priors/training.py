"""Training of the embedded prior on toybox pictures: text only as word tokens, camera as a token that may drop.

One loss: the x0 error, weighted as flow matching's velocity error (Li & He 2025, arXiv 2511.13720: x-prediction with
v-loss), plus the same for differences of neighbouring pixels. Both are quadratic in x0, so their minimiser is the
posterior mean; the second weighs sharp detail and the borders of patches.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge import devices
from dreamforge.priors.card import write_card
from dreamforge.priors.examples import (
    batches,
    cached_pictures,
    check_settings,
    forget_paths,
    new_text_encoder,
    new_tokenizer,
)
from dreamforge.priors.toybox import MAX_TOKENS, camera_token, load_parts, quiet
from dreamforge.priors.training_state import (
    assign,
    copies,
    follow,
    load_state,
    rate,
    save_state,
    set_rate,
    step_all,
)
from dreamforge.rng import derive, generator


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

    def __post_init__(self) -> None:
        check_settings(self)


def train(out: Path, settings: Training, report: Callable[[str], None] = print, device: str = "auto") -> None:
    """Train into ``out`` (a pipeline folder, averaged weights in float16), resuming what is there.

    ``out/state.safetensors`` holds the full state; without it a resumed training starts from the averaged weights
    with a fresh optimiser. ``out/log.jsonl`` gets a line every 50 steps. Interrupt at any time: the same command goes
    on from the last checkpoint, one every ``settings.every`` steps, to the same weights.
    """
    place = devices.pick(device)
    torch.manual_seed(derive(settings.seed, "weights"))
    out.mkdir(parents=True, exist_ok=True)
    pictures = cached_pictures(out, settings, report)
    transformer, encoder, tokenizer = load_parts(out) if (out / "model_index.json").exists() else new_parts(settings)
    model = torch.nn.ModuleDict({"transformer": transformer, "text_encoder": encoder}).to(place).train()
    average = copies(model)
    optimisers = _optimisers(model, settings.lr)
    first = _resume(out, model, average, optimisers)
    if shutil.which("g++") and settings.steps - first > 500:  # a third faster, after a minute or two of compiling
        if place.type == "cpu":  # torch's own attention has a slow backward pass there; plain products compile well
            hush = quiet()
            transformer.set_attention_backend("_native_math")
            hush()
        transformer = torch.compile(transformer, dynamic=False)
    began, losses = time.monotonic(), []
    for step, batch in zip(range(first, settings.steps), batches(pictures, tokenizer, settings, first), strict=False):
        set_rate(optimisers, settings.lr * rate(step, settings.steps, settings.warmup, settings.decay_share))
        batch = {name: value.to(place) for name, value in batch.items()}
        loss = _loss(transformer, encoder, batch, generator(settings.seed, "noise", step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step_all(optimisers)
        follow(average, model, min(settings.average, (step + 1) / (step + 10)))
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
    return transformer, new_text_encoder(tokenizer, settings.text_width, settings.text_depth), tokenizer


def save(
    out: Path, model: Any, average: dict[str, Tensor], optimisers: Any, tokenizer: Any, step: int, settings: Training
) -> None:
    """Write the averaged weights as a stock pipeline folder, and the state to go on from."""
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPixelPipeline

    live = copies(model)
    assign(model, average)
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
    forget_paths(out)
    assign(model, live)
    save_state(out / "state.safetensors", live, average, optimisers)
    known = json.loads((out / "training.json").read_text()) if (out / "training.json").exists() else {}
    card = {"step": step, "settings": asdict(settings), "history": known.get("history", [])}
    (out / "training.json").write_text(json.dumps(card, indent=1) + "\n")
    write_card(out)


def _resume(out: Path, model: Any, average: dict[str, Tensor], optimisers: Any) -> int:
    if not (out / "training.json").exists():
        return 0
    load_state(out / "state.safetensors", model, average, optimisers)
    return int(json.loads((out / "training.json").read_text())["step"])


def _optimisers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (Jordan et al. 2024, scaled to Adam's update size), AdamW for the rest."""
    blocks = [p for n, p in model.named_parameters() if ".blocks." in n and p.ndim == 2 and "modulation" not in n]
    chosen = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(blocks, lr=lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)]


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
