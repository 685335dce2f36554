"""Antialiasing of the outlines of a rasterised mesh: the pixels along them get the share of each side's colour.

Between the centres of two neighbouring pixels that show different faces may lie an outline of the nearer one. Where it
crosses the line from centre to centre says how much of one pixel the other's surface covers (Laine et al. 2020, section
3.6; the idea of de La Gorce et al. 2011). This is what lets a picture's gradient move an outline: which face is seen at
a centre changes by jumps, the share does not. The outline need not be an edge of the face at the centre: close to an
outline of a fine mesh, faces are seen from the side and most cover no centre. So the line is followed from face to face
over the mesh.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.ops.fragments import Fragments, check_indices, check_mesh, shares, summed
from dreamforge.types import DreamforgeError

SLACK = 1 / 256  # of the way between two centres, for crossings that rounding puts outside; as in antialias.h
FACES_BETWEEN = 64  # that the line between two centres is followed through, at most; as there


@torch.no_grad()
def neighbours(faces: Tensor) -> Tensor:
    """``faces [F,3]`` -> ``[F,3]`` int64: beyond the edge across from a corner, the corner that it is across from too.

    Corner k of face f has the number 3 f + k. -1 where an edge has no other face, or several. A function of the
    topology alone: keep it between steps. Faces must share the indices of their vertices: an edge whose two faces have
    copies of its ends counts as a border.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise DreamforgeError(f"faces {list(faces.shape)} were given, but [F,3] is expected.")
    if len(faces) == 0:
        return torch.zeros(0, 3, dtype=torch.int64, device=faces.device)
    start, end = (faces[:, turn].long().flatten() for turn in ([1, 2, 0], [2, 0, 1]))
    key = torch.minimum(start, end) * (faces.max() + 1) + torch.maximum(start, end)
    key, order = key.sort(stable=True)
    same = torch.cat([key.new_zeros(1), (key[1:] == key[:-1]).long(), key.new_zeros(2)])  # as the one before
    first = ((same[:-2] == 0) & (same[1:-1] == 1) & (same[2:] == 0))[: len(key)].nonzero().squeeze(1)
    one, two = order[first], order[first + 1]
    across = torch.full_like(key, -1)
    across[one], across[two] = two, one
    return across.view(-1, 3)


def antialias(
    color: Tensor,
    found: Fragments,
    pixels: Tensor,
    depth: Tensor,
    faces: Tensor,
    across: Tensor,
    backend: Backend = "auto",
) -> Tensor:
    """``color [B,H,W,C]`` with the outlines of the mesh smoothed.

    ``found``, ``pixels [B,V,2]``, ``depth [B,V]``, ``faces [F,3]`` as in ``rasterize``; ``across [F,3]`` is
    ``neighbours(faces)``. An outline is an edge of the nearer of the two faces beside which there is no other face, or
    one that folds back on the screen. Edges nearer to upright than to level act on pixels side by side, the others on
    pixels above each other: along a straight edge the sum of the shares is the exact area. What is thinner than a pixel
    and covers no centre is not seen. Edges that reach behind the camera are left as they are.

    Gradients reach ``color`` and, through the shares, ``pixels``; second ones for ``backend="torch"`` only. Raises
    DreamforgeError for shapes that do not fit.
    """
    views, vertices = check_mesh(pixels, depth, faces)
    images = (found.face.shape, found.depth.shape, color.shape[:3])
    if color.ndim != 4 or len({*images}) > 1 or len(color) != views or across.shape != faces.shape:
        raise DreamforgeError(
            f"color {list(color.shape)}, face {list(found.face.shape)}, depth {list(found.depth.shape)} and across "
            f"{list(across.shape)} were given, but [B,H,W,C], [B,H,W] twice and [F,3] are expected, with {views} views."
        )
    check_indices(across, 3 * len(faces), "across", "corners of faces", least=-1)
    check_indices(found.face, len(faces), "found.face", "faces", least=-1)
    floats = {color.dtype, pixels.dtype, depth.dtype, found.depth.dtype} == {torch.float32}
    able = floats and 3 * max(vertices, len(faces), found.face[0].numel() if views else 0) < 2**31
    if choose("antialias", color.device, backend, able, agrees) == "torch":
        return antialias_reference(color, found, pixels, depth, faces, across)
    return antialias_native(color, found, pixels, depth, faces, across)


# ---- the reference


def antialias_reference(
    color: Tensor, found: Fragments, pixels: Tensor, depth: Tensor, faces: Tensor, across: Tensor
) -> Tensor:
    """The definition of ``antialias``: any float type, differentiable as often as wanted."""
    faces = faces.long()
    edges = outlines(pixels.detach(), depth.detach(), faces, across)
    flat = color.flatten(0, 2)
    out = flat
    for axis in (0, 1):
        target, source, share = _blends(axis, found, pixels, depth.detach(), faces, across, edges)
        change = share[:, None] * (flat.index_select(0, source) - flat.index_select(0, target))
        out = out.index_add(0, target, change)
    return out.view(color.shape)


