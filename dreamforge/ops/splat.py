"""Rendering 3D Gaussians, with the names, the meta dictionary and the numeric rules of gsplat's ``rasterization``.

Harmonics, projection, tiles and blending are stages of their own, each with its gradient: a strategy that densifies may
ask ``meta["means2d"].retain_grad()``. Cameras look along +z (OpenCV), pixel centres are at whole numbers + 1/2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.ops import native
from dreamforge.ops.dispatch import Backend, choose
from dreamforge.ops.peers import rasterize_gsplat
from dreamforge.ops.splat_native import CHANNELS, bins_native, blend_native, harmonics_native, project_native
from dreamforge.ops.splat_reference import (
    BASES,
    GSPLAT_1_5,
    GSPLAT_1_6,
    TILE,
    Bins,
    Rules,
    View,
    bins_reference,
    blend_reference,
    harmonics_reference,
    project_reference,
)
from dreamforge.types import DreamforgeError

__all__ = ["GSPLAT_1_5", "GSPLAT_1_6", "Rules", "rasterization"]

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Meta = dict[str, Any]


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    rules: Rules = GSPLAT_1_5,
    backend: Backend = "auto",
    level: native.Level = None,
) -> tuple[Tensor, Tensor, Meta]:
    """N Gaussians seen by C pinhole cameras -> pictures ``[C,H,W,X]``, alpha ``[C,H,W,1]``, and what led to them.

    ``means [N,3]`` in the world; ``quats [N,4]`` w, x, y, z of any length; ``scales [N,3]`` in the world, standard
    deviations; ``opacities [N]`` in [0, 1]; ``colors [N,D]`` or ``[C,N,D]``, any D, or with ``sh_degree`` (0 to 3)
    coefficients ``[N,K,3]`` or ``[C,N,K,3]``, of which the first (sh_degree + 1)^2 count: the colour is max(0, 1/2 +
    harmonics). ``viewmats [C,4,4]`` world to camera, ``Ks [C,3,3]`` in pixels (no skew), ``backgrounds [C,D]``.

    X: D colours (RGB), the sum of weights times depth (D), that sum by alpha (ED), or colours and then one of these.
    Gaussians are left out behind ``near_plane`` (> 0) or beyond ``far_plane``, and where both radii are at most
    ``radius_clip`` pixels; ``eps2d`` pixels squared are added to the variance of each picture, for which "antialiased"
    makes up in opacity. ``packed`` (gsplat's default): the meta dictionary has the seen pairs of a camera and a
    Gaussian only, with ``camera_ids`` and ``gaussian_ids``. ``rules``: the constants of a version of gsplat, which
    brings its own as a backend; ``level``: for tests.

    Gradients, once, to all tensors but Ks; none through a limit (the greatest alpha, the frustum of the projection's
    slope, black). ``meta["means2d"]`` takes ``retain_grad()``; with ``absgrad`` it has after the backward pass the sum
    of |gradient| over pixels as the attribute ``absgrad``. Equal depths: the first Gaussian is in front. On a CPU the
    core answers with the same bits for any number of threads.

    A Gaussian with a number that is not finite, a quaternion shorter than 1e-12 or longer than 1e18, or a picture
    beyond what a float32 holds is left out, and its gradient is 0; a colour that is not finite shows: the pixels of its
    tiles may not be finite. Raises DreamforgeError for shapes and settings that do not fit. gsplat's arguments for
    other cameras, ``tile_size`` (16 here), ``covars``, ``sparse_grad`` and ``distributed`` are not there;
    ``channel_chunk`` is not needed.
    """
    view = View(width, height, near_plane, far_plane, radius_clip, eps2d, rasterize_mode == "antialiased", rules)
    _check(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, sh_degree, render_mode, view)
    if rasterize_mode not in ("classic", "antialiased"):
        raise DreamforgeError(f"rasterize_mode {rasterize_mode} was given, but classic or antialiased is expected.")
    if backend == "gsplat":
        return rasterize_gsplat(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
            far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree, packed=packed,
            backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad, rasterize_mode=rasterize_mode,
        )  # fmt: skip
    stages = _stages(backend, (means, quats, scales, opacities, colors, viewmats, Ks), level)
    radii, means2d, depths, conics, kept = stages.project(means, quats, scales, opacities, viewmats, Ks, view)
    if sh_degree is not None and "RGB" in render_mode:
        eyes = torch.linalg.inv_ex(viewmats).inverse[:, :3, 3]
        colors = stages.harmonics(sh_degree, means, eyes, colors, radii)
    shape = radii.shape[:2]
    strengths = _of_each(opacities, len(viewmats))
    if view.antialiased:
        strengths = strengths * kept
    if "RGB" in render_mode and colors.ndim == 2:
        colors = _of_each(colors, len(viewmats))
    columns, backgrounds = _columns(colors, depths, backgrounds, render_mode)
    first = _first(*shape, means.device)
    meta: Meta = {"batch_ids": None, "camera_ids": None, "gaussian_ids": None}
    if packed:
        seen = (radii > 0).all(2).nonzero(as_tuple=True)
        first = torch.searchsorted(seen[0], first.new_tensor(range(shape[0] + 1)))
        meta = {"batch_ids": torch.zeros_like(seen[0]), "camera_ids": seen[0], "gaussian_ids": seen[1]}
        radii, means2d, depths, conics = radii[seen], means2d[seen], depths[seen], conics[seen]
        strengths, columns = strengths[seen], columns[seen]
    flat = means2d.view(-1, 2), radii.view(-1, 2), depths.view(-1)
    bins = stages.bins(*flat, first, view)
    rendered, alphas = stages.blend(means2d, conics, strengths, columns, backgrounds, bins, view, absgrad)
    if "ED" in render_mode:
        rendered = torch.cat([rendered[..., :-1], rendered[..., -1:] / alphas.clamp(min=1e-10)], -1)
    meta |= {"radii": radii, "means2d": means2d, "depths": depths, "conics": conics, "opacities": strengths}
    return rendered, alphas, meta | _facts(bins, radii.shape[:-1], view)


def _of_each(one: Tensor, cameras: int) -> Tensor:
    """What Gaussians have, for each camera; of one camera without a sum in the backward pass."""
    return one[None] if cameras == 1 else one.expand(cameras, *one.shape)


@lru_cache(maxsize=16)
def _first(cameras: int, count: int, device: torch.device) -> Tensor:
    """Where the Gaussians of each camera begin, and the end; kept, as asking a GPU for it takes longer than its use."""
    return torch.arange(cameras + 1, device=device) * count


def _facts(bins: Bins, shape: torch.Size, view: View) -> Meta:
    """What the meta dictionary says of tiles and sizes."""
    images, down, across = bins.offsets.shape
    found = {"tile_width": across, "tile_height": down, "tiles_per_gauss": bins.tiles.view(shape)}
    found |= {"isect_ids": bins.keys, "flatten_ids": bins.ids, "isect_offsets": bins.offsets, "tile_size": TILE}
    return found | {"width": view.width, "height": view.height, "n_batches": 1, "n_cameras": images}


@dataclass(frozen=True)
class _Stages:
    project: Callable[..., Any]
    harmonics: Callable[..., Tensor]
    bins: Callable[..., Bins]
    blend: Callable[..., tuple[Tensor, Tensor]]


def _stages(backend: Backend, given: tuple[Tensor, ...], level: native.Level) -> _Stages:
    """Those of the core, or of the reference, for some means, ..., colors, viewmats, Ks."""
    able = {one.dtype for one in given} == {torch.float32} and given[4].shape[-1] < CHANNELS
    if choose("splat", given[0].device, backend, able, agrees) == "torch":
        return _Stages(project_reference, harmonics_reference, bins_reference, blend_reference)
    return _Stages(
        partial(project_native, level=level),
        partial(harmonics_native, level=level),
        partial(bins_native, level=level),
        partial(blend_native, level=level),
    )


def _columns(
    colors: Tensor, depths: Tensor, backgrounds: Tensor | None, render_mode: RenderMode
) -> tuple[Tensor, Tensor | None]:
    """What is blended for a mode, and what is behind it: depth has nothing there."""
    if render_mode == "RGB":
        return colors, backgrounds
    depth = depths[..., None]
    nothing = None if backgrounds is None else torch.zeros_like(backgrounds[:, :1])
    if render_mode in ("D", "ED"):
        return depth, nothing
    if backgrounds is not None and nothing is not None:
        backgrounds = torch.cat([backgrounds, nothing], 1)
    return torch.cat([colors, depth], -1), backgrounds


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor | None,
    sh_degree: int | None,
    render_mode: str,
    view: View,
) -> None:
    count, cameras = len(means) if means.ndim else 0, len(viewmats) if viewmats.ndim else 0
    given = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "viewmats": viewmats, "Ks": Ks}
    expected = [(count, 3), (count, 4), (count, 3), (count,), (cameras, 4, 4), (cameras, 3, 3)]
    fits = [tuple(one.shape) for one in given.values()] == expected and cameras > 0
    if not fits:
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in given.items())
        raise DreamforgeError(
            f"{shapes} were given, but [N,3], [N,4], [N,3], [N], [C,4,4] and [C,3,3] with C > 0 are expected."
        )
    rest = 1 if sh_degree is None else 2
    owners = [(count,), (cameras, count)]
    if colors.ndim < rest + 1 or tuple(colors.shape[:-rest]) not in owners or colors.shape[-1] < 1:
        raise DreamforgeError(
            f"colors {list(colors.shape)} was given with sh_degree {sh_degree}, but [N,D] or [C,N,D], with a degree "
            "[N,K,3] or [C,N,K,3], are expected."
        )
    if sh_degree is not None:
        bases = colors.shape[-2]
        if not 0 <= sh_degree <= 3 or (sh_degree + 1) ** 2 > bases or colors.shape[-1] != 3 or bases > BASES:
            raise DreamforgeError(
                f"sh_degree {sh_degree} was given with {bases} coefficients of {colors.shape[-1]} channels, but a "
                f"degree from 0 to 3 and at least (degree + 1)^2, at most {BASES}, of 3 are expected."
            )
    width = 3 if sh_degree is not None else colors.shape[-1]
    if backgrounds is not None and tuple(backgrounds.shape) != (cameras, width):
        raise DreamforgeError(f"backgrounds {list(backgrounds.shape)} was given, but {[cameras, width]} is expected.")
    if render_mode not in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        raise DreamforgeError(f"render_mode {render_mode} was given, but RGB, D, ED, RGB+D or RGB+ED is expected.")
    if view.width < 1 or view.height < 1 or not 0 < view.near < view.far or not view.blur >= 0 or not view.clip >= 0:
        raise DreamforgeError(
            f"width {view.width}, height {view.height}, near_plane {view.near}, far_plane {view.far}, eps2d "
            f"{view.blur} and radius_clip {view.clip} were given, but pixels, 0 < near_plane < far_plane, and no "
            "negative eps2d and radius_clip are expected."
        )
    rules = view.rules
    if not (0 < rules.min_alpha < rules.max_alpha < 1 and 0 < rules.stop < 1 and rules.extent > 0):
        raise DreamforgeError(
            f"{rules} was given, but 0 < min_alpha < max_alpha < 1, 0 < stop < 1, extent > 0 are expected."
        )
    if count * cameras >= 2**31 // 8:
        raise DreamforgeError(f"{count} Gaussians and {cameras} cameras were given: render fewer cameras at once.")


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws = torch.Generator().manual_seed(0)
    means = torch.rand(300, 3, generator=draws) - 0.5
    quats, scales = torch.randn(300, 4, generator=draws), 0.02 + 0.1 * torch.rand(300, 3, generator=draws)
    opacities, colors = torch.rand(300, generator=draws), torch.randn(300, 16, 3, generator=draws)
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[:, 2, 3] = torch.tensor([2.0, 3.0])
    Ks = torch.tensor([[60.0, 0, 20], [0, 60, 15], [0, 0, 1]]).expand(2, 3, 3)
    pull = torch.randn(2, 33, 40, 4, generator=draws).to(device)
    answers = []
    backend: Backend
    for backend in ("native", "torch"):
        given = [one.to(device).requires_grad_() for one in (means, quats, scales, opacities, colors, viewmats)]
        view = (given[5], Ks.to(device), 40, 33)
        rendered, alphas, _ = rasterization(
            given[0], given[1], given[2], given[3], given[4], *view, sh_degree=3, render_mode="RGB+D", backend=backend
        )
        answers.append([rendered.detach(), alphas.detach(), *torch.autograd.grad(rendered, given, pull)])
    return all(
        torch.allclose(one, two, rtol=1e-2, atol=1e-3 * float(two.abs().max()))
        for one, two in zip(*answers, strict=True)
    )
