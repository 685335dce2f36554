"""Colours and material of points by a hash grid and a small network: the texture of scenes that have a surface."""

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid, encode
from dreamforge.ops.mlp import fused_mlp, init
from dreamforge.render import pbr
from dreamforge.types import State


class ColorField:
    """What positions in [-bound, bound]^3 are made of: sRGB, all grey at the start, and metallic and roughness."""

    def __init__(
        self,
        grid: HashGrid,
        hidden: int,
        draws: torch.Generator,
        device: torch.device | str,
        bound: float = 1.0,
        backend: Backend = "auto",
        material: pbr.Material = "none",
    ) -> None:
        self.grid, self.bound, self.backend, self.material = grid, bound, backend, material
        widths = [grid.width, hidden, 3 if material == "none" else 5]
        self.table = grid.table(draws).to(device).requires_grad_()
        self.weights = [weight.to(device).requires_grad_() for weight in init(widths, draws)]

    def __call__(self, position: Tensor) -> Tensor:
        """``[N,3]`` -> colours ``[N,3]`` in (0, 1)."""
        return self.base(position)[:, :3]

    def base(self, position: Tensor) -> Tensor:
        """``[N,3]`` -> colours, then the material if there is one: ``[N,3]`` or ``[N,5]``, see ``pbr.parted``."""
        unit = (position * (0.5 / self.bound) + 0.5).clamp(0, 1)
        (raw,) = fused_mlp(
            encode(unit, self.table, self.grid, backend=self.backend), self.weights, backend=self.backend
        )
        return pbr.answered(raw)

    def tensors(self) -> State:
        return {"color.table": self.table} | {f"color.{number}": weight for number, weight in enumerate(self.weights)}
