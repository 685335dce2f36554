"""PRX: flow transformers in latents (the velocity is predicted) or in pixels (the clean picture is).

The pixel model takes noise of another unit, z = (1 - t) x + t c n with the pipeline's ``noise_scale`` c.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.priors import loading
from dreamforge.priors.loading import open_stock
from dreamforge.priors.parametrisation import FlowSchedule
from dreamforge.priors.stock import Convention, Family, Precision, StockPrior


@dataclass(frozen=True)
class PRX:
    """PRX, latent (prx) or in pixel space: a name, a repository or a folder; the embedded prior's folder too.

    In pixel space eps comes from the predicted picture, and its error grows as (1 - t)/t: keep t above 0.1 in half
    precision.
    """

    model: str = "prx"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    encode: Literal["sample", "mode"] = "sample"
    size: int = 0  # pixels of the pictures; 0 is what the model was trained at

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        return open_stock(FAMILY, self, device)


def embed(pipeline: Any, prompts: list[str], size: int) -> dict[str, Tensor]:
    text, mask, _, _ = pipeline.encode_prompt(
        prompts, device=pipeline.text_encoder.device, do_classifier_free_guidance=False
    )
    return {"text": text, "mask": mask}


def ask(network: Any, state: Tensor, time: Tensor, text: dict[str, Tensor]) -> Tensor:
    answer: Tensor = network(state, time, text["text"], text["mask"], return_dict=False)[0]
    return answer


def blank(network: Any) -> dict[str, tuple[int, ...]]:
    return {"text": (256, network.config["context_in_dim"]), "mask": (256,)}


def convention(pipeline: Any) -> Convention:
    """The network is told t itself, not 1000 t."""
    found = replace(loading.convention(pipeline), time_scale=1.0)
    if type(pipeline).__name__ == "PRXPixelPipeline":
        return replace(found, schedule=FlowSchedule(pipeline.config.noise_scale), prediction="x0")
    return found


FAMILY = Family(
    title="PRX",
    use="prx.PRX",
    pipelines=("PRXPipeline", "PRXPixelPipeline"),
    network="transformer",
    text=("text_encoder", "tokenizer"),
    readers={"tokenizer": 256},
    embed=embed,
    ask=ask,
    blank=blank,
    convention=convention,
    time_embedding="time_in",
    big_text=True,
)
