"""Batches for the judge: pictures of toys in all (kind, colour) pairs, clay renders, and nothing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.evaluation import augment, nothing
from dreamforge.evaluation.network import Labels
from dreamforge.rng import generator
from dreamforge.toybox.catalog import KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.pictures import Pictures

IGNORE = -100  # a target that is not supervised
NOTHING_SHARE, CLAY_SHARE = 0.12, 0.2
FRONT = math.radians(60.0)


@dataclass(frozen=True)
class Targets:
    """Answers for B pictures, all ``[B]``: class numbers as in ``Scores`` (IGNORE: not asked), azimuth in radians
    (NaN: not asked), front 0 or 1 (NaN: not asked)."""

    kind: Tensor
    color: Tensor
    second: Tensor
    accessory: Tensor
    azimuth: Tensor
    front: Tensor


def batch(pictures: Pictures, labels: Labels, size: int, seed: int, step: int) -> tuple[Tensor, Targets]:
    """``size`` augmented pictures ``[B,3,S,S]`` and their answers; a function of (seed, step)."""
    draw = generator(seed, "examples", step)
    rows = torch.randint(len(pictures), (size,), generator=draw)
    layers, azimuth = _mirrored(pictures.layers[rows].float() / 255, pictures.azimuth[rows], draw)
    layers = augment.move(layers, draw)
    color, second = colors(size, draw)
    main, other = shades(color, draw), shades(second, draw)
    behind = augment.backgrounds(size, layers.shape[-1], draw)
    shown = augment.paint(layers, main, other, behind)
    empty, clay = round(NOTHING_SHARE * size), round(CLAY_SHARE * size)
    gray = slice(empty, empty + clay)
    shown[gray] = augment.paint_clay(layers[gray], _clay(clay, draw), behind[gray])
    strange = layers[_of_other_kind(pictures.kind[rows], empty, draw)]
    strangers = augment.paint(strange, main[:empty], other[:empty], behind[:empty])
    shown[:empty] = nothing.spoil(shown[:empty], behind[:empty], strangers, draw)
    kind, accessory = pictures.kind[rows].long(), pictures.accessory[rows].long()
    answers = targets(labels, kind, accessory, color, second, azimuth)
    answers.color[: gray.stop], answers.second[: gray.stop] = IGNORE, IGNORE
    answers.kind[:empty], answers.accessory[:empty] = labels.nothing, IGNORE
    answers.azimuth[:empty], answers.front[:empty] = torch.nan, torch.nan
    order = torch.randperm(size, generator=draw)  # the strengths of augmentation must not follow the kind of example
    shuffled = Targets(*(value[order] for value in vars(answers).values()))
    return augment.degrade(shown[order], draw), shuffled


def targets(labels: Labels, kind: Tensor, accessory: Tensor, color: Tensor, second: Tensor, azimuth: Tensor) -> Targets:
    """The answers for true renders; ``accessory`` is -1 where there is none."""
    bare = accessory < 0
    faced = torch.tensor([KINDS[name].front for name in labels.kinds])[kind]
    return Targets(
        kind.clone(),
        color.clone(),
        second.masked_fill(bare, IGNORE),
        accessory.masked_fill(bare, labels.bare),
        azimuth.clone(),
        seen_from_front(azimuth).float().masked_fill(~faced, torch.nan),
    )


def seen_from_front(azimuth: Tensor) -> Tensor:
    """Whether an azimuth in radians, any turn, is within 60 degrees of the front."""
    return azimuth.cos() > math.cos(FRONT)


def colors(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """A main and another, second colour for each picture, as numbers of COLORS."""
    main = torch.randint(len(COLORS), (count,), generator=draw)
    other = (main + torch.randint(1, len(COLORS), (count,), generator=draw)) % len(COLORS)
    return main, other


def shades(color: Tensor, draw: torch.Generator) -> Tensor:
    """``[B,3]`` sRGB near the named colours, as ``toybox.pictures.shade_of``."""
    named = torch.tensor(list(COLORS.values()))[color]
    brightness = augment.between(0.88, 1.1, (len(color), 1), draw)
    return (named * brightness + augment.between(-0.03, 0.03, (len(color), 3), draw)).clamp(0, 1)


def _clay(count: int, draw: torch.Generator) -> Tensor:
    return augment.between(0.3, 0.9, (count, 1), draw) + augment.between(-0.04, 0.04, (count, 3), draw)


def _mirrored(layers: Tensor, azimuth: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    mirror = torch.rand(len(layers), generator=draw) < 0.5
    return torch.where(mirror[:, None, None, None], layers.flip(-1), layers), torch.where(mirror, -azimuth, azimuth)


def _of_other_kind(kind: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """For each of the first ``count`` rows a row of another kind (itself where the batch has no other)."""
    lots = torch.rand(count, len(kind), generator=draw) * (kind[None] != kind[:count, None])
    return lots.argmax(1)