def outlines(pixels: Tensor, depth: Tensor, faces: Tensor, across: Tensor) -> Tensor:
    """Which edges of faces, each across from a corner, are outlines in a view: bool ``[B,F,3]``."""
    points = torch.cat([pixels, depth[..., None]], -1)
    corners = points[:, faces]  # [B,F,3,3]
    start, end = corners[:, :, [1, 2, 0]], corners[:, :, [2, 0, 1]]
    other = points[:, faces.flatten()[across.clamp_min(0)]]

    def side(point: Tensor) -> Tensor:
        along, to = (end - start)[..., :2], (point - start)[..., :2]
        turned = along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]
        return torch.where(point[..., 2] < 0, -turned, turned)  # what lies behind the camera is seen mirrored

    own, beyond = side(corners), side(other)
    folds = torch.where(own > 0, beyond >= 0, beyond <= 0)
    return ((across < 0) | folds) & (start[..., 2] > 0) & (end[..., 2] > 0)


def _blends(
    axis: int, found: Fragments, pixels: Tensor, depth: Tensor, faces: Tensor, across: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of pixels, of the neighbours that cover a share of each, and the share.

    Axis 0: neighbours side by side; 1: above each other, which is the same with x and y exchanged.
    """
    number = torch.arange(found.face.numel(), device=faces.device).view(found.face.shape)
    face, z = found.face, torch.where(found.face < 0, torch.inf, found.depth.detach())
    if axis:
        face, z, number, pixels = (one.transpose(1, 2) for one in (face, z, number, pixels.flip(-1).transpose(1, 2)))
    view, row, column = (face[:, :, :-1] != face[:, :, 1:]).nonzero(as_tuple=True)
    ahead = z[view, row, column] <= z[view, row, column + 1]  # the first is nearer
    step = torch.where(ahead, 1, -1)
    column = torch.where(ahead, column, column + 1)  # of the nearer
    line, place = (at.to(pixels.dtype) + 0.5 for at in (row, column))
    owner, other = face[view, row, column], face[view, row, column + step]
    with torch.no_grad():
        points = torch.cat([pixels.detach(), depth[..., None]], -1)
        pair, corner = _walk(view, owner, other, line, place, step, points, faces, across, edges)
    flat, ends = pixels.flatten(0, 1), _ends(corner, faces) + (view[pair] * pixels.shape[1])[:, None]
    start, end = (flat.index_select(0, ends[:, i]) for i in (0, 1))
    run, rise = (end - start).unbind(1)
    crossing = start[:, 0] + (line[pair] - start[:, 1]) / rise * run
    reach = (crossing - place[pair]) * step[pair]  # 0 at the nearer's centre, 1 at the other's
    steep = rise.abs() > run.abs() if axis else rise.abs() >= run.abs()
    hit = steep.nonzero().squeeze(1)
    reach, pair = reach.index_select(0, hit).clamp(0.0, 1.0), pair[hit]
    near = number[view[pair], row[pair], column[pair]]
    far = number[view[pair], row[pair], (column + step)[pair]]
    inner = reach < 0.5  # the outline lies in the nearer's pixel, which gets the other's colour
    return torch.where(inner, near, far), torch.where(inner, far, near), (reach - 0.5).abs()


def _ends(corner: Tensor, faces: Tensor) -> Tensor:
    """The two vertices ``[P,2]`` of the edge across from each corner."""
    first = corner - corner % 3
    flat = faces.flatten()
    return torch.stack([flat[first + (corner + 1) % 3], flat[first + (corner + 2) % 3]], 1)


def _walk(
    view: Tensor,
    face: Tensor,
    other: Tensor,
    line: Tensor,
    place: Tensor,
    step: Tensor,
    points: Tensor,
    faces: Tensor,
    across: Tensor,
    edges: Tensor,
) -> tuple[Tensor, Tensor]:
    """From ``face`` along a row towards ``other``: which of the pairs meet an outline before the other's centre, and
    the corner across from it."""
    pair, entered = torch.arange(len(face), device=face.device), torch.full_like(face, -1)
    pairs, corners = [pair[:0]], [pair[:0]]
    for _ in range(FACES_BETWEEN):
        if len(pair) == 0:
            break
        of_face = 3 * face[:, None] + torch.arange(3, device=face.device)
        ends = points[view[pair][:, None, None], _ends(of_face.flatten(), faces).view(-1, 3, 2)]
        (x, y, _), (run, rise, _) = ends[:, :, 0].unbind(-1), (ends[:, :, 1] - ends[:, :, 0]).unbind(-1)
        at = line[pair][:, None]
        crosses = ((y <= at) != (ends[:, :, 1, 1] <= at)) & (of_face != entered[:, None])
        crosses = crosses & (ends[..., 2] > 0).all(2)
        reach = (x + (at - y) / rise * run - place[pair][:, None]) * step[pair][:, None]
        reach, k = torch.where(crosses, reach, -torch.inf).max(1)
        corner = of_face.gather(1, k[:, None]).squeeze(1)
        meets = crosses.any(1) & (reach >= -SLACK) & (reach <= 1 + SLACK)
        outline = edges[view[pair], face, k]
        pairs.append(pair[meets & outline])
        corners.append(corner[meets & outline])
        entered = across.flatten()[corner]
        face = entered // 3
        on = meets & ~outline & (face != other[pair])
        pair, face, entered = pair[on], face[on], entered[on]
    return torch.cat(pairs), torch.cat(corners)


# ---- the compiled core


class AntialiasArgs(ctypes.Structure):
    """``AntialiasArgs`` of extensions/include/antialias.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("points", "faces", "across", "outline", "blends", "face")],
        *[(name, ctypes.c_void_p) for name in ("depth", "color", "out", "pull", "grad_color", "grad")],
        *[(name, ctypes.c_int64) for name in ("views", "vertices", "count")],
        *[(name, ctypes.c_int32) for name in ("height", "width", "channels", "parts")],
    ]


