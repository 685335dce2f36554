"""What computes an operation: the readable torch reference, the compiled core, or somebody else's library."""

from typing import Literal

import torch

from dreamforge.ops import native
from dreamforge.types import DreamforgeError

Backend = Literal["auto", "torch", "native"]


def choose(op: str, device: torch.device, backend: Backend, able: bool = True) -> Literal["torch", "native"]:
    """The backend of a call; ``able``: whether the core has kernels for these types and sizes.

    "auto" takes the core where it is there and able. Raises DreamforgeError where the named one cannot.
    """
    if backend == "torch":
        return "torch"
    there = device.type == "cpu" and able and not isinstance(native.loaded(), str)
    if backend == "auto":
        return "native" if there else "torch"
    if backend != "native":
        raise DreamforgeError(f"backend '{backend}' was given, but auto, torch or native is expected: choose one.")
    if not there:
        native.core()
        raise DreamforgeError(
            f"backend native was asked for, but the core has no {op} for these types and sizes on {device.type}: use "
            "float32 and the documented sizes, or backend torch."
        )
    return "native"
