"""Fewer triangles, with colours and normals carried over."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Faces = NDArray[np.int64]


@dataclass(frozen=True)
class Surface:
    """``vertices [V,3]``, ``faces [F,3]``, unit ``normals [V,3]``, ``colors [V,3]``; 5 columns with metallic and
    roughness, 0 without colours."""

    vertices: Floats
    faces: Faces
    normals: Floats
    colors: Floats


def decimate(surface: Surface, triangles: int) -> Surface:
    """At most ``triangles`` faces, few where neither the shape nor the colour changes.

    Edges are collapsed by the quadric error of Garland and Heckbert, "Surface Simplification Using Quadric Error
    Metrics" (1997). That sees the shape alone and would smear a painted face on a smooth head, so the surface is first
    embossed with its own picture (``relief``) and flattened again afterwards. A shape of very many tiny pieces can
    stay above the budget.
    """
    shift = relief(surface)
    vertices, faces = collapse(surface.vertices + shift, surface.faces, triangles)
    values = np.concatenate([shift, surface.normals, surface.colors], -1)
    embossed = area_normals(surface.vertices + shift, surface.faces)
    # Looked up on the embossed surface, where points of different colours lie further apart.
    values = transfer(values, surface.vertices + shift, embossed, vertices, area_normals(vertices, faces))
    normals = unit(values[:, 3:6])
    return Surface(unfolded(vertices - values[:, :3], faces, normals), faces, normals, values[:, 6:])


def relief(surface: Surface) -> Floats:
    """Offsets ``[V,3]`` along the normals: colours as heights, along the direction in which they vary most.

    A difference of 1 (in sRGB, from black to pure red) becomes one mean edge high.
    """
    if surface.colors.shape[1] == 0:
        return np.zeros(surface.vertices.shape)
    colors = surface.colors[:, :3] - surface.colors[:, :3].mean(0)
    _, axes = np.linalg.eigh(colors.T @ colors)
    a, b = surface.vertices[surface.faces[:, 0]], surface.vertices[surface.faces[:, 1]]
    edge = float(np.linalg.norm(a - b, axis=-1).mean())
    offsets: Floats = edge * (colors @ axes[:, -1:]) * surface.normals
    return offsets


def collapse(vertices: Floats, faces: Faces, triangles: int) -> tuple[Floats, Faces]:
    """The library's decimation (fast-simplification, MIT), cleaned of useless faces and vertices.

    Its error threshold grows from round to round, faster with a higher ``agg``: slow growth keeps the shape best, and
    faster growth is for surfaces on which it falls short.
    """
    import fast_simplification

    for aggressiveness in (5.0, 8.0, 12.0):
        if len(faces) > triangles:
            vertices, faces = fast_simplification.simplify(vertices, faces, target_count=triangles, agg=aggressiveness)
    faces = drop_degenerate(np.asarray(faces, np.int64))
    used, faces = drop_unused(faces)
    return vertices[used], faces


def drop_degenerate(faces: Faces) -> Faces:
    """Without faces that use a vertex twice, and without pairs of faces back to back on the same three vertices.

    Neither opens a hole. A thin triangle of three different vertices stays: without it the surface would be open.
    """
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, group, count = np.unique(np.sort(faces, -1), axis=0, return_inverse=True, return_counts=True)
    single: Faces = faces[count[group.reshape(-1)] == 1]
    return single


def drop_unused(faces: Faces) -> tuple[NDArray[np.int64], Faces]:
    """The vertices that faces use, in their old order, and the faces that index these."""
    used, index = np.unique(faces, return_inverse=True)
    return used, index.reshape(-1, 3)


def transfer(
    values: Floats, source: Floats, source_normals: Floats, target: Floats, target_normals: Floats, neighbours: int = 8
) -> Floats:
    """Values of the ``source`` vertices ``[V,K]`` at the ``target`` points: ``[T,K]``.

    A mean of the nearest ``neighbours``, weighted by 1/distance^2 and by how far the normals agree, so that a thin
    plate does not take the colour of its other side; where no normal agrees, the nearest vertex alone.
    """
    from scipy.spatial import cKDTree

    distance, index = cKDTree(source).query(target, k=range(1, min(neighbours, len(source)) + 1))
    agreement = np.einsum("tnk,tk->tn", source_normals[index], target_normals).clip(0, None)
    weight = agreement / (distance**2 + 1e-12)
    weight[:, 0] += np.where(weight.sum(-1) > 0, 0.0, 1.0)
    weight /= weight.sum(-1, keepdims=True)
    blended: Floats = np.einsum("tn,tnk->tk", weight, values[index])
    return blended


def unfolded(vertices: Floats, faces: Faces, normals: Floats, rounds: int = 4) -> Floats:
    """Vertices of faces that look against their vertices' normals, moved to the middle of their neighbours.

    Such slivers come from the steep sides of the relief; seen from outside they would be small holes.
    """
    mean, vertices = neighbour_mean(faces, len(vertices)), vertices.copy()
    for _ in range(rounds):
        folded = (_area_vectors(vertices, faces) * normals[faces].sum(1)).sum(-1) < 0
        moved = np.unique(faces[folded])
        vertices[moved] = mean[moved] @ vertices
    return vertices


def neighbour_mean(faces: Faces, count: int) -> Any:
    """The sparse matrix ``[V,V]`` that replaces values at vertices by the mean of their neighbours."""
    from scipy.sparse import coo_array, diags_array

    a, b = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    ends = (np.concatenate([a, b]), np.concatenate([b, a]))
    linked = coo_array((np.ones(len(ends[0])), ends), shape=(count, count)).tocsr()
    linked.data[:] = 1.0  # an inner edge was counted from both of its faces
    return diags_array(1.0 / np.maximum(linked.sum(1), 1.0)) @ linked


def area_normals(vertices: Floats, faces: Faces) -> Floats:
    """Unit normals ``[V,3]``: the mean of the faces around a vertex, weighted by area."""
    area, index = np.repeat(_area_vectors(vertices, faces), 3, axis=0), faces.reshape(-1)
    return unit(np.stack([np.bincount(index, area[:, k], len(vertices)) for k in range(3)], -1))


def unit(vectors: Floats) -> Floats:
    """Vectors ``[N,3]`` at length 1; a zero vector stays."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-20)
    return scaled


def _area_vectors(vertices: Floats, faces: Faces) -> Floats:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)
