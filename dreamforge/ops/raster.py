"""Meshes at pixels: the triangle that is seen at each centre and the place on it; what its corners carry there.

With ``texture`` and ``antialias`` these are the verbs of mesh rendering: rasterize, interpolate attributes or texture
coordinates, look texels up, smooth the outlines.

Which triangle covers a pixel is defined in ``scanline.py``. The compiled core rounds as it does there, so both find the
same faces, to the last pixel; weights and depths agree within rounding.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.antialias import antialias, neighbours
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.ops.fragments import Fragments, check_indices, check_mesh, shares, summed
from dreamforge.ops.scanline import nearest
from dreamforge.ops.texture import mip_level, pyramid, texture
from dreamforge.types import DreamforgeError

__all__ = [
    "Fragments",
    "antialias",
    "interpolate",
    "mip_level",
    "neighbours",
    "pyramid",
    "rasterize",
    "texture",
]

LANES = 8  # threads of a GPU that draw a face together; as in extensions/include/raster.h


def rasterize(
    pixels: Tensor,
    depth: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    near: float = 1e-3,
    derivatives: bool = False,
    backend: Backend = "auto",
) -> Fragments:
    """The nearest face at each pixel centre.

    ``pixels [B,V,2]`` (x, y; the first centre is (0.5, 0.5)) and ``depth [B,V]`` as ``cameras.project`` gives them,
    ``faces [F,3]``. Both windings are drawn. A centre exactly on an edge belongs to one side only; of faces equally
    near the lower index wins. What lies nearer than ``near`` > 0 is cut off. A face with a corner that is no finite
    number, or 1e15 pixels away, or with no area, is not drawn. For flat drawing (a texture's chart) give depth 1.

    Gradients reach ``pixels`` and ``depth`` from ``bary`` and ``depth``, as of the face's plane: none for which face
    is seen (``antialias`` has that), none for ``dx`` and ``dy``, which ``derivatives`` asks for; second ones for
    ``backend="torch"`` only. Natively on a CPU sums have a fixed order: the same bits for any number of threads. Raises
    DreamforgeError for shapes that do not fit and for faces that name no vertex.
    """
    vertices = check_mesh(pixels, depth, faces)[1]
    if height < 1 or width < 1 or not 0 < near < float("inf"):
        raise DreamforgeError(
            f"a picture of {width}x{height} pixels and near {near} were given, but sizes of at least 1 and a length "
            "above 0 are expected."
        )
    able = pixels.dtype == depth.dtype == torch.float32 and max(3 * vertices, len(faces), height * width) < 2**31
    if choose("raster", pixels.device, backend, able, agrees) == "torch":
        return rasterize_reference(pixels, depth, faces, height, width, near, derivatives)
    return rasterize_native(pixels, depth, faces, height, width, near, derivatives)


def interpolate(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor, backend: Backend = "auto") -> Tensor:
    """Vertex ``attributes [V,C]`` at ``face_ids [...]``, ``bary [...,3]`` -> ``[...,C]``; 0 where the face is -1.

    Attributes ``[B,V,C]``, one set for each view, ask for ``face_ids [B,...]``. Gradients reach attributes and
    bary, second ones for ``backend="torch"`` only. Raises DreamforgeError for shapes that do not fit, and for ids
    that name no face or vertex.
    """
    fits = attributes.ndim in (2, 3) and bary.shape == (*face_ids.shape, 3) and faces.shape[1:] == (3,)
    if not fits or (attributes.ndim == 3 and attributes.shape[:1] != face_ids.shape[:1]):
        raise DreamforgeError(
            f"attributes {list(attributes.shape)}, faces {list(faces.shape)}, face_ids {list(face_ids.shape)} and bary "
            f"{list(bary.shape)} were given, but [V,C] or [B,V,C], [F,3], [B,...] and [B,...,3] are expected."
        )
    check_indices(faces, attributes.shape[-2], "faces", "vertices")
    check_indices(face_ids, len(faces), "face_ids", "faces", least=-1)
    able = attributes.dtype == bary.dtype == torch.float32
    if choose("raster", attributes.device, backend, able, agrees) == "torch":
        return interpolate_reference(attributes, faces, face_ids, bary)
    return interpolate_native(attributes, faces, face_ids, bary)


# ---- the reference


def rasterize_reference(
    pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float = 1e-3, derivatives: bool = False
) -> Fragments:
    """The definition of ``rasterize``: any float type, differentiable as often as wanted."""
    views = [_view(p, d, faces.long(), height, width, near) for p, d in zip(pixels, depth, strict=True)]
    columns = [torch.stack(column) for column in zip(*views, strict=True)]
    if not views:
        empty = pixels.new_zeros(0, height, width, 3)
        columns = [empty[..., 0].long(), empty, empty[..., 0], empty, empty]
    return Fragments(*(columns if derivatives else columns[:3]))


def interpolate_reference(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor) -> Tensor:
    """The definition of ``interpolate``."""
    hit = (face_ids.flatten() >= 0).nonzero().squeeze(1)
    corners = faces.long().index_select(0, face_ids.flatten().index_select(0, hit))
    if attributes.ndim == 3:
        of_view = face_ids.numel() // max(len(face_ids), 1)
        corners = corners + (hit // max(of_view, 1) * attributes.shape[1])[:, None]
        attributes = attributes.flatten(0, 1)
    weights = bary.reshape(-1, 3).index_select(0, hit).to(attributes.dtype)
    one, two, three = (attributes.index_select(0, corners[:, i]) * weights[:, i : i + 1] for i in range(3))
    out = attributes.new_zeros(face_ids.numel(), attributes.shape[1])
    return out.index_copy(0, hit, one + two + three).view(*face_ids.shape, attributes.shape[1])


def _view(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> list[Tensor]:
    """The five images of one view."""
    face = nearest(pixels, depth, faces, height, width, near)
    hit = (face >= 0).nonzero().squeeze(1)
    center = torch.stack([hit % width, hit // width], -1) + 0.5
    corners = faces.index_select(0, face.index_select(0, hit)).flatten()
    corners = torch.cat([pixels, depth[:, None]], 1).index_select(0, corners).view(-1, 3, 3)
    images = [face.view(height, width)]
    for values in barycentric(center.to(pixels.dtype), corners):
        whole = values.new_zeros(height * width, *values.shape[1:]).index_copy(0, hit, values)
        images.append(whole.view(height, width, *values.shape[1:]))
    return images


def barycentric(center: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Perspective-correct weights ``[P,3]``, depth ``[P]`` and the weights' slopes at pixel ``center [P,2]``.

    ``corners [P,3,3]``: x, y, depth of each corner. A corner's weight is the area across from it on the screen,
    divided by the corner's depth, as a share of the sum (Blinn 1992, hyperbolic interpolation); it holds for corners
    behind the camera too (Olano and Greer 1997). Rounding may leave [0, 1]: values are held there, gradients are not.
    """
    x, y = (corners[:, :, axis] - center[:, axis : axis + 1] for axis in (0, 1))
    z = corners[:, :, 2]
    after, before = [1, 2, 0], [2, 0, 1]
    weight = (x[:, after] * y[:, before] - y[:, after] * x[:, before]) / z
    total = weight.sum(1, keepdim=True)
    good = (total.abs() > 0) & (total.abs() < torch.inf)
    total = torch.where(good, total, 1.0)
    exact = torch.where(good, weight / total, 1.0 / 3.0)
    with torch.no_grad():
        held = exact.clamp(0.0, 1.0)
        held = held / held.sum(1, keepdim=True) - exact
        slopes = [
            torch.where(good, (by - exact * by.sum(1, keepdim=True)) / total, 0.0)
            for by in ((y[:, after] - y[:, before]) / z, (x[:, before] - x[:, after]) / z)
        ]
    bary = exact + held
    return bary, (bary * z).sum(1), slopes[0], slopes[1]


# ---- the compiled core


class RasterArgs(ctypes.Structure):
    """``RasterArgs`` of extensions/include/raster.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("points", "faces", "rows", "face", "bary", "depth", "dx", "dy")],
        *[(name, ctypes.c_void_p) for name in ("grad_bary", "grad_depth", "grad")],
        *[(name, ctypes.c_int64) for name in ("views", "vertices", "count")],
        *[(name, ctypes.c_int32) for name in ("height", "width", "parts")],
        ("near", ctypes.c_float),
    ]


class InterpolateArgs(ctypes.Structure):
    """``InterpolateArgs`` of extensions/include/raster.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("attributes", "faces", "face", "bary", "out")],
        *[(name, ctypes.c_void_p) for name in ("pull", "grad", "grad_bary")],
        *[(name, ctypes.c_int64) for name in ("sets", "points", "vertices")],
        *[(name, ctypes.c_int32) for name in ("channels", "parts")],
    ]


