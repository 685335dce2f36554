"""Any local diffusers folder or single safetensors file: its own configuration says which family reads it."""

from dataclasses import dataclass
from typing import Literal

import torch

from dreamforge.priors import deepfloyd, pixart, prx, sd3, sdxl, stable_diffusion, weights
from dreamforge.priors.loading import open_stock
from dreamforge.priors.stock import Family, Precision, StockPrior
from dreamforge.priors.toybox import PIPELINE, ToyboxPrior
from dreamforge.types import DreamforgeError

FAMILIES = (
    stable_diffusion.FAMILY,
    sdxl.FAMILY,
    sd3.FAMILY,
    deepfloyd.FAMILY,
    pixart.FAMILY,
    prx.FAMILY,
)


@dataclass(frozen=True)
class Pretrained:
    """Any model of a known family, found by its files: a name, a repository, a folder or one safetensors file.

    The options are those of the families; one that means nothing to the family found is refused or has no effect.
    """

    model: str = "sd15"
    precision: Precision = "auto"
    vram: int = 0  # GB to keep to: 6, 8, 12, 24 or 80; 0 is no limit
    config: str = ""  # a single file's configurations and tokenizers: a folder; "" the local cache's
    encode: Literal["sample", "mode"] = "sample"
    tiny_vae: str = ""
    size: int = 0
    prediction: Literal["auto", "eps", "v"] = "auto"
    student_steps: int = 0
    t5: bool = True
    lora: tuple[str, ...] = ()
    lora_scale: float = 1.0
    textual_inversion: tuple[str, ...] = ()

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        family = family_of(weights.find(self.model, self.config))
        if self.lora and family is prx.FAMILY:  # diffusers' pipeline has a LoRA loader, but it is a UNet's
            raise DreamforgeError(
                f"The LoRA {self.lora[0]} was given, but diffusers reads none for {family.title}: leave prior.lora out."
            )
        return open_stock(family, self, device)


def family_of(source: weights.Source) -> Family:
    """The family that reads a model. Raises DreamforgeError where none does."""
    for family in FAMILIES:
        if source.pipeline in family.pipelines:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise DreamforgeError(
        f"'{source.model}' is a {source.pipeline}, which no prior reads: the known pipelines are {known}."
    )


def trained(folder: str = "") -> "ToyboxPrior | Pretrained":
    """The spec of a prior that `dreamforge prior train` wrote; "" the embedded one.

    In pixels it is a ``ToyboxPrior``, which is told cameras; in latents a model like any other of its family.
    Raises DreamforgeError where the folder holds no pipeline.
    """
    if not folder or weights.find(folder).pipeline == PIPELINE:
        return ToyboxPrior(folder)
    return Pretrained(folder)
