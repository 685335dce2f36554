"""Pipelines of the genuine diffusers classes with tiny random weights, saved as a user's folder would be.

Every function writes one folder and returns it. Pictures are 32 pixels wide, latents 16; nothing is learnt.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dreamforge.priors.stock import silent

WIDTH = 32  # of every text encoder


PUBLISHED = {"steps_offset": 1, "clip_sample": False}  # of Stable Diffusion's scheduler
THRESHOLDING = {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}  # of IF's


def stable_diffusion(folder: Path, prediction: str = "epsilon") -> Path:
    """Stable Diffusion 1.x; with ``prediction="v_prediction"`` as 2.1 at 768 pixels."""
    import diffusers

    torch.manual_seed(0)
    schedule = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, **PUBLISHED
    )
    return _save(
        folder,
        diffusers.StableDiffusionPipeline(
            vae(4), clip_text(), clip_tokenizer(), unet(WIDTH), schedule, None, None, requires_safety_checker=False
        ),
    )


def sdxl(folder: Path) -> Path:
    """Two text encoders, pooled vector, time ids."""
    import diffusers

    torch.manual_seed(0)
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "use_linear_projection": True,
    }
    schedule = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return _save(
        folder,
        diffusers.StableDiffusionXLPipeline(
            vae(4, scaling_factor=0.13025), clip_text(), clip_text(projected=True), clip_tokenizer(), clip_tokenizer(),
            unet(2 * WIDTH, **extra), schedule,
        ),
    )  # fmt: skip


def sd3(folder: Path, t5: bool = True) -> Path:
    """A flow model with three text encoders; ``t5=False``: as a user saves memory by leaving the third out."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=3 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    return _save(
        folder,
        diffusers.StableDiffusion3Pipeline(
            transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae(8, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            clip_text(projected=True), clip_tokenizer(), clip_text(projected=True), clip_tokenizer(),
            t5_text(3 * WIDTH) if t5 else None, t5_tokenizer() if t5 else None,
        ),
    )  # fmt: skip


def deepfloyd(folder: Path) -> Path:
    """Stage I of DeepFloyd IF: pixels, learned variance, T5."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=32,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        encoder_hid_dim=WIDTH,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    schedule = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", **THRESHOLDING)
    return _save(
        folder,
        diffusers.IFPipeline(
            t5_tokenizer(), t5_text(WIDTH), network, schedule, None, None, None, requires_safety_checker=False
        ),
    )


def pixart(folder: Path, name: str = "PixArtAlphaPipeline") -> Path:
    """A diffusion transformer with learned variance; ``name`` "PixArtSigmaPipeline" for its successor."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    schedule = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear")
    made = getattr(diffusers, name)(t5_tokenizer(), t5_text(WIDTH), vae(4), transformer, schedule)
    return _save(folder, made)


def prx(folder: Path) -> Path:
    """A latent flow transformer with a Gemma text encoder."""
    import diffusers
    from transformers import T5GemmaConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(t5_tokenizer()), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    }  # fmt: skip
    config = T5GemmaConfig(encoder=sizes, decoder=sizes, is_encoder_decoder=False)
    with silent():
        made = diffusers.PRXPipeline(
            _prx_transformer(8), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), T5GemmaEncoder(config.encoder),
            t5_tokenizer(), vae(8, scaling_factor=0.5, shift_factor=0.25), default_sample_size=32,
        )  # fmt: skip
    _save(folder, made)
    config.save_pretrained(folder / "text_encoder")  # the published folder has the config of the whole T5Gemma
    return folder


def prx_pixel(folder: Path, noise_scale: float = 2.0) -> Path:
    """A flow transformer in pixel space that predicts the picture itself; its noise has another unit."""
    import diffusers
    from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

    torch.manual_seed(0)
    sizes = Qwen3VLTextConfig(
        vocab_size=len(t5_tokenizer()), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    )  # fmt: skip
    return _save(
        folder,
        diffusers.PRXPixelPipeline(
            _prx_transformer(3, bottleneck_size=16, patch_size=4, resolution_embeds=True),
            diffusers.FlowMatchEulerDiscreteScheduler(), Qwen3VLTextModel(sizes), t5_tokenizer(),
            default_sample_size=32, prompt_max_tokens=24, noise_scale=noise_scale,
        ),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion": stable_diffusion,
    "sdxl": sdxl,
    "sd3": sd3,
    "deepfloyd": deepfloyd,
    "pixart": pixart,
    "prx": prx,
    "prx_pixel": prx_pixel,
}


