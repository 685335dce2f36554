"""Writes binary glTF 2.0 (.glb). Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html

Our own writer instead of trimesh's: that one stores vertex colours as given, in bytes, where glTF wants linear values
(bytes of linear light show bands in the dark); it has no place for ``extras`` of the asset and of the node; and the
bytes of a run must not change with a library's version. What is left to write is one JSON object and six arrays.
"""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreamforge import __version__
from dreamforge.export.arrays import Floats, MeshArrays, checked, png_bytes
from dreamforge.files import atomic_write
from dreamforge.geometry.parts import apart
from dreamforge.render.light import srgb_to_linear
from dreamforge.types import Mesh

ROUGHNESS = 0.9
_MAGIC, _VERSION, _JSON, _BIN = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125  # component types
_VERTEX_DATA, _INDICES = 34962, 34963  # targets of buffer views
_LINEAR, _TRILINEAR = 9729, 9987  # sampler filters; repeating is the default


class _Binary:
    """The binary chunk while it grows, with its buffer views and accessors."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        self.data += bytes(-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += data
        return len(self.views) - 1

    def accessor(self, array: NDArray[Any], kind: str, component: int, target: int, **more: Any) -> int:
        count = array.size if kind == "SCALAR" else len(array)
        view = self.view(array.tobytes(), target)
        self.accessors.append({"bufferView": view, "componentType": component, "count": count, "type": kind, **more})
        return len(self.accessors) - 1


def write_glb(mesh: Mesh, path: str | os.PathLike[str], extras: Mapping[str, Any] | None = None) -> None:
    """Write one mesh with one opaque material, rough and non-metallic where the mesh does not say. Each of its parts is
    a mesh of its own, in a node of its name below one for all.

    Axes and unit are the world's (right-handed, metres, +Y up, front +Z), which are glTF's own: nothing is converted.
    Vertex colours are stored as linear light (16 bits), a texture as an sRGB PNG inside the file; maps of metallic and
    roughness as a linear one (B and G), values at vertices as their mean, since glTF has none there. ``extras``
    (anything JSON can hold: prompt, recipe, seed) are stored on the asset, where provenance is looked for, and on the
    node, where Blender, Godot and three.js keep them with the object. Equal arguments give equal bytes.

    Raises DreamforgeError for a mesh ``arrays.checked`` refuses and for a path that cannot be written.
    """
    atomic_write(path, glb_bytes(mesh, extras))


def glb_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that ``write_glb`` writes."""
    arrays, binary = checked(mesh), _Binary()
    names = [name for name, _ in mesh.parts] or ["asset"]
    primitives = [_primitive(checked(one), binary) for one in apart(mesh)]
    material, images = _material(arrays, binary)
    notes = {"extras": dict(extras)} if extras else {}
    if mesh.parts:
        below = [{"name": name, "mesh": number} for number, name in enumerate(names)]
        nodes = [{"name": "asset", "children": list(range(1, len(names) + 1)), **notes}, *below]
    else:
        nodes = [{"name": "asset", "mesh": 0, **notes}]
    document = {
        "asset": {"version": "2.0", "generator": f"dreamforge {__version__}", **notes},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": [{"name": name, "primitives": [one]} for name, one in zip(names, primitives, strict=True)],
        "materials": [
            {"name": "surface", "pbrMetallicRoughness": material, "alphaMode": "OPAQUE", "doubleSided": False}
        ],
        **images,
        "buffers": [{"byteLength": len(binary.data)}],
        "bufferViews": binary.views,
        "accessors": binary.accessors,
    }
    return _container(document, bytes(binary.data))


def _primitive(arrays: MeshArrays, binary: _Binary) -> dict[str, Any]:
    positions = arrays.vertices.astype("<f4")
    bounds = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    attributes = {
        "POSITION": binary.accessor(positions, "VEC3", _FLOAT, _VERTEX_DATA, **bounds),
        "NORMAL": binary.accessor(arrays.normals.astype("<f4"), "VEC3", _FLOAT, _VERTEX_DATA),
    }
    if arrays.uv is not None:
        attributes["TEXCOORD_0"] = binary.accessor(arrays.uv.astype("<f4"), "VEC2", _FLOAT, _VERTEX_DATA)
    if arrays.colors is not None:
        colors = _linear_colors(arrays.colors)
        attributes["COLOR_0"] = binary.accessor(colors, "VEC4", _USHORT, _VERTEX_DATA, normalized=True)
    # The highest value of an index type means "restart" to graphics hardware: 65 535 vertices are the most for 16 bits.
    short = len(positions) <= 65535
    indices = arrays.faces.astype("<u2" if short else "<u4")
    index = binary.accessor(indices, "SCALAR", _USHORT if short else _UINT, _INDICES)
    return {"attributes": attributes, "indices": index, "material": 0, "mode": 4}


def _material(arrays: MeshArrays, binary: _Binary) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metallic-roughness block, and the images that it names."""
    metallic, roughness = (0.0, ROUGHNESS) if arrays.material is None else arrays.material.mean(0).tolist()
    if arrays.material_map is not None:
        metallic, roughness = 1.0, 1.0
    material: dict[str, Any] = {"metallicFactor": metallic, "roughnessFactor": roughness}
    pictures = {}
    if arrays.texture is not None:
        pictures["baseColorTexture"] = arrays.texture
    if arrays.material_map is not None:
        # Red is where glTF puts occlusion: none, for a reader that looks for it here.
        red = np.full_like(arrays.material_map[..., :1], 255)
        pictures["metallicRoughnessTexture"] = np.concatenate([red, arrays.material_map[..., ::-1]], -1)
    if not pictures:
        return material, {}
    images = [{"bufferView": binary.view(png_bytes(one)), "mimeType": "image/png"} for one in pictures.values()]
    textures = [{"source": number, "sampler": 0} for number in range(len(images))]
    material |= {name: {"index": number} for number, name in enumerate(pictures)}
    sampler = {"magFilter": _LINEAR, "minFilter": _TRILINEAR}
    return material, {"images": images, "samplers": [sampler], "textures": textures}


def _linear_colors(colors: Floats) -> NDArray[np.uint16]:
    """sRGB -> linear light in 16 bits, opaque: four components keep the rows on 4-byte borders."""
    linear = srgb_to_linear(torch.from_numpy(colors)).numpy()
    opaque = np.ones((len(linear), 1), np.float32)
    return (np.concatenate([linear, opaque], -1).clip(0, 1) * 65535).round().astype("<u2")


def _container(document: dict[str, Any], binary: bytes) -> bytes:
    """Section 4.4 of the specification: a header and two chunks, padded to 4 bytes with spaces and zeros."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(binary), _BIN) + binary
    return struct.pack("<III", _MAGIC, _VERSION, 12 + len(chunks)) + chunks
