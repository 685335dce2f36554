"""Stable Diffusion XL and its few-step students: two text encoders, a pooled vector, time ids (arXiv 2307.01952)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.priors.loading import convention, open_stock
from dreamforge.priors.stock import Family, Precision, StockPrior


@dataclass(frozen=True)
class SDXL:
    """Stable Diffusion XL and its few-step students (Turbo, Lightning): a name, a folder, or one safetensors file.

    A student (SDXL-Turbo, arXiv 2311.17042; SDXL-Lightning, arXiv 2402.13929) was trained at a few steps only, and
    without classifier-free guidance. Set ``student_steps`` to their number (4 for both): every t then means the
    nearest of them. Draw t over them all, timesteps low 0.2 and high 0.99, anneal to no less than 0.2, and set
    guidance.cfg_scale to 1: what such a network says without the text, or between its steps, was never trained.
    """

    model: str = "sdxl"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    config: str = ""  # a single file's configurations and tokenizers: a folder; "" the local cache's
    encode: Literal["sample", "mode"] = "sample"
    tiny_vae: str = ""  # taesdxl, or a folder
    size: int = 0  # pixels of the pictures; 0 is what the model was trained at; 512 is four times cheaper
    prediction: Literal["auto", "eps", "v"] = "auto"
    student_steps: int = 0
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0
    textual_inversion: tuple[str, ...] = ()

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    """``time_ids``: the picture's size, no crop, the size wanted. The empty text is all zeros, as in the pipeline."""
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, device=pipeline.text_encoder_2.device, do_classifier_free_guidance=False
    )
    if pipeline.config.get("force_zeros_for_empty_prompt"):
        written = torch.tensor([bool(prompt) for prompt in prompts], dtype=text.dtype, device=text.device)
        text, pooled = text * written[:, None, None], pooled * written[:, None]
    ids = torch.tensor([[size, size, 0.0, 0.0, size, size]], device=text.device).expand(len(prompts), 6)
    return {"text": text, "pooled": pooled, "time_ids": ids}


def ask(network: Any, state: Tensor, time: Tensor, text: dict[str, Tensor]) -> Tensor:
    added = {"text_embeds": text["pooled"], "time_ids": text["time_ids"]}
    answer: Tensor = network(
        state, time, encoder_hidden_states=text["text"], added_cond_kwargs=added, return_dict=False
    )[0]
    return answer


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    config = network.config
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return {"text": (77, config["cross_attention_dim"]), "pooled": (pooled,), "time_ids": (6,)}


FAMILY = Family(
    title="Stable Diffusion XL",
    use="sdxl.SDXL",
    pipelines=("StableDiffusionXLPipeline",),
    network="unet",
    text=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    readers={"tokenizer": 77},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="time_embedding",
)
