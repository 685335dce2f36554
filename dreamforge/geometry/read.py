"""Reads the meshes of strangers through trimesh, which is told how much of it to believe."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge.geometry import gltf_header
from dreamforge.geometry.beside import Beside, read_bytes, texels
from dreamforge.geometry.join import Piece, join
from dreamforge.geometry.repair import repair
from dreamforge.render.light import linear_to_srgb
from dreamforge.types import DreamforgeError, Mesh

KINDS = ("glb", "gltf", "obj", "ply")
MOST_FACES = 5_000_000
MOST_VERTICES = 10_000_000


def read_mesh(path: str | os.PathLike[str]) -> tuple[Mesh, list[str]]:
    """One repaired mesh of a .glb, .gltf, .obj or .ply file, as it stands in its own world, and sentences of what was
    repaired or left out.

    Several pieces are joined, where nodes place them. Pictures and materials are read from the file's own folder alone.
    Raises DreamforgeError for a file that is missing, too large, damaged, or without triangles.
    """
    path = Path(path)
    return mesh_of(content_of(path), path.suffix.lower().lstrip("."), path.name, Beside(path.parent))


def mesh_of(content: bytes, kind: str, name: str, beside: Beside) -> tuple[Mesh, list[str]]:
    """``read_mesh`` of the bytes of a file of this kind; ``name`` is for the sentences."""
    try:
        found, lost = pieces(content, kind, beside)
        if not found:
            raise DreamforgeError("it has no triangles")
        joined, told = join(found)
        mesh, repaired = repair(joined)
    except DreamforgeError as error:
        why = [str(error), *beside.warnings()]
        raise DreamforgeError(f"{name!r} is not a mesh to start from: {'; '.join(why)}") from error
    return mesh, [f"{name}: {text}" for text in [*beside.warnings(), *lost, *told, *repaired]]


def content_of(path: Path, kinds: Iterable[str] = KINDS) -> bytes:
    """The bytes of a mesh file. Raises DreamforgeError for one of another kind, too large, or not there."""
    if path.suffix.lower().lstrip(".") not in kinds:
        raise DreamforgeError(f"cannot read {str(path)!r}: expected a name that ends in .{', .'.join(kinds)}")
    try:
        return read_bytes(path)
    except DreamforgeError:
        raise
    except (FileNotFoundError, ValueError) as error:  # ValueError: a name that no file can have
        raise DreamforgeError(f"there is no file {str(path)!r}, expected a mesh; check the path") from error
    except OSError as error:
        raise DreamforgeError(f"cannot read {str(path)!r} ({error.strerror}): check the path") from error


def pieces(content: bytes, kind: str, beside: Beside, as_stored: bool = False) -> tuple[list[Piece], list[str]]:
    """Everything with triangles in a file, and what was lost of it; ``as_stored``: the vertices of an .obj of one piece
    in its order (trimesh confuses those of several). Raises DreamforgeError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy and PIL, about what is checked here
            return _pieces(content, kind, beside, as_stored)
    except DreamforgeError:
        raise
    except Exception as error:  # what trimesh raises on damage is open: index, assertion, JSON, struct, value errors
        raise DreamforgeError("it is damaged, or not the kind of file that its name says") from error


def _pieces(content: bytes, kind: str, beside: Beside, as_stored: bool) -> tuple[list[Piece], list[str]]:
    import trimesh

    lost, wanted = [], 0
    if kind in ("glb", "gltf"):
        header = gltf_header.document(content, kind)
        gltf_header.check(header)
        wanted = gltf_header.textured(header)
    if kind == "obj":
        content, absent = _without_absent(content)
        if absent:
            lost.append(f"{absent} face{'s' * (absent > 1)} with absent vertices left out")
    how = {"process": False, "maintain_order": as_stored}
    scene = trimesh.load_scene(BytesIO(content), file_type=kind, resolver=beside, **how)
    placed = [(scene.geometry[name], place) for place, name in map(scene.graph.get, scene.graph.nodes_geometry)]
    solid = [(one, place) for one, place in placed if isinstance(one, trimesh.Trimesh) and len(one.faces)]
    vertices, faces = (sum(len(getattr(one, part)) for one, _ in solid) for part in ("vertices", "faces"))
    if faces > MOST_FACES or vertices > MOST_VERTICES:
        raise DreamforgeError(
            f"it has {vertices} vertices and {faces} triangles, but up to {MOST_VERTICES} and {MOST_FACES} are read: "
            "simplify it first"
        )
    shapes = [one for one in scene.geometry.values() if isinstance(one, trimesh.Trimesh)]
    images = [image for image in (_image(one.visual) for one in shapes) if image is not None]
    pictures = {id(image): texels(image) for image in images}
    asked = wanted if kind in ("glb", "gltf") else sum(image.format is not None for image in images)
    if (bare := asked - sum(_picture(one, pictures) is not None for one in shapes)) > 0:
        lost.append(
            f"{bare} texture{'s' * (bare > 1)} left out: no readable picture, or vertices without a place on it"
        )
    return [_piece(one, place, kind, pictures) for one, place in solid], lost


