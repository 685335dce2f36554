"""Which triangle covers each pixel centre: the definition of ``raster.rasterize``'s coverage, on one view.

Triangles are cut in rows of pixel centres; the ends of a row come from the triangle's edges, always evaluated from the
upper to the lower end point, so that two triangles that share an edge compute the same number and half-open rows leave
neither a gap nor a pixel drawn twice. Depth is resolved by one ``amax`` over packed integers (inverse depth, face),
whose result does not depend on the order of the work. ``extensions/include/raster.h`` does the same in the same order,
rounding for rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 22  # (face, pixel) pairs resolved at once: bounds the memory at about 200 MB
LOW = (1 << 32) - 1  # the low half of a key
TINY = 1e-12  # twice an area in pixels; below it slopes overflow
HUGE = 1e15  # pixels; beyond it areas overflow


@dataclass(frozen=True)
class _Rows:
    """Rows of pixels of one ``face`` each: ``count`` of them from flat index ``pixel``, with inverse depths."""

    face: Tensor
    pixel: Tensor
    count: Tensor
    inverse: Tensor  # at the first pixel
    slope: Tensor


@torch.no_grad()
def nearest(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> Tensor:
    """``pixels [V,2]``, ``depth [V]``, ``faces [F,3]`` -> the nearest face at each centre ``[H W]``, -1 for none."""
    best = torch.zeros(height * width, dtype=torch.int64, device=pixels.device)
    for pixel, key in _keys(_rows(pixels, depth, faces, height, width, near)):
        best.scatter_reduce_(0, pixel, key, "amax")
    return torch.where(best > 0, LOW - (best & LOW), -1)


def _clipped(xy: Tensor, depth: Tensor, near: float) -> tuple[Tensor, Tensor, Tensor]:
    """What of triangles ``[F,3,2]``, ``[F,3]`` lies beyond the plane ``near``, as triangles, and whose each is.

    An edge is cut from the end in front, so that both of its triangles find the same point.
    """
    front = depth > near  # a NaN is not
    count = front.sum(1)
    whole, cut = (count == 3).nonzero().squeeze(1), ((count == 1) | (count == 2)).nonzero().squeeze(1)
    alone = (front[cut] == (count[cut] == 1)[:, None]).int().argmax(1)  # the corner that has its side for itself
    turn = (alone[:, None] + torch.arange(3, device=xy.device)) % 3
    points = torch.cat([xy[cut], depth[cut][..., None]], -1).gather(1, turn[..., None].expand(-1, -1, 3))
    one = count[cut] == 1
    a, b, c = points.unbind(1)

    def crossing(other: Tensor) -> Tensor:
        ahead, behind = torch.where(one[:, None], a, other), torch.where(one[:, None], other, a)
        share = (ahead[:, 2] - near) / (ahead[:, 2] - behind[:, 2])
        start, end = ahead[:, :2] * ahead[:, 2:], behind[:, :2] * behind[:, 2:]
        place = (start + share[:, None] * (end - start)) / near
        return torch.cat([place, torch.full_like(place[:, :1], near)], 1)

    ab, ac = crossing(b), crossing(c)
    first = torch.where(one[:, None, None], torch.stack([a, ab, ac], 1), torch.stack([b, c, ac], 1))
    second = torch.stack([b, ac, ab], 1)[~one]
    triangles = torch.cat([first, second])
    owner = torch.cat([whole, cut, cut[~one]])
    return torch.cat([xy[whole], triangles[..., :2]]), torch.cat([depth[whole], triangles[..., 2]]), owner


def _visible(xy: Tensor, depth: Tensor, height: int, width: int) -> Tensor:
    """Indices of the triangles that are finite, touch the picture and have an area. ``xy [T,3,2]``, ``depth [T,3]``."""
    low, high = xy.amin(1), xy.amax(1)
    size = xy.new_tensor([width, height])
    one, two = xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    inside = ((high > 0.5) & (low < size)).all(1)
    finite = (xy.abs() < HUGE).flatten(1).all(1) & (depth < torch.inf).all(1)  # a NaN compares false
    return (finite & inside & (area.abs() > 0)).nonzero().squeeze(1)


def _rows(pixels: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> _Rows:
    xy, z, face = _clipped(pixels[faces], depth[faces], near)
    keep = _visible(xy, z, height, width)
    xy, inverse, face = xy[keep], 1.0 / z[keep], face[keep]
    order = xy[..., 1].argsort(dim=1, stable=True)
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
    return _cut(face, owner, y, torch.stack(columns, 1).index_select(0, owner), width)


def _cut(face: Tensor, owner: Tensor, row: Tensor, table: Tensor, width: int) -> _Rows:
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
    columns = face[owner], row * width + start.long(), count.long(), begin, slope
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
