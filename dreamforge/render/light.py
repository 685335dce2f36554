"""The one light of every picture, and the colour spaces it is computed in.

A single soft light fixed in the world: pictures of the same object from all sides agree on what is lit. It has no
sideways part, so that a mirrored picture of a mirrored object is still right.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Light:
    """``direction`` towards the light (any length), ``ambient`` and ``diffuse`` as linear factors."""

    direction: tuple[float, float, float] = (0.0, 0.94, 0.34)
    ambient: float = 0.45
    diffuse: float = 0.55


SOFT = Light()


def shading(normals: Tensor, light: Light = SOFT) -> Tensor:
    """Linear factor of unit ``normals [...,3]`` -> ``[...,1]``: ambient + diffuse (0.5 + 0.5 n.l), half Lambert.

    In [ambient, ambient + diffuse]: smooth, and never black on the far side.
    """
    direction = torch.nn.functional.normalize(normals.new_tensor(light.direction), dim=0)
    return light.ambient + light.diffuse * (0.5 + 0.5 * (normals * direction).sum(-1, keepdim=True))


def lights_near(where: Tensor, draws: torch.Generator) -> Tensor:
    """One point light for each camera at ``where [B,3]`` in the world: from about its side, 0.8 to 1.5 metres from the
    origin (DreamFusion, appendix A.2, with threestudio's numbers)."""
    side = torch.nn.functional.normalize(where + torch.randn(where.shape, generator=draws).to(where), dim=-1)
    return side * (0.8 + 0.7 * torch.rand(len(where), 1, generator=draws).to(where))


def point_shading(normals: Tensor, position: Tensor, light: Tensor, ambient: float = 0.1) -> Tensor:
    """Linear factor ``[...,1]`` of unit ``normals [...,3]`` at ``position``, lit from the point ``light [...,3]``:
    ambient + (1 - ambient) max(0, n.l), Lambert's law without a fall-off (DreamFusion, eq. 7)."""
    towards = torch.nn.functional.normalize(light - position, dim=-1)
    return ambient + (1 - ambient) * (normals * towards).sum(-1, keepdim=True).clamp_min(0)


def delight(rgb: Tensor, normals: Tensor, light: Light = SOFT) -> Tensor:
    """sRGB as shown under ``light`` ``[...,3]`` -> sRGB albedo in [0, 1], for unit ``normals [...,3]``."""
    return linear_to_srgb((srgb_to_linear(rgb) / shading(normals, light)).clamp(0.0, 1.0))


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """IEC 61966-2-1, elementwise; finite gradients on [0, 1]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """IEC 61966-2-1, elementwise; finite gradients on [0, 1]."""
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)
