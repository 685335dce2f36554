"""Pictures on surfaces: texels at texture coordinates, nearest, bilinear, or trilinear between the levels of a pyramid.

Coordinates are glTF's: (0, 0) is the upper left corner of the picture, (1, 1) the lower right one, and the centre of a
texel lies half a texel from its corners.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.types import DreamforgeError

LEVELS = 16  # of a pyramid, at most; as in extensions/include/texture.h
Filter = Literal["nearest", "linear", "trilinear"]
Boundary = Literal["wrap", "clamp"]


def texture(
    texels: Tensor,
    uv: Tensor,
    level: Tensor | None = None,
    filter: Filter = "linear",
    boundary: Boundary = "wrap",
    backend: Backend = "auto",
) -> Tensor:
    """``texels [H,W,C]`` at ``uv [...,2]`` -> ``[...,C]``; or ``[B,H,W,C]``, one picture a view, at ``[B,...,2]``.

    ``trilinear`` mixes two levels of ``pyramid(texels)`` by ``level [...]`` as ``mip_level`` gives it: 0 the
    picture itself, 1 half its size. Beyond [0,1] pictures repeat (``wrap``) or go on as their border (``clamp``).
    Gradients reach texels and uv (not from ``nearest``), not the level; second ones for ``backend="torch"`` only.
    Raises DreamforgeError for shapes that do not fit.
    """
    sets = texels if texels.ndim == 4 else texels[None]
    fits = texels.ndim in (3, 4) and texels.numel() > 0 and uv.shape[-1:] == (2,)
    if not fits or (texels.ndim == 4 and uv.shape[0] != len(texels)):
        raise DreamforgeError(
            f"texels {list(texels.shape)} and uv {list(uv.shape)} were given, but [H,W,C] and [...,2], or [B,H,W,C] "
            "and [B,...,2] are expected, with texels."
        )
    if filter not in ("nearest", "linear", "trilinear") or boundary not in ("wrap", "clamp"):
        raise DreamforgeError(
            f"filter '{filter}' and boundary '{boundary}' were given, but nearest, linear or trilinear, and wrap or "
            "clamp are expected: choose one of each."
        )
    if (level is not None) != (filter == "trilinear") or (level is not None and level.shape != uv.shape[:-1]):
        raise DreamforgeError(
            f"filter {filter} and level {None if level is None else list(level.shape)} were given, but trilinear asks "
            f"for a level {list(uv.shape[:-1])}, and only it: see mip_level."
        )
    levels = pyramid(sets) if filter == "trilinear" else [sets]
    at, mix = uv.reshape(len(sets), -1, 2), None if level is None else level.detach().reshape(len(sets), -1)
    floats = {texels.dtype, uv.dtype, uv.dtype if level is None else level.dtype} == {torch.float32}
    if choose("texture", texels.device, backend, floats, agrees) == "torch":
        out = texture_reference(levels, at, mix, filter, boundary)
    else:
        out = texture_native(levels, at, mix, filter, boundary)
    return out.view(*uv.shape[:-1], texels.shape[-1])


def pyramid(texels: Tensor) -> list[Tensor]:
    """``[B,H,W,C]``, then means of 2x2 texels, and so on: while sides are even, or 1 long, and at most 16 levels."""
    levels = [texels]
    while len(levels) < LEVELS:
        height, width = levels[-1].shape[1:3]
        if (height % 2 and height > 1) or (width % 2 and width > 1) or height * width == 1:
            break
        size = 2 if height > 1 else 1, 2 if width > 1 else 1
        levels.append(torch.nn.functional.avg_pool2d(levels[-1].movedim(-1, 1), size).movedim(1, -1))
    return levels


@torch.no_grad()
def mip_level(uv_dx: Tensor, uv_dy: Tensor, height: int, width: int) -> Tensor:
    """The level at which a pixel's longer side is one texel: ``[...]`` >= 0, from ``uv``'s changes ``[...,2]`` from a
    pixel to the next to the right and downwards, for a picture of ``height`` x ``width`` texels.

    A pixel is an ellipse of texels; its longer half axis is the greater singular value of the two changes.
    """
    size = uv_dx.new_tensor([width, height])
    right, down = uv_dx * size, uv_dy * size
    one, two, both = (right * right).sum(-1), (down * down).sum(-1), (right * down).sum(-1)
    longest = (one + two) / 2 + (((one - two) / 2).square() + both.square()).sqrt()
    return (0.5 * longest.log2()).clamp_min(0.0)


# ---- the reference


def texture_reference(
    levels: Sequence[Tensor], uv: Tensor, level: Tensor | None, filter: Filter, boundary: Boundary
) -> Tensor:
    """The definition of ``texture`` for ``levels`` of ``[S,H,W,C]`` and ``uv [S,P,2]``: any float type, differentiable
    as often as wanted."""
    if level is None:
        return _sampled(levels[0], uv, filter, boundary)
    level = level.clamp(0, len(levels) - 1)
    out = uv.new_zeros(*uv.shape[:-1], levels[0].shape[-1])
    for number, texels in enumerate(levels):
        out = out + (1 - (level - number).abs()).clamp_min(0.0)[..., None] * _sampled(texels, uv, "linear", boundary)
    return out


def _sampled(texels: Tensor, uv: Tensor, filter: Filter, boundary: Boundary) -> Tensor:
    """One level, nearest or bilinear."""
    sets, height, width, channels = texels.shape
    uv = uv - uv.detach().floor() if boundary == "wrap" else uv.clamp(-1.0, 2.0)
    place = uv * uv.new_tensor([width, height]) - (0.0 if filter == "nearest" else 0.5)
    corner = place.detach().floor()
    share, number = place - corner, corner.long()
    flat, out = texels.flatten(0, 2), texels.new_zeros(1)
    first = torch.arange(sets, device=uv.device)[:, None] * (height * width)

    def index(step: int, axis: int, size: int) -> Tensor:
        at = number[..., axis] + step
        return at.remainder(size) if boundary == "wrap" else at.clamp(0, size - 1)

    def tap(dx: int, dy: int) -> Tensor:
        rows = first + index(dy, 1, height) * width + index(dx, 0, width)
        return flat.index_select(0, rows.flatten()).view(*rows.shape, channels)

    if filter == "nearest":
        return tap(0, 0)
    for dy, down in ((0, 1 - share[..., 1:]), (1, share[..., 1:])):
        for dx, right in ((0, 1 - share[..., :1]), (1, share[..., :1])):
            out = out + right * down * tap(dx, dy)
    return out


# ---- the compiled core


class TextureArgs(ctypes.Structure):
    """``TextureArgs`` of extensions/include/texture.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("texels", "uv", "level", "out", "pull", "grad", "grad_uv")],
        *[(name, ctypes.c_int64) for name in ("sets", "points", "total")],
        ("first", ctypes.c_int64 * LEVELS),
        ("height", ctypes.c_int32 * LEVELS),
        ("width", ctypes.c_int32 * LEVELS),
        *[(name, ctypes.c_int32) for name in ("channels", "levels", "nearest", "wrap")],
    ]


