"""A small multilayer perceptron without biases: ReLU between the layers, nothing after the last."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """``x [N, in]`` through ``weights``, each ``[out, in]`` -> ``[N, last out]``; differentiable in everything."""
    for weight in weights[:-1]:
        x = torch.relu(x @ weight.t())
    return x @ weights[-1].t()


def init(widths: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Xavier-uniform weights ``[out, in]`` between consecutive ``widths`` (input first), on the generator's device."""
    weights = []
    for inside, outside in pairwise(widths):
        limit = math.sqrt(6 / (inside + outside))
        weight = torch.empty(outside, inside, device=generator.device)
        weights.append(weight.uniform_(-limit, limit, generator=generator))
    return weights
