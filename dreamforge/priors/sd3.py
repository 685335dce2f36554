"""Stable Diffusion 3 and 3.5: a flow transformer with three text encoders (Esser et al., arXiv 2403.03206).

The network answers the velocity u = n - x at the flow state z = (1 - t) x + t n and is told 1000 t; ``t`` is the flow's
own time, so the scheduler's shift, which only spaces a sampler's steps, has no part in it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.priors.loading import convention, open_stock
from dreamforge.priors.stock import Family, Precision, StockPrior

T5_TOKENS = 256  # that the pipeline lets the third encoder read


@dataclass(frozen=True)
class SD3:
    """Stable Diffusion 3 and 3.5 (flow): a name (sd3-medium), a folder, or one safetensors file."""

    model: str = "sd3-medium"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    config: str = ""  # a single file's configurations and tokenizers: a folder; "" the local cache's
    encode: Literal["sample", "mode"] = "sample"
    tiny_vae: str = ""  # taesd3, or a folder
    size: int = 0  # pixels of the pictures; 0 is what the model was trained at; 512 is four times cheaper
    t5: bool = True  # False leaves the third text encoder (9.5 GB) out: weaker on long and spelt-out prompts
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts,
        None,
        None,
        device=pipeline.text_encoder.device,
        do_classifier_free_guidance=False,
        max_sequence_length=T5_TOKENS,
    )
    return {"text": text, "pooled": pooled}


def ask(network: Any, state: Tensor, time: Tensor, text: dict[str, Tensor]) -> Tensor:
    answer: Tensor = network(
        hidden_states=state,
        encoder_hidden_states=text["text"],
        pooled_projections=text["pooled"],
        timestep=time,
        return_dict=False,
    )[0]
    return answer


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    config = network.config
    return {"text": (77 + T5_TOKENS, config["joint_attention_dim"]), "pooled": (config["pooled_projection_dim"],)}


FAMILY = Family(
    title="Stable Diffusion 3",
    use="sd3.SD3",
    pipelines=("StableDiffusion3Pipeline",),
    network="transformer",
    text=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
    readers={"tokenizer": 77, "tokenizer_3": T5_TOKENS},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="time_text_embed",
    big_text=True,
)
