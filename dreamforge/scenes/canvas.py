"""A flat picture optimised directly: the cheapest place to look at what a guidance does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, Mesh, NoMesh, ParamGroup, RenderOutput, State


@dataclass(frozen=True)
class Canvas:
    """``pictures`` squares of ``size`` pixels; view b shows picture ``b % pictures``, whatever its camera sees.

    ``init``: mid grey, or noise of standard deviation 1 in the logits whose sigmoid is the picture; ``lr`` is the
    learning rate of these logits.
    """

    size: int = 64
    pictures: int = 1
    init: Literal["grey", "noise"] = "noise"
    lr: float = 0.1

    def __post_init__(self) -> None:
        if self.size < 1 or self.pictures < 1:
            raise DreamforgeError(
                f"a canvas of {self.pictures} pictures of {self.size} pixels was asked for, but both must "
                "be at least 1; change them."
            )

    def build(self, seed: int, device: torch.device | str = "cpu") -> "CanvasScene":
        """The scene with its pixels at ``init``."""
        logits = torch.zeros(self.pictures, self.size, self.size, 3)
        if self.init == "noise":
            logits.normal_(generator=generator(seed, "canvas"))
        return CanvasScene(self, logits.to(device))


class CanvasScene:
    """A ``Scene`` without depth: alpha is 1, depth 0, there is no background and no mesh."""

    def __init__(self, spec: Canvas, logits: Tensor) -> None:
        """``logits [pictures, size, size, 3]``."""
        self.spec = spec
        self.logits = logits.requires_grad_()

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """Each view's picture, resized to the cameras' size (antialiased bilinear)."""
        shape = (len(cameras), cameras.height, cameras.width, 1)
        which = torch.arange(len(cameras), device=self.logits.device) % self.spec.pictures
        rgb = torch.sigmoid(self.logits).index_select(0, which)
        if rgb.shape[1:3] != shape[1:3]:
            resized = torch.nn.functional.interpolate(
                rgb.movedim(-1, 1), (cameras.height, cameras.width), mode="bilinear", antialias=True
            )
            rgb = resized.movedim(1, -1).clamp(0, 1)
        return RenderOutput(rgb, rgb.new_ones(shape), rgb.new_zeros(shape))

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.logits], "lr": self.spec.lr, "name": "pixels"}]

    def adapt(self, step: int, seed: int) -> None:
        """Nothing adapts."""

    def extract(self, resolution: int) -> Mesh:
        raise NoMesh("a canvas is a flat picture and has no mesh; save its render as a PNG, or choose a 3D scene.")

    def state(self) -> State:
        return {"logits": self.logits.detach().clone()}

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of another canvas."""
        given = {name: list(tensor.shape) for name, tensor in state.items()}
        if given != {"logits": list(self.logits.shape)}:
            raise DreamforgeError(
                f"a state with {given} was given to a canvas that expects logits "
                f"{list(self.logits.shape)}; use the recipe that made the state."
            )
        with torch.no_grad():
            self.logits.copy_(state["logits"])