def rasterize_native(
    pixels: Tensor,
    depth: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    near: float = 1e-3,
    derivatives: bool = False,
    level: native.Level = None,
) -> Fragments:
    """``rasterize`` by the compiled core at a ``level``, see ``native.Level``."""
    points = torch.cat([pixels, depth[..., None]], -1)
    found = _Rasterize.apply(points, faces.int().contiguous(), (height, width, near, derivatives, level))
    return Fragments(*found)


def interpolate_native(
    attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor, level: native.Level = None
) -> Tensor:
    """``interpolate`` by the compiled core."""
    out: Tensor = _Interpolate.apply(attributes, faces.int().contiguous(), face_ids, bary, level)
    return out


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: Tensor, faces: Tensor, given: tuple[int, int, float, bool, native.Level]
    ) -> tuple[Tensor, ...]:
        height, width, near, derivatives, level = given
        size = {"height": height, "width": width, "near": near}
        face = torch.zeros(len(points), height, width, dtype=torch.int64, device=points.device)
        bary, depth = points.new_empty(*face.shape, 3), points.new_empty(face.shape)
        images = {"face": face, "bary": bary, "depth": depth}
        if derivatives:
            images |= {"dx": torch.empty_like(bary), "dy": torch.empty_like(bary)}
        rows = None if native.on_cuda(points, level) else faces.new_empty(len(points), len(faces), 2)
        args = _raster_args(points, faces, size, rows=rows, **images)
        _run("raster_cover", points, len(points) * len(faces) * LANES, args, level)
        _run("raster_resolve", points, face.numel(), args, level)
        ctx.save_for_backward(points, faces, face)
        ctx.size, ctx.level = size, level
        ctx.mark_non_differentiable(face, *list(images.values())[3:])
        ctx.set_materialize_grads(False)
        return tuple(images.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        points, faces, face = ctx.saved_tensors
        pulls = dict(
            zip(
                ("grad_bary", "grad_depth"),
                (one if one is None else one.contiguous() for one in grads[1:3]),
                strict=True,
            )
        )
        grad = shares(points, face[0].numel() if len(face) else 0, ctx.level)
        args = _raster_args(points, faces, ctx.size, face=face, grad=grad, **pulls)
        args.parts = grad.shape[1]
        _run("raster_backward", points, face.numel(), args, ctx.level)
        return summed(grad), None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, faces: Tensor, face: Tensor, bary: Tensor, level: native.Level) -> Tensor:
        attributes, face, bary = attributes.contiguous(), face.contiguous(), bary.contiguous()
        out = attributes.new_empty(*face.shape, attributes.shape[-1])
        args = _interpolate_args(attributes, faces, face, bary, out=out)
        _run("raster_interpolate", attributes, face.numel(), args, level)
        ctx.save_for_backward(attributes, faces, face, bary)
        ctx.level = level
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        attributes, faces, face, bary = ctx.saved_tensors
        to_bary = torch.empty_like(bary) if ctx.needs_input_grad[3] else None
        args = _interpolate_args(attributes, faces, face, bary, pull=(pull := pull.contiguous()), grad_bary=to_bary)
        to_attributes = None
        if ctx.needs_input_grad[0]:
            sets = attributes if attributes.ndim == 3 else attributes[None]
            to_attributes = shares(sets, args.points, ctx.level)
            args.grad, args.parts = to_attributes.data_ptr(), to_attributes.shape[1]
        _run("raster_interpolate_backward", attributes, face.numel(), args, ctx.level)
        grad = None if to_attributes is None else summed(to_attributes).view_as(attributes)
        return grad, None, None, to_bary, None


