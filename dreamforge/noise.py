"""The noise of a step: independent for every view, or attached to what the views show."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, RenderOutput

SOLID = 0.5  # alpha above which a pixel shows a surface


@dataclass(frozen=True)
class Gaussian:
    """Independent N(0, I) for every view, or the same picture of noise for all views (``shared``).

    ``draws``: how many noises (and t) the engine averages over per render. Drawn on the CPU, so that every device
    sees the same noise. ``antithetic``: every second draw has the t of the one before and minus its noise, so what is
    odd in the noise cancels (antithetic variates, Hammersley & Morton 1956); for a Gaussian prior that is all of it.
    """

    draws: int = 1
    shared: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        _check_draws(self.draws)
        if self.antithetic and self.draws % 2:
            raise DreamforgeError(f"Noise got {self.draws} antithetic draws, but they come in pairs: make it even.")

    def sample(self, x: Tensor, cameras: Cameras | None, render: RenderOutput | None, seed: int) -> Tensor:
        shape = (1, *x.shape[1:]) if self.shared else tuple(x.shape)
        return torch.randn(shape, generator=generator(seed, "noise")).to(x).expand_as(x)


@dataclass(frozen=True)
class Consistent:
    """Noise attached to the surface: CFD, consistent flow distillation (Yan et al., ICLR 2025, arXiv 2501.05445).

    White noise W on a reference surface; a pixel that sees the part Omega of it gets

        n = W(Omega) / sqrt|Omega|,    here   sum of the cells in Omega / sqrt(their number),

    so two views of a place share its noise. Each cell goes to one pixel of a view at most, which makes the pixels of a
    view exactly independent N(0, 1) for every surface that does not depend on W. The reference is the sphere of
    directions from the origin, in cells of equal area; the surface comes from the rendered depth.

    ``fineness`` rows of cells, from pole to pole, for each row of x: at 2 an object that fills the picture has about
    3 x 3 cells a pixel. ``samples``^2 points are looked up in a pixel of x: more than it has cells, or they are missed
    and views share less. Pixels without surface get noise that stays on the screen ("fixed": so the noise of a flat
    picture stays too) or is new in every step ("fresh"). ``share`` of the variance is attached, the rest is new in
    every step. ``lifetime`` of the attached noise: "run" (CFD's ODE), or "step", shared between the views of a step
    only (3D noising, arXiv 2406.16695). CFD's SDE, whose noise decays slowly over a run, is not here. The formula is
    the paper's as recalled, checked against the authors' public code; the sphere of cells is this project's own choice.
    """

    share: float = 1.0  # sqrt_beta^2 in the authors' code
    lifetime: Literal["run", "step"] = "run"
    background: Literal["fixed", "fresh"] = "fixed"
    fineness: float = 2.0
    samples: int = 4
    draws: int = 1
    antithetic: ClassVar[bool] = False  # what is attached to the surface has one sign

    def __post_init__(self) -> None:
        _check_draws(self.draws)
        if not 0 <= self.share <= 1 or not 0 < self.fineness <= 16 or not 1 <= self.samples <= 16:
            raise DreamforgeError(
                f"Consistent noise got share {self.share}, fineness {self.fineness} and samples {self.samples}; choose "
                "share in [0, 1], fineness above 0 and at most 16, and samples from 1 to 16."
            )

    def build(self, seed: int) -> "ConsistentNoise":
        """The noise of a run, which ``seed`` draws."""
        return ConsistentNoise(self, seed)


class ConsistentNoise:
    """A ``Noise``; see ``Consistent``. It has no state: its field is a function of the seed it was built with."""

    def __init__(self, spec: Consistent, seed: int) -> None:
        self.spec, self.seed, self.draws, self.antithetic = spec, seed, spec.draws, spec.antithetic

    def sample(self, x: Tensor, cameras: Cameras | None, render: RenderOutput | None, seed: int) -> Tensor:
        """``[B,C,h,w]``; without cameras or depth no pixel has a surface."""
        noise = self._behind(x, seed)
        if cameras is not None and render is not None:
            drawn = generator(self.seed if self.spec.lifetime == "run" else seed, "field")
            field = torch.randn(x.shape[1], math.prod(self.cells(x.shape[-2])), generator=drawn)
            owners = self.owners(cameras, render, x.shape[-2], x.shape[-1])
            noise = torch.stack([on_surface(field, *owner, view) for owner, view in zip(owners, noise, strict=True)])
        if self.spec.share < 1:
            anew = torch.randn(x.shape, generator=generator(seed, "anew"))
            noise = math.sqrt(self.spec.share) * noise + math.sqrt(1 - self.spec.share) * anew
        return noise.to(x)

    def owners(self, cameras: Cameras, render: RenderOutput, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """For every view: cells that it sees, and the pixel (row-major in height x width) that each belongs to."""
        k = self.spec.samples
        points, solid = surface_points(cameras, render, height * k, width * k)
        cells = sphere_cells(points, *self.cells(height))
        rows, columns = torch.arange(height * k) // k, torch.arange(width * k) // k
        pixels = (rows[:, None] * width + columns).flatten()
        seen = zip(cells.flatten(1).cpu(), solid.flatten(1).cpu(), strict=True)
        return [_claim(cell[there], pixels[there]) for cell, there in seen]

    def cells(self, height: int) -> tuple[int, int]:
        """Rows and columns of the sphere's cells for x of this height; square at the equator."""
        rows = max(round(self.spec.fineness * height), 2)
        return rows, round(math.pi * rows)

    def _behind(self, x: Tensor, seed: int) -> Tensor:
        """Noise where there is no surface: one for each place among the views, as each may be a picture of its own.

        The authors take one for all views. What is behind a scene has no geometry that it could be consistent with.
        """
        drawn = self.seed if self.spec.background == "fixed" else seed
        views = [torch.randn(x.shape[1:], generator=generator(drawn, "screen", b)) for b in range(len(x))]
        return torch.stack(views)


def on_surface(field: Tensor, cells: Tensor, pixels: Tensor, behind: Tensor) -> Tensor:
    """``behind [C,h,w]`` with every pixel that owns cells replaced by the sum of its cells / sqrt(their number).

    ``field [C,N]``; ``cells [M]``, each once, and ``pixels [M]``.
    """
    flat = behind.flatten(1)
    # Channel by channel: for one axis the sum is a plain loop, always in the same order.
    total = torch.stack([torch.zeros(flat.shape[1]).index_add(0, pixels, channel[cells]) for channel in field])
    count = torch.bincount(pixels, minlength=flat.shape[1])
    return torch.where(count > 0, total / count.clamp_min(1).sqrt(), flat).view_as(behind)


def surface_points(cameras: Cameras, render: RenderOutput, height: int, width: int) -> tuple[Tensor, Tensor]:
    """World points ``[B,h,w,3]`` that a grid of ``height x width`` points over each picture shows, and whether it does.

    Depth is interpolated between the solid pixels of the render, so that a pixel's points do not lie on a step.
    """
    solid = ((render.alpha > SOLID) & (render.depth > 0)).movedim(-1, 1).to(render.depth)
    both = torch.cat([solid, render.depth.movedim(-1, 1) * solid], 1)
    weight, sums = torch.nn.functional.interpolate(both, (height, width), mode="bilinear").unbind(1)
    depth = sums / weight.clamp_min(1e-6)
    k, pose = cameras.intrinsics, cameras.camera_to_world
    u = (torch.arange(width, device=depth.device) + 0.5) * (cameras.width / width)
    v = (torch.arange(height, device=depth.device) + 0.5) * (cameras.height / height)
    x = ((u - k[:, 0, 2:3]) / k[:, 0, 0:1])[:, None, :].expand(-1, height, -1)
    y = ((v - k[:, 1, 2:3]) / k[:, 1, 1:2])[:, :, None].expand(-1, -1, width)
    local = torch.stack([x, y, torch.ones_like(x)], -1) * depth[..., None]
    world = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], local) + pose[:, None, None, :3, 3]
    return world, weight > 0.5


def sphere_cells(points: Tensor, rows: int, columns: int) -> Tensor:
    """The cell of each point's direction from the origin: rows even in height, columns in azimuth, so of equal area."""
    direction = torch.nn.functional.normalize(points, dim=-1)
    row = ((direction[..., 1] + 1) * (rows / 2)).long().clamp(0, rows - 1)
    turn = torch.atan2(direction[..., 0], direction[..., 2]) / (2 * math.pi) + 0.5
    return row * columns + (turn * columns).long().clamp(0, columns - 1)


def _claim(cells: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Every cell once, with the first of the pixels that see it."""
    once, which = torch.unique(cells, return_inverse=True)
    first = torch.full((len(once),), torch.iinfo(torch.long).max).scatter_reduce(0, which, pixels, "amin")
    return once, first


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise DreamforgeError(f"Noise got draws {draws}, but at least 1 is needed.")
