"""The stages of ``ops.splat`` by the compiled core: what ``splat_reference.py`` defines, each an autograd function."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import call
from dreamforge.ops.splat_reference import TILE, Bins, View
from dreamforge.types import DreamforgeError

CHANNELS = 512  # that the core has room for; this and the numbers below as in extensions/include/splat.h
MOMENTS = 8
RECORD = 8
CHUNK = 2048
PARTS = 8
CHANNELS_OF_BLOCK = 4  # that a block of threads of a GPU blends, as in extensions/cuda/splat.cu


def _pointers(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_void_p) for name in names.split()]


def _numbers(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class ProjectArgs(ctypes.Structure):
    """``SplatProjectArgs`` of extensions/include/splat.h."""

    _fields_ = [
        *_pointers("means quats scales opacities viewmats intrinsics radii means2d depths conics compensations"),
        *_pointers("grad_means2d grad_depths grad_conics grad_compensations"),
        *_pointers("grad_means grad_quats grad_scales grad_viewmats scratch"),
        *_numbers(ctypes.c_int64, "cameras count mean_step conic_step"),
        *_numbers(ctypes.c_float, "width height near far clip blur min_alpha extent floor margin"),
        ("opacity_extent", ctypes.c_int32),
    ]


class HarmonicsArgs(ctypes.Structure):
    """``SplatHarmonicsArgs`` of extensions/include/splat.h."""

    _fields_ = [
        *_pointers("means eyes coefficients radii colors grad_colors grad_means grad_eyes grad_coefficients scratch"),
        *_numbers(ctypes.c_int64, "cameras count"),
        *_numbers(ctypes.c_int32, "bases degree own"),
    ]


class BinArgs(ctypes.Structure):
    """``SplatBinArgs`` of extensions/include/splat.h."""

    _fields_ = [
        *_pointers("means2d depths radii first places tiles ids offsets slots keys scratch"),
        *_numbers(ctypes.c_int64, "images count intersections"),
        *_numbers(ctypes.c_int32, "width height"),
    ]


class BlendArgs(ctypes.Structure):
    """``SplatBlendArgs`` of extensions/include/splat.h."""

    _fields_ = [
        *_pointers("means2d conics opacities colors backgrounds ids offsets out alphas light ends"),
        *_pointers("grad_out grad_alphas grad_means2d grad_conics grad_opacities grad_colors grad_backgrounds"),
        *_pointers("absgrad slots tiles places parts records scratch"),
        *_numbers(ctypes.c_int64, "count intersections"),
        *_numbers(ctypes.c_int32, "images width height channels"),
        *_numbers(ctypes.c_float, "max_alpha min_alpha stop"),
    ]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _run(name: str, like: Tensor, grid: tuple[int, int], args: ctypes.Structure, level: native.Level) -> None:
    whole = isinstance(args, BinArgs | BlendArgs)
    call("splat" if whole else "splat_project", name, like, args, grid, level)


def project_native(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    view: View,
    level: native.Level = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """As ``project_reference``; no compensations where the view is not antialiased."""
    given = means, quats, scales, opacities, viewmats, Ks
    radii, means2d, depths, conics, compensations = _Project.apply(*given, view, level)
    return radii, means2d, depths, conics, compensations


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor | None, ...]:
        *tensors, view, level = given
        tensors = [tensor.contiguous() for tensor in tensors]
        shape = (tensors[4].shape[0], tensors[0].shape[0])
        like = tensors[0]
        radii = torch.empty(*shape, 2, dtype=torch.int32, device=like.device)
        outs = [like.new_empty(*shape, *rest) for rest in ((2,), (), (3,))]
        kept = like.new_empty(shape) if view.antialiased else None
        seen = dict(zip(("means2d", "depths", "conics", "compensations"), (*outs, kept), strict=True))
        args = _project_args(tensors, view, radii=radii, **seen)
        _run("splat_project", like, (cuda.blocks(shape[1]), shape[0]), args, level)
        ctx.save_for_backward(*tensors, radii)
        ctx.view, ctx.level = view, level
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return radii, *outs, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, radii = ctx.saved_tensors
        view, level = ctx.view, ctx.level
        like, shape = tensors[0], radii.shape[:2]
        names = ("grad_means2d", "grad_depths", "grad_conics", "grad_compensations")
        pulls = [grad if grad is None or _in_rows(grad) else grad.contiguous() for grad in grads]  # outlive the call
        given = dict(zip(names, pulls, strict=True))
        steps = [1 if pull is None else pull.stride(1) for pull in (pulls[0], pulls[2])]
        to = [torch.empty_like(one) for one in tensors[:3]]
        to_view, scratch = None, None
        if ctx.needs_input_grad[4]:
            to_view = like.new_zeros(shape[0], 3, 4)
            scratch = like.new_empty(-(-shape[1] // CHUNK), shape[0], 12)
        args = _project_args(
            tensors, view, radii=radii, grad_means=to[0], grad_quats=to[1], grad_scales=to[2], grad_viewmats=to_view,
            scratch=scratch, steps=steps, **given,
        )  # fmt: skip
        _run("splat_project_backward", like, (cuda.blocks(shape[1]), 1), args, level)
        if to_view is not None:
            to_view = torch.nn.functional.pad(to_view, (0, 0, 0, 1))
        return *to, None, to_view, None, None, None


def _in_rows(grad: Tensor) -> bool:
    """Whether vectors ``[C,N,D]``, as what blending hands on, lie at equal steps: they need no copy."""
    return grad.ndim == 3 and grad.stride(2) == 1 and grad.stride(0) == grad.stride(1) * grad.shape[1]


def _project_args(
    tensors: list[Tensor], view: View, steps: Sequence[int] = (0, 0), **more: Tensor | None
) -> ProjectArgs:
    names = ("means", "quats", "scales", "opacities", "viewmats", "intrinsics")
    rules = view.rules
    return ProjectArgs(
        **{name: _address(tensor) for name, tensor in [*zip(names, tensors, strict=True), *more.items()]},
        cameras=tensors[4].shape[0], count=tensors[0].shape[0], mean_step=steps[0], conic_step=steps[1],
        width=view.width, height=view.height, near=view.near,
        far=view.far, clip=view.clip, blur=view.blur, min_alpha=rules.min_alpha, extent=rules.extent,
        floor=rules.compensation_floor, margin=rules.frustum_margin, opacity_extent=rules.opacity_extent,
    )  # fmt: skip


def harmonics_native(
    degree: int, means: Tensor, eyes: Tensor, coefficients: Tensor, radii: Tensor, level: native.Level = None
) -> Tensor:
    """As ``harmonics_reference``."""
    colors: Tensor = _Harmonics.apply(degree, means, eyes, coefficients, radii, level)
    return colors


class _Harmonics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, degree: int, means: Tensor, eyes: Tensor, coefficients: Tensor, radii: Tensor, level: native.Level
    ) -> Tensor:
        given = [tensor.contiguous() for tensor in (means, eyes, coefficients, radii)]
        colors = means.new_empty(len(eyes), len(means), 3)
        args = _harmonics_args(degree, *given, colors)
        _run("splat_harmonics", means, (cuda.blocks(len(means)), len(eyes)), args, level)
        ctx.save_for_backward(*given, colors)
        ctx.degree, ctx.level = degree, level
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        means, eyes, coefficients, radii, colors = ctx.saved_tensors
        to = [torch.empty_like(means), torch.zeros_like(eyes), torch.empty_like(coefficients)]
        scratch, pull = means.new_empty(-(-len(means) // CHUNK), len(eyes), 3), grad.contiguous()
        args = _harmonics_args(ctx.degree, means, eyes, coefficients, radii, colors, pull, *to, scratch)
        _run("splat_harmonics_backward", means, (cuda.blocks(len(means)), 1), args, ctx.level)
        return None, *to, None, None


def _harmonics_args(degree: int, means: Tensor, eyes: Tensor, coefficients: Tensor, *more: Tensor) -> HarmonicsArgs:
    pointers = [_address(tensor) for tensor in (means, eyes, coefficients, *more)]
    pointers += [None] * (10 - len(pointers))
    bases, own = coefficients.shape[-2], coefficients.ndim == 4
    return HarmonicsArgs(*pointers, len(eyes), len(means), bases, degree, own)


@torch.no_grad()
def bins_native(
    means2d: Tensor, radii: Tensor, depths: Tensor, first: Tensor, view: View, level: native.Level = None
) -> Bins:
    """As ``bins_reference``: count, sum up, fill."""
    given = [tensor.contiguous() for tensor in (means2d, depths, radii)]
    device, count, images, total = means2d.device, means2d.shape[0], first.shape[0] - 1, 0
    across, down = -(-view.width // TILE), -(-view.height // TILE)
    tiles = torch.empty(count, dtype=torch.int32, device=device)
    grid = (cuda.blocks(count), 1)

    def args(*tensors: Tensor | None) -> BinArgs:
        pointers = [_address(tensor) for tensor in (*given, first, *tensors)]
        pointers += [None] * (11 - len(pointers))
        return BinArgs(*pointers, images, count, total, view.width, view.height)

    on_cuda = native.on_cuda(means2d, level)
    sizes = torch.empty(count, dtype=torch.int64, device=device) if on_cuda else tiles
    _run("splat_count", means2d, grid, args(None, tiles, None, None, None, sizes), level)
    ends = sizes.cumsum(0)
    total = int(ends[-1]) if count else 0
    if total >= 2**31:
        raise DreamforgeError(
            f"The Gaussians touch {total} tiles, but fewer than 2^31 are expected: they are too large for the picture, "
            "or render fewer cameras at once."
        )
    ids = torch.empty(total, dtype=torch.int32, device=device)
    offsets = torch.empty(images, down, across, dtype=torch.int32, device=device)
    keys = torch.empty(total, dtype=torch.int64, device=device)
    slots = torch.empty_like(ids)
    if on_cuda:
        _run("splat_bin", means2d, grid, args(ends, tiles, None, None, slots, keys), level)
        keys, order = keys.sort(stable=True)
        grid = (cuda.blocks(total + 1), 1)
        _run("splat_order", means2d, grid, args(order, None, ids, offsets, slots, keys), level)
        return Bins(tiles, keys, ids, offsets)
    places = ends - tiles
    scratch = torch.empty(4 * count + images * PARTS * across * down, dtype=torch.int32)
    _run("splat_bin", means2d, grid, args(places, tiles, ids, offsets, slots, keys, scratch), level)
    return Bins(tiles, keys, ids, offsets, places, slots)


def blend_native(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    bins: Bins,
    view: View,
    absgrad: bool,
    level: native.Level = None,
) -> tuple[Tensor, Tensor]:
    """As ``blend_reference``."""
    given = means2d, conics, opacities, colors, backgrounds
    rendered, alphas = _Blend.apply(*given, bins, view, absgrad, level)
    return rendered, alphas


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor | None,
        bins: Bins,
        view: View,
        absgrad: bool,
        level: native.Level,
    ) -> tuple[Tensor, Tensor]:
        given = [one if one is None else one.contiguous() for one in (means2d, conics, opacities, colors, backgrounds)]
        shape = (bins.offsets.shape[0], view.height, view.width)
        channels = colors.shape[-1]
        out, alphas = colors.new_empty(*shape, channels), colors.new_empty(*shape, 1)
        light = colors.new_empty(shape)
        records = None if native.on_cuda(colors, level) else colors.new_empty(len(bins.tiles), RECORD)
        ends = torch.empty(shape, dtype=torch.int32, device=colors.device)
        args = _blend_args(given, bins, view, channels, out=out, alphas=alphas, light=light, ends=ends, records=records)
        grid = (bins.offsets.numel(), -(-channels // CHANNELS_OF_BLOCK))
        _run("splat_blend", colors, grid, args, level)
        # means2d as it was given: the attribute absgrad is for whoever holds it
        ctx.save_for_backward(means2d, *given, light, ends, records)
        ctx.bins, ctx.view, ctx.absgrad, ctx.level = bins, view, absgrad, level
        ctx.set_materialize_grads(False)
        return out, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        means2d, *given, light, ends, records = ctx.saved_tensors
        bins, channels = ctx.bins, given[3].shape[-1]
        if grad is None:
            grad = light.new_zeros(*light.shape, channels)
        pulls = {"grad_out": grad.contiguous()}  # must outlive the call
        if grad_alphas is not None:
            pulls["grad_alphas"] = grad_alphas.contiguous()
        needed, kept = ctx.needs_input_grad[4], {"light": light, "ends": ends}
        to_background = torch.zeros_like(given[4]) if needed else None
        if native.on_cuda(light, ctx.level):
            parts = light.new_zeros(*given[2].shape, MOMENTS + channels)
            to = list(parts.split((2, 3, 1, 2, channels), -1))
            to[2], absgrad = to[2].squeeze(-1), to.pop(3)
            sums = {"parts": parts, "absgrad": absgrad if ctx.absgrad else None}
        else:
            to = [torch.empty_like(one) for one in given[:4]]
            absgrad = torch.empty_like(given[0]) if ctx.absgrad else None
            names = ("grad_means2d", "grad_conics", "grad_opacities", "grad_colors")
            sums = {"absgrad": absgrad, "records": records, **dict(zip(names, to, strict=True))}
            sums["parts"] = light.new_empty(len(bins.ids), -(-(MOMENTS + channels) // 4) * 4)
            sums["scratch"] = light.new_empty(bins.offsets.numel(), channels) if needed else None
        args = _blend_args(given, bins, ctx.view, channels, **kept, **pulls, **sums, grad_backgrounds=to_background)
        _run("splat_blend_backward", light, (bins.offsets.numel(), 1), args, ctx.level)
        if ctx.absgrad:
            means2d.absgrad = absgrad
        return *to, to_background, None, None, None, None


def _blend_args(given: list[Tensor | None], bins: Bins, view: View, channels: int, **more: Tensor | None) -> BlendArgs:
    names = ("means2d", "conics", "opacities", "colors", "backgrounds")
    tensors = dict(zip(names, given, strict=True)) | {"ids": bins.ids, "offsets": bins.offsets}
    tensors |= {"slots": bins.slots, "tiles": bins.tiles, "places": bins.places}
    rules = view.rules
    return BlendArgs(
        **{name: _address(tensor) for name, tensor in (tensors | more).items()},
        count=bins.tiles.shape[0], intersections=bins.ids.shape[0], images=bins.offsets.shape[0], width=view.width,
        height=view.height, channels=channels, max_alpha=rules.max_alpha, min_alpha=rules.min_alpha, stop=rules.stop,
    )  # fmt: skip
