"""The JSON of a glTF file, looked at before anything is made of it: sizes it claims, and what it asks of a reader."""

import json
import struct
from typing import Any

from dreamforge.types import DreamforgeError

MOST_NUMBERS = 200_000_000  # of all accessors together
MOST_NODES = 20_000
_MAGIC, _JSON = 0x46546C67, 0x4E4F534A
# What a reader of shapes and base colours may leave out; anything else that is required changes the vertices.
_HARMLESS = ("KHR_materials_", "KHR_lights_", "EXT_texture_webp", "KHR_texture_transform", "KHR_xmp")
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


def document(content: bytes, kind: str) -> dict[str, Any]:
    """The JSON of a .glb or .gltf. Raises ValueError (or KeyError, struct.error) where there is none."""
    if kind == "glb":
        magic, _, _, size, first = struct.unpack_from("<5I", content)
        if magic != _MAGIC or first != _JSON:
            raise ValueError("not a GLB")
        content = content[20 : 20 + size]
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def check(found: dict[str, Any]) -> None:
    """Raise DreamforgeError for what would take too much memory, and for compressed or otherwise foreign vertices."""
    needed = [str(name) for name in found.get("extensionsRequired", []) if not str(name).startswith(_HARMLESS)]
    if needed:
        raise DreamforgeError(f"it needs {', '.join(needed[:5])}, which is not read: export it without compression")
    numbers = 0
    for accessor in found.get("accessors", []):
        if not isinstance(accessor["count"], int) or accessor["count"] < 0:
            raise ValueError("a count that is no number")
        numbers += accessor["count"] * _COLUMNS[accessor["type"]]
    if numbers > MOST_NUMBERS or len(found.get("nodes", [])) > MOST_NODES:
        raise DreamforgeError(
            f"it has {numbers} numbers and {len(found.get('nodes', []))} nodes, but up to {MOST_NUMBERS} and "
            f"{MOST_NODES} are read: make it smaller"
        )


def textured(found: dict[str, Any]) -> int:
    """How many primitives ask for a picture as their base colour."""
    materials = found.get("materials", [])
    wanted = 0
    for primitive in (one for mesh in found.get("meshes", []) for one in mesh["primitives"]):
        if "material" in primitive:
            shaded = materials[primitive["material"]].get("pbrMetallicRoughness", {})
            wanted += "baseColorTexture" in shaded and "TEXCOORD_0" in primitive["attributes"]
    return wanted
