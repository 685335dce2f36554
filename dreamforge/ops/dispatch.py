"""What computes an operation: the readable torch reference, or the compiled core (``extensions/``)."""

import ctypes
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from dreamforge.ops import cuda, native
from dreamforge.types import DreamforgeError

Backend = Literal["auto", "torch", "native", "nerfacc", "tinycudann", "gsplat"]
PEERS = ("nerfacc", "tinycudann", "gsplat")  # see peers.py; the operation that one has asks it before it comes here
OPS = ("hashgrid", "mlp", "march", "adam", "raster", "antialias", "texture", "isosurface", "splat")
RAN_ON = "right on an NVIDIA H200"  # where the kernels of all operations but these have passed tests.gpu.kernels
CHANGED = ("march",)  # since then; by the tests their logic is right


@dataclass(frozen=True)
class Running:
    """What computes ``op`` on ``device`` with backend auto, and why."""

    op: str
    device: str
    backend: Literal["torch", "native"]
    why: str


def choose(
    op: str, device: torch.device, backend: Backend, able: bool, agrees: Callable[[torch.device], bool]
) -> Literal["torch", "native"]:
    """The backend of a call; another library's name means "auto" here: it has no such operation.

    ``able``: whether the core has kernels for its types and sizes. ``agrees(device)`` compares a small case with the
    reference: it is asked once for each GPU before "auto" trusts kernels there. Raises DreamforgeError where the named
    backend cannot.
    """
    backend = "auto" if backend in PEERS else backend
    if backend == "torch" or (backend == "auto" and not able):
        return "torch"
    missing = _missing(device.type)
    if backend == "auto":
        return "native" if not missing and (device.type == "cpu" or _trusted(op, device, agrees)) else "torch"
    if backend != "native":
        expected = ", ".join(["auto", "torch", "native", *PEERS])
        raise DreamforgeError(f"backend '{backend}' was given, but one of {expected} is expected: choose one.")
    if not able:
        raise DreamforgeError(
            f"backend native was asked for, but the core has no {op} for these types and sizes: use float32 and the "
            "documented sizes, or backend torch."
        )
    if missing:
        raise DreamforgeError(f"backend native was asked for, but {missing}; or use backend torch.")
    return "native"


def call(
    file: str, name: str, like: Tensor, args: ctypes.Structure, grid: tuple[int, int], level: native.Level = None
) -> None:
    """Run the core's operation ``name`` where the tensor ``like`` is: the CPU's function, or the kernel of
    ``cuda/<file>.cu`` on ``grid`` blocks."""
    if native.on_cuda(like, level):
        cuda.launch(file, name, like.device, grid, args)
    else:
        native.run(name, args, level)


def backends() -> list[Running]:
    """What "auto" means here, for every operation and device that is there."""
    found = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        missing = _missing(device)
        for op in OPS:
            if missing:
                found.append(Running(op, device, "torch", f"{missing}; the reference is right, but slow"))
            elif device == "cpu":
                found.append(Running(op, device, "native", _core()))
            else:
                ran = "not run on a GPU by us" if op in CHANGED else RAN_ON
                why = f"compiled by NVRTC {cuda.nvrtc_version()}; {ran}, compared here before it is used"
                found.append(Running(op, device, "native", why))
    return found


def _core() -> str:
    core = native.core()
    threads = "torch's threads" if core.threads else "one thread: this torch does not lend its own"
    return f"compiled, {native.LEVELS[core.level]} instructions, {threads}"


def _missing(device: str) -> str:
    """Why the core cannot run on a device; empty where it can."""
    if device == "cpu":
        found = native.loaded()
        return found if isinstance(found, str) else ""
    if device != "cuda":
        return f"it has no kernels for {device}"
    try:
        cuda.nvrtc()
    except DreamforgeError as error:
        return str(error).rstrip(".")
    return ""


@cache
def _trusted(op: str, device: torch.device, agrees: Callable[[torch.device], bool]) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad():  # its gradients count too, wherever it is asked
            right = agrees(device)
        if right:
            return True
        reason = "they do not agree with the reference"
    except DreamforgeError as error:
        reason = str(error)
    warnings.warn(f"The CUDA kernels of {op} are not used on {device}: {reason}", RuntimeWarning, stacklevel=2)
    return False