def antialias_native(
    color: Tensor,
    found: Fragments,
    pixels: Tensor,
    depth: Tensor,
    faces: Tensor,
    across: Tensor,
    level: native.Level = None,
) -> Tensor:
    """``antialias`` by the compiled core at a ``level``, see ``native.Level``."""
    points = torch.cat([pixels, depth.detach()[..., None]], -1)
    topology = faces.int().contiguous(), across.int().contiguous()
    seen = found.face.contiguous(), found.depth.detach().contiguous()
    out: Tensor = _Antialias.apply(color, points, topology, seen, level)
    return out


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        color: Tensor,
        points: Tensor,
        topology: tuple[Tensor, Tensor],
        seen: tuple[Tensor, Tensor],
        level: native.Level,
    ) -> Tensor:
        color = color.contiguous()
        out = color.clone()
        outline = torch.empty(len(points), len(topology[0]), dtype=torch.uint8, device=points.device)
        tensors = {"points": points, "faces": topology[0], "across": topology[1], "outline": outline}
        tensors |= {"blends": torch.empty_like(seen[0], dtype=torch.uint8)}
        tensors |= {"face": seen[0], "depth": seen[1], "color": color}
        args = _args(tensors, out=out)
        _run("antialias_outline", points, outline.numel(), args, level)
        _run("antialias_blend", points, seen[0].numel(), args, level)
        ctx.save_for_backward(*tensors.values())
        ctx.names, ctx.level = list(tensors), level
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        tensors = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        pull = pull.contiguous()
        to_color = pull.clone() if ctx.needs_input_grad[0] else None
        to_points = None
        if ctx.needs_input_grad[1]:
            to_points = shares(tensors["points"], tensors["face"][:1].numel(), ctx.level)
        args = _args(tensors, pull=pull, grad_color=to_color, grad=to_points)
        _run("antialias_backward", pull, tensors["face"].numel(), args, ctx.level)
        return to_color, None if to_points is None else summed(to_points), None, None, None


def _args(tensors: dict[str, Tensor], **more: Tensor | None) -> AntialiasArgs:
    given = {name: one.data_ptr() for name, one in (tensors | more).items() if one is not None}
    views, height, width, channels = tensors["color"].shape
    sizes = {"views": views, "vertices": tensors["points"].shape[1], "count": len(tensors["faces"])}
    grad = more.get("grad")
    parts = 1 if grad is None else grad.shape[1]
    return AntialiasArgs(**given, **sizes, height=height, width=width, channels=channels, parts=parts)


def _run(name: str, like: Tensor, items: int, args: ctypes.Structure, level: native.Level) -> None:
    call("antialias", name, like, args, (cuda.blocks(items), 1), level)


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    from dreamforge.ops.raster import rasterize_reference

    draws = torch.Generator().manual_seed(0)
    pixels = (40 * torch.rand(2, 30, 2, generator=draws) - 4).to(device)
    depth = (0.5 + torch.rand(2, 30, generator=draws)).to(device)
    faces = torch.randint(0, 30, (20, 3), generator=draws).to(device)
    color, pull = (torch.rand(2, 32, 32, 3, generator=draws).to(device) for _ in range(2))
    found, across = rasterize_reference(pixels, depth, faces, 32, 32), neighbours(faces)
    answers = []
    for compute in (antialias_native, antialias_reference):
        given = [one.clone().requires_grad_() for one in (color, pixels)]
        out = compute(given[0], found, given[1], depth, faces, across)
        answers.append([out.detach(), *torch.autograd.grad((out * pull).sum(), given)])
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*answers, strict=True))
