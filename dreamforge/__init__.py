"""dreamforge: from a sentence to a 3D asset, by score distillation from a 2D diffusion model."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamforge.api import Run, generate, load_run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "generate", "load_run"]


def __getattr__(name: str) -> object:
    """Import the Python interface (and torch with it) only when it is asked for (PEP 562)."""
    if name in ("Run", "generate", "load_run"):
        return getattr(import_module("dreamforge.api"), name)
    raise AttributeError(f"module 'dreamforge' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
