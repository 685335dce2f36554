"""DeepFloyd IF, stage I: a UNet on pixels at 64 x 64, texts by T5-XXL; DreamFusion's prior in public recipes.

The network answers six channels, eps and a learned variance: the variance is dropped. T5 is gone before the first step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamforge.priors.loading import convention, open_stock
from dreamforge.priors.stable_diffusion import ask
from dreamforge.priors.stock import Family, Precision, StockPrior

TOKENS = 77  # that the pipeline lets T5 read


@dataclass(frozen=True)
class DeepFloyd:
    """DeepFloyd IF, stage I (pixels at 64 x 64): a name (if-xl, if-l, if-m) or a folder."""

    model: str = "if-xl"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    text, _ = pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, device=pipeline.text_encoder.device, clean_caption=False
    )
    return {"text": text}


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    return {"text": (TOKENS, network.config["encoder_hid_dim"])}


FAMILY = Family(
    title="DeepFloyd IF",
    use="deepfloyd.DeepFloyd",
    pipelines=("IFPipeline",),
    network="unet",
    text=("text_encoder", "tokenizer"),
    readers={"tokenizer": TOKENS},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="time_embedding",
    big_text=True,
)
