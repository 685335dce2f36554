"""PixArt-alpha and PixArt-Sigma: a diffusion transformer on latents, texts by T5 (arXiv 2310.00426, 2403.04692).

The network answers eps and a learned variance: the variance is dropped.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.priors.loading import convention, open_stock
from dreamforge.priors.stock import Family, Precision, StockPrior

TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # that the pipelines let T5 read


@dataclass(frozen=True)
class PixArt:
    """PixArt-alpha and PixArt-Sigma: a name (pixart-alpha, pixart-sigma) or a folder."""

    model: str = "pixart-alpha"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    encode: Literal["sample", "mode"] = "sample"
    tiny_vae: str = ""  # taesd (alpha), taesdxl (Sigma), or a folder
    size: int = 0  # pixels of the pictures; 0 is what the model was trained at

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    text, mask, _, _ = pipeline.encode_prompt(
        prompts,
        do_classifier_free_guidance=False,
        device=pipeline.text_encoder.device,
        clean_caption=False,
        max_sequence_length=TOKENS[type(pipeline).__name__],
    )
    tensors = {"text": text, "mask": mask.bool()}
    if pipeline.transformer.use_additional_conditions:  # the model for 1024 pixels is told the size and shape
        tensors |= {"resolution": text.new_full((len(text), 2), size), "aspect_ratio": text.new_ones(len(text), 1)}
    return tensors


def ask(network: Any, state: Tensor, time: Tensor, text: dict[str, Tensor]) -> Tensor:
    answer: Tensor = network(
        state,
        encoder_hidden_states=text["text"],
        encoder_attention_mask=text["mask"].to(state.dtype),
        timestep=time,
        added_cond_kwargs={name: text.get(name) for name in ("resolution", "aspect_ratio")},
        return_dict=False,
    )[0]
    return answer


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"text": (120, network.config["caption_channels"]), "mask": (120,)}
    if network.use_additional_conditions:
        shapes |= {"resolution": (2,), "aspect_ratio": (1,)}
    return shapes


FAMILY = Family(
    title="PixArt",
    use="pixart.PixArt",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    network="transformer",
    text=("text_encoder", "tokenizer"),
    readers={"tokenizer": 300},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="adaln_single.emb.timestep_embedder",
    big_text=True,
)
