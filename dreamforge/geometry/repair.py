"""Repairs the meshes of strangers: what cannot be drawn goes, what is inside out is turned, the rest is told."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreamforge.types import DreamforgeError, Mesh

Faces = NDArray[np.int64]
Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]
NEARLY_CLOSED = 0.05  # share of open edges up to which the sign of the volume says what is inside
FLAT = 1e-12  # of the square of the longest edge: a smaller area is none


def repair(mesh: Mesh) -> tuple[Mesh, list[str]]:
    """A mesh whose numbers are finite and whose faces have an area, with normals; and a sentence for each repair.

    Vertices that are not finite go with their faces; so do faces that name absent vertices, without area or double, and
    vertices of no face. Faces are turned to agree with their neighbours, and all of them where the volume is negative.
    What is open or not manifold is told and stays. Raises DreamforgeError where nothing is left.
    """
    faces, kept, said = drawable(mesh.vertices.double().numpy(), mesh.faces.numpy())
    if len(faces) == 0:
        raise DreamforgeError(" ".join(["it has no triangles that can be drawn", *([f"({said[0]})"] if said else [])]))
    vertices = mesh.vertices.double().numpy()[kept]
    flat, told = _oriented(vertices, faces)
    mesh, blank = _finite(_rows(mesh, kept, flat))
    normals = mesh.normals if np.array_equal(flat, faces) else None
    if normals is None or not bool(torch.isfinite(normals).all()):
        normals = torch.from_numpy(smooth_normals(vertices, flat).astype(np.float32))
    return replace(mesh, normals=normals), [*said, *told, *blank]


def drawable(vertices: Floats, faces: Faces) -> tuple[Faces, NDArray[np.int64], list[str]]:
    """The faces that can be drawn, numbered anew; the numbers of the vertices they use; what was left out."""
    said: list[str] = []

    def without(wrong: Marks, one: str, many: str) -> Faces:
        if count := int(wrong.sum()):
            said.append(f"1 {one} and was left out" if count == 1 else f"{count} {many} and were left out")
        return faces[~wrong]

    count = len(vertices)
    unused = np.ones(count, bool)
    absent: Marks = np.any((faces < 0) | (faces >= count), axis=1)
    faces = without(absent, "face names an absent vertex", "faces name absent vertices")
    unused[faces.reshape(-1)] = False
    broken: Marks = np.any(~np.isfinite(vertices), axis=1)
    lost: Marks = np.any(broken[faces], axis=1)
    if broken.any():
        said.append(f"{_number(broken, 'vertex is', 'vertices are')} not finite and left out with {lost.sum()} faces")
    faces = faces[~lost]
    faces = without(_flat(vertices, faces), "face has no area", "faces have no area")
    faces = without(_double(vertices, faces), "face is there twice", "faces are there twice")
    if (unused & ~broken).any():
        said.append(f"{_number(unused & ~broken, 'vertex belongs', 'vertices belong')} to no face and left out")
    kept, numbers = np.unique(faces, return_inverse=True)
    return numbers.reshape(-1, 3), kept, said


def smooth_normals(vertices: Floats, faces: Faces) -> Floats:
    """Unit normals ``[V,3]`` of vertices at any scale: the mean of the faces around each place, weighted by area."""
    scale = max(float(np.abs(vertices - vertices.mean(0)).max()), 1e-300)
    places = _places(vertices)
    area, index = np.repeat(_cross((vertices - vertices.mean(0)) / scale, faces), 3, axis=0), places[faces.reshape(-1)]
    total = np.stack([np.bincount(index, area[:, k], len(vertices)) for k in range(3)], -1)[places]
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.where(length > 1e-30, total / np.maximum(length, 1e-30), [0.0, 1.0, 0.0])


# ---- which way faces look


@dataclass(frozen=True)
class _Links:
    """Edges between places: how many faces ``uses`` each; pairs of faces ``[P,2]`` at edges with two; who ``agree``."""

    uses: NDArray[np.int64]
    pairs: NDArray[np.int64]
    agree: Marks


def _oriented(vertices: Floats, faces: Faces) -> tuple[Faces, list[str]]:
    """The faces turned to agree and to look outwards."""
    links, said = _links(_places(vertices)[faces]), []
    if links.uses.max() > 2:
        over = int((links.uses > 2).sum())
        said.append(f"the surface is not manifold: {over} edge{'s have' if over > 1 else ' has'} three or more faces")
    turned = _disagreeing(links, len(faces))
    if turned.any():
        said.append(f"{_number(turned, 'face was', 'faces were')} turned to agree with the neighbours")
        faces = np.where(turned[:, None], faces[:, ::-1], faces)
    bare = int((links.uses == 1).sum())
    if bare:
        said.append(f"the surface is open at {bare} edge{'s' * (bare > 1)} and stays so")
    if bare <= NEARLY_CLOSED * len(links.uses) and _volume(vertices, faces) < 0:
        said.append("the surface was inside out and turned")
        faces = faces[:, ::-1]
    return np.ascontiguousarray(faces), said


def _links(faces: Faces) -> _Links:
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((high, low))
    low, high, forward, face = low[order], high[order], (start < end)[order], order // 3
    first = np.flatnonzero(np.r_[True, (low[1:] != low[:-1]) | (high[1:] != high[:-1])])
    uses = np.diff(np.r_[first, len(low)])
    two = first[uses == 2]
    return _Links(uses, np.stack([face[two], face[two + 1]], 1), forward[two] != forward[two + 1])


def _disagreeing(links: _Links, count: int) -> Marks:
    """The fewest faces to turn, so that neighbours agree wherever a surface has two sides.

    Every face stands twice in a graph, as it is and turned, and is linked to what its neighbours must be; the two
    halves of a surface fall apart, but of a one-sided one they do not.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = links.pairs.T
    swap = np.where(links.agree, 0, count)
    rows, columns = np.concatenate([one, one + count]), np.concatenate([other + swap, other + count - swap])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(2 * count, 2 * count))
    parts, label = connected_components(graph, directed=False)
    plain, turned = label[:count], label[count:]
    group = np.minimum(plain, turned)
    votes = np.bincount(group, np.sign(turned - plain), parts)
    marks: Marks = (plain != turned) & np.where(votes[group] >= 0, plain > turned, plain < turned)
    return marks