def texture_native(
    levels: Sequence[Tensor],
    uv: Tensor,
    level: Tensor | None,
    filter: Filter,
    boundary: Boundary,
    at: native.Level = None,
) -> Tensor:
    """As ``texture_reference``, by the compiled core; ``at``: its level of instructions, see ``native.Level``."""
    flat = torch.cat([one.flatten(1, 2) for one in levels], 1) if len(levels) > 1 else levels[0].flatten(1, 2)
    shape = [(one.shape[1], one.shape[2]) for one in levels], filter == "nearest", boundary == "wrap"
    out: Tensor = _Texture.apply(flat, uv, level, shape, at)
    return out


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, texels: Tensor, uv: Tensor, level: Tensor | None, shape: Any, at: native.Level) -> Tensor:
        texels, uv, level = texels.contiguous(), uv.contiguous(), None if level is None else level.contiguous()
        out = texels.new_empty(*uv.shape[:-1], texels.shape[-1])
        _run("texture_forward", _args(texels, uv, level, shape, out=out), uv, at)
        ctx.save_for_backward(texels, uv, level)
        ctx.shape, ctx.at = shape, at
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        texels, uv, level = ctx.saved_tensors
        pull = pull.contiguous()
        to_texels = torch.zeros_like(texels) if ctx.needs_input_grad[0] else None
        to_uv = torch.empty_like(uv) if ctx.needs_input_grad[1] else None
        args = _args(texels, uv, level, ctx.shape, pull=pull, grad=to_texels, grad_uv=to_uv)
        _run("texture_backward", args, uv, ctx.at)
        return to_texels, to_uv, None, None, None


def _args(texels: Tensor, uv: Tensor, level: Tensor | None, shape: Any, **more: Tensor | None) -> TextureArgs:
    tensors = {"texels": texels, "uv": uv, "level": level, **more}
    given: dict[str, Any] = {name: one.data_ptr() for name, one in tensors.items() if one is not None}
    sizes, nearest, wrap = shape
    args = TextureArgs(**given, sets=len(texels), points=uv.shape[1], total=texels.shape[1])
    args.channels, args.levels, args.nearest, args.wrap = texels.shape[2], len(sizes), nearest, wrap
    first = 0
    for number, (height, width) in enumerate(sizes):
        args.first[number], args.height[number], args.width[number] = first, height, width
        first += height * width
    return args


def _run(name: str, args: TextureArgs, uv: Tensor, at: native.Level) -> None:
    call("texture", name, uv, args, (cuda.blocks(uv.shape[0] * uv.shape[1]), 1), at)


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws = torch.Generator().manual_seed(0)
    texels = torch.rand(2, 8, 16, 3, generator=draws).to(device)
    uv = (3 * torch.rand(2, 200, 2, generator=draws) - 1).to(device)
    level, pull = (
        (4 * torch.rand(2, 200, generator=draws)).to(device),
        torch.rand(2, 200, 3, generator=draws).to(device),
    )
    answers = []
    for compute in (texture_native, texture_reference):
        given = [one.clone().requires_grad_() for one in (texels, uv)]
        out = compute(pyramid(given[0]), given[1], level, "trilinear", "wrap")
        answers.append([out.detach(), *torch.autograd.grad((out * pull).sum(), given)])
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*answers, strict=True))
