"""How much memory a pretrained prior may take, and how it keeps to that: presets for ``prior.vram`` and ``--vram``.

Attention is always torch's fused kernel, whose memory is linear in the number of pixels, so there is nothing to slice
in it; the text encoder always leaves the device before the first step. What a preset changes is below.
"""

import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch

from dreamforge.priors.toybox import network_dtype
from dreamforge.types import DreamforgeError


@dataclass(frozen=True)
class Preset:
    """``chunk``: predictions (views x texts) per call of the network, 0 all at once.

    ``frugal``: the gradient through the autoencoder is recomputed block by block, one view after the other, pictures
    are decoded one by one, and a T5 text encoder runs on the CPU.
    """

    chunk: int = 0
    frugal: bool = False


PRESETS = {
    0: Preset(),  # no limit given
    6: Preset(chunk=2, frugal=True),
    8: Preset(chunk=4, frugal=True),
    12: Preset(chunk=8, frugal=True),
    24: Preset(chunk=16),
    80: Preset(),
}


def preset(vram: int) -> Preset:
    """What to do with ``vram`` GB of memory on the device. Raises DreamforgeError for a size without a preset."""
    if vram not in PRESETS:
        known = ", ".join(str(size) for size in PRESETS if size)
        raise DreamforgeError(f"vram {vram} was given, but the presets are for {known} GB: take the next smaller one.")
    return PRESETS[vram]


def limited(prior: Any, vram: int) -> Any:
    """A prior's spec that keeps to ``vram`` GB; one that has no such choice (the embedded prior) as it is."""
    preset(vram)
    return replace(prior, vram=vram) if hasattr(prior, "vram") else prior


def dtype_of(precision: str, vram: int, device: torch.device) -> torch.dtype:
    """The network's precision; a memory limit on a GPU asks for half, bfloat16 where the GPU computes it itself."""
    if precision == "auto" and vram and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return network_dtype(precision, device)


def text_device(big: bool, limits: Preset, device: torch.device) -> torch.device:
    """Where text encoders run while the prompts are embedded; ``big``: a T5 is among them."""
    return torch.device("cpu") if big and limits.frugal else device


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory of the device, None where they cannot be asked for."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def used_memory(device: torch.device) -> int | None:
    """The most bytes that this process has used so far: the tensors on a GPU, else all of it. None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
