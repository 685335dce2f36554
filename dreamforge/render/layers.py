"""Pictures of several objects from the same cameras as one picture, by depth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamforge.render.splat import held
from dreamforge.types import RenderOutput


def composited(layers: Sequence[RenderOutput], background: Tensor) -> RenderOutput:
    """K pictures, each over black, with depths of one world, over ``background [3]``, ``[B,3]`` or ``[B,H,W,3]``.

    In each pixel the layer of the least depth is in front (of equal ones the first): of a layer k is seen what those
    before it let through, T_k = prod over j before k of (1 - alpha_j); the picture is sum_k T_k rgb_k + prod_k (1 -
    alpha_k) background. Exact where layers do not interleave within a pixel: where two objects are inside each other,
    or fog of one is before and behind the other, one of them counts as wholly in front. ``semantic [B,H,W,K]``: T_k
    alpha_k, the visible shares, which add up to ``alpha``. ``depth`` is their mean, ``normal`` too, where all layers
    have one. Gradients reach every layer; the order has none.
    """
    through = [_let_through(layers, k) for k in range(len(layers))]
    shares = torch.cat([t * layer.alpha for t, layer in zip(through, layers, strict=True)], -1)
    alpha = shares.sum(-1, keepdim=True)
    behind = background.expand(len(alpha), 3)[:, None, None] if background.ndim < 4 else background
    rgb = torch.stack([t * layer.rgb for t, layer in zip(through, layers, strict=True)]).sum(0)
    depth = (shares * torch.cat([layer.depth for layer in layers], -1)).sum(-1, keepdim=True) / alpha.clamp_min(1e-6)
    normals = [layer.normal for layer in layers if layer.normal is not None]
    normal = None
    if len(normals) == len(layers):
        normal = torch.nn.functional.normalize((shares[..., None] * torch.stack(normals, -2)).sum(-2), dim=-1)
    return RenderOutput(held(rgb + (1 - alpha) * behind), alpha, depth, normal, shares)


def _let_through(layers: Sequence[RenderOutput], k: int) -> Tensor:
    """T_k ``[B,H,W,1]``."""
    through = torch.ones_like(layers[k].alpha)
    for j, other in enumerate(layers):
        if j != k:
            before = other.depth <= layers[k].depth if j < k else other.depth < layers[k].depth
            through = through * (1 - other.alpha * before)
    return through
