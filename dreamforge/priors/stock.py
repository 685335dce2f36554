"""A stock diffusers pipeline as a prior: what all families of pretrained models share.

A family's own file says how its texts are embedded and how its network is asked; see ``Family``. Here are the picture's
way into latents and back, the batching of all questions into one call, the conversion of the answer to eps, and the
text encoder's short life: texts are embedded once, and before the first prediction the encoder is let go.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamforge.priors import adapters
from dreamforge.priors.memory import Preset
from dreamforge.priors.parametrisation import (
    DiscreteSchedule,
    FlowSchedule,
    Prediction,
    alpha_sigma,
    per_view,
    to_eps,
)
from dreamforge.priors.toybox import quiet, vocabulary_warnings
from dreamforge.rng import generator
from dreamforge.types import DreamforgeError, Embedding, Query, Schedule, TrainablePrior

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Options:
    """Everything that any family's spec can say; a spec has the fields that mean something to its family."""

    model: str
    precision: Precision = "auto"
    vram: int = 0
    config: str = ""
    encode: Literal["sample", "mode"] = "sample"
    tiny_vae: str = ""
    size: int = 0
    prediction: Literal["auto", "eps", "v"] = "auto"
    student_steps: int = 0
    t5: bool = True
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0
    textual_inversion: tuple[str, ...] = ()


@dataclass(frozen=True)
class Convention:
    """What a network's answer means, and the number that tells it the time: ``time_scale`` t, or the step's index."""

    schedule: Schedule
    prediction: Prediction
    time_scale: float = 1000.0


@dataclass(frozen=True)
class Family:
    """What differs between the families.

    ``embed(pipeline, prompts, size)`` -> tensors with one row a prompt; ``ask(network, state, time, text)`` -> the
    network's raw output; ``blank(network)`` -> the shapes that a row of ``embed`` has; ``convention(pipeline)``.
    ``readers``: tokenizers and how many tokens each reads, the most patient last. ``time_embedding``: the network's
    module that embeds the time, where a trainable twin learns cameras. ``big_text``: a T5, billions of weights.
    """

    title: str
    use: str
    pipelines: tuple[str, ...]
    network: str
    text: tuple[str, ...]
    readers: dict[str, int]
    embed: Callable[[Any, list[str], int], dict[str, Tensor]]
    ask: Callable[[Any, Tensor, Tensor, dict[str, Tensor]], Tensor]
    blank: Callable[[Any], dict[str, tuple[int, ...]]]
    convention: Callable[[Any], Convention]
    time_embedding: str
    big_text: bool = False


@dataclass(frozen=True)
class Loaded:
    """A model's parts; ``vae`` None in pixel space; ``text()`` loads the whole pipeline around them, to embed.

    ``folder``: the folder or file that the weights are in, None for weights of no file. ``doubt``: a sentence about
    what the files cannot tell.
    """

    network: Any
    vae: Any
    convention: Convention
    size: int
    folder: Path | None
    text: Callable[[], Any]
    doubt: str = ""


