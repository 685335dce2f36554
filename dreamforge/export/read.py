"""Reads an exported mesh back, through trimesh: a reader that is not ours."""

import os
from pathlib import Path

from dreamforge.export.arrays import checked
from dreamforge.export.write import FORMATS
from dreamforge.geometry.beside import Beside
from dreamforge.geometry.join import join
from dreamforge.geometry.read import content_of, pieces
from dreamforge.types import DreamforgeError, Mesh


def load_mesh(path: str | os.PathLike[str]) -> Mesh:
    """The mesh of a .glb, .obj or .ply file, in the world's axes; colours come back as sRGB. Nothing is repaired, and
    several objects come as one.

    Raises DreamforgeError for a file that is missing, unknown, damaged, or of objects that one mesh cannot hold.
    """
    path = Path(path)
    content, kind = content_of(path, FORMATS), path.suffix.lower().lstrip(".")
    try:
        found, lost = pieces(content, kind, Beside(path.parent), as_stored=True)
        if len(found) > 1:  # as stored, trimesh confuses the vertices of several
            found, lost = pieces(content, kind, Beside(path.parent))
        mesh, not_joined = join(found) if found and not lost else (None, [])
        if mesh is not None and not not_joined:
            checked(mesh)
            return mesh
    except DreamforgeError as error:
        raise _damaged(path) from error
    if mesh is None:
        raise _damaged(path)
    raise DreamforgeError(f"{str(path)!r} cannot be read as one mesh: {not_joined[0]}; export one object alone")


def _damaged(path: Path) -> DreamforgeError:
    return DreamforgeError(f"cannot read {str(path)!r}: it is damaged or not a mesh; export it again")
