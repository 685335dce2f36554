"""The compiled core of ``extensions/``: one library with C functions, loaded when an operation first needs it.

``pip install`` builds it where there is a C++17 compiler. It has every operation for several levels of SIMD
instructions, takes the best that the processor knows, and runs on torch's own threads, which it gets by address.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dreamforge import data
from dreamforge.ops.sources import hash_of
from dreamforge.types import DreamforgeError

LEVELS = ("baseline", "avx2", "avx512")
Level = int | Literal["cuda"] | None  # a number of LEVELS; None the best for the tensors' device; "cuda" for tests
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).parents[1] / "_native" / f"dreamforge_core{SUFFIX}"


class Core:
    """The loaded library; ``level``: of the best instructions that it has and this processor knows."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        self.functions.df_sources.restype = ctypes.c_char_p
        self.sources: str = self.functions.df_sources().decode()
        self.level: int = self.functions.df_best_level()
        threads = ctypes.CDLL(None) if sys.platform != "win32" else None
        addresses = [_address(threads, name) for name in ("torch_parallel_for", "torch_get_num_threads")]
        self.threads = all(addresses)
        self.functions.df_use_threads(*(ctypes.c_void_p(address if self.threads else None) for address in addresses))


def _address(library: ctypes.CDLL | None, name: str) -> int | None:
    """Where a C function of torch is, None for a torch without it."""
    if library is None or not hasattr(library, name):
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu{SUFFIX}"))
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value if hasattr(library, name) else None


@cache
def loaded() -> Core | str:
    """The core, or one sentence that says why there is none."""
    again = "install dreamforge3d again with a C++17 compiler (g++, clang++) on the path"
    if not LIBRARY.is_file():
        return f"the compiled core was not built: {again}"
    try:
        core = Core(LIBRARY)
    except OSError as error:
        return f"{LIBRARY} cannot be loaded ({error}): {again}"
    sources = data.extensions()
    if core.sources != hash_of(sources):
        return f"the compiled core was built from other sources than those in {sources}: run pip install -e . again"
    return core


def core() -> Core:
    """The core. Raises DreamforgeError where there is none."""
    found = loaded()
    if isinstance(found, str):
        raise DreamforgeError(f"There is no compiled core: {found}.")
    return found


def run(name: str, args: ctypes.Structure, level: Level = None) -> None:
    """Call the CPU's operation ``name``."""
    found = core()
    getattr(found.functions, f"df_{name}")(found.level if level is None else level, ctypes.byref(args))


def on_cuda(tensor: Tensor, level: Level) -> bool:
    """Whether a CUDA kernel has the word."""
    return tensor.is_cuda or level == "cuda"
