"""The embedded prior: a small text-to-image diffusion transformer in pixel space, a stock diffusers pipeline folder.

The network is diffusers' ``PRXTransformer2DModel`` (patches, x0-prediction on a flow-matching state), the text encoder
a small ``CLIPTextModel`` on word tokens. The camera is one more context token, dropped by its mask.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge import data
from dreamforge.priors import adapters, weights
from dreamforge.priors.parametrisation import FlowSchedule, alpha_sigma, flow_state, to_eps
from dreamforge.toybox.vocabulary import nearest_words
from dreamforge.types import Cameras, DreamforgeError, Embedding, Query, Schedule, TrainablePrior

PIPELINE = "PRXPixelPipeline"  # of diffusers
CURE = "reinstall dreamforge3d, or point prior.folder at a folder that `dreamforge prior train` wrote"
MAX_TOKENS = 18  # of a prompt, the end token included
AZIMUTH_HARMONICS, ELEVATION_HARMONICS = 8, 4
CAMERA_SCALE = 4.0  # makes the camera's token about as long as a word's, which is layer-normed
LOW_T = 0.1  # below it eps is computed from a float32 forward: the error of a rounded x0 grows as alpha / sigma


def camera_token(azimuth: Tensor, elevation: Tensor, width: int) -> Tensor:
    """``[B]``, ``[B]`` radians -> ``[B, 1, width]``: sines and cosines of multiples of both angles, then zeros."""
    k, j = torch.arange(1, AZIMUTH_HARMONICS + 1), torch.arange(1, ELEVATION_HARMONICS + 1)
    a, e = azimuth[:, None] * k.to(azimuth), elevation[:, None] * j.to(elevation)
    waves = CAMERA_SCALE * torch.cat([a.sin(), a.cos(), e.sin(), e.cos()], -1)
    return torch.nn.functional.pad(waves, (0, width - waves.shape[-1]))[:, None]


@dataclass(frozen=True)
class ToyboxPrior:
    """The embedded prior: toys on plain backgrounds, 64 pixels, told words and cameras.

    ``folder``: a pipeline folder, "" the one that comes with the package; ``precision`` of the network's forward.
    """

    folder: str = ""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def build(self, device: torch.device | str = "cpu") -> "ToyboxModel":
        folder = Path(self.folder) if self.folder else data.asset("prior")
        return ToyboxModel(folder, torch.device(device), self.precision)


class ToyboxModel:
    """The loaded prior; see ``types.Prior`` for the methods. ``size`` is the side of its pictures in pixels."""

    knows_cameras = True
    schedule: Schedule = FlowSchedule()

    def __init__(self, folder: Path, device: torch.device, precision: str) -> None:
        self.device, self.folder = device, folder
        self.transformer, self.text_encoder, self.tokenizer = load_parts(folder)
        self.transformer.to(device).eval().requires_grad_(False)
        self.text_encoder.to(device).eval().requires_grad_(False)
        self.dtype = network_dtype(precision, device)
        self.size: int = json.loads((folder / "model_index.json").read_text())["default_sample_size"]
        self.half = self.transformer if self.dtype == torch.float32 else _copy(self.transformer, self.dtype)

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        x = rgb.to(self.device).permute(0, 3, 1, 2)
        if x.shape[-2:] != (self.size, self.size):
            shrink = x.shape[-1] > self.size
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=shrink)
        return x * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Embedding:
        tokens = tokenize(self.tokenizer, prompts)
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        text = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return Embedding({"text": text.float(), "mask": mask.bool()})

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        return predict_noise(self.half, self.transformer, x_t, t, queries)

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> TrainablePrior:
        return adapters.trainable(
            self.transformer, predict_noise, mode, camera=camera, rank=rank, seed=seed, half=self.half
        )

    def warnings(self, prompt: str) -> list[str]:
        """One sentence if the prompt holds words that the model never saw; empty otherwise."""
        return vocabulary_warnings(self.tokenizer, prompt)


def predict_noise(network: Any, exact: Any, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
    """eps for every query in one batch. ``network`` may be of half precision; ``exact`` is its float32 twin."""
    n, views = len(queries), len(x_t)
    text = torch.cat([query.text.tensors["text"] for query in queries])
    mask = torch.cat([query.text.tensors["mask"] for query in queries])
    tokens, seen = zip(*[_camera(query.cameras, views, text) for query in queries], strict=True)
    context, mask = torch.cat([text, torch.cat(tokens)], 1), torch.cat([mask, torch.cat(seen)], 1)
    alpha, sigma = alpha_sigma(FlowSchedule(), t, x_t)
    model = exact if network is not exact and bool((t < LOW_T).any()) else network
    dtype = next(model.parameters()).dtype
    state = flow_state(x_t, alpha, sigma).to(dtype).repeat(n, 1, 1, 1)
    x0 = model(state, t.repeat(n), context.to(dtype), mask, return_dict=False)[0]
    return [to_eps(prediction, x_t, alpha, sigma, "x0") for prediction in x0.chunk(n)]


def _camera(cameras: Cameras | None, views: int, text: Tensor) -> tuple[Tensor, Tensor]:
    if cameras is None:
        return text.new_zeros(views, 1, text.shape[-1]), torch.zeros(views, 1, dtype=torch.bool, device=text.device)
    token = camera_token(cameras.azimuth, cameras.elevation, text.shape[-1]).to(text)
    return token, torch.ones(views, 1, dtype=torch.bool, device=text.device)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Token ids and mask ``[B, MAX_TOKENS]``; longer prompts are cut."""
    return tokenizer(list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Words of the prompt that are not in the vocabulary, in order."""
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(prompt.lower())
    vocabulary = tokenizer.get_vocab()
    return [word for word, _ in pieces if word not in vocabulary]


def vocabulary_warnings(tokenizer: Any, prompt: str) -> list[str]:
    """One sentence if the prompt holds words that an embedded prior never saw; empty otherwise."""
    unknown = unknown_words(tokenizer, prompt)
    if not unknown:
        return []
    known = list(tokenizer.get_vocab())
    hints = "; ".join(f"{word!r} (near: {', '.join(nearest_words(word, known)) or 'none'})" for word in unknown)
    return [
        f"The embedded prior does not know {hints}: it runs on without them; `dreamforge prior info` lists its "
        "words, and a bigger prior (`prior.use=...`) understands your own."
    ]


def network_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 on CUDA and on CPUs that compute it fast (AMX or AVX512-BF16), else float32."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type == "cpu":
        features = torch.backends.cpu.get_cpu_capability(), torch.cpu._is_amx_tile_supported()
        fast = features[1] or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def load_parts(folder: Path) -> tuple[Any, Any, Any]:
    """Transformer, text encoder (float32) and tokenizer of a pipeline folder.

    Raises DreamforgeError for another pipeline's folder, a file that is missing or damaged, and a pickle.
    """
    from diffusers import PRXTransformer2DModel
    from transformers import AutoTokenizer, CLIPTextModel

    part = "model_index.json"
    hush = quiet()
    try:
        pipeline = json.loads((folder / part).read_text("utf-8"))["_class_name"]
        if pipeline != PIPELINE:
            raise DreamforgeError(
                f"The prior in {folder} is a {pipeline}, but a {PIPELINE} was expected: read another family's model "
                f"with prior.use=pretrained.Pretrained prior.model={folder}."
            )
        part = "transformer"
        transformer = weights.network(PRXTransformer2DModel, folder / part, CURE)
        part = "text_encoder"
        text_encoder = weights.network(CLIPTextModel, folder / part, CURE)
        part = "tokenizer"
        return transformer, text_encoder, AutoTokenizer.from_pretrained(folder / part, local_files_only=True)
    except DreamforgeError:
        raise
    except Exception as error:  # the libraries raise a dozen types for damaged files
        reason = str(error).strip().split("\n")[0]
        raise DreamforgeError(f"The prior's {folder / part} is missing or damaged ({reason}): {CURE}.") from error
    finally:
        hush()


def quiet() -> Callable[[], None]:
    """Silence the libraries' progress bars and advice while a model loads; the answer undoes it."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    levels = [(library, library.get_verbosity()) for library in (ours, theirs)]
    for library, _ in levels:
        library.set_verbosity_error()
        library.disable_progress_bar()

    def undo() -> None:
        for library, level in levels:
            library.set_verbosity(level)
            library.enable_progress_bar()

    return undo


def _copy(network: Any, dtype: torch.dtype) -> Any:
    import copy

    return torch.nn.Module.to(copy.deepcopy(network), dtype)  # diffusers' own `to` only adds a warning
