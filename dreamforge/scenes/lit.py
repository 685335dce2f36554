"""The light on a scene whose colours are albedo: what a render draws, when, and the function that applies it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.render import pbr
from dreamforge.render.light import lights_near, linear_to_srgb, point_shading, shading, srgb_to_linear
from dreamforge.rng import generator
from dreamforge.types import Cameras

Kind = Literal["none", "soft", "random"]
# base as of pbr.answered [S,3] or [S,5], unit normal, position [S,3], view [S] -> sRGB [S,3]
Shade = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lit:
    """``kind`` "none": colours are as shown; "soft": the one light of all pictures; "random": DreamFusion's, after
    ``start`` steps by a point near the camera in ``share`` of the renders, of which ``textureless`` are white.
    A base with a material is lit by it, one without by Lambert's law; so are white renders, which show shape alone."""

    kind: Kind
    start: int = 0
    share: float = 0.75
    textureless: float = 0.5

    def shade(self, cameras: Cameras, age: int, seed: int) -> Shade | None:
        """How a render of ``cameras`` with this ``seed`` is lit after ``age`` steps; None: colours are shown as they
        are. Previews, which have seed 0, are never lit at random. The lights stand in the world, also of cameras that
        stand in an object's own frame."""
        if self.kind == "none":
            return None
        eyes, frame = cameras.camera_to_world[:, :3, 3], cameras.placed
        if self.kind == "soft":

            def soft(base: Tensor, normal: Tensor, position: Tensor, view: Tensor) -> Tensor:
                albedo, material = pbr.parted(base)
                normal = normal if frame is None else frame.turned(normal)
                if material is None:
                    return _shown(srgb_to_linear(albedo) * shading(normal))
                to_eye = _to(eyes, position, view)
                to_eye = to_eye if frame is None else frame.turned(to_eye)
                return _shown(pbr.under_soft(srgb_to_linear(albedo), material, normal, to_eye))

            return soft
        draws = generator(seed, "light")
        lot, white = torch.rand(2, generator=draws).tolist()
        if seed == 0 or age < self.start or lot >= self.share:
            return None
        lights = lights_near(eyes if frame is None else frame.outwards(eyes), draws)
        lights = lights if frame is None else frame.inwards(lights)

        def random(base: Tensor, normal: Tensor, position: Tensor, view: Tensor) -> Tensor:
            albedo, material = pbr.parted(base)
            linear = torch.ones_like(albedo) if white < self.textureless else srgb_to_linear(albedo)
            if material is None or white < self.textureless:
                return _shown(linear * point_shading(normal, position, lights.index_select(0, view)))
            to_eye, to_light = _to(eyes, position, view), _to(lights, position, view)
            return _shown(pbr.under_point(linear, material, normal, to_eye, to_light))

        return random


def _to(points: Tensor, position: Tensor, view: Tensor) -> Tensor:
    """Unit directions ``[S,3]`` from each position to its view's point of ``points [B,3]``."""
    return torch.nn.functional.normalize(points.index_select(0, view) - position, dim=-1)


def _shown(linear: Tensor) -> Tensor:
    return linear_to_srgb(linear).clamp(0, 1)
