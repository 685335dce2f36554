"""Plain backgrounds of varying colour."""

import torch
from torch import Tensor


def muted(count: int, generator: torch.Generator) -> Tensor:
    """``[count, 3]`` sRGB: any brightness, little saturation, so that no named colour of an object is imitated."""
    level = 0.12 + 0.84 * torch.rand(count, 1, generator=generator)
    tint = torch.rand(count, 3, generator=generator) - 0.5
    return (level + 0.22 * torch.rand(count, 1, generator=generator) * tint).clamp(0.0, 1.0)
