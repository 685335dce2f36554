"""gsplat 1.5's own functions in torch (Apache-2.0) as a whole rasteriser on any device, where it is installed.

Its rasteriser in torch asks CUDA for the pairs of pixels and splats, and nerfacc, whose functions of packed samples are
for CUDA alone, for weights along rays: both are given here, in plain torch.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dreamforge.ops.splat_reference import TILE
from dreamforge.types import DreamforgeError

MAX_ALPHA, MIN_ALPHA, STOP = 0.999, 1 / 255, 1e-4  # of its rasteriser in CUDA, version 1.5
Tiles = tuple[Tensor, Tensor]  # the first place of each tile [1, down, across], the Gaussians of all tiles


def functions() -> Any:
    """Its module of functions in torch. Raises DreamforgeError where it is not installed."""
    if importlib.util.find_spec("gsplat") is None:
        raise DreamforgeError("gsplat is asked for, but it is not installed: pip install 'gsplat==1.5.3'.")
    from gsplat.cuda import _torch_impl

    return _torch_impl


def project(given: dict[str, Any]) -> tuple[Tensor, ...]:
    """Arguments of ``ops.splat.rasterization`` -> radii, means2d, depths, conics, compensations by gsplat."""
    theirs = functions()
    covariances, _ = theirs._quat_scale_to_covar_preci(given["quats"], given["scales"], compute_preci=False)
    views = given["viewmats"], given["Ks"], given["width"], given["height"]
    found: tuple[Tensor, ...] = theirs._fully_fused_projection(
        given["means"], covariances, *views, calc_compensations=True
    )
    return found


def tiles(given: dict[str, Any]) -> Tiles:
    """The Gaussians of each tile; a loop over Gaussians in Python."""
    theirs, (radii, means2d, depths, *_) = functions(), project(given)
    across, down = -(-given["width"] // TILE), -(-given["height"] // TILE)
    _, keys, ids = theirs._isect_tiles(means2d, radii, depths, TILE, across, down)
    return theirs._isect_offset_encode(keys, len(given["viewmats"]), across, down), ids


def draw(given: dict[str, Any], found: Tiles) -> Tensor:
    """Pictures ``[C,H,W,D]`` of colours ``[N,D]``, with gradients, from ``tiles``."""
    _, means2d, _, conics, _ = project(given)
    count = len(means2d), len(given["means"])
    with made_runnable():
        rendered, _ = functions()._rasterize_to_pixels(
            means2d, conics, given["colors"].expand(*count, -1), given["opacities"].expand(count), given["width"],
            given["height"], TILE, *found, backgrounds=given.get("backgrounds"),
        )  # fmt: skip
    return rendered  # type: ignore[no-any-return]


@contextmanager
def made_runnable() -> Iterator[None]:
    """Within it ``_rasterize_to_pixels`` needs neither CUDA nor nerfacc."""
    from gsplat.cuda import _wrapper

    with (
        mock.patch.object(_wrapper, "rasterize_to_indices_in_range", pairs),
        mock.patch.dict(sys.modules, nerfacc=nerfacc_in_torch()),
    ):
        yield


@torch.no_grad()
def pairs(
    start: int,
    end: int,
    light: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile: int,
    offsets: Tensor,
    ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """In the place of ``rasterize_to_indices_in_range``: Gaussian, pixel and image of each splat that counts.

    Pixel by pixel of every tile, near ones first. ``start``, ``end``: which of a tile's splats, in batches of
    tile^2; ``light [I,H,W]``: what those before them left.
    """
    images, down, across = offsets.shape
    limits = [*offsets.flatten().tolist(), len(ids)]
    found = [ids.new_zeros(3, 0).long()]
    for number in range(images * down * across):
        image, y, x = number // (down * across), number // across % down * tile, number % across * tile
        first, last = (min(limits[number] + batch * tile**2, limits[number + 1]) for batch in (start, end))
        here = ids[first:last].long() % means2d.shape[1]
        rows, columns = (torch.arange(at, min(at + tile, size)) for at, size in ((y, height), (x, width)))
        pixels = (rows[:, None] * width + columns).flatten().to(ids.device)
        place = torch.stack([pixels % width, pixels // width], 1) + 0.5
        dx, dy = (place[:, None] - means2d[image, here]).unbind(2)
        A, B, C = conics[image, here].unbind(1)
        sigma = 0.5 * (A * dx**2 + C * dy**2) + B * dx * dy
        alpha = (opacities[image, here] * torch.exp(-sigma)).clamp(max=MAX_ALPHA)
        alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, 0)
        after = light[image].flatten()[pixels, None] * torch.cumprod(1 - alpha, 1)
        pixel, splat = ((alpha > 0) & (after > STOP)).nonzero(as_tuple=True)
        found.append(torch.stack([here[splat], pixels[pixel], torch.full_like(pixel, image)]))
    gaussian, pixel, image = torch.cat(found, 1)
    return gaussian, pixel, image


def nerfacc_in_torch() -> ModuleType:
    """Its two functions of packed samples."""
    stand_in = ModuleType("nerfacc")

    def weights(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
        logs = torch.log1p(-alphas.double())
        before = logs.cumsum(0) - logs
        starts = torch.arange(len(alphas), device=alphas.device)  # a ray's samples stand together
        starts[1:][ray_indices[1:] == ray_indices[:-1]] = 0
        first = starts.cummax(0).values
        light = (before - before[first]).exp().float()
        return light * alphas, light

    def sums(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
        rows = weights[:, None] * (1 if values is None else values)
        return rows.new_zeros(n_rays, rows.shape[1]).index_add(0, ray_indices, rows)

    stand_in.render_weight_from_alpha = weights  # type: ignore[attr-defined]
    stand_in.accumulate_along_rays = sums  # type: ignore[attr-defined]
    return stand_in
