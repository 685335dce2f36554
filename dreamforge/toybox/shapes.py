"""Building blocks of toybox objects: surfaces made of point grids, with normals and a colour slot.

World as everywhere: +Y up, the front faces +Z. A colour is a slot ("main", "second": the caption's colours) or the
name of a fixed paint in ``colors.PAINTS``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = Sequence[float] | Array
Path = Sequence[Point] | Array  # of points
CREASE = np.cos(np.radians(35.0))  # sharper turns of a profile than this get a hard edge


@dataclass(frozen=True)
class Part:
    """``vertices [V,3]``, ``faces [F,3]`` counter-clockwise from outside, unit ``normals [V,3]``, one colour."""

    vertices: Array
    faces: NDArray[np.int64]
    normals: Array
    color: str

    def moved(self, offset: Point) -> "Part":
        return replace(self, vertices=self.vertices + np.asarray(offset, float))

    def turned(self, axis: str, degrees: float, about: Point = (0.0, 0.0, 0.0)) -> "Part":
        """Rotated around the x, y or z axis through ``about`` (right-hand rule)."""
        rotation, center = rotation_matrix(axis, degrees), np.asarray(about, float)
        return replace(self, vertices=(self.vertices - center) @ rotation.T + center, normals=self.normals @ rotation.T)

    def scaled(self, factors: Point | float, about: Point = (0.0, 0.0, 0.0)) -> "Part":
        """Scaled per axis by positive factors."""
        factor, center = np.broadcast_to(np.asarray(factors, float), 3), np.asarray(about, float)
        return replace(self, vertices=(self.vertices - center) * factor + center, normals=_unit(self.normals / factor))

    def painted(self, color: str) -> "Part":
        return replace(self, color=color)


def rotation_matrix(axis: str, degrees: float) -> Array:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i = "xyz".index(axis)
    matrix = np.eye(3)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = c, -s, s, c
    return matrix


def join(parts: Sequence[Part]) -> Part:
    """One Part out of several of the same colour (the first one's)."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    return Part(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=True)]),
        np.concatenate([p.normals for p in parts]),
        parts[0].color,
    )


def lathe(profile: Path, color: str, center: Point = (0.0, 0.0, 0.0), segments: int = 24) -> Part:
    """A profile of (radius, y) points, from bottom to top for an outward surface, revolved around the y axis."""
    angle = np.linspace(0.0, 2 * np.pi, segments + 1)
    ring = np.stack([np.sin(angle), np.cos(angle)], -1)
    pieces = []
    for piece in _smooth_pieces(np.asarray(profile, float), closed=False):
        tangent = np.gradient(piece, axis=0)
        outward = _unit(np.stack([tangent[:, 1], -tangent[:, 0]], -1))  # (r, y), to the right of the path
        pieces.append(_grid(_revolved(piece, ring), _revolved(outward, ring), color))
    return join(pieces).moved(center)


def ball(center: Point, radius: Point | float, color: str, segments: int = 20) -> Part:
    """A sphere, or an ellipsoid for three radii."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)
    return lathe(np.stack([np.cos(angle), np.sin(angle)], -1), color, segments=segments).scaled(radius).moved(center)


def dome(center: Point, radius: Point | float, color: str, segments: int = 20) -> Part:
    """The upper half of a ball, closed below; ``center`` is the middle of its flat side."""
    angle = np.linspace(0.0, np.pi / 2, segments // 3 + 1)
    profile = np.concatenate([[[0.0, 0.0]], np.stack([np.cos(angle), np.sin(angle)], -1)])
    return lathe(profile, color, segments=segments).scaled(radius).moved(center)


def cylinder(
    start: Point, end: Point, radius: float, color: str, end_radius: float | None = None, segments: int = 20
) -> Part:
    """A closed cylinder between two points; a cone frustum with ``end_radius`` (0: a cone)."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    height, top = float(np.linalg.norm(b - a)), radius if end_radius is None else end_radius
    profile = [(0.0, 0.0), (radius, 0.0), (top, height)] + ([(0.0, height)] if top > 0 else [])
    return _along(lathe(profile, color, segments=segments), a, b)


