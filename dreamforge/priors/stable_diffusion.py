"""Stable Diffusion 1.x and 2.x: a UNet on latents, CLIP text, eps- or v-prediction (arXiv 2112.10752)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.priors.loading import convention, open_stock
from dreamforge.priors.stock import Family, Precision, StockPrior


@dataclass(frozen=True)
class StableDiffusion:
    """Stable Diffusion 1.x and 2.x, eps or v: a name (sd15, sd21, sd21-base), a folder, or one safetensors file."""

    model: str = "sd15"
    precision: Precision = "auto"  # of the network: bfloat16 where it is fast
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    config: str = ""  # a single file's configurations and tokenizer: a folder; "" the local cache's
    encode: Literal["sample", "mode"] = "sample"  # "mode" leaves out the autoencoder's own noise: less variance
    tiny_vae: str = ""  # a tiny autoencoder in the place of the own: taesd, or a folder
    size: int = 0  # pixels of the pictures; 0 is what the model was trained at
    prediction: Literal["auto", "eps", "v"] = "auto"  # for a single file that cannot tell
    student_steps: int = 0  # of a few-step student, as SD-Turbo: see sdxl.SDXL
    lora: tuple[str, ...] = ()  # safetensors files
    lora_scale: float = 1.0
    textual_inversion: tuple[str, ...] = ()  # safetensors files; the word is in the file, or is the file's name

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    return {"text": pipeline.encode_prompt(prompts, pipeline.text_encoder.device, 1, False)[0]}


def ask(network: Any, state: Tensor, time: Tensor, text: dict[str, Tensor]) -> Tensor:
    answer: Tensor = network(state, time, encoder_hidden_states=text["text"], return_dict=False)[0]
    return answer


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    return {"text": (77, network.config["cross_attention_dim"])}


FAMILY = Family(
    title="Stable Diffusion",
    use="stable_diffusion.StableDiffusion",
    pipelines=("StableDiffusionPipeline",),
    network="unet",
    text=("text_encoder", "tokenizer"),
    readers={"tokenizer": 77},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="time_embedding",
)
