"""What is measured of flat pictures ``[B,S,S,3]`` sRGB in [0, 1], beside the judge's verdict.

Each is compared with true renders of the same prompt, because none is good by itself: noise is sharp, and a grey
picture is not over-saturated.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from dreamforge.evaluation.network import Judge, Labels
from dreamforge.evaluation.verdict import Votes
from dreamforge.evaluation.wanted import Wanted
from dreamforge.render.light import srgb_to_linear

CLIPPED = 4.5 / 255  # a channel this near to 0 or 1 shows nothing any more; a canvas only approaches both
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WHITE = (0.95047, 1.0, 1.08883)  # D65
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def as_saved(pictures: Tensor) -> Tensor:
    """The pictures as a file of 8 bits holds them: what is published can be measured again."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def saturation(pictures: Tensor) -> Tensor:
    """``[B]`` in [0, 1]: mean S of HSV (Smith 1978), (max - min) / max of the channels; black has none."""
    low, high = pictures.amin(-1), pictures.amax(-1)
    return ((high - low) / high.clamp_min(1e-6)).flatten(1).mean(1)


def clipped(pictures: Tensor) -> Tensor:
    """``[B]`` in [0, 1]: the share of channels at 0 or at 1."""
    return ((pictures < CLIPPED) | (pictures > 1 - CLIPPED)).float().flatten(1).mean(1)


def lab(pictures: Tensor) -> Tensor:
    """sRGB -> CIELAB (CIE 1976, D65), any shape ``[...,3]``: L in [0, 100], a and b about [-110, 110]."""
    xyz = srgb_to_linear(pictures) @ pictures.new_tensor(TO_XYZ).T / pictures.new_tensor(WHITE)
    curve = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = curve.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def color_distance(pictures: Tensor, truths: Tensor) -> Tensor:
    """``[B]`` in units of CIELAB: how far the colours of the middle are from those of true renders, wherever they lie.

    The distance between two pictures is that of Wasserstein (order 1) of each channel, the three as one vector; its
    mean over the truths. The middle, half the side, shows the thing more than the background, which nobody asked for.
    """
    ours, theirs = (lab(_middle(some)).flatten(1, 2).sort(1).values for some in (pictures, truths))
    apart = (ours[:, None] - theirs[None]).abs().mean(2)  # [B,R,3]
    return apart.square().sum(-1).sqrt().mean(1)


def sharpness(pictures: Tensor) -> Tensor:
    """``[B]`` log2 of the variance of the Laplacian of luma (Pech-Pacheco et al. 2000): 1 is an octave of energy."""
    luma = pictures @ pictures.new_tensor(LUMA)
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (around - 4 * middle).flatten(1).var(1).clamp_min(1e-12).log2()


def against(pictures: Tensor, truths: Tensor) -> dict[str, Tensor]:
    """Every metric of the pictures beside true renders of their prompt, ``[B]`` each; an excess is 0 for the truth."""
    excess = saturation(pictures) - saturation(truths).mean()
    sharp = sharpness(pictures) - sharpness(truths).mean()
    return {
        "saturation excess": excess,
        "saturation error": excess.abs(),
        "clipped excess": clipped(pictures) - clipped(truths).mean(),
        "colour distance": color_distance(pictures, truths),
        "sharpness": sharp,
        "sharpness error": sharp.abs(),
        "detail": sharp.clamp(max=0),
    }


def feature_diversity(judge: Judge, pictures: Tensor) -> float:
    """Mean distance in [0, 2] between pairs of pictures ``[B,64,64,3]``, in the judge's features of unit length."""
    features = judge.features(pictures.permute(0, 3, 1, 2)).flatten(1)
    return _mean_distance(torch.nn.functional.normalize(features, dim=1))


def color_diversity(pictures: Tensor) -> float:
    """Mean CIELAB distance (Delta E 1976) between pairs of pictures, pixel by pixel."""
    colors = lab(pictures)
    return float(torch.stack([(a - b).norm(dim=-1).mean() for a, b in combinations(colors, 2)]).mean())


def ranks_first(labels: Labels, votes: Votes, own: int, prompts: Sequence[Wanted]) -> Tensor:
    """``[B]`` bool: of all prompts, number ``own`` has the largest log p(kind) + log p(colour).

    R-precision as of text-to-3D (Jain et al. 2022, arXiv 2112.01455), with the judge in the place of CLIP. A tie is
    lost. Every prompt names a colour.
    """
    kinds = torch.tensor([labels.kinds.index(asked.kind) for asked in prompts])
    colors = torch.tensor([labels.colors.index(str(asked.color)) for asked in prompts])
    scores = votes.kind[:, kinds] + votes.color[:, colors]
    others = scores.clone()
    others[:, own] = -torch.inf
    first: Tensor = scores[:, own] > others.amax(1)
    return first


def _middle(pictures: Tensor) -> Tensor:
    quarter = pictures.shape[1] // 4
    return pictures[:, quarter:-quarter, quarter:-quarter]


def _mean_distance(rows: Tensor) -> float:
    return float(torch.stack([(a - b).norm() for a, b in combinations(rows, 2)]).mean())
