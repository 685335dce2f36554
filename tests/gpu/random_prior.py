"""Published networks at their full size with random weights: what a step costs, on a machine without any files.

Weights are drawn by the classes' own rules, in half precision, on the device itself. Texts are random numbers of the
right shapes, so no text encoder is there; the answers mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from dreamforge.priors import pretrained
from dreamforge.priors.known import KNOWN
from dreamforge.priors.loading import place
from dreamforge.priors.memory import dtype_of, preset
from dreamforge.priors.parametrisation import DiscreteSchedule, FlowSchedule
from dreamforge.priors.sizes import SIZES, Sizes
from dreamforge.priors.stock import Convention, Loaded, Options, Precision, StockPrior, silent
from dreamforge.rng import generator
from dreamforge.types import Embedding

WIDTH = 32  # of every layer of a thin network
THIN_UNET = {
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 8,
}
THIN_TIME = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + WIDTH}
THIN_SD3 = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "pos_embed_max_size": 16,
}


@dataclass(frozen=True)
class RandomPrior:
    """A network of ``sizes.SIZES`` by its name with random weights; ``thin``: the same layers, few channels."""

    network: Literal["sd15", "sdxl", "sd3-medium"] = "sd15"
    size: int = 512
    precision: Precision = "auto"
    vram: int = 0
    thin: bool = False

    def build(self, device: torch.device | str = "cpu") -> StockPrior:
        device = torch.device(device)
        found = thin(SIZES[self.network]) if self.thin else SIZES[self.network]
        dtype = dtype_of(self.precision, self.vram, device)
        options = Options(self.network, self.precision, self.vram)
        family = next(one for one in pretrained.FAMILIES if one.use == KNOWN[self.network].use)
        network = drawn(found.network, found.shape, dtype, device)
        vae = drawn("AutoencoderKL", found.vae or {}, dtype, device)
        table = DiscreteSchedule(DiscreteSchedule.scaled_linear().alphas_cumprod.to(device))
        meaning = Convention(FlowSchedule(), "flow") if self.network.startswith("sd3") else Convention(table, "eps")
        prior = StockPrior(
            family, options, Loaded(network, vae, meaning, self.size, None, lambda: None), device, preset(self.vram)
        )
        prior.embed = lambda prompts: embedding(prior, prompts)  # type: ignore[method-assign]
        return prior


def drawn(name: str, shape: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A network of a class of diffusers, made where it stays: at no moment is there a second copy of a weight."""
    import diffusers

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with silent(), device, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            network = getattr(diffusers, name).from_config(shape)
    finally:
        torch.set_default_dtype(usual)
    return place(network, dtype, device)


def embedding(prior: StockPrior, prompts: Sequence[str]) -> Embedding:
    """A random row for every text, the same one for the same text."""
    rows = []
    for prompt in prompts:
        draws = generator(0, prompt)
        shapes = prior.family.blank(prior.network).items()
        rows.append({name: torch.randn(shape, generator=draws).to(prior.device) for name, shape in shapes})
    return Embedding({name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def thin(sizes: Sizes) -> Sizes:
    """The same blocks with so few channels that a CPU runs them at once."""
    assert sizes.vae is not None
    vae = {**sizes.vae, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    if not sizes.network.startswith("UNet"):
        return replace(sizes, shape={**sizes.shape, **THIN_SD3, "sample_size": 8}, vae=vae)
    blocks = len(sizes.shape.get("block_out_channels", [0, 0, 0, 0]))
    shape = {**sizes.shape, **THIN_UNET, "sample_size": 8, "block_out_channels": [WIDTH] * blocks}
    return replace(sizes, shape=shape | (THIN_TIME if "addition_embed_type" in sizes.shape else {}), vae=vae)
