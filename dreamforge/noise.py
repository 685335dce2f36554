"""The noise of a step. Consistent-noise methods are further classes with the same ``sample``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, RenderOutput


@dataclass(frozen=True)
class Gaussian:
    """Independent N(0, I) for every view, or the same picture of noise for all views (``shared``).

    ``draws``: how many noises (and t) the engine averages over per render. Drawn on the CPU, so that every device
    sees the same noise.
    """

    draws: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise DreamforgeError(f"Noise got draws {self.draws}, but at least 1 is needed.")

    def sample(self, x: Tensor, cameras: Cameras | None, render: RenderOutput | None, seed: int) -> Tensor:
        shape = (1, *x.shape[1:]) if self.shared else tuple(x.shape)
        return torch.randn(shape, generator=generator(seed, "noise")).to(x).expand_as(x)
