"""Rasterisation of triangles: which face is seen at each pixel centre, and where on it.

The method is the classic scanline one. Triangles are cut in rows of pixel centres; the ends of a row come from the
triangle's edges, always evaluated from the upper to the lower end point, so that two triangles that share an edge
compute the same number and half-open rows leave neither a gap nor a pixel drawn twice. Depth is resolved by one
``amax`` over packed integers (inverse depth, face), whose result does not depend on the order of the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 22  # (face, pixel) pairs resolved at once: bounds the memory at about 200 MB
LOW = (1 << 32) - 1  # the low half of a key
TINY = 1e-12  # twice an area in pixels; below it slopes overflow


@dataclass(frozen=True)
class Fragments:
    """``face [B,H,W]`` int64, ``bary [B,H,W,3]`` perspective correct, ``depth [B,H,W]``; nothing seen: -1, 0, 0."""

    face: Tensor
    bary: Tensor
    depth: Tensor


@dataclass(frozen=True)
class _Rows:
    """Rows of pixels of one ``face`` each: ``count`` of them from flat index ``pixel``, with inverse depths."""

    face: Tensor
    pixel: Tensor
    count: Tensor
    inverse: Tensor  # at the first pixel
    slope: Tensor


@torch.no_grad()
def rasterize(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float = 1e-3) -> Fragments:
    """The nearest face at each pixel centre.

    ``pixels [B,V,2]`` (x, y; the first centre is (0.5, 0.5)) and ``depth [B,V]`` as ``cameras.project`` gives them,
    ``faces [F,3]``. Both windings are drawn. A centre exactly on an edge belongs to one side only; of faces equally
    near the lower index wins. A face that reaches nearer than ``near`` is left out whole (nothing is clipped). For
    flat drawing (a texture's chart) give depth 1. Values only: no gradient.
    """
    views = [_view(p, d, faces, height, width, near) for p, d in zip(pixels, depth, strict=True)]
    return Fragments(*(torch.stack([getattr(v, name) for v in views]) for name in ("face", "bary", "depth")))


def interpolate(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor) -> Tensor:
    """Vertex ``attributes [V,C]`` at ``face_ids [...]``, ``bary [...,3]`` -> ``[...,C]``; 0 where the face is -1."""
    hit = (face_ids.flatten() >= 0).nonzero().squeeze(1)
    corners = faces.index_select(0, face_ids.flatten().index_select(0, hit))
    weights = bary.reshape(-1, 3).index_select(0, hit).to(attributes.dtype)
    one, two, three = (attributes.index_select(0, corners[:, i]) * weights[:, i : i + 1] for i in range(3))
    out = attributes.new_zeros(face_ids.numel(), attributes.shape[1])
    return out.index_copy_(0, hit, one + two + three).view(*face_ids.shape, attributes.shape[1])


def _view(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> Fragments:
    best = torch.zeros(height * width, dtype=torch.int64, device=pixels.device)
    for pixel, key in _keys(_rows(pixels, depth, faces, height, width, near)):
        best.scatter_reduce_(0, pixel, key, "amax")
    hit = best.nonzero().squeeze(1)
    winner = LOW - (best.index_select(0, hit) & LOW)
    center = torch.stack([hit % width, hit // width], -1) + 0.5
    corners = faces.index_select(0, winner).flatten()
    corners = torch.cat([pixels, 1.0 / depth[:, None]], 1).index_select(0, corners).view(-1, 9)
    bary, inverse = _barycentric(center.to(pixels.dtype), corners)
    return Fragments(
        torch.full_like(best, -1).index_copy_(0, hit, winner).view(height, width),
        pixels.new_zeros(height * width, 3).index_copy_(0, hit, bary).view(height, width, 3),
        pixels.new_zeros(height * width).index_copy_(0, hit, 1.0 / inverse).view(height, width),
    )


def _visible(xy: Tensor, depth: Tensor, height: int, width: int, near: float) -> Tensor:
    """Indices of the triangles in front of the camera, touching the picture, with an area. ``xy [F,3,2]``."""
    low, high = xy.amin(1), xy.amax(1)
    size = xy.new_tensor([width, height])
    one, two = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    inside = ((high > 0.5) & (low < size)).all(1)
    return ((depth.amin(1) > near) & inside & (area.abs() > 0)).nonzero().squeeze(1)  # a NaN compares false


def _rows(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> _Rows:
    xy, z = pixels[faces], depth[faces]
    keep = _visible(xy, z, height, width, near)
    xy, inverse = xy[keep], 1.0 / z[keep]
    order = xy[..., 1].argsort(1)
    xy, inverse = xy.gather(1, order[..., None].expand(-1, -1, 2)), inverse.gather(1, order)
    (ax, ay), (bx, by), (cx, cy) = ((xy[:, i, 0], xy[:, i, 1]) for i in range(3))  # from top to bottom
    first, middle, last = ((y - 0.5).ceil().clamp(0, height) for y in (ay, by, cy))
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    area = torch.where(area.abs() > TINY, area, torch.inf)  # a sliver is drawn at its first corner's depth
    db, dc = inverse[:, 1] - inverse[:, 0], inverse[:, 2] - inverse[:, 0]
    dx, dy = (db * (cy - ay) - dc * (by - ay)) / area, (dc * (bx - ax) - db * (cx - ax)) / area
    edges = [(cx - ax) / (cy - ay), (bx - ax) / (by - ay), (cx - bx) / (cy - by)]  # an infinite one has no row
    columns = [ax, ay, bx, by, middle, *edges, inverse[:, 0], dx, dy, inverse.amin(1), inverse.amax(1)]
    rows = (last - first).long()
    owner = torch.repeat_interleave(rows)
    y = torch.arange(len(owner), device=rows.device) + (first.long() - rows.cumsum(0) + rows)[owner]
    return _cut(keep, owner, y, torch.stack(columns, 1).index_select(0, owner), width)


def _cut(keep: Tensor, owner: Tensor, row: Tensor, table: Tensor, width: int) -> _Rows:
    """Where each row enters and leaves its triangle, and the inverse depth (affine on the screen) along it."""
    ax, ay, bx, by, middle, ac, ab, bc, inverse, dx, dy, low, high = table.unbind(1)
    y = row + 0.5
    long_side = ax + (y - ay) * ac
    short_side = torch.where(row < middle, ax + (y - ay) * ab, bx + (y - by) * bc)
    start = (torch.minimum(long_side, short_side) - 0.5).ceil().clamp(0, width)
    stop = (torch.maximum(long_side, short_side) - 0.5).ceil().clamp(0, width)
    count = stop - start
    at_row = inverse + dy * (y - ay)
    # a sliver's slopes are unreliable, its end points are not: hold both ends between the corners
    begin = torch.clamp(at_row + dx * (start + 0.5 - ax), low, high)
    end = torch.clamp(at_row + dx * (stop - 0.5 - ax), low, high)
    slope = (end - begin) / (count - 1).clamp_min(1)
    full = (count > 0).nonzero().squeeze(1)
    columns = keep[owner], row * width + start.long(), count.long(), begin, slope
    return _Rows(*(column.index_select(0, full) for column in columns))


def _keys(rows: _Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """(flat pixel, key) of all covered pixels, in chunks; the larger key is nearer, then of the lower face."""
    total = rows.count.cumsum(0)
    lo, done = 0, 0
    while lo < len(total):
        hi = max(lo + 1, int(torch.searchsorted(total, done + CHUNK, right=True)))
        pairs = int(total[hi - 1]) - done
        owner = torch.repeat_interleave(rows.count[lo:hi], output_size=pairs)
        before = total[lo:hi] - rows.count[lo:hi] - done
        step = torch.arange(pairs, device=total.device) - before.index_select(0, owner)
        inverse = rows.inverse[lo:hi].index_select(0, owner) + step * rows.slope[lo:hi].index_select(0, owner)
        bits = inverse.float().view(torch.int32).long()  # bits of positive floats sort as the floats do
        key = (bits << 32) | (LOW - rows.face[lo:hi]).index_select(0, owner)
        yield rows.pixel[lo:hi].index_select(0, owner) + step, key
        lo, done = hi, done + pairs


def _barycentric(center: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct weights ``[P,3]`` and inverse depth ``[P]`` at pixel ``center [P,2]``.

    ``corners [P,9]``: x, y, inverse depth of the three corners. The weights on the screen are the shares of the
    area, divided by depth they are affine in the world (Blinn 1992, hyperbolic interpolation).
    """
    x = [corners[:, i] - center[:, 0] for i in (0, 3, 6)]
    y = [corners[:, i] - center[:, 1] for i in (1, 4, 7)]
    opposite = torch.stack([x[i - 2] * y[i - 1] - y[i - 2] * x[i - 1] for i in range(3)], 1)  # twice the area across
    area = opposite.sum(1, keepdim=True)
    flat = torch.where(area != 0, opposite / area, 1.0 / 3.0).clamp(0.0, 1.0)
    weighted = flat / flat.sum(1, keepdim=True) * corners[:, 2::3]
    total = weighted.sum(1)
    return weighted / total[:, None], total
