"""Colours of points by a hash grid and a small network: the texture of scenes that have a surface."""

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid, encode
from dreamforge.ops.mlp import fused_mlp, init
from dreamforge.types import State


class ColorField:
    """sRGB of positions in [-bound, bound]^3; all grey at the start."""

    def __init__(
        self,
        grid: HashGrid,
        hidden: int,
        draws: torch.Generator,
        device: torch.device | str,
        bound: float = 1.0,
        backend: Backend = "auto",
    ) -> None:
        self.grid, self.bound, self.backend = grid, bound, backend
        self.table = grid.table(draws).to(device).requires_grad_()
        self.weights = [weight.to(device).requires_grad_() for weight in init([grid.width, hidden, 3], draws)]

    def __call__(self, position: Tensor) -> Tensor:
        """``[N,3]`` -> ``[N,3]`` in (0, 1)."""
        unit = (position * (0.5 / self.bound) + 0.5).clamp(0, 1)
        (raw,) = fused_mlp(
            encode(unit, self.table, self.grid, backend=self.backend), self.weights, backend=self.backend
        )
        return torch.sigmoid(raw)

    def tensors(self) -> State:
        return {"color.table": self.table} | {f"color.{number}": weight for number, weight in enumerate(self.weights)}
