"""The device that a run computes on."""

import difflib

import torch

from dreamforge.types import DreamforgeError

NAMES = ("auto", "cpu", "cuda", "mps")


def pick(name: str) -> torch.device:
    """The device of ``auto | cpu | cuda | mps``; auto takes the fastest that is there. Raises DreamforgeError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(NAMES)}."
        raise DreamforgeError(f"There is no device '{name}': {hint}")
    if name != "auto" and not there[name]:
        usable = ", ".join(device for device, usable in there.items() if usable)
        raise DreamforgeError(f"The device '{name}' is not on this machine: choose one of auto, {usable}.")
    return torch.device(next(device for device, usable in there.items() if usable and name in ("auto", device)))
