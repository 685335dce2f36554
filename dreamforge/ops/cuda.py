"""Our CUDA kernels: ``extensions/cuda/*.cu``, compiled by NVRTC when first needed, kept on disk, started by the driver.

NVRTC and its headers come with CUDA builds of torch (or with the package nvidia-cuda-nvrtc), the driver's library with
the driver: the user needs no nvcc. Both are called through ctypes, as nothing else is needed of them.
"""

import ctypes
import importlib.util
import os
import sys
from ctypes.util import find_library
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dreamforge import data
from dreamforge.files import atomic_write
from dreamforge.types import DreamforgeError

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")  # that tests compile for
BLOCK = 256  # threads of a block


@cache
def nvrtc() -> ctypes.CDLL:
    """The compiler's library. Raises DreamforgeError where there is none."""
    names = ["nvrtc64_*.dll"] if sys.platform == "win32" else ["libnvrtc.so.*"]
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    roots += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    found = [path for root in roots for name in names for path in sorted(root.rglob(name)) if "alt" not in path.name]
    where = str(found[-1]) if found else find_library("nvrtc")
    if where is None:
        raise DreamforgeError(
            "NVRTC, which compiles the CUDA kernels, was not found: install a CUDA build of torch, or "
            "pip install nvidia-cuda-nvrtc."
        )
    return ctypes.CDLL(where)


def nvrtc_version() -> str:
    """As "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compiled(name: str, architecture: str) -> bytes:
    """The cubin of ``extensions/cuda/<name>.cu`` for an architecture as "sm_90"; DreamforgeError with the log."""
    source = data.extensions() / "cuda" / f"{name}.cu"
    library, program = nvrtc(), ctypes.c_void_p()
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--fmad=true", "-default-device"]
    texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), str(source).encode(), 0, None, None)
    try:
        failed = library.nvrtcCompileProgram(program, len(options), texts)
        if failed:
            raise DreamforgeError(
                f"{source} does not compile for {architecture} with NVRTC {nvrtc_version()}:\n"
                f"{_answer(program, 'ProgramLog').rstrip(bytes(1)).decode(errors='replace').strip()}"
            )
        return _answer(program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _answer(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


@cache
def kernels(name: str, device: int) -> ctypes.c_void_p:
    """The module of a source file, loaded on a device; the cubin is kept in the user's cache."""
    major, minor = torch.cuda.get_device_capability(device)
    architecture = f"sm_{major}{minor}"
    sources = data.extensions()
    digest = sha256(f"{architecture} {nvrtc_version()}".encode())
    for path in [*sorted((sources / "include").glob("*.h")), sources / "cuda" / f"{name}.cu"]:
        digest.update(path.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = root / "dreamforge" / "kernels" / f"{name}-{architecture}-{digest.hexdigest()[:24]}.cubin"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, compiled(name, architecture))
    module = ctypes.c_void_p()
    torch.cuda.current_stream(device)  # makes sure that torch has its context
    _driver("cuModuleLoadData", ctypes.byref(module), kept.read_bytes())
    return module


@cache
def _function(file: str, name: str, device: int) -> ctypes.c_void_p:
    function = ctypes.c_void_p()
    _driver("cuModuleGetFunction", ctypes.byref(function), kernels(file, device), name.encode())
    return function


def launch(file: str, name: str, device: torch.device, grid: tuple[int, int], args: ctypes.Structure) -> None:
    """Start kernel ``name`` of ``cuda/<file>.cu`` on torch's current stream: ``grid`` blocks of ``BLOCK`` threads."""
    if 0 in grid:
        return
    current = torch.cuda.current_device()
    number = current if device.index is None else device.index
    if number != current:
        with torch.cuda.device(number):
            launch(file, name, device, grid, args)
        return
    # as torch.compile asks for it, in a tenth of the time that torch.cuda.current_stream takes
    stream = torch._C._cuda_getCurrentRawStream(number)
    values = (ctypes.c_void_p * 1)(ctypes.addressof(args))  # the driver copies what they point to before it returns
    error = _launcher()(_function(file, name, number), *grid, 1, BLOCK, 1, 1, 0, stream, values, None)
    _check("cuLaunchKernel", error)


def blocks(items: int) -> int:
    """Blocks with a thread for each item."""
    return -(-items // BLOCK)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@cache
def _launcher() -> Any:
    found = _library().cuLaunchKernel
    found.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3]
    return found


def _driver(name: str, *arguments: Any) -> None:
    _check(name, getattr(_library(), name)(*arguments))


def _check(name: str, error: int) -> None:
    if error:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(error, ctypes.byref(text))
        raise DreamforgeError(
            f"The CUDA driver's {name} answered {(text.value or b'').decode()} ({error}): run the same with backend "
            "torch, and report it."
        )
