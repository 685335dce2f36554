"""What a user adds to a pretrained model: LoRA files and textual inversions, from safetensors files only.

A LoRA is merged into the network's weights once, W + scale B A (Hu et al. 2021, arXiv 2106.09685), so that it costs
nothing per step and a trainable twin starts from the merged network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamforge.priors.weights import sound
from dreamforge.types import DreamforgeError


def add_lora(pipeline: type, network: Any, files: Sequence[str], scale: float) -> Any:
    """The network with every LoRA of ``files`` merged in. ``pipeline`` is diffusers' class, which knows the formats."""
    for number, file in enumerate(files):
        state, alphas, metadata = _lora(pipeline, network, file)
        name, fitting = f"lora{number}", True
        try:
            _inject(pipeline, network, state, alphas, name, metadata)
            fitting = name in getattr(network, "peft_config", {})
        except Exception as error:  # peft and diffusers raise what they please for tensors that fit nowhere
            raise DreamforgeError(f"The LoRA {file} does not fit this model: it was made for another one.") from error
        if fitting:
            network.fuse_lora(lora_scale=scale, adapter_names=[name])
            network.unload_lora()
        elif not any(key.startswith("text_encoder") for key in state):
            raise DreamforgeError(f"No tensor of the LoRA {file} fits this model: it was made for another one.")
    return network


def _inject(pipeline: Any, network: Any, state: dict[str, Any], alphas: Any, name: str, metadata: Any) -> None:
    if hasattr(pipeline, "load_lora_into_unet"):
        pipeline.load_lora_into_unet(state, alphas, unet=network, adapter_name=name, metadata=metadata)
    else:
        pipeline.load_lora_into_transformer(state, transformer=network, adapter_name=name, metadata=metadata)


def add_to_text(pipeline: Any, lora: Sequence[str], scale: float, inversions: Sequence[str]) -> None:
    """LoRAs of the text encoders, and the new words that textual inversions teach them."""
    for number, file in enumerate(lora):
        state, alphas, metadata = _lora(type(pipeline), None, file)
        for part in ("text_encoder", "text_encoder_2"):
            if any(key.startswith(f"{part}.") for key in state) and getattr(pipeline, part, None) is not None:
                pipeline.load_lora_into_text_encoder(
                    state, alphas, getattr(pipeline, part), prefix=part, lora_scale=scale,
                    adapter_name=f"lora{number}", metadata=metadata,
                )  # fmt: skip
    for file in inversions:
        _teach(pipeline, file)


def _lora(pipeline: type, network: Any, file: str) -> tuple[dict[str, Any], Any, Any]:
    """A LoRA file as diffusers' loader understands it: weights, their alphas, metadata."""
    if not hasattr(pipeline, "lora_state_dict"):
        raise DreamforgeError(
            f"The LoRA {file} was given, but diffusers reads none for {pipeline.__name__}: leave prior.lora out."
        )
    path = _file(file, "LoRA", "prior.lora")
    extra = {} if network is None or not hasattr(pipeline, "load_lora_into_unet") else {"unet_config": network.config}
    found = pipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True,
        return_lora_metadata=True, **extra,
    )  # fmt: skip
    state, *alphas, metadata = found  # flow models have no alphas of their own
    if not state or not all("lora" in key for key in state):
        raise DreamforgeError(f"{file} is not a LoRA file (its first tensor is '{min(state, default='none')}').")
    return state, alphas[0] if alphas else None, metadata


def _teach(pipeline: Any, file: str) -> None:
    """Load one textual inversion. Its word is the name in the file; where the file has none, the file's own name."""
    from safetensors.torch import load_file

    path = _file(file, "textual inversion", "prior.textual_inversion")
    if not hasattr(pipeline, "load_textual_inversion"):
        raise DreamforgeError(
            f"The textual inversion {file} was given, but {type(pipeline).__name__} learns no words: leave "
            "prior.textual_inversion out."
        )
    tensors = load_file(path)
    word, sides = path.stem, {"clip_l": "", "clip_g": "_2"}  # SDXL: one vector for each of its text encoders
    if not set(tensors) <= set(sides):
        if len(tensors) != 1:
            raise DreamforgeError(f"{file} is not a textual inversion: one tensor, or clip_l and clip_g, are expected.")
        ((name, tensor),) = tensors.items()
        word, tensors = word if name == "emb_params" else name, {"clip_l": tensor}
    for name, tensor in tensors.items():
        tokenizer, encoder = (getattr(pipeline, part + sides[name], None) for part in ("tokenizer", "text_encoder"))
        width = getattr(encoder, "config", None) and encoder.config.hidden_size  # type: ignore[union-attr]
        if width != tensor.shape[-1]:
            raise DreamforgeError(
                f"The textual inversion {file} has vectors of {tensor.shape[-1]} numbers, but this model's words have "
                f"{width}: it was made for another model."
            )
        pipeline.load_textual_inversion({word: tensor}, tokenizer=tokenizer, text_encoder=encoder)


def _file(file: str, what: str, key: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise DreamforgeError(f"There is no {what} file '{file}': give the path of a .safetensors file in {key}.")
    sound(path, "get it again")
    return path
