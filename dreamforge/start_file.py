"""The file that a run starts from: read, repaired, and kept in the run's folder under the name of its content."""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreamforge.config import Recipe
from dreamforge.export.gltf import glb_bytes
from dreamforge.geometry.beside import Beside
from dreamforge.geometry.cloud import cloud_of, ply_kind
from dreamforge.geometry.read import content_of, mesh_of
from dreamforge.geometry.splats import splats_of
from dreamforge.scenes.start import Place, Start, place_of
from dreamforge.types import DreamforgeError

NAME = re.compile(r"start-([0-9a-f]{12})\.(glb|ply)")


@dataclass(frozen=True)
class StartFile:
    """``name`` and ``content`` of the file in the run's folder, what it holds, and what was repaired to make it."""

    name: str
    content: bytes
    start: Start
    warnings: list[str] = field(default_factory=list)


def start_file(recipe: Recipe) -> StartFile | None:
    """The file that the recipe's first stage starts from, None where it starts from scratch.

    A mesh becomes a clean .glb, points and Gaussians stay as they are; a file that a run has kept stays as it is. What
    the content is read as depends on the kept bytes alone. Raises DreamforgeError for what cannot be read, and for a
    kept file that was changed.
    """
    path = recipe.stages[0].file
    if path is None:
        return None
    content, kind = content_of(path), path.suffix.lower().lstrip(".")
    kept = NAME.fullmatch(path.name)
    if kept and kept[1] != _short_hash(content):
        raise DreamforgeError(f"'{path}' was changed since a run kept it under this name: copy it again, or rename it.")
    if kind == "ply" and (what := ply_kind(content)) != "mesh":
        read, said = (splats_of(content, path), []) if what == "splats" else cloud_of(content, path.name)
        place_of(read)
        return StartFile(f"start-{_short_hash(content)}.ply", content, read, said)
    said = []
    if not kept:
        mesh, said = mesh_of(content, kind, path.name, Beside(path.parent))
        content = glb_bytes(mesh)
    clean, _ = mesh_of(content, "glb", path.name, Beside(None))
    place_of(clean)
    return StartFile(f"start-{_short_hash(content)}.glb", content, clean, said)


def place(recipe: Recipe) -> Place | None:
    """Where the thing that the recipe starts from stands in its own world; None for a start from scratch."""
    kept = start_file(recipe)
    return None if kept is None else place_of(kept.start)


def starting_from(recipe: Recipe, origin: Path | str) -> Recipe:
    """The recipe with another file to start from."""
    first, *others = recipe.stages
    return replace(recipe, stages=(replace(first, origin=str(origin)), *others))


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
