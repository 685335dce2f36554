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
    """The one mesh of a .glb, .obj or .ply file, in the world's axes; colours come back as sRGB. Nothing is repaired.

    Raises DreamforgeError for a file that is missing, unknown, damaged, or holds more than one mesh.
    """
    path = Path(path)
    content = content_of(path, FORMATS)
    try:
        found, lost = pieces(content, path.suffix.lower().lstrip("."), Beside(path.parent), as_stored=True)
        if len(found) == 1 and not lost:
            mesh, _ = join(found)
            checked(mesh)
            return mesh
    except DreamforgeError as error:
        raise _damaged(path) from error
    if lost or not found:
        raise _damaged(path)
    raise DreamforgeError(f"{str(path)!r} holds {len(found)} meshes, expected exactly one; join them first")


def _damaged(path: Path) -> DreamforgeError:
    return DreamforgeError(f"cannot read {str(path)!r}: it is damaged or not a mesh; export it again")