class StockPrior:
    """A loaded pretrained model; see ``types.Prior`` for the methods. ``size``: side of its pictures in pixels."""

    knows_cameras = False

    def __init__(self, family: Family, options: Options, loaded: Loaded, device: torch.device, limits: Preset) -> None:
        self.family, self.options, self.device, self.limits = family, options, device, limits
        self.network, self.vae, self.folder = loaded.network, loaded.vae, loaded.folder
        self.convention, self.schedule = loaded.convention, loaded.convention.schedule
        self._load_text, self._doubt = loaded.text, loaded.doubt
        self._text: Any = None  # the pipeline with its text encoders, between the first text and the first prediction
        self._rows: dict[str, dict[str, Tensor]] = {}
        self._cut: dict[str, tuple[int, int]] = {}
        self._words: Any = None  # the tokenizer, where it knows whole words only
        self.size = loaded.size
        self._shift, self._scale = (0.0, 1.0) if self.vae is None else _latent_units(self.vae, device)
        if self.vae is not None and limits.frugal and self.vae._supports_gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        """The gradient flows through the autoencoder. Option ``encode`` "sample" adds the autoencoder's own noise."""
        x = rgb.to(self.device).permute(0, 3, 1, 2)
        if x.shape[-2:] != (self.size, self.size):
            shrink = x.shape[-1] > self.size
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=shrink)
        x = x * 2 - 1
        if self.vae is None:
            return x
        x = x.to(self.vae.dtype).contiguous(memory_format=torch.channels_last)
        batches = x.split(1) if self.limits.frugal else [x]
        posteriors = [self.vae.encode(batch, return_dict=False)[0] for batch in batches]
        if isinstance(posteriors[0], Tensor):  # an autoencoder without noise
            z = torch.cat(posteriors).float()
        else:
            z = torch.cat([posterior.mean for posterior in posteriors]).float()
            if self.options.encode == "sample":
                noise = torch.randn(z.shape, generator=generator(seed, "posterior")).to(z)
                z = z + torch.cat([posterior.std for posterior in posteriors]).float() * noise
        return (z - self._shift) * self._scale

    def decode(self, x: Tensor) -> Tensor:
        if self.vae is not None:
            z = (x / self._scale + self._shift).to(self.vae.dtype)
            batches = z.split(1) if self.limits.frugal else [z]
            x = torch.cat([self.vae.decode(batch, return_dict=False)[0].float() for batch in batches])
        return ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Embedding:
        """Every text is embedded once; the text encoder is loaded when it is needed and gone in ``predict_noise``."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        if new:
            with silent():
                self._text = self._text or self._load_text()
                tensors = self.family.embed(self._text, new, self.size)
                self._cut.update(_too_long(self._text, new, self.family.readers))
                self._words = _word_level(self._text.tokenizer)
            for row, prompt in enumerate(new):
                self._rows[prompt] = {name: _plain(tensor[row]).to(self.device) for name, tensor in tensors.items()}
        rows = [self._rows[prompt] for prompt in prompts]
        return Embedding({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        if self._text is not None:
            self._text = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self.ask(self.network, self.network, x_t, t, queries)

    def ask(self, network: Any, exact: Any, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        """eps for every query by ``network``, this prior's own or a trainable twin of it. ``exact`` is not needed."""
        if any(query.control is not None for query in queries):
            raise DreamforgeError(f"A control image was given, but {self.family.title} takes none: leave it out.")
        n, dtype = len(queries), next(network.parameters()).dtype
        alpha, sigma = alpha_sigma(self.schedule, t, x_t)
        state, time = self._state(x_t, t)
        text = {name: torch.cat([q.text.tensors[name] for q in queries]) for name in queries[0].text.tensors}
        state, time = state.to(dtype).repeat(n, 1, 1, 1), time.repeat(n)
        if dtype != torch.float32:
            text = {name: value.to(dtype) if value.dtype == torch.float32 else value for name, value in text.items()}
        # A twin's camera hook counts the rows of the whole batch: it is asked in one call.
        chunk = self.limits.chunk if network is self.network and self.limits.chunk else len(state)
        pieces = [slice(first, first + chunk) for first in range(0, len(state), chunk)]
        outputs = [
            self.family.ask(network, state[piece], time[piece], {name: value[piece] for name, value in text.items()})
            for piece in pieces
        ]
        output = torch.cat(outputs)[:, : x_t.shape[1]]  # further channels are a learned variance
        return [to_eps(answer, x_t, alpha, sigma, self.convention.prediction) for answer in output.chunk(n)]

    def _state(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees and the time that it is told."""
        if isinstance(self.schedule, FlowSchedule):
            return x_t * per_view(self.schedule.norm(t), x_t), t * self.convention.time_scale
        assert isinstance(self.schedule, DiscreteSchedule | StudentSchedule)
        return x_t, self.schedule.index(t)

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> TrainablePrior:
        where = self.family.time_embedding
        return adapters.trainable(
            self.network, self.ask, mode, camera=camera, rank=rank, seed=seed, time_embedding=where
        )

    def warnings(self, prompt: str) -> list[str]:
        """Sentences: the files are in doubt, the text was too long to be read, words were never learnt."""
        unknown = [self._doubt] if self._doubt else []
        unknown += [] if self._words is None else vocabulary_warnings(self._words, prompt)
        long = [length for text, length in self._cut.items() if text.startswith(prompt)]
        if not long:
            return unknown
        tokens, limit = max(long)
        return [
            *unknown,
            f"The prompt with its view words has {tokens} tokens, but {self.family.title} reads {limit}: its end, the "
            "view words first, is lost; shorten it.",
        ]


@dataclass(frozen=True, eq=False)
class StudentSchedule:
    """A few-step student's schedule: t means the nearest of the ``steps`` steps that the student was trained at.

    Those are N, 2N, ... of N = len/steps, less one (249, 499, 749, 999 for 4 of 1000, as SDXL-Turbo's and Lightning's
    "trailing" spacing): between them the network was never asked.
    """

    base: DiscreteSchedule
    steps: int

    def index(self, t: Tensor) -> Tensor:
        """The network's timestep ``[B]`` int64 of t ``[B]`` in (0, 1)."""
        stride = len(self.base.alphas_cumprod) / self.steps
        return ((t * self.steps).round().clamp(1, self.steps) * stride).long() - 1

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.alpha(self._snapped(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.base.sigma(self._snapped(t))

    def _snapped(self, t: Tensor) -> Tensor:
        return self.index(t).to(t.dtype) / len(self.base.alphas_cumprod)


@contextmanager
def silent() -> Iterator[None]:
    """Without the libraries' progress bars, advice and warnings about themselves."""
    hush = quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            hush()


def _latent_units(vae: Any, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """``shift`` and ``scale`` of latents: x = (z - shift) * scale."""
    config = vae.config
    scale, mean, std = config.get("scaling_factor") or 1.0, config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return config.get("shift_factor") or 0.0, scale
    shape = (1, -1, 1, 1)
    return torch.tensor(mean, device=device).view(shape), scale / torch.tensor(std, device=device).view(shape)


def shrink(vae: Any) -> int:
    """How many pixels a latent is wide; 1 in pixel space."""
    if vae is None:
        return 1
    config = vae.config
    channels = config.get("block_out_channels") or config.get("encoder_block_out_channels")
    return int(2 ** (len(channels) - 1))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach().bool()


def _word_level(tokenizer: Any) -> Any:
    """The tokenizer if it has no pieces of words, so that an unknown word means nothing to its model; else None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer if backend is not None and type(backend.model).__name__ == "WordLevel" else None


def _too_long(pipeline: Any, prompts: Sequence[str], readers: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Texts that no tokenizer reads to their end: how many tokens they have, and how many are read."""
    there = {name: most for name, most in readers.items() if getattr(pipeline, name, None) is not None}
    name, most = list(there.items())[-1]
    tokenizer = getattr(pipeline, name)
    limit = min(most, tokenizer.model_max_length)
    lengths = {prompt: len(tokenizer(prompt).input_ids) for prompt in prompts}
    return {prompt: (length, limit) for prompt, length in lengths.items() if length > limit}
