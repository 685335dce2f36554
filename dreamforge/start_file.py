"""The file that a run starts from: read, repaired, and kept in the run's folder under the name of its content."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreamforge.config import Recipe
from dreamforge.export.gltf import glb_bytes
from dreamforge.geometry.beside import Beside
from dreamforge.geometry.cloud import cloud_of, ply_kind
from dreamforge.geometry.read import content_of, mesh_of
from dreamforge.geometry.splats import splats_of
from dreamforge.run_folder import START
from dreamforge.scenes.start import Place, Start, place_of
from dreamforge.types import DreamforgeError


@dataclass(frozen=True)
class StartFile:
    """``name`` and ``content`` of the file in the run's folder, what it holds, and what was repaired to make it."""

    name: str
    content: bytes
    start: Start
    warnings: list[str] = field(default_factory=list)


def start_file(recipe: Recipe) -> StartFile | None:
    """The file that the recipe's first stage starts from, None where it starts from scratch; see ``read_start``."""
    path = recipe.stages[0].file
    return None if path is None else read_start(path)


def read_start(path: Path) -> StartFile:
    """A mesh becomes a clean .glb, points and Gaussians stay as they are, and so does a file that a run has kept.

    What ``start`` holds depends on the kept bytes alone. Raises DreamforgeError for what cannot be read, and for a kept
    file that was changed.
    """
    content, kind = content_of(path), path.suffix.lower().lstrip(".")
    kept = START.fullmatch(path.name) is not None
    if kept and path.stem != f"start-{_short_hash(content)}":
        raise DreamforgeError(f"'{path}' was changed since a run kept it under this name: copy it again, or rename it.")
    if kind == "ply" and (what := ply_kind(content)) != "mesh":
        read, said = (splats_of(content, path), []) if what == "splats" else cloud_of(content, path.name)
        place_of(read)
        return StartFile(f"start-{_short_hash(content)}.ply", content, read, [] if kept else said)
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


def kept_by(recipe: Recipe, given: StartFile | None, folder: Path = Path()) -> Recipe:
    """The recipe that starts from the file as ``folder`` keeps it."""
    if given is None:
        return recipe
    first, *others = recipe.stages
    return replace(recipe, stages=(replace(first, origin=str(folder / given.name)), *others))


def files(given: StartFile | None) -> dict[str, bytes]:
    """What a run's folder keeps of it, name -> content."""
    return {} if given is None else {given.name: given.content}


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
