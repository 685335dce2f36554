"""Meshes joined into one that knows its objects by name, and apart again."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dreamforge.types import Mesh


def joined(meshes: Sequence[Mesh], names: Sequence[str] = ()) -> Mesh:
    """Meshes as one, whose ``parts`` they are by their ``names``, if they have some; of normals, vertex colours and
    materials those that all of them have."""

    def all_of(name: str) -> Tensor | None:
        found = [getattr(mesh, name) for mesh in meshes]
        whole = [one for one in found if one is not None and one.ndim == 2]
        return torch.cat(whole) if len(whole) == len(meshes) else None

    before, faces = 0, []
    for mesh in meshes:
        faces.append(mesh.faces + before)
        before += len(mesh.vertices)
    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat(faces),
        all_of("normals"),
        all_of("colors"),
        material=all_of("material"),
        parts=tuple((name, len(mesh.faces)) for name, mesh in zip(names, meshes, strict=True)) if names else (),
    )


def apart(mesh: Mesh) -> list[Mesh]:
    """The ``parts`` of a mesh, each with its own vertices in their old order, all with the same texture; where it has
    none, the mesh itself."""
    if not mesh.parts:
        return [mesh]
    return [_with(mesh, faces) for faces in mesh.faces.split([count for _, count in mesh.parts])]


def _with(mesh: Mesh, faces: Tensor) -> Mesh:
    used, corner = faces.unique(return_inverse=True)

    def own(values: Tensor | None) -> Tensor | None:
        return None if values is None or values.ndim != 2 else values[used]

    material = mesh.material if mesh.texture is not None else own(mesh.material)
    colors, uv, normals = own(mesh.colors), own(mesh.uv), own(mesh.normals)
    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=corner,
        normals=normals,
        colors=colors,
        uv=uv,
        material=material,
        parts=(),
    )
