"""From the mesh a scene extracts to the mesh a tool imports."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge.export.arrays import MeshArrays, checked
from dreamforge.export.decimate import Floats, Surface, decimate, drop_degenerate, drop_unused, neighbour_mean, unit
from dreamforge.geometry.bake import Values, bake, texels_normals, texels_of
from dreamforge.geometry.nearest import Nearest
from dreamforge.geometry.parts import apart, joined
from dreamforge.geometry.unwrap import unwrap
from dreamforge.ops.raster import interpolate
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
    tear the charts; the light alone is taken out. Parts stay parts: each is decimated by itself, to its share of the
    budget. The result is on the CPU. Raises DreamforgeError for a budget of fewer than 4 triangles and for what
    ``arrays.checked`` and ``unwrap`` refuse.
    """
    if triangles < 4:
        raise DreamforgeError(f"the budget is {triangles} triangles, expected at least 4; give a larger one")
    arrays = checked(mesh)
    if mesh.texture is not None:
        return _kept(mesh, arrays, delight)
    pieces = [_source(checked(one), delight and arrays.colors is not None) for one in apart(mesh)]
    total = sum(len(piece.surface.faces) for piece in pieces)
    if total > triangles:
        shares = [max(4, triangles * len(piece.surface.faces) // total) for piece in pieces]
        small = [decimate(piece.surface, share) for piece, share in zip(pieces, shares, strict=True)]
    else:
        small = [piece.surface for piece in pieces]
    plain = joined([_mesh(one) for one in small], [name for name, _ in mesh.parts])
    if not texture or plain.colors is None:
        return plain
    return _baked(plain, _whole(pieces), texture, colors, delight)


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


def _whole(pieces: list[_Source]) -> _Source:
    """All sources as one."""
    first = np.cumsum([0, *(len(piece.surface.vertices) for piece in pieces)])[:-1]
    surface = Surface(
        np.concatenate([piece.surface.vertices for piece in pieces]),
        np.concatenate([piece.surface.faces + start for piece, start in zip(pieces, first, strict=True)]),
        np.concatenate([piece.surface.normals for piece in pieces]),
        np.concatenate([piece.surface.colors for piece in pieces]),
    )
    return _Source(surface, np.concatenate([piece.lit for piece in pieces]))


def _baked(mesh: Mesh, source: _Source, size: int, colors: Values | None, delight: bool) -> Mesh:
    """``mesh`` with coordinates, and what ``source`` shows as maps of ``size``^2 texels."""
    full = source.surface
    faces = torch.from_numpy(full.faces)
    nearest = Nearest(torch.from_numpy(full.vertices), faces)
    values = torch.from_numpy(np.concatenate([full.vertices, full.normals, source.lit, full.colors], -1)).float()

    def shown(position: Tensor, normal: Tensor) -> Tensor:
        face, bary = nearest(position, normal)
        carried: Tensor = interpolate(values, faces, face, bary)
        place, facing, smooth, painted = carried.tensor_split([3, 6, 9], 1)
        if colors is None:
            return painted
        found = colors(place, torch.nn.functional.normalize(facing, dim=-1)).detach().cpu()
        if not delight:
            return found
        rgb = light.delight(found[:, :3], torch.nn.functional.normalize(smooth, dim=-1))
        return torch.cat([rgb, found[:, 3:]], 1)

    mesh = unwrap(replace(mesh, colors=None, material=None), size)
    maps = bake(mesh, size, shown)
    return replace(mesh, texture=maps[..., :3], material=maps[..., 3:] if maps.shape[-1] == 5 else None)


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
