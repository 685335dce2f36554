"""The stages of ``ops.splat`` by the compiled core: what ``splat_reference.py`` defines, each an autograd function."""

import ctypes
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
        *_numbers(ctypes.c_int64, "cameras count"),
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
        *_numbers(ctypes.c_int64, "images count"),
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``project_reference``."""
    given = means, quats, scales, opacities.detach(), viewmats, Ks
    radii, means2d, depths, conics, compensations = _Project.apply(*given, view, level)
    return radii, means2d, depths, conics, compensations


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        *tensors, view, level = given
        tensors = [tensor.contiguous() for tensor in tensors]
        shape = (len(tensors[4]), len(tensors[0]))
        like = tensors[0]
        radii = torch.empty(*shape, 2, dtype=torch.int32, device=like.device)
        outs = [like.new_empty(*shape, *rest) for rest in ((2,), (), (3,))]
        kept = like.new_empty(shape) if view.antialiased else like.new_ones(()).expand(shape)
        seen = dict(zip(("means2d", "depths", "conics"), outs, strict=True))
        if view.antialiased:
            seen["compensations"] = kept
        args = _project_args(tensors, view, radii=radii, **seen)
        _run("splat_project", like, (cuda.blocks(shape[1]), shape[0]), args, level)
        ctx.save_for_backward(*tensors, radii)
        ctx.view, ctx.level = view, level
        ctx.mark_non_differentiable(radii)
        if not view.antialiased:
            ctx.mark_non_differentiable(kept)
        ctx.set_materialize_grads(False)
        return radii, *outs, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, radii = ctx.saved_tensors
        view, level = ctx.view, ctx.level
        like, shape = tensors[0], radii.shape[:2]
        shapes = ((2,), (), (3,), ())
        pulls = [
            like.new_zeros(*shape, *rest) if grad is None else grad.contiguous()
            for grad, rest in zip(grads, shapes, strict=True)
        ]
        names = ("grad_means2d", "grad_depths", "grad_conics", "grad_compensations")
        given = dict(zip(names[: 4 if view.antialiased else 3], pulls, strict=False))
        to = [torch.empty_like(one) for one in tensors[:3]]
        to_view, scratch = None, None
        if ctx.needs_input_grad[4]:
            to_view = like.new_zeros(shape[0], 3, 4)
            scratch = like.new_empty(-(-shape[1] // CHUNK), shape[0], 12)
        args = _project_args(
            tensors, view, radii=radii, grad_means=to[0], grad_quats=to[1], grad_scales=to[2], grad_viewmats=to_view,
            scratch=scratch, **given,
        )  # fmt: skip
        _run("splat_project_backward", like, (cuda.blocks(shape[1]), 1), args, level)
        if to_view is not None:
            to_view = torch.nn.functional.pad(to_view, (0, 0, 0, 1))
        return *to, None, to_view, None, None, None


def _project_args(tensors: list[Tensor], view: View, **more: Tensor | None) -> ProjectArgs:
    names = ("means", "quats", "scales", "opacities", "viewmats", "intrinsics")
    rules = view.rules
    return ProjectArgs(
        **{name: _address(tensor) for name, tensor in [*zip(names, tensors, strict=True), *more.items()]},
        cameras=len(tensors[4]), count=len(tensors[0]), width=view.width, height=view.height, near=view.near,
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
    means2d: Tensor, radii: Tensor, depths: Tensor, image: Tensor, images: int, view: View, level: native.Level = None
) -> Bins:
    """As ``bins_reference``: count, sum up, fill."""
    given = [tensor.contiguous() for tensor in (means2d, depths, radii)]
    device, count = means2d.device, len(means2d)
    across, down = -(-view.width // TILE), -(-view.height // TILE)
    first = torch.searchsorted(image, torch.arange(images + 1, device=device))
    tiles = torch.empty(count, dtype=torch.int32, device=device)
    facts = {"images": images, "count": count, "width": view.width, "height": view.height}
    names = ("means2d", "depths", "radii", "first", "places", "tiles", "ids", "offsets", "slots", "keys", "scratch")
    grid = (cuda.blocks(count), 1)

    def args(*tensors: Tensor | None) -> BinArgs:
        pointers = zip(names, (*given, first, *tensors), strict=False)
        return BinArgs(**{name: _address(tensor) for name, tensor in pointers}, **facts)

    _run("splat_count", means2d, grid, args(None, tiles), level)
    ends = tiles.cumsum(0)
    places, total = ends - tiles, int(ends[-1]) if count else 0
    if total >= 2**31:
        raise DreamforgeError(
            f"The Gaussians touch {total} tiles, but fewer than 2^31 are expected: they are too large for the picture, "
            "or render fewer cameras at once."
        )
    ids = torch.empty(total, dtype=torch.int32, device=device)
    offsets = torch.empty(images, down, across, dtype=torch.int32, device=device)
    keys = torch.empty(total, dtype=torch.int64, device=device)
    if native.on_cuda(means2d, level):
        _run("splat_bin", means2d, grid, args(places, tiles, ids, offsets, None, keys), level)
        keys, order = keys.sort(stable=True)
        numbers = torch.arange(images * across * down, device=device)
        bits = (across * down).bit_length()
        numbers = (numbers // (across * down) << bits | numbers % (across * down)) << 32
        offsets = torch.searchsorted(keys, numbers).int().view_as(offsets)
        return Bins(tiles, places, keys, ids[order], offsets, None)
    slots = torch.empty_like(ids)
    scratch = torch.empty(4 * count + images * PARTS * across * down, dtype=torch.int32)
    _run("splat_bin", means2d, grid, args(places, tiles, ids, offsets, slots, keys, scratch), level)
    return Bins(tiles, places, keys, ids, offsets, slots)


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
        shape = (len(bins.offsets), view.height, view.width)
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
        return out, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_alphas: Tensor) -> tuple[Tensor | None, ...]:
        means2d, *given, light, ends, records = ctx.saved_tensors
        bins, channels = ctx.bins, grad.shape[-1]
        pulls = grad.contiguous(), grad_alphas.contiguous()  # must outlive the call
        on_cuda = native.on_cuda(light, ctx.level)
        make = torch.zeros_like if on_cuda else torch.empty_like
        to = [one if one is None else make(one) for one in given]
        needed = ctx.needs_input_grad[4]
        abs_to = make(given[0]) if ctx.absgrad else None
        parts, scratch = None, None
        if not on_cuda:
            parts = light.new_empty(len(bins.ids), -(-(MOMENTS + channels) // 4) * 4)
            scratch = light.new_empty(bins.offsets.numel(), channels) if needed else None
        names = ("means2d", "conics", "opacities", "colors", "backgrounds")
        grads = {f"grad_{name}": tensor for name, tensor in zip(names, to, strict=True)}
        args = _blend_args(
            given, bins, ctx.view, channels, light=light, ends=ends, records=records, grad_out=pulls[0],
            grad_alphas=pulls[1], absgrad=abs_to, parts=parts, scratch=scratch, **grads,
        )  # fmt: skip
        _run("splat_blend_backward", light, (bins.offsets.numel(), 1), args, ctx.level)
        if abs_to is not None:
            means2d.absgrad = abs_to
        return *to[:4], to[4] if needed else None, None, None, None, None


def _blend_args(given: list[Tensor | None], bins: Bins, view: View, channels: int, **more: Tensor | None) -> BlendArgs:
    names = ("means2d", "conics", "opacities", "colors", "backgrounds")
    tensors = dict(zip(names, given, strict=True)) | {"ids": bins.ids, "offsets": bins.offsets}
    tensors |= {"slots": bins.slots, "tiles": bins.tiles, "places": bins.places}
    rules = view.rules
    return BlendArgs(
        **{name: _address(tensor) for name, tensor in (tensors | more).items()},
        count=len(bins.tiles), intersections=len(bins.ids), images=len(bins.offsets), width=view.width,
        height=view.height, channels=channels, max_alpha=rules.max_alpha, min_alpha=rules.min_alpha, stop=rules.stop,
    )  # fmt: skip