def _volume(vertices: Floats, faces: Faces) -> float:
    a, b, c = ((vertices - vertices.mean(0))[faces[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum())


# ---- what cannot be drawn


def _places(vertices: Floats) -> Faces:
    """The number of each vertex's place: seams of a texture have several vertices at one place."""
    places: Faces = np.unique(vertices + 0.0, axis=0, return_inverse=True)[1].reshape(-1)
    return places


def _flat(vertices: Floats, faces: Faces) -> Marks:
    edges = np.stack([vertices[faces[:, k]] - vertices[faces[:, k - 1]] for k in range(3)], 1)
    longest = np.square(edges).sum(-1).max(-1, initial=0)
    marks: Marks = np.linalg.norm(_cross(vertices, faces), axis=-1) <= FLAT * longest
    return marks


def _double(vertices: Floats, faces: Faces) -> Marks:
    """All but the first of faces on the same three places."""
    if len(faces) == 0:
        return np.zeros(0, bool)
    corners = np.sort(_places(np.where(np.isfinite(vertices), vertices, 0.0))[faces], -1)
    _, first = np.unique(corners, axis=0, return_index=True)
    marks = np.ones(len(faces), bool)
    marks[first] = False
    return marks


def _cross(vertices: Floats, faces: Faces) -> Floats:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _rows(mesh: Mesh, kept: NDArray[np.int64], faces: Faces) -> Mesh:
    rows = torch.from_numpy(kept)
    own = {name: getattr(mesh, name) for name in ("vertices", "normals", "colors", "uv")}
    return replace(mesh, faces=torch.from_numpy(faces), **{k: v[rows] for k, v in own.items() if v is not None})


def _finite(mesh: Mesh) -> tuple[Mesh, list[str]]:
    """Colours in [0, 1], and numbers in the places of colours and texture coordinates that are none."""
    said: list[str] = []
    changed: dict[str, Any] = {}
    for name, value, what in (("colors", 0.5, "colours"), ("uv", 0.0, "texture coordinates")):
        given = getattr(mesh, name)
        if given is None:
            continue
        wrong = ~torch.isfinite(given).all(1)
        if bool(wrong.any()):
            said.append(f"{what} of {_number(wrong.numpy(), 'vertex', 'vertices')} are not finite and set to {value:g}")
        filled = torch.where(wrong[:, None], torch.full_like(given, value), given)
        changed[name] = filled.clamp(0, 1) if name == "colors" else filled.clamp(-1e4, 1e4)
    return replace(mesh, **changed), said


def _number(marks: Marks, one: str, many: str) -> str:
    count = int(marks.sum())
    return f"{count} {one if count == 1 else many}"
