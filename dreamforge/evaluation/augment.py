"""Pictures of toys as bad as renders get: moved, recoloured, blurred, noisy, hidden in part. For the judge's training.

Everything is ``[B,C,S,S]`` with values in [0, 1], drawn from one generator, without gradients. Where a strength is
shared by several pictures, it is shared by every fourth row: rows are in random order already.
"""

import math

import torch
from torch import Tensor

from dreamforge.render.background import muted
from dreamforge.render.light import linear_to_srgb, srgb_to_linear

GROUPS = 4  # rows k, k + 4, ... share a blur


def move(layers: Tensor, draw: torch.Generator) -> Tensor:
    """Turned by 12 degrees at most, scaled by 0.75 to 1.15, shifted by 7 % at most; zeros come in at the borders."""
    count = len(layers)
    angle = math.radians(12) * between(-1, 1, (count,), draw)
    scale = 1 / between(0.75, 1.15, (count,), draw)
    shift = between(-0.14, 0.14, (count, 2, 1), draw)  # the picture spans [-1, 1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], -1).view(count, 2, 2)
    grid = torch.nn.functional.affine_grid(torch.cat([turn, shift], -1), list(layers.shape), align_corners=False)
    return torch.nn.functional.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)


def backgrounds(count: int, size: int, draw: torch.Generator) -> Tensor:
    """Half muted, a sixth of any colour, a third gradients between the two: ``[B,3,S,S]``."""
    kind = torch.rand(count, 1, generator=draw)
    calm, loud = muted(count, draw), torch.rand(count, 3, generator=draw)
    start = torch.where(kind < 1 / 6, loud, calm)
    end = torch.where(kind > 2 / 3, torch.where(kind > 5 / 6, loud, muted(count, draw)), start)
    angle = between(0, 2 * math.pi, (count, 1, 1), draw)
    axis = torch.linspace(-0.5, 0.5, size)
    share = (0.5 + axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()).clamp(0, 1)[:, None]
    return torch.lerp(start[:, :, None, None], end[:, :, None, None], share)


def paint(layers: Tensor, main: Tensor, second: Tensor, background: Tensor) -> Tensor:
    """As ``toybox.pictures.compose``, for layers ``[B,7,S,S]`` in [0, 1] and a background ``[B,3,S,S]``."""
    light = layers.square()
    main, second = (srgb_to_linear(color)[:, :, None, None] for color in (main, second))
    toy = light[:, :1] * main + light[:, 1:2] * second + light[:, 2:5]
    return _over(toy, light[:, 6:], background)


def paint_clay(layers: Tensor, clay: Tensor, background: Tensor) -> Tensor:
    """The toy of one untextured material of sRGB colour ``clay [B,3]``."""
    light = layers.square()
    return _over(light[:, 5:6] * srgb_to_linear(clay)[:, :, None, None], light[:, 6:], background)


def degrade(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """Blotches, tone, a coarse grid, blur, noise and a cut-out, each mild enough that the toy stays what it is.

    A third of the pictures stays as it is.
    """
    toned = _tone(_blotches(pictures, draw), draw)
    groups = [toned[k::GROUPS] for k in range(GROUPS)]
    changed = torch.empty_like(pictures)
    for k, group in enumerate(groups):
        group = coarse(group, int(between(20, 48, (1,), draw))) if k == 0 else group
        changed[k::GROUPS] = blur(group, float(between(-0.3, 1.5, (1,), draw)))
    strength = 0.06 * torch.rand(len(pictures), 1, 1, 1, generator=draw).square()
    noisy = changed + strength * torch.randn(pictures.shape, generator=draw)
    spared = torch.rand(len(pictures), 1, 1, 1, generator=draw) < 1 / 3
    return torch.where(spared, pictures, _cut_out(noisy, draw).clamp(0, 1))


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``sigma`` pixels, edges repeated; nothing below a quarter pixel."""
    if sigma < 0.25 or len(pictures) == 0:
        return pictures
    radius = min(math.ceil(2.5 * sigma), pictures.shape[-1] - 1)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square()).to(pictures)
    weights = (weights / weights.sum()).repeat(pictures.shape[1], 1, 1, 1)
    padded = torch.nn.functional.pad(pictures, [radius] * 4, mode="replicate")
    rows = torch.nn.functional.conv2d(padded, weights, groups=pictures.shape[1])
    return torch.nn.functional.conv2d(rows, weights.transpose(2, 3), groups=pictures.shape[1])


def coarse(pictures: Tensor, side: int) -> Tensor:
    """Down to ``side`` pixels and up again."""
    if len(pictures) == 0:
        return pictures
    small = torch.nn.functional.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
    return torch.nn.functional.interpolate(small, pictures.shape[-2:], mode="bilinear")


def clouds(count: int, channels: int, size: int, cells: int, draw: torch.Generator) -> Tensor:
    """Smooth noise of unit variance at its ``cells`` x ``cells`` knots."""
    knots = torch.randn(count, channels, cells, cells, generator=draw)
    return torch.nn.functional.interpolate(knots, (size, size), mode="bilinear", align_corners=True)


def between(low: float, high: float, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Uniform draws."""
    return low + (high - low) * torch.rand(shape, generator=draw)


def _over(toy: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    return linear_to_srgb((toy + (1 - alpha) * srgb_to_linear(background)).clamp(0, 1))


def _blotches(pictures: Tensor, draw: torch.Generator) -> Tensor:
    strength = between(-0.05, 0.05, (len(pictures), 1, 1, 1), draw).clamp_min(0)
    return (pictures + strength * clouds(len(pictures), 3, pictures.shape[-1], 7, draw)).clamp(0, 1)


def _tone(pictures: Tensor, draw: torch.Generator) -> Tensor:
    def factor(low: float, high: float) -> Tensor:
        return between(low, high, (len(pictures), 1, 1, 1), draw)

    pictures = pictures.clamp_min(1e-4) ** factor(0.85, 1.2)
    gray = pictures.mean(1, keepdim=True)
    pictures = gray + factor(0.7, 1.35) * (pictures - gray)
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return (factor(0.86, 1.14) * (mean + factor(0.8, 1.2) * (pictures - mean))).clamp(0, 1)


def _cut_out(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """A plain box of a third of the side at most, in half of the pictures."""
    count, size = len(pictures), pictures.shape[-1]
    center = torch.rand(count, 2, 1, generator=draw)
    half = between(0.06, 0.17, (count, 2, 1), draw) * (torch.rand(count, 1, 1, generator=draw) < 0.5)
    inside = ((torch.arange(size) + 0.5) / size - center).abs() < half
    box = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(box, muted(count, draw)[:, :, None, None], pictures)