def single_file(folder: Path, path: Path) -> Path:
    """The pipeline of ``stable_diffusion`` as one safetensors file in the layout of the original code (LDM)."""
    from safetensors.torch import save_file

    pipeline = stock(folder)
    layers = pipeline.unet.config.layers_per_block
    tensors = {f"model.diffusion_model.{ldm_unet(k, layers)}": v for k, v in pipeline.unet.state_dict().items()}
    last = len(pipeline.vae.config.block_out_channels) - 1
    for name, tensor in pipeline.vae.state_dict().items():
        square = re.search(r"to_(q|k|v|out\.0)\.weight$", name)  # the original has convolutions of one pixel there
        tensors[f"first_stage_model.{ldm_vae(name, last)}"] = tensor[:, :, None, None] if square else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def ldm_unet(name: str, layers: int) -> str:
    """diffusers' name of a UNet's tensor -> the original code's."""
    down, up = layers + 1, layers + 1

    def place(found: re.Match[str]) -> str:
        side, block, part, layer = found[1], int(found[2]), found[3], int(found[4])
        if part == "downsamplers":
            return f"input_blocks.{(block + 1) * down}.0.op"
        if part == "upsamplers":
            return f"output_blocks.{block * up + layers}.1.conv"  # blocks above it have no attention here
        number = block * down + layer + 1 if side == "down" else block * up + layer
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(part == 'attentions')}"

    name = re.sub(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv(?=\.(?:weight|bias)$))?", place, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}", name)
    return _renamed(name.replace("mid_block.attentions.0", "middle_block.1"), {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in.": "input_blocks.0.0.", "conv_norm_out": "out.0", "conv_out": "out.2",
        ".norm1.": ".in_layers.0." if "transformer" not in name else ".norm1.", ".conv1": ".in_layers.2",
        ".norm2.": ".out_layers.0." if "transformer" not in name else ".norm2.", ".conv2": ".out_layers.3",
        "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
    })  # fmt: skip


def ldm_vae(name: str, last: int) -> str:
    """diffusers' name of an autoencoder's tensor -> the original's, which counts the decoder's blocks downwards."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{last - int(found[1])}", name.replace("down_blocks", "down"))
    return _renamed(name, {
        "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1", "resnets": "block", "downsamplers.0": "downsample",
        "upsamplers.0": "upsample", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    })  # fmt: skip


def _renamed(name: str, parts: dict[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def lora_file(folder: Path, path: Path) -> Path:
    """A LoRA of rank 2 on the network's attention, as peft makes it and the family's own pipeline saves it."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = stock(folder)
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    network = getattr(pipeline, part)
    torch.manual_seed(5)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
    with silent():
        pipeline.save_lora_weights(path.parent, weight_name=path.name, **layers)
    return path


def vae(channels: int, **extra: Any) -> Any:
    """A variational autoencoder that halves the size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=32,
        **extra,
    )


def tiny_vae(folder: Path) -> Path:
    """A tiny autoencoder (TAESD's class) that halves the size as well."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder)
    return folder


def unet(text_width: int, **extra: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
        **extra,
    )


def clip_text(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def clip_tokenizer() -> Any:
    """CLIP's byte-level tokenizer without merges: one token a letter, 77 at most."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_text(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {
        "d_model": width,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), **sizes))


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz,.'-0123456789"]
    vocab = [(piece, 0.0 if i < 3 else -2.0) for i, piece in enumerate(pieces)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=64)


def _prx_transformer(channels: int, **extra: Any) -> Any:
    from diffusers import PRXTransformer2DModel

    sizes = {"context_in_dim": WIDTH, "hidden_size": 32, "num_heads": 2, "depth": 2, "axes_dim": [8, 8]}
    return PRXTransformer2DModel(in_channels=channels, **{"patch_size": 2, **sizes, **extra})


def _save(folder: Path, pipeline: Any) -> Path:
    """Write the folder. Weights that the classes start at zero would hide mistakes: they are drawn too."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            with torch.no_grad():
                for parameter in part.parameters():
                    if not parameter.any():
                        parameter.normal_(std=0.02)
    with silent():
        pipeline.save_pretrained(folder)
    return folder


def stock(folder: Path) -> Any:
    """The folder as anyone loads it with diffusers, in float32."""
    import diffusers

    with silent():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
