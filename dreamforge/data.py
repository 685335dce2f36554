"""Where the files are that travel with the package: assets, recipes, the core's sources; installed or in a checkout."""

from importlib.resources import files
from pathlib import Path

from dreamforge.types import DreamforgeError


def asset(name: str) -> Path:
    """The path of ``assets/<name>``, a file or a folder. Raises DreamforgeError where it is missing."""
    return _locate(f"assets/{name}")


def configs() -> Path:
    """The folder of the shipped recipes."""
    return _locate("configs")


def extensions() -> Path:
    """The folder of the compiled core's sources, which CUDA kernels are compiled from."""
    return _locate("extensions")


def _locate(name: str) -> Path:
    """A wheel carries the files in ``dreamforge/_data``; in a checkout they lie beside the package."""
    package = Path(str(files("dreamforge")))
    for root in (package / "_data", package.parent):
        if (root / name).exists():
            return root / name
    raise DreamforgeError(
        f"'{name}' of the package is missing from {package / '_data'}: "
        "install dreamforge3d again, or run it from a complete checkout."
    )
