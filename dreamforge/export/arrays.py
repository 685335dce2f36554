"""A Mesh as checked numpy arrays: what every writer starts from."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamforge.render.raster import vertex_normals
from dreamforge.types import DreamforgeError, Mesh

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MeshArrays:
    """``vertices [V,3]``, ``faces [F,3]``, unit ``normals [V,3]``; ``colors [V,3]`` sRGB in [0, 1] or
    ``uv [V,2]`` (origin at the top left) with ``texture [H,W,3]`` sRGB bytes, or neither. Metallic and roughness, if
    they are known: ``material [V,2]`` in [0, 1], or ``material_map [H,W,2]`` bytes beside a texture."""

    vertices: Floats
    faces: NDArray[np.int64]
    normals: Floats
    colors: Floats | None
    uv: Floats | None
    texture: NDArray[np.uint8] | None
    material: Floats | None
    material_map: NDArray[np.uint8] | None


def checked(mesh: Mesh) -> MeshArrays:
    """The mesh on the CPU, with normals if it had none and no colours where it has a texture.

    Raises DreamforgeError for a mesh without triangles, with values that are not finite, with faces that point outside
    its vertices, with arrays of other lengths, with only one of ``uv`` and ``texture``, with a ``material`` that is not
    of the kind of its colours, or with ``parts`` that are not its faces.
    """
    if len(mesh.faces) == 0 or len(mesh.vertices) == 0:
        raise DreamforgeError(
            "the mesh has no triangles, expected a surface; train longer, or lower the density threshold of extraction"
        )
    if (mesh.uv is None) != (mesh.texture is None):
        raise DreamforgeError("the mesh has only one of uv and texture, expected both or neither; add the other")
    if mesh.parts and (min(few := [count for _, count in mesh.parts]) < 1 or sum(few) != len(mesh.faces)):
        raise DreamforgeError(
            f"the mesh has parts of {', '.join(map(str, few))} faces, expected one or more each and {len(mesh.faces)} "
            "together; join it again"
        )
    shape, mapped = () if mesh.material is None else tuple(mesh.material.shape), mesh.texture is not None
    if shape and (len(shape) != 2 + mapped or shape[-1] != 2):
        raise DreamforgeError(
            f"the mesh has a material {list(shape)}, expected metallic and roughness as [V,2], or as [H,W,2] beside a "
            "texture; make it of the kind of its colours"
        )
    vertices = _floats(mesh.vertices, "vertices")
    count = len(vertices)
    faces = np.ascontiguousarray(mesh.faces.detach().cpu().numpy(), dtype=np.int64)
    if faces.min() < 0 or faces.max() >= count:
        raise DreamforgeError(
            f"faces name vertices {faces.min()} to {faces.max()}, expected 0 to {count - 1}; repair the mesh first"
        )
    per_vertex = {"normals": mesh.normals, "uv": mesh.uv}
    per_vertex |= {"colors": None, "material": None} if mapped else {"colors": mesh.colors, "material": mesh.material}
    for name, tensor in per_vertex.items():
        if tensor is not None and len(tensor) != count:
            raise DreamforgeError(f"the mesh has {len(tensor)} {name}, expected one for each of its {count} vertices")
    normals, colors = mesh.normals, per_vertex["colors"]
    if normals is None:
        normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(faces))
    return MeshArrays(
        vertices,
        faces,
        _unit(_floats(normals, "normals")),
        None if colors is None else _floats(colors, "colors").clip(0, 1),
        None if mesh.uv is None else _floats(mesh.uv, "uv"),
        None if mesh.texture is None else _bytes(mesh.texture, "texture"),
        None if mesh.material is None or mapped else _floats(mesh.material, "material").clip(0, 1),
        None if mesh.material is None or not mapped else _bytes(mesh.material, "material"),
    )


def vertex_colors(arrays: MeshArrays) -> Floats | None:
    """``colors [V,3]`` sRGB: the mesh's own, or its texture looked up at the vertices (nearest texel, repeating)."""
    if arrays.uv is None or arrays.texture is None:
        return arrays.colors
    height, width = arrays.texture.shape[:2]
    column, row = np.floor(arrays.uv * [width, height]).astype(np.int64).T
    texels: Floats = arrays.texture[row % height, column % width].astype(np.float32) / np.float32(255)
    return texels


def png_bytes(texture: NDArray[np.uint8]) -> bytes:
    """``[H,W,3]`` bytes, or ``[H,W]`` of grey, as a PNG file."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(texture).save(stream, format="PNG")
    return stream.getvalue()


def _floats(tensor: Tensor, name: str) -> Floats:
    array = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    if not np.isfinite(array).all():
        raise DreamforgeError(f"the mesh's {name} hold values that are not finite, expected numbers; repair it first")
    return array


def _bytes(tensor: Tensor, name: str) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = (_floats(tensor, name).clip(0, 1) * 255).round().astype(np.uint8)
    return levels


def _unit(vectors: Floats) -> Floats:
    """Vectors ``[N,3]`` at length 1; a zero vector becomes +Y, since formats forbid zero normals."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return np.where(length > 1e-20, vectors / np.maximum(length, 1e-20), [0.0, 1.0, 0.0]).astype(np.float32)
