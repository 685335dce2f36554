"""Texture coordinates for a mesh that has none: charts that do not overlap, with margins between them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamforge.geometry.points import face_areas
from dreamforge.types import DreamforgeError, Mesh

SIDE = 1024  # texels of the square that charts are packed into, whatever the size of the map
MARGINS = (8, 4)  # of these texels around each chart, so twice as many between two; at least one of the map
LEAST = 0.25  # of the square: where the wider margins leave less to the charts, the narrower ones are taken
TRIES = 6
LARGEST = 200_000  # triangles


@dataclass(frozen=True)
class Charts:
    """``count`` of them, packed into a square of ``side`` texels, ``density`` a metre: ``place [N,2]`` in texels,
    ``origin [N]`` the vertex that each of these is a copy of, ``faces [F,3]`` in the old order."""

    place: NDArray[np.float32]
    origin: NDArray[np.int64]
    faces: NDArray[np.uint32]
    side: int
    density: float
    count: int


def unwrap(mesh: Mesh, size: int = 1024) -> Mesh:
    """The mesh with ``uv [V,2]`` in [0, 1] for a map of ``size``^2 texels, vertices split where charts end.

    Charts and their packing are of the library xatlas (MIT), all at one density, the highest at which they fit.
    Normals, colours and a vertex's material go with their vertices, a picture is left out. Takes about 5 seconds for
    20 000 triangles. Raises DreamforgeError for a mesh without an area, or of more than 200 000 triangles.
    """
    area = float(face_areas(mesh).double().sum()) if len(mesh.faces) else 0.0
    if not 0 < area < float("inf") or len(mesh.faces) > LARGEST:
        raise DreamforgeError(
            f"a mesh of {len(mesh.faces)} triangles and {area:g} square metres was to be unwrapped, but an area and at "
            f"most {LARGEST} triangles are expected; repair or decimate it."
        )
    first = _cut(mesh, 0.5 * SIDE / area**0.5)
    most = max(int(0.35 * SIDE / first.count**0.5) - 1, 1)  # half of the square for margins alone
    for margin in sorted({min(max(wanted, -(-SIDE // size)), most) for wanted in MARGINS}, reverse=True):
        charts = _fitted(first, margin)
        if area * charts.density**2 > LEAST * SIDE**2:
            break
    # Half a margin all around, since pictures repeat.
    uv = (torch.from_numpy(charts.place) + margin / 2) / max(charts.side + margin, SIDE)
    origin = torch.from_numpy(charts.origin)

    def split(values: Tensor | None) -> Tensor | None:
        return None if values is None or values.ndim != 2 else values.cpu()[origin]

    return Mesh(
        mesh.vertices.cpu()[origin],
        torch.from_numpy(charts.faces.astype(np.int64)),
        split(mesh.normals),
        split(mesh.colors),
        uv,
        material=split(mesh.material),
        parts=mesh.parts,
    )


def _cut(mesh: Mesh, density: float) -> Charts:
    """The mesh in charts, packed at ``density`` texels a metre without regard to the square."""
    import xatlas

    atlas = xatlas.Atlas()
    vertices = np.ascontiguousarray(mesh.vertices.cpu().numpy(), np.float32)
    atlas.add_mesh(vertices, np.ascontiguousarray(mesh.faces.cpu().numpy(), np.uint32))
    return _packed(atlas, density, 0)


def _fitted(first: Charts, margin: int) -> Charts:
    """The charts packed anew, at nearly the highest density at which they fit."""
    import xatlas

    room, slope = SIDE - margin, 1.0  # of the side over the density, both as logarithms
    best, last = None, first
    for _ in range(TRIES):
        density = last.density * float(np.clip((0.98 * room / last.side) ** (1 / slope), 0.1, 4.0))
        atlas = xatlas.Atlas()
        atlas.add_uv_mesh(first.place / np.float32(first.density), first.faces)
        charts = _packed(atlas, density, margin)
        charts = replace(charts, origin=first.origin[charts.origin])
        if charts.side <= room and (best is None or charts.density > best.density):
            best = charts
        if 0.94 * room < charts.side <= room:
            break
        if last is not first and charts.side != last.side:  # margins do not grow with the density
            slope = float(np.clip(np.log(charts.side / last.side) / np.log(charts.density / last.density), 0.2, 1.0))
        last = charts
    return best or last


def _packed(atlas: Any, density: float, margin: int) -> Charts:
    import xatlas

    packing = xatlas.PackOptions()
    packing.padding, packing.texels_per_unit = margin, density
    atlas.generate(xatlas.ChartOptions(), packing)
    origin, faces, uv = atlas[0]
    place = uv * np.array([atlas.width, atlas.height], np.float32)
    side = max(atlas.width, atlas.height)
    return Charts(place, origin.astype(np.int64), faces.reshape(-1, 3), side, density, atlas.chart_count)
