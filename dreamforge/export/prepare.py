"""From the mesh a scene extracts to the mesh a tool imports."""

from typing import Any

import numpy as np
import torch

from dreamforge.export.arrays import checked
from dreamforge.export.decimate import Floats, Surface, decimate, drop_degenerate, drop_unused, neighbour_mean, unit
from dreamforge.render import light
from dreamforge.types import DreamforgeError, Mesh

SHADING_ROUNDS = 2  # smoothing of the normals that are exported
LIGHT_ROUNDS = 10  # of the normals the light is divided by: noise in them would be painted onto the surface


def prepare(mesh: Mesh, triangles: int = 20_000, delight: bool = True) -> Mesh:
    """Clean, take the light out of the colours, decimate to ``triangles``, and give smooth normals.

    ``delight=False`` for colours that are albedo already. A scene that was optimised against pictures has them as
    shown, and an engine would light them a second time. Meshes with vertex colours or none; the result is on the CPU.

    Raises DreamforgeError for fewer than 4 triangles, a textured mesh, and what ``arrays.checked`` refuses.
    """
    if triangles < 4:
        raise DreamforgeError(f"the budget is {triangles} triangles, expected at least 4; give a larger one")
    if mesh.texture is not None:
        raise DreamforgeError("the mesh has a texture, expected vertex colours; export it as it is")
    arrays = checked(mesh)
    faces = drop_degenerate(arrays.faces)
    if len(faces) == 0:
        raise DreamforgeError("all triangles of the mesh are degenerate, expected a surface; train longer")
    mean = neighbour_mean(faces, len(arrays.vertices))
    normals = arrays.normals.astype(np.float64)
    colors = np.zeros((len(normals), 0)) if arrays.colors is None else arrays.colors.astype(np.float64)
    if delight and arrays.colors is not None:
        smooth = _smoothed(normals, mean, LIGHT_ROUNDS)
        colors = light.delight(torch.from_numpy(colors), torch.from_numpy(smooth)).numpy()
    surface = Surface(arrays.vertices.astype(np.float64), faces, _smoothed(normals, mean, SHADING_ROUNDS), colors)
    return _mesh(decimate(surface, triangles) if len(faces) > triangles else surface)


def _smoothed(normals: Floats, mean: Any, rounds: int) -> Floats:
    """Each normal turned half-way to the mean of its neighbours, ``rounds`` times."""
    for _ in range(rounds):
        normals = unit(normals + mean @ normals)
    return normals


def _mesh(surface: Surface) -> Mesh:
    used, faces = drop_unused(surface.faces)
    vertices, normals, colors = (
        torch.from_numpy(array[used].astype(np.float32))
        for array in (surface.vertices, surface.normals, surface.colors.clip(0, 1))
    )
    return Mesh(vertices, torch.from_numpy(faces), normals, colors if colors.shape[1] else None)
