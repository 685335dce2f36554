"""Texture coordinates for a mesh that has none: charts that do not overlap, with gutters between them."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamforge.geometry.points import face_areas
from dreamforge.types import DreamforgeError, Mesh

GUTTER = 12 / 1024  # of the side, between charts: look-ups a quarter as fine still find one chart alone
TRIES = 4


def unwrap(mesh: Mesh, size: int = 1024) -> Mesh:
    """The mesh with ``uv [V,2]`` in [0, 1] for a map of ``size``^2 texels, vertices split where charts end.

    Charts by the library xatlas (MIT), packed by it into one square, all at one density of texels: about three quarters
    of the map are used. Normals, colours and material go with their vertices; faces keep their order. Takes about 3
    seconds for 20 000 triangles. Raises DreamforgeError for a mesh without triangles or with no area, for more than
    1 000 000 of them, and for a ``size`` below 16.
    """
    area = float(face_areas(mesh).double().sum()) if len(mesh.faces) else 0.0
    if not area > 0 or len(mesh.faces) > 1_000_000 or size < 16:
        raise DreamforgeError(
            f"a mesh of {len(mesh.faces)} triangles and {area:g} square metres was to be unwrapped to {size} texels, "
            "but a surface of at most 1000000 triangles and a side of at least 16 are expected; decimate or repair it."
        )
    gutter = max(2, round(GUTTER * size))
    density = size / area**0.5
    for _ in range(TRIES):
        origin, faces, place, side = _packed(mesh, density, gutter)
        if side + gutter <= size:
            break
        density *= 0.98 * (size - gutter) / side
    uv = (place + gutter / 2) / max(side + gutter, size)  # half a gutter around all: pictures repeat
    split = {
        name: None if values is None else values[origin]
        for name, values in (("normals", mesh.normals), ("colors", mesh.colors))
    }
    material = None if mesh.material is None or mesh.material.ndim == 3 else mesh.material[origin]
    return replace(
        mesh, vertices=mesh.vertices[origin], faces=faces, uv=uv.float(), texture=None, material=material, **split
    )


def _packed(mesh: Mesh, density: float, gutter: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Charts at ``density`` texels a metre: the vertex that each new one is a copy of ``[N]``, faces ``[F,3]``, places
    in texels ``[N,2]``, and the side of the square that holds them."""
    import xatlas

    vertices: NDArray[np.float32] = np.ascontiguousarray(mesh.vertices.cpu().numpy(), np.float32)
    atlas, packing = xatlas.Atlas(), xatlas.PackOptions()
    packing.padding, packing.texels_per_unit = gutter, density
    atlas.add_mesh(vertices, np.ascontiguousarray(mesh.faces.cpu().numpy(), np.uint32))
    atlas.generate(xatlas.ChartOptions(), packing)
    origin, faces, uv = atlas[0]
    place = torch.from_numpy(uv.astype(np.float64) * [atlas.width, atlas.height])
    return (
        torch.from_numpy(origin.astype(np.int64)),
        torch.from_numpy(faces.astype(np.int64)).view(-1, 3),
        place,
        max(atlas.width, atlas.height),
    )
