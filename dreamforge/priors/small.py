"""A small network of its own that learns the noise in renders: an estimator for priors too big to adapt.

It sees x_t, t and the camera, but no text: a run has one prompt. It predicts v = alpha eps - sigma x, so that
eps = sigma x_t + alpha v is bounded at both ends of t; it starts at v = 0, the exact answer of N(0, I).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamforge.priors.adapters import camera_rows, load_parameters
from dreamforge.priors.parametrisation import alpha_sigma, to_eps
from dreamforge.rng import generator
from dreamforge.types import ParamGroup, Query, Schedule, State

WAVES = 8  # sines and cosines of t
LEARNING_RATE = 1e-3  # it starts from nothing, unlike an adapter


class SmallEstimator:
    """A ``TrainablePrior`` for x of ``channels``, any size; ``width`` channels inside at full resolution."""

    def __init__(
        self, channels: int, schedule: Schedule, camera: bool, seed: int, device: torch.device, width: int = 32
    ) -> None:
        self.schedule, self.camera = schedule, camera
        self.network = SmallNetwork(channels, width, generator(seed, "small")).to(device)

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        """eps per query; their texts are not looked at."""
        seen = torch.cat([camera_rows(q.cameras if self.camera else None, len(x_t)).to(x_t) for q in queries])
        n, alpha_and_sigma = len(queries), alpha_sigma(self.schedule, t, x_t)
        v = self.network(x_t.float().repeat(n, 1, 1, 1), t.repeat(n), seen.float())
        return [to_eps(one, x_t, *alpha_and_sigma, "v") for one in v.chunk(n)]

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": list(self.network.parameters()), "lr": LEARNING_RATE, "name": "estimator"}]

    def state(self) -> State:
        return {name: weight.detach().clone() for name, weight in self.network.named_parameters()}

    def load_state(self, state: State) -> None:
        load_parameters(dict(self.network.named_parameters()), state)


class SmallNetwork(nn.Module):
    """Two scales of convolutions, modulated by time and camera."""

    def __init__(self, channels: int, width: int, draws: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.time = nn.Linear(2 * WAVES + 16, 4 * width)
            self.enter = nn.Conv2d(channels, width, 3, padding=1)
            self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
            self.fine, self.coarse = Block(width, 4 * width), Block(2 * width, 4 * width)
            self.up = nn.Conv2d(2 * width, width, 1)
            self.leave = nn.Conv2d(width, channels, 3, padding=1)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(std=weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.0, generator=draws)
            self.leave.weight.zero_()

    def forward(self, x_t: Tensor, t: Tensor, camera: Tensor) -> Tensor:
        """``x_t [B,C,h,w]``, t ``[B]``, camera ``[B,16]`` -> v ``[B,C,h,w]``."""
        angle = t.float()[:, None] * math.pi * 2.0 ** torch.arange(WAVES, device=t.device)
        known = F.silu(self.time(torch.cat([angle.sin(), angle.cos(), camera], 1)))
        fine: Tensor = self.enter(x_t)
        coarse = self.coarse(self.down(fine), known)
        fine = fine + F.interpolate(self.up(coarse), fine.shape[-2:])
        v: Tensor = self.leave(self.fine(fine, known))
        return v


class Block(nn.Module):
    """x + conv(silu((1 + scale) norm(x) + shift)), scale and shift from what is known."""

    def __init__(self, width: int, known: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(known, 2 * width)
        self.norm, self.conv = nn.GroupNorm(4, width, affine=False), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        scale, shift = self.modulation(known)[:, :, None, None].chunk(2, 1)
        x = x + self.conv(F.silu((1 + scale) * self.norm(x) + shift))
        return x
