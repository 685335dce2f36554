"""From the mesh a scene extracts to the mesh a tool imports."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge.export.arrays import MeshArrays, checked
from dreamforge.export.decimate import (
    Floats,
    Surface,
    decimate,
    drop_degenerate,
    drop_unused,
    neighbour_mean,
    transfer,
    unit,
)
from dreamforge.geometry.bake import Values, bake, texels_normals, texels_of
from dreamforge.geometry.unwrap import unwrap
from dreamforge.render import light
from dreamforge.types import DreamforgeError, Mesh

SHADING_ROUNDS = 2  # smoothing of the normals that are exported
LIGHT_ROUNDS = 10  # of the normals the light is divided by: noise in them would be painted onto the surface


def prepare(
    mesh: Mesh, triangles: int = 20_000, delight: bool = True, texture: int = 0, colors: Values | None = None
) -> Mesh:
    """Clean, take the light out of the colours, decimate to ``triangles``, give smooth normals, and bake a texture.

    ``delight=False`` for colours that are albedo already. A scene that was optimised against pictures has them as
    shown, and an engine would light them a second time. ``texture``: the side of the maps that take the colours (and
    the material, where there is one), 0: they stay at the vertices. Texels ask ``colors`` (as of
    ``types.HasColors.colors_at``) at the places on the full mesh that they stand for, else that mesh itself.

    A mesh that has a texture keeps it, its coordinates and all its triangles, whatever their budget: decimation would
    tear the charts; the light alone is taken out. The result is on the CPU. Raises DreamforgeError for a budget of
    fewer than 4 triangles and for what ``arrays.checked`` and ``unwrap`` refuse.
    """
    if triangles < 4:
        raise DreamforgeError(f"the budget is {triangles} triangles, expected at least 4; give a larger one")
    arrays = checked(mesh)
    if mesh.texture is not None:
        return _kept(mesh, arrays, delight)
    source = _source(arrays, delight and arrays.colors is not None)
    small = decimate(source.surface, triangles) if len(source.surface.faces) > triangles else source.surface
    plain = _mesh(small)
    if not texture or plain.colors is None:
        return plain
    return _baked(plain, source, texture, colors, delight)


@dataclass(frozen=True)
class _Source:
    """The full mesh, its colours without light, and the normals ``[V,3]`` by which that was taken out."""

    surface: Surface
    lit: Floats


def _source(arrays: MeshArrays, delight: bool) -> _Source:
    faces = drop_degenerate(arrays.faces)
    if len(faces) == 0:
        raise DreamforgeError("all triangles of the mesh are degenerate, expected a surface; train longer")
    mean = neighbour_mean(faces, len(arrays.vertices))
    normals = arrays.normals.astype(np.float64)
    colors = np.zeros((len(normals), 0)) if arrays.colors is None else arrays.colors.astype(np.float64)
    smooth = _smoothed(normals, mean, LIGHT_ROUNDS) if delight else normals
    if delight:
        colors = light.delight(torch.from_numpy(colors), torch.from_numpy(smooth)).numpy()
    if arrays.material is not None and arrays.colors is not None:
        colors = np.concatenate([colors, arrays.material], -1)
    shaded = _smoothed(normals, mean, SHADING_ROUNDS)
    return _Source(Surface(arrays.vertices.astype(np.float64), faces, shaded, colors), smooth)


def _baked(mesh: Mesh, source: _Source, size: int, colors: Values | None, delight: bool) -> Mesh:
    """``mesh`` with coordinates, and what ``source`` shows as maps of ``size``^2 texels."""
    full = source.surface
    found = colors

    def from_mesh(position: Tensor, normal: Tensor) -> Tensor:
        return torch.from_numpy(_at(full.colors, full, position, normal)).float()

    def from_scene(position: Tensor, normal: Tensor) -> Tensor:
        assert found is not None
        place = _at(np.concatenate([full.vertices, full.normals, source.lit], -1), full, position, normal)
        at, facing, smooth = torch.from_numpy(place).float().split(3, 1)
        values = found(at, torch.nn.functional.normalize(facing, dim=-1)).detach().cpu()
        if not delight:
            return values
        rgb = light.delight(values[:, :3], torch.nn.functional.normalize(smooth, dim=-1))
        return torch.cat([rgb, values[:, 3:]], 1)

    mesh = unwrap(replace(mesh, colors=None, material=None), size)
    maps = bake(mesh, size, from_mesh if colors is None else from_scene)
    return replace(mesh, texture=maps[..., :3], material=maps[..., 3:] if maps.shape[-1] == 5 else None)


def _at(values: Floats, full: Surface, position: Tensor, normal: Tensor) -> Floats:
    return transfer(values, full.vertices, full.normals, position.double().numpy(), normal.double().numpy())


def _kept(mesh: Mesh, arrays: MeshArrays, delight: bool) -> Mesh:
    """A textured mesh as it is, with normals, its picture without light."""
    normals = torch.from_numpy(arrays.normals)
    kept = replace(
        mesh,
        vertices=torch.from_numpy(arrays.vertices),
        faces=torch.from_numpy(arrays.faces),
        normals=normals,
        colors=None,
        uv=mesh.uv.cpu() if mesh.uv is not None else None,
        texture=mesh.texture.cpu() if mesh.texture is not None else None,
        material=mesh.material.cpu() if mesh.material is not None else None,
    )
    if not delight or kept.texture is None or kept.uv is None:
        return kept
    height, width = kept.texture.shape[:2]
    texels = texels_of(kept.uv, kept.faces, height, width)
    flat = kept.texture.flatten(0, 1)
    shown = flat.index_select(0, texels.number)
    return replace(kept, texture=texels.filled(light.delight(shown, texels_normals(kept, texels))))


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
    painted, material = colors[:, :3], colors[:, 3:]
    return Mesh(
        vertices,
        torch.from_numpy(faces),
        normals,
        painted if painted.shape[1] else None,
        material=material if material.shape[1] else None,
    )
