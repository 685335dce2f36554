"""What stands behind the object of a scene: a fixed colour, a learnt one, or a small network of the ray's direction."""

from typing import Literal

import torch
from torch import Tensor

from dreamforge.cameras import rays
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.mlp import fused_mlp, init
from dreamforge.types import Cameras, State

Kind = Literal["solid", "learned", "environment"]


class Sky:
    """``params`` are what it learns, none for a solid one."""

    def __init__(
        self, kind: Kind, color: tuple[float, float, float], draws: torch.Generator, device: torch.device | str
    ) -> None:
        self.kind = kind
        self.color = torch.tensor(color, dtype=torch.float32, device=device)
        self.params: list[Tensor] = []
        if kind == "learned":
            self.params = [torch.logit(self.color, 1e-3).requires_grad_()]
        elif kind == "environment":
            self.params = [weight.to(device).requires_grad_() for weight in init([9, 16, 3], draws)]

    def seen(self, cameras: Cameras, backend: Backend = "auto") -> Tensor:
        """Its colours, sRGB: ``[3]``, or ``[B,H,W,3]`` of an environment."""
        if self.kind == "solid":
            return self.color
        if self.kind == "learned":
            return torch.sigmoid(self.params[0])
        x, y, z = (directions := rays(cameras)[1]).unbind(-1)
        # Real spherical harmonics up to degree 2, without their constants: the network scales them.
        basis = torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], -1)
        return torch.sigmoid(fused_mlp(basis.view(-1, 9), self.params, backend=backend)[0]).view(directions.shape)

    def tensors(self) -> State:
        """``params`` by name."""
        return {f"background.{number}": weight for number, weight in enumerate(self.params)}