def _pointers(tensors: dict[str, Tensor | None]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}


def _raster_args(points: Tensor, faces: Tensor, size: dict[str, Any], **tensors: Tensor | None) -> RasterArgs:
    given = _pointers({"points": points, "faces": faces, **tensors})
    return RasterArgs(**given, views=len(points), vertices=points.shape[1], count=len(faces), **size)


def _interpolate_args(
    attributes: Tensor, faces: Tensor, face: Tensor, bary: Tensor, **tensors: Tensor | None
) -> InterpolateArgs:
    given = _pointers({"attributes": attributes, "faces": faces, "face": face, "bary": bary, **tensors})
    sets = len(attributes) if attributes.ndim == 3 else 1
    vertices, channels = attributes.shape[-2:]
    points = face.numel() // max(sets, 1)
    return InterpolateArgs(**given, sets=sets, points=points, vertices=vertices, channels=channels, parts=1)


def _run(name: str, like: Tensor, items: int, args: ctypes.Structure, level: native.Level) -> None:
    call("raster", name, like, args, (cuda.blocks(items), 1), level)


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws = torch.Generator().manual_seed(0)
    pixels = (40 * torch.rand(2, 60, 2, generator=draws) - 4).to(device)
    depth = (0.5 + torch.rand(2, 60, generator=draws)).to(device)
    faces = torch.randint(0, 60, (40, 3), generator=draws).to(device)
    values = torch.rand(60, 5, generator=draws).to(device)
    pull = torch.randn(2, 32, 32, 6, generator=draws).to(device)
    answers = []
    for draw, mix in ((rasterize_native, interpolate_native), (rasterize_reference, interpolate_reference)):
        given = [one.clone().requires_grad_() for one in (pixels, depth, values)]
        found = draw(given[0], given[1], faces, 32, 32)
        out = torch.cat([mix(given[2], faces, found.face, found.bary), found.depth[..., None]], -1)
        answers.append([found.face.to(out), out.detach(), *torch.autograd.grad((out * pull).sum(), given)])
    same = torch.equal(answers[0][0], answers[1][0])
    return same and all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max())) for a, b in zip(*answers, strict=True)
    )
