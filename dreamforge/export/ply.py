"""Writes PLY meshes, binary little endian."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamforge.export.arrays import checked, vertex_colors
from dreamforge.files import atomic_write
from dreamforge.types import Mesh


def write_ply(mesh: Mesh, path: str | os.PathLike[str], extras: Mapping[str, Any] | None = None) -> None:
    """Write positions, normals and, if there are any, sRGB colours as bytes; ``extras`` become comments.

    PLY has no agreed way to carry a texture: a textured mesh gets the texture's colours at its vertices; metallic and
    roughness are left out.
    Raises DreamforgeError for a mesh ``arrays.checked`` refuses and for a path that cannot be written.
    """
    atomic_write(path, ply_bytes(mesh, extras))


def ply_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that ``write_ply`` writes."""
    arrays = checked(mesh)
    colors = vertex_colors(arrays)
    columns: list[tuple[str, str, NDArray[Any]]]
    columns = [(name, "<f4", arrays.vertices[:, i]) for i, name in enumerate(("x", "y", "z"))]
    columns += [(name, "<f4", arrays.normals[:, i]) for i, name in enumerate(("nx", "ny", "nz"))]
    if colors is not None:
        levels = (colors * 255).round().astype(np.uint8)
        columns += [(name, "u1", levels[:, i]) for i, name in enumerate(("red", "green", "blue"))]
    vertices = np.empty(len(arrays.vertices), [(name, kind) for name, kind, _ in columns])
    for name, _, column in columns:
        vertices[name] = column
    faces = np.empty(len(arrays.faces), [("count", "u1"), ("vertices", "<i4", 3)])
    faces["count"], faces["vertices"] = 3, arrays.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment right-handed, metres, +Y up, front +Z, colours sRGB",
        *(
            f"comment {json.dumps(key)} {json.dumps(value, sort_keys=True)}"
            for key, value in sorted((extras or {}).items())
        ),
        f"element vertex {len(vertices)}",
        *(f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind, _ in columns),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + vertices.tobytes() + faces.tobytes()
