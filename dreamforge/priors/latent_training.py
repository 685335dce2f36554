"""Training of the latent toybox prior: a Stable Diffusion pipeline in small (Rombach et al. 2022, arXiv 2112.10752).

First an ``AutoencoderKL``, then, in its latents, a ``UNet2DConditionModel`` with a ``CLIPTextModel`` on word tokens:

    autoencoder   8 |x - D(z)|^2 + |x - D(z)| + |grad (x - D(z))| / 2 + kl KL(q(z|x) || N(0, I)),   z ~ q(z|x)
    network       min(SNR, 5) / SNR |eps_theta(alpha z + sigma eps, t, y) - eps|^2     (Hang et al. 2023, 2303.09556)

The views of the captions are all that it knows of cameras, as Stable Diffusion.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamforge import devices
from dreamforge.priors import weights
from dreamforge.priors.card import write_card
from dreamforge.priors.examples import (
    batches,
    cached_pictures,
    check_settings,
    forget_paths,
    new_text_encoder,
    new_tokenizer,
)
from dreamforge.priors.parametrisation import DiscreteSchedule
from dreamforge.priors.toybox import quiet
from dreamforge.priors.training_state import assign, copies, follow, load_state, rate, save_state, set_rate, step_all
from dreamforge.rng import derive, generator
from dreamforge.types import DreamforgeError

SNR_LIMIT = 5.0


@dataclass(frozen=True)
class LatentTraining:
    """All settings of one training; those of the shipped weights stand in their ``training.json``."""

    vae_steps: int = 4_000
    steps: int = 20_000  # of the network, after the autoencoder's
    toys: int = 24_000  # drawn once, two pictures each; colours, backgrounds, mirror images anew every time
    batch: int = 64
    vae_batch: int = 16  # a picture has many places for the autoencoder to learn from
    size: int = 64  # side of a picture in pixels
    # Of 16 x 16 latents. Eight times smaller, as Stable Diffusion's of 512 pixels, 64 pixels lost their colours.
    latent_channels: int = 8
    vae_width: int = 16  # of the first level, doubled at the two others
    width: int = 48  # of the network's first level; the others have 2 and 3 times as much
    layers: int = 1
    text_width: int = 192
    text_depth: int = 3
    vae_lr: float = 2e-3
    lr: float = 1e-3
    warmup: int = 300
    decay_share: float = 0.25  # of the steps, at the end: the learning rate falls linearly to 2 %
    average: float = 0.999  # decay of the moving average of the weights
    kl: float = 1e-5
    text_dropout: float = 0.1
    camera_dropout: float = 1.0  # it has no camera
    word_dropout: float = 0.02  # a word becomes <unk>: unknown words must not disturb
    every: int = 500  # steps between two checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)


def train(out: Path, settings: LatentTraining, report: Callable[[str], None] = print, device: str = "auto") -> None:
    """Train into ``out`` (a Stable Diffusion pipeline folder, averaged weights in float16), resuming what is there.

    ``out/state.safetensors`` holds the full state; without it a resumed training starts from the averaged weights
    with a fresh optimiser. ``out/log.jsonl`` gets a line every 50 steps. Interrupt at any time.
    """
    place = devices.pick(device)
    torch.manual_seed(derive(settings.seed, "weights"))
    out.mkdir(parents=True, exist_ok=True)
    pictures = cached_pictures(out, settings, report)
    parts = load_parts(out) if (out / "model_index.json").exists() else new_parts(settings)
    done = json.loads((out / "training.json").read_text()) if (out / "training.json").exists() else {}
    log = _Log(out / "log.jsonl", report)
    for stage, last in (("vae", settings.vae_steps), ("network", settings.steps)):
        first = int(done.get(stage, 0))
        if first >= last:
            continue
        model = _learning(parts, stage).to(place).train()
        average = copies(model)
        lr = settings.vae_lr if stage == "vae" else settings.lr
        optimisers = _optimisers(model, lr)
        load_state(out / f"state-{stage}.safetensors", model, average, optimisers)
        sizes = replace(settings, batch=settings.vae_batch) if stage == "vae" else settings
        feed = batches(pictures, parts["tokenizer"], sizes, first + (stage == "network") * settings.vae_steps)
        for step, batch in zip(range(first, last), feed, strict=False):
            set_rate(optimisers, lr * rate(step, last, settings.warmup, settings.decay_share))
            batch = {name: value.to(place) for name, value in batch.items()}
            draw = generator(settings.seed, stage, step)
            loss = (vae_loss if stage == "vae" else network_loss)(parts, batch, draw, settings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step_all(optimisers)
            follow(average, model, min(settings.average, (step + 1) / (step + 10)))
            log.step(stage, step + 1, last, loss)
            if (step + 1) % settings.every == 0 or step + 1 == last:
                live = copies(model)
                assign(model, average)
                if stage == "vae" and step + 1 == last:
                    _standardise(parts["vae"], feed)
                save(out, parts, {**done, stage: step + 1}, settings)
                assign(model, live)
                save_state(out / f"state-{stage}.safetensors", live, average, optimisers)
                report(f"checkpoint of the {stage} after step {step + 1}")
        assign(model, {name: value.half().float() for name, value in average.items()})  # as a resumed training loads it
        done = json.loads((out / "training.json").read_text())


def vae_loss(
    parts: dict[str, Any], batch: dict[str, Tensor], draw: torch.Generator, settings: LatentTraining
) -> Tensor:
    """Squares, which want colours, and L1, which wants edges, of the picture in [-1, 1], per element; see the head."""
    x = batch["pictures"].permute(0, 3, 1, 2).contiguous() * 2 - 1
    with torch.autocast(x.device.type, torch.bfloat16):
        posterior = parts["vae"].encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw).to(x)
        error = parts["vae"].decode(posterior.mean + posterior.std * noise).sample.float() - x
    sharp = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = settings.kl * posterior.kl().float().mean() / x[0].numel()
    loss: Tensor = 8 * error.square().mean() + error.abs().mean() + 0.5 * sharp + kl
    return loss


def network_loss(
    parts: dict[str, Any], batch: dict[str, Tensor], draw: torch.Generator, settings: LatentTraining
) -> Tensor:
    """The eps error at steps drawn uniformly, weighted by min(SNR, 5) / SNR."""
    x = batch["pictures"].permute(0, 3, 1, 2).contiguous() * 2 - 1
    schedule = DiscreteSchedule.scaled_linear()
    index = torch.randint(len(schedule.alphas_cumprod), (len(x),), generator=draw)
    signal = schedule.alphas_cumprod[index].float().view(-1, 1, 1, 1).to(x)
    with torch.autocast(x.device.type, torch.bfloat16), _attention(x.device):
        with torch.no_grad():
            posterior = parts["vae"].encode(x).latent_dist
            clean = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draw).to(x)
            clean = clean.float() * parts["vae"].config.scaling_factor
        noise = torch.randn(clean.shape, generator=draw).to(x)
        text = parts["text_encoder"](input_ids=batch["ids"]).last_hidden_state
        state = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        eps = parts["unet"](state, index.to(x.device), text).sample
    ratio = (signal / (1 - signal)).flatten()
    weight = ratio.clamp(max=SNR_LIMIT) / ratio
    loss: Tensor = (weight * (eps.float() - noise).square().mean((1, 2, 3))).mean()
    return loss


def new_parts(settings: LatentTraining) -> dict[str, Any]:
    """Fresh networks of these sizes and the tokenizer, by their names in the pipeline."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    vae = AutoencoderKL(
        latent_channels=settings.latent_channels,
        block_out_channels=tuple(settings.vae_width * k for k in (1, 2, 4)),  # two halvings: 64 pixels are 16 latents
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=settings.size,
    )
    _ease(vae)
    unet = UNet2DConditionModel(
        sample_size=settings.size // 4,
        in_channels=settings.latent_channels,
        out_channels=settings.latent_channels,
        block_out_channels=tuple(settings.width * k for k in (1, 2, 3)),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=settings.layers,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    tokenizer = new_tokenizer()
    return {
        "vae": vae,
        "unet": unet,
        "text_encoder": new_text_encoder(tokenizer, settings.text_width, settings.text_depth),
        "tokenizer": tokenizer,
    }


@torch.no_grad()
def _ease(vae: Any) -> None:
    """Start as nearly linear maps, and with little noise on the latents: colours then arrive in hundreds of steps."""
    channels = vae.config.latent_channels
    vae.quant_conv.weight[channels:] *= 0.1
    vae.quant_conv.bias[channels:] = -6.0  # the logarithm of the variance
    for module in vae.modules():
        if hasattr(module, "conv2"):  # what a residual block adds
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()


def load_parts(folder: Path) -> dict[str, Any]:
    """The networks (float32) and the tokenizer of a pipeline folder. Raises DreamforgeError for a damaged one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    classes = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    hush = quiet()
    try:
        parts = {part: weights.network(cls, folder / part, "start in a new folder") for part, cls in classes.items()}
        return {**parts, "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)}
    except DreamforgeError:
        raise
    except Exception as error:  # the libraries raise a dozen types for damaged files
        reason = str(error).strip().split("\n")[0]
        raise DreamforgeError(
            f"The training in {folder} cannot go on, a file is missing or damaged ({reason}): start in a new folder."
        ) from error
    finally:
        hush()


def save(out: Path, parts: dict[str, Any], done: dict[str, Any], settings: LatentTraining) -> None:
    """Write the pipeline as it stands, in float16, and what was done."""
    import copy

    from diffusers import DDIMScheduler, StableDiffusionPipeline

    half = {name: copy.deepcopy(parts[name]) for name in ("vae", "unet", "text_encoder")}
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    hush = quiet()
    pipeline = StableDiffusionPipeline(
        **{name: torch.nn.Module.to(network, torch.float16) for name, network in half.items()},
        tokenizer=parts["tokenizer"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, max_shard_size="15MB")
    hush()
    forget_paths(out)
    _load_as_float32(out / "text_encoder" / "config.json")
    known = json.loads((out / "training.json").read_text()) if (out / "training.json").exists() else {}
    card = {**done, "settings": asdict(settings), "history": known.get("history", [])}
    (out / "training.json").write_text(json.dumps(card, indent=1) + "\n")
    write_card(out)


def _load_as_float32(path: Path) -> None:
    """Stock pipelines load networks as float32, but transformers' in the precision that its configuration names."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


@torch.no_grad()
def _standardise(vae: Any, feed: Iterator[dict[str, Tensor]]) -> None:
    """Set the scaling factor that gives latents unit variance."""
    place = next(vae.parameters()).device
    pictures = torch.cat([next(feed)["pictures"] for _ in range(16)]).to(place)
    latents = vae.encode(pictures.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=1.0 / float(latents.std()))


def _learning(parts: dict[str, Any], stage: str) -> torch.nn.ModuleDict:
    """The networks that learn in a stage; the others are frozen."""
    names = ("vae",) if stage == "vae" else ("unet", "text_encoder")
    for name in ("vae", "unet", "text_encoder"):
        parts[name].requires_grad_(name in names)
    return torch.nn.ModuleDict({name: parts[name] for name in names})


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Of heads as thin as these torch's fused kernel for CPUs takes ten times as long in bfloat16 as plain products."""
    if device.type != "cpu":
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def _optimisers(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    fused = next(model.parameters()).device.type != "mps"
    return [torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)]


class _Log:
    """A line in the file and on the screen every 50 steps."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self.path, self.report = path, report
        self.losses: list[float] = []
        self.began = time.monotonic()

    def step(self, stage: str, step: int, last: int, loss: Tensor) -> None:
        self.losses.append(float(loss.detach()))
        if step % 50:
            return
        seconds, self.began = time.monotonic() - self.began, time.monotonic()
        mean = sum(self.losses) / len(self.losses)
        self.losses = []
        with self.path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, "loss": round(mean, 5), "seconds": round(seconds, 1)}))
            file.write("\n")
        self.report(f"{stage} step {step}/{last}  loss {mean:.5f}  {seconds / 50:.2f} s a step")
