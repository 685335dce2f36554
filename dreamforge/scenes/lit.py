"""The light on a scene whose colours are albedo: what a render draws, when, and the function that applies it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.render.light import lights_near, linear_to_srgb, point_shading, shading, srgb_to_linear
from dreamforge.rng import generator
from dreamforge.types import Cameras

Kind = Literal["none", "soft", "random"]
Shade = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # albedo, unit normal, position [S,3], view [S] -> sRGB


@dataclass(frozen=True)
class Lit:
    """``kind`` "none": colours are as shown; "soft": the one light of all pictures; "random": DreamFusion's, after
    ``start`` steps by a point near the camera in ``share`` of the renders, of which ``textureless`` are white."""

    kind: Kind
    start: int = 0
    share: float = 0.75
    textureless: float = 0.5

    def shade(self, cameras: Cameras, age: int, seed: int) -> Shade | None:
        """How a render of ``cameras`` with this ``seed`` is lit after ``age`` steps; None: colours are shown as they
        are. Previews, which have seed 0, are never lit at random."""
        if self.kind == "none":
            return None
        if self.kind == "soft":
            return lambda albedo, normal, position, view: _lit(srgb_to_linear(albedo), shading(normal))
        draws = generator(seed, "light")
        lot, white = torch.rand(2, generator=draws).tolist()
        if seed == 0 or age < self.start or lot >= self.share:
            return None
        lights = lights_near(cameras, draws)

        def lit(albedo: Tensor, normal: Tensor, position: Tensor, view: Tensor) -> Tensor:
            linear = torch.ones_like(albedo) if white < self.textureless else srgb_to_linear(albedo)
            return _lit(linear, point_shading(normal, position, lights.index_select(0, view)))

        return lit


def _lit(linear: Tensor, factor: Tensor) -> Tensor:
    return linear_to_srgb(linear * factor).clamp(0, 1)
