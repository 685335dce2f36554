"""Writes Wavefront OBJ, with MTL and PNG where there is a texture."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamforge.export.arrays import MeshArrays, checked, png_bytes
from dreamforge.files import atomic_write_all
from dreamforge.types import Mesh


def write_obj(mesh: Mesh, path: str | os.PathLike[str], extras: Mapping[str, Any] | None = None) -> None:
    """Write the mesh as text; a texture goes to an .mtl and a .png beside it, colours behind the positions. Maps of
    roughness and metallic are two more .png; values at vertices have no place without a texture.

    "v x y z r g b" (sRGB) is no part of the format, but what Blender, MeshLab and trimesh read. The format has no
    axes, unit or notes: they and ``extras`` stand in comments.
    Raises DreamforgeError for a mesh ``arrays.checked`` refuses and for a path that cannot be written.
    """
    path, arrays, parts = Path(path), checked(mesh), mesh.parts or (("asset", len(mesh.faces)),)
    if arrays.texture is None:
        atomic_write_all({path: _text(arrays, parts, extras, None)})
        return
    name = _plain_name(path.stem)
    maps = {"map_Kd": (f"{name}.png", arrays.texture)}
    if arrays.material_map is not None:
        maps["map_Pm"] = f"{name}-metallic.png", arrays.material_map[..., 0]
        maps["map_Pr"] = f"{name}-roughness.png", arrays.material_map[..., 1]
    files = {path.with_name(file): png_bytes(picture) for file, picture in maps.values()}
    files[path.with_name(f"{name}.mtl")] = _material({key: file for key, (file, _) in maps.items()})
    atomic_write_all({**files, path: _text(arrays, parts, extras, f"{name}.mtl")})


def _text(
    arrays: MeshArrays, parts: Sequence[tuple[str, int]], extras: Mapping[str, Any] | None, material: str | None
) -> bytes:
    corners = iter((arrays.faces + 1).tolist())
    vertices = arrays.vertices if arrays.colors is None else np.concatenate([arrays.vertices, arrays.colors], -1)
    lines = ["# dreamforge: right-handed, metres, +Y up, front +Z, colours sRGB"]
    lines += [
        f"# {json.dumps(key)} {json.dumps(value, sort_keys=True)}" for key, value in sorted((extras or {}).items())
    ]
    lines += [f"mtllib {material}"] if material else []
    lines += _rows("v", "%.7g", vertices)
    if arrays.uv is not None:  # OBJ counts v from the bottom
        lines += _rows("vt", "%.7g", np.stack([arrays.uv[:, 0], 1 - arrays.uv[:, 1]], -1))
    lines += _rows("vn", "%.5g", arrays.normals)
    face = "f {0}//{0} {1}//{1} {2}//{2}" if arrays.uv is None else "f {0}/{0}/{0} {1}/{1}/{1} {2}/{2}/{2}"
    for name, count in parts:
        lines += [
            f"o {name}",
            *(["usemtl surface"] if material else []),
            *(face.format(*corner) for corner in islice(corners, count)),
        ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _rows(key: str, number: str, values: NDArray[np.floating]) -> list[str]:
    pattern = " ".join([key, *[number] * values.shape[1]])
    return [pattern % tuple(row) for row in values.tolist()]


def _material(maps: Mapping[str, str]) -> bytes:
    """Dull and opaque; Pr and Pm are roughness and metalness for readers that know them, factors of their maps."""
    lines = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1"]
    lines += ["Pr 1", "Pm 1"] if "map_Pr" in maps else ["Pr 0.9", "Pm 0"]
    return ("\n".join([*lines, *(f"{key} {file}" for key, file in maps.items())]) + "\n").encode("ascii")


def _plain_name(stem: str) -> str:
    """Many readers split "mtllib" and "map_Kd" at spaces and expect ASCII; the hash keeps different names different."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
    return plain if plain == stem else f"{plain}-{hashlib.blake2b(stem.encode(), digest_size=4).hexdigest()}"
