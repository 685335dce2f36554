"""One call for every mesh format."""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from dreamforge.export.gltf import write_glb
from dreamforge.export.obj import write_obj
from dreamforge.export.ply import write_ply
from dreamforge.types import DreamforgeError, Mesh

Writer = Callable[[Mesh, str | os.PathLike[str], Mapping[str, Any] | None], None]
FORMATS: Final[Mapping[str, Writer]] = {"glb": write_glb, "obj": write_obj, "ply": write_ply}


def export(
    mesh: Mesh, path: str | os.PathLike[str], format: str = "glb", extras: Mapping[str, Any] | None = None
) -> None:
    """Write ``mesh`` to ``path`` as ``format``: glb, obj or ply. An unknown format raises DreamforgeError."""
    writer_of(format)(mesh, path, extras)


def writer_of(format: str) -> Writer:
    """The writer of a format, so that a command can refuse a wrong name before it does any work."""
    if format in FORMATS:
        return FORMATS[format]
    near = get_close_matches(format.lower().lstrip("."), FORMATS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
    raise DreamforgeError(f"unknown format {format!r}, expected one of {', '.join(FORMATS)}; {hint}")
