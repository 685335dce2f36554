"""The shapes of published networks, so that memory and time can be estimated before anything is fetched.

Values are those of the published configurations where they differ from the defaults of diffusers' classes.
"""

from dataclasses import dataclass
from typing import Any

CLIP_L, CLIP_H, CLIP_G, T5_XXL, T5_GEMMA = 0.123e9, 0.340e9, 0.695e9, 4.76e9, 2.6e9  # weights of the text encoders


@dataclass(frozen=True)
class Sizes:
    """``network`` is a diffusers class with its ``shape``; ``vae`` the shape of an AutoencoderKL, None in pixels."""

    network: str
    shape: dict[str, Any]
    vae: dict[str, Any] | None
    text: float  # weights of all text encoders together
    size: int  # pixels of a picture


def _vae(channels: int = 4, **extra: Any) -> dict[str, Any]:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return (
        {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": channels}
        | blocks
        | extra
    )


_UNET, _LINEAR = "UNet2DConditionModel", {"use_linear_projection": True}
_SD21 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], **_LINEAR}
_SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    **_LINEAR,
}
_SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
_IF_XL = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "layers_per_block": 3,
    "block_out_channels": [704, 1408, 2112, 2816],
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "cross_attention_dim": 2816,
    "encoder_hid_dim": 4096,
    "attention_head_dim": 64,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}
_PIXART = {"caption_channels": 4096, "use_additional_conditions": False}
_VAE_16 = _vae(16, use_quant_conv=False, use_post_quant_conv=False)

SIZES = {
    "sd15": Sizes(_UNET, {"sample_size": 64, "cross_attention_dim": 768}, _vae(), CLIP_L, 512),
    "sd21": Sizes(_UNET, {"sample_size": 96, **_SD21}, _vae(), CLIP_H, 768),
    "sd21-base": Sizes(_UNET, {"sample_size": 64, **_SD21}, _vae(), CLIP_H, 512),
    "sdxl": Sizes(_UNET, _SDXL, _vae(), CLIP_L + CLIP_G, 1024),
    "sdxl-turbo": Sizes(_UNET, {**_SDXL, "sample_size": 64}, _vae(), CLIP_L + CLIP_G, 512),
    "sd3-medium": Sizes("SD3Transformer2DModel", _SD3, _VAE_16, CLIP_L + CLIP_G + T5_XXL, 1024),
    "if-xl": Sizes(_UNET, _IF_XL, None, T5_XXL, 64),
    "pixart-alpha": Sizes("PixArtTransformer2DModel", {"sample_size": 64, **_PIXART}, _vae(), T5_XXL, 512),
    "pixart-sigma": Sizes("PixArtTransformer2DModel", {"sample_size": 128, **_PIXART}, _vae(), T5_XXL, 1024),
    "prx": Sizes("PRXTransformer2DModel", {}, _VAE_16, T5_GEMMA, 512),
}