def capsule(start: Point, end: Point, radius: float, color: str, segments: int = 16) -> Part:
    """A cylinder with round ends; ``start`` and ``end`` are the centres of the end spheres."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    height, angle = float(np.linalg.norm(b - a)), np.linspace(-np.pi / 2, np.pi / 2, 11)
    lift = np.where(angle > 0, height, 0.0)
    profile = np.stack([radius * np.cos(angle), radius * np.sin(angle) + lift], -1)
    middle = np.array([[radius, height]])
    profile = np.concatenate([profile[:6], middle, profile[6:]])
    return _along(lathe(profile, color, segments=segments), a, b)


def ring(center: Point, radius: float, tube_radius: float, color: str, axis: str = "y", segments: int = 28) -> Part:
    """A torus around the given axis."""
    angle = np.linspace(-np.pi, np.pi, 13)
    profile = np.stack([radius + tube_radius * np.cos(angle), tube_radius * np.sin(angle)], -1)
    part = lathe(profile, color, segments=segments)
    turns = {"x": ("z", 90.0), "y": ("y", 0.0), "z": ("x", 90.0)}
    return part.turned(*turns[axis]).moved(center)


def tube(points: Path, radius: float | Point, color: str, segments: int = 12) -> Part:
    """A round tube of one radius, or one radius per point, along a path of at least two points; closed ends."""
    path = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radius, float), len(path))
    tangent = _unit(np.gradient(path, axis=0))
    side = np.cross(tangent[0], [0.0, 1.0, 0.0] if abs(tangent[0, 1]) < 0.9 else [1.0, 0.0, 0.0])
    frames = []
    for t in tangent:  # carry the frame along: no twist
        side = _unit(side - t * (side @ t))
        frames.append((side, np.cross(t, side)))
    angle = np.linspace(0.0, 2 * np.pi, segments + 1)
    normals = np.stack([np.outer(np.cos(angle), s) + np.outer(np.sin(angle), n) for s, n in frames])
    rings = path[:, None] + radii[:, None, None] * normals
    caps = []
    for i, sign in ((0, -1.0), (-1, 1.0)):
        disc = np.stack([np.broadcast_to(path[i], rings[i].shape), rings[i]])
        disc = disc if sign < 0 else disc[::-1]
        caps.append(_grid(disc, np.broadcast_to(sign * tangent[i], disc.shape), color))
    return join([_grid(rings, normals, color), *caps])


def extrude(outline: Path, depth: float, color: str, center: Point = (0.0, 0.0, 0.0)) -> Part:
    """An outline of (x, y) points, counter-clockwise seen from +Z, made ``depth`` thick along z around ``center``.

    The outline must be star-shaped around its centroid (convex is enough); sharp corners get hard edges.
    """
    line = np.asarray(outline, float)
    pieces = []
    for piece in _smooth_pieces(np.concatenate([line, line[:1]]), closed=True):
        tangent = np.gradient(piece, axis=0)
        outward = _unit(np.stack([tangent[:, 1], -tangent[:, 0], np.zeros(len(piece))], -1))
        rows = np.stack([np.column_stack([piece, np.full(len(piece), z)]) for z in (depth / 2, -depth / 2)], 1)
        pieces.append(_grid(rows, np.repeat(outward[:, None], 2, 1), color))
    loop, middle = np.concatenate([line, line[:1]]), line.mean(0)
    for z in (depth / 2, -depth / 2):
        fan = np.stack([np.broadcast_to(middle, loop.shape), loop], 1)
        fan = np.concatenate([fan, np.full((*fan.shape[:2], 1), z)], -1)
        fan = fan if z > 0 else fan[:, ::-1]
        pieces.append(_grid(fan, np.broadcast_to([0.0, 0.0, np.sign(z)], fan.shape), color))
    return join(pieces).moved(center)


def box(center: Point, size: Point, color: str) -> Part:
    """An axis-aligned box; ``size`` along x, y, z."""
    x, y = size[0] / 2, size[1] / 2
    return extrude([(-x, -y), (x, -y), (x, y), (-x, y)], size[2], color, center)


def rounded_box(center: Point, size: Point, radius: float, color: str) -> Part:
    """A box whose four edges along z are rounded."""
    x, y = size[0] / 2 - radius, size[1] / 2 - radius
    arc = np.radians(np.linspace(0, 90, 5))
    outline = [
        (sx * x + radius * np.cos(a + k * np.pi / 2), sy * y + radius * np.sin(a + k * np.pi / 2))
        for k, (sx, sy) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        for a in arc
    ]
    return extrude(outline, size[2], color, center)


def mirrored(part: Part) -> list[Part]:
    """The part and its mirror image across x = 0 (eyes, ears, wheels, legs)."""
    flip = np.array([-1.0, 1.0, 1.0])
    return [part, replace(part, vertices=part.vertices * flip, normals=part.normals * flip, faces=part.faces[:, ::-1])]


def _unit(v: Array) -> Array:
    return np.asarray(v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12))


def _smooth_pieces(line: Array, closed: bool) -> list[Array]:
    """The polyline cut at its sharp corners; a closed one is first rolled to start at a corner, if it has one."""
    step = _unit(np.diff(line, axis=0))
    if closed:
        turn = (step * np.roll(step, 1, axis=0)).sum(-1)
        start = int(np.argmin(turn))
        line = np.concatenate([np.roll(line[:-1], -start, axis=0), line[start : start + 1]])
        step = np.roll(step, -start, axis=0)
    corners = np.flatnonzero((step[1:] * step[:-1]).sum(-1) < CREASE) + 1
    bounds = [0, *corners.tolist(), len(line) - 1]
    return [line[a : b + 1] for a, b in pairwise(bounds)]


def _revolved(line: Array, ring: Array) -> Array:
    """(r, y) pairs ``[M,2]`` times the unit circle (x, z) ``[N,2]`` -> ``[M,N,3]``."""
    around = line[:, None, :1] * ring
    height = np.broadcast_to(line[:, None, 1], around.shape[:2])
    return np.stack([around[..., 0], height, around[..., 1]], -1)


def _along(part: Part, a: Array, b: Array) -> Part:
    """The part, made along +y from the origin, turned to run from a to b."""
    y = _unit(b - a)
    x = _unit(np.cross(y, [0.0, 0.0, 1.0] if abs(y[2]) < 0.9 else [1.0, 0.0, 0.0]))
    rotation = np.stack([x, y, np.cross(x, y)], -1)
    return replace(part, vertices=part.vertices @ rotation.T + a, normals=part.normals @ rotation.T)


def _grid(points: Array, normals: Array, color: str) -> Part:
    """A surface from a grid of points ``[M,N,3]``; triangles without area are left out."""
    m, n = points.shape[:2]
    i = np.arange(m * n).reshape(m, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, 1:].ravel(), i[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    vertices = np.ascontiguousarray(points.reshape(-1, 3))
    edges = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    return Part(vertices, faces[np.linalg.norm(edges, axis=-1) > 1e-12], np.array(normals.reshape(-1, 3)), color)