def _piece(mesh: Any, place: Any, kind: str, pictures: dict[int, Tensor | None]) -> Piece:
    visual, faces = mesh.visual, np.array(mesh.faces, dtype=np.int64)
    vertices = mesh.vertices @ place[:3, :3].T + place[:3, 3]
    inside = bool(((faces >= 0) & (faces < len(vertices))).all())
    normals = _normals(mesh, place) if inside else None
    if np.linalg.det(place[:3, :3]) < 0:  # a mirrored piece would be inside out
        faces = faces[:, ::-1].copy()
    one = Piece(vertices, faces, normals, base=_base(visual, kind))
    picture = _picture(mesh, pictures)
    if picture is not None:
        # trimesh counts v from the bottom, whatever the file does. A picture in an .obj has its colours already.
        at = _float(np.stack([visual.uv[:, 0], 1 - visual.uv[:, 1]], -1))
        base, material = None if kind == "obj" else one.base, _material(visual.material)
        return replace(one, uv=at, texture=picture, base=base, material=material)
    if visual.kind == "face" and inside:
        corners = faces.reshape(-1)
        flat = _colors(visual.face_colors, linear=False).repeat_interleave(3, 0)
        apart = np.arange(len(corners)).reshape(-1, 3)
        return replace(one, vertices=vertices[corners], faces=apart, normals=None, colors=flat)
    stored = _stored_colors(visual)
    if stored is None or len(stored) != len(vertices):
        return one
    return replace(one, colors=_colors(stored, linear=kind in ("glb", "gltf")))


def _normals(mesh: Any, place: Any) -> Tensor | None:
    try:
        normals = mesh.vertex_normals @ np.linalg.inv(place[:3, :3])
    except np.linalg.LinAlgError:  # squeezed flat
        return None
    return torch.nn.functional.normalize(_float(normals), dim=-1)


def _picture(mesh: Any, pictures: dict[int, Tensor | None]) -> Tensor | None:
    """The texture of a mesh that says where on it its vertices lie."""
    uv = getattr(mesh.visual, "uv", None)
    return pictures.get(id(_image(mesh.visual))) if uv is not None and len(uv) == len(mesh.vertices) else None


def _material(material: Any) -> Tensor | None:
    """The map of metallic and roughness of a glTF file, ``[H,W,2]`` in [0, 1]."""
    image = getattr(material, "metallicRoughnessTexture", None)
    levels = None if image is None else texels(image)
    if levels is None:
        return None
    factors = [1.0 if one is None else float(one) for one in (material.metallicFactor, material.roughnessFactor)]
    return (levels[..., [2, 1]] * torch.tensor(factors)).nan_to_num(1.0).clamp(0, 1)


def _image(visual: Any) -> Any:
    material = getattr(visual, "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _base(visual: Any, kind: str) -> Tensor | None:
    """The material's base colour, sRGB ``[3]``; None for white or none."""
    material = getattr(visual, "material", None)
    if kind == "obj":
        stated = getattr(material, "kwargs", {}).get("kd")
        levels = None if stated is None or np.size(stated) < 3 else np.asarray(stated, np.float32)[:3]
        base = None if levels is None else _float(levels)
    else:
        factor = getattr(material, "baseColorFactor", None)
        base = None if factor is None else linear_to_srgb(_float(factor[:3]) / 255)
    if base is None or not bool(torch.isfinite(base).all()) or bool((base >= 1).all()):
        return None
    return base.clamp(0, 1)


def _stored_colors(visual: Any) -> Any:
    """Vertex colours as numbers ``[V,3 or 4]`` of any type, or None."""
    # Beside a material trimesh keeps the stored numbers; without one it makes bytes of them.
    stored = getattr(visual, "vertex_attributes", {}).get("color")
    return visual.vertex_colors if stored is None and visual.kind == "vertex" else stored


def _colors(stored: Any, linear: bool) -> Tensor:
    """Colours as sRGB ``[V,3]`` in [0, 1], stored as floats or as integers over their whole range."""
    colors = _float(stored[:, :3] / (np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else 1))
    return linear_to_srgb(colors) if linear else colors


def _float(array: Any) -> Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _without_absent(content: bytes) -> tuple[bytes, int]:
    """An .obj without the faces that name vertices that it has not, on which trimesh gives up; and their number."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\\\n", b" ").split(b"\n")
    count = sum(line.startswith((b"v ", b"v\t")) for line in lines)
    kept = [line for line in lines if not line.startswith((b"f ", b"f\t")) or _names_present(line, count)]
    return b"\n".join(kept), len(lines) - len(kept)


def _names_present(line: bytes, count: int) -> bool:
    """Whether all vertices of a line "f 1/2/3 ..." are there; what is no number is left to trimesh."""
    try:
        return all(0 < abs(int(corner.split(b"/", 1)[0])) <= count for corner in line.split()[1:])
    except ValueError:
        return True
