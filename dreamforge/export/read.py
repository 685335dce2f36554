"""Reads an exported mesh back, through trimesh: a reader that is not ours."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge.export.arrays import checked
from dreamforge.export.write import FORMATS
from dreamforge.render.light import linear_to_srgb
from dreamforge.types import DreamforgeError, Mesh


def load_mesh(path: str | os.PathLike[str]) -> Mesh:
    """The one mesh of a .glb, .obj or .ply file, in the world's axes; colours come back as sRGB.

    Raises DreamforgeError for a file that is missing, unknown, damaged, or holds more than one mesh.
    """
    import trimesh

    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise DreamforgeError(f"cannot read {str(path)!r}: expected a name that ends in .{', .'.join(FORMATS)}")
    if not path.is_file():
        raise DreamforgeError(f"there is no file {str(path)!r}, expected a mesh; check the path")
    try:
        scene = trimesh.load_scene(path, file_type=kind, process=False, maintain_order=True)
        pieces = [(scene.geometry[name], place) for place, name in map(scene.graph.get, scene.graph.nodes_geometry)]
        meshes = [_mesh(piece, place, kind) for piece, place in pieces]
        for mesh in meshes:
            checked(mesh)
    except Exception as error:  # what trimesh raises on damage is open: index, assertion, JSON, struct, value errors
        raise _damaged(path) from error
    if len(meshes) != 1:
        raise DreamforgeError(f"{str(path)!r} holds {len(meshes)} meshes, expected exactly one; join them first")
    return meshes[0]


def _mesh(piece: Any, place: Any, kind: str) -> Mesh:
    vertices = piece.vertices @ place[:3, :3].T + place[:3, 3]
    normals = piece.vertex_normals @ np.linalg.inv(place[:3, :3])
    normals = torch.nn.functional.normalize(_float(normals), dim=-1)
    faces = torch.from_numpy(np.array(piece.faces, dtype=np.int64))
    visual = piece.visual
    image = _image(visual)
    if image is None or visual.uv is None:
        return Mesh(_float(vertices), faces, normals, _colors(visual, linear=kind == "glb"))
    # trimesh counts v from the bottom, whatever the file does.
    uv = _float(np.stack([visual.uv[:, 0], 1 - visual.uv[:, 1]], -1))
    texture = _float(np.asarray(image.convert("RGB")) / 255)
    return Mesh(_float(vertices), faces, normals, uv=uv, texture=texture, material=_material(visual.material))


def _material(material: Any) -> Tensor | None:
    """The map of metallic and roughness of a glTF file, ``[H,W,2]``."""
    image = getattr(material, "metallicRoughnessTexture", None)
    if image is None:
        return None
    factors = [1.0 if one is None else one for one in (material.metallicFactor, material.roughnessFactor)]
    return _float(np.asarray(image.convert("RGB"))[..., :0:-1] / 255 * factors)


def _image(visual: Any) -> Any:
    material = getattr(visual, "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _colors(visual: Any, linear: bool) -> Tensor | None:
    """Vertex colours as sRGB ``[V,3]`` in [0, 1], stored as floats or as integers over their whole range."""
    # Beside a material trimesh keeps the stored numbers; without one it makes bytes of them.
    stored = getattr(visual, "vertex_attributes", {}).get("color")
    if stored is None and visual.kind == "vertex":
        stored = visual.vertex_colors
    if stored is None:
        return None
    colors = _float(stored[:, :3] / (np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1))
    return linear_to_srgb(colors) if linear else colors


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _damaged(path: Path) -> DreamforgeError:
    return DreamforgeError(f"cannot read {str(path)!r}: it is damaged or not a mesh; export it again")
