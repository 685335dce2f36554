"""Checkpoints: tensors as safetensors, the rest as JSON beside them, never pickle.

The JSON is written after the tensors and holds their hash: a checkpoint without it never happened, one whose hash
differs is damaged and is named. Equal tensors give equal bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dreamforge.files import atomic_write_all
from dreamforge.types import DreamforgeError, State

KEEP = 2  # a damaged last one leaves the one before it


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps of stage ``stage`` (0-based), that is after ``done`` steps of the whole run."""

    stage: int
    step: int
    done: int
    state: State


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write one checkpoint, then ``tidy``."""
    from safetensors.torch import save as to_bytes

    folder.mkdir(exist_ok=True)
    stem = folder / f"step_{checkpoint.done:06d}"
    tensors = {name: _plain(tensor) for name, tensor in checkpoint.state.items()}
    content = to_bytes(tensors)
    facts = {"stage": checkpoint.stage, "step": checkpoint.step, "done": checkpoint.done}
    facts["sha256"] = hashlib.sha256(content).hexdigest()  # type: ignore[assignment]
    text = json.dumps(facts, indent=1) + "\n"
    atomic_write_all({stem.with_suffix(".safetensors"): content, stem.with_suffix(".json"): text.encode()})
    tidy(folder)


def tidy(folder: Path) -> None:
    """Delete all but the last ``KEEP`` checkpoints, and what a kill left of others."""
    kept = {path.stem for path in _complete(folder)[-KEEP:]}
    for path in sorted(folder.glob("*")):  # .json before .safetensors, so that none is left without its tensors
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def latest(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run, or None. Raises DreamforgeError where it is damaged."""
    from safetensors.torch import load as from_bytes

    complete = _complete(folder)
    if not complete:
        return None
    description = complete[-1]
    tensors = description.with_suffix(".safetensors")
    cure = (
        f"delete {description} to go on from the checkpoint before it"
        if len(complete) > 1
        else f"delete {description} and resume to start from the first step"
    )
    try:
        facts = json.loads(description.read_text("utf-8"))
        content = tensors.read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise DreamforgeError(f"The checkpoint {tensors} is damaged (its sha256 has changed): {cure}.")
        return Checkpoint(int(facts["stage"]), int(facts["step"]), int(facts["done"]), from_bytes(content))
    except FileNotFoundError as error:
        raise DreamforgeError(f"The checkpoint {tensors} is missing: {cure}.") from error
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DreamforgeError(
            f"The checkpoint {description} is damaged (no longer the JSON written): {cure}."
        ) from error


def nest(prefix: str, state: State) -> State:
    """The same tensors under ``prefix/name``."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def unnest(prefix: str, state: State) -> State:
    """The tensors under ``prefix/``, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in state.items() if name.startswith(prefix + "/")}


def optimiser_state(optimiser: torch.optim.Optimizer) -> State:
    """What an optimiser remembers of each parameter, by its index: ``index/name``."""
    content = optimiser.state_dict()["state"]
    return {
        f"{index}/{name}": torch.as_tensor(value) for index, slot in content.items() for name, value in slot.items()
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: State) -> None:
    """Give back what ``optimiser_state`` took; learning rates stay as the optimiser has them."""
    parameters = dict(enumerate(parameter for group in optimiser.param_groups for parameter in group["params"]))
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        index, _, key = name.partition("/")
        slots.setdefault(int(index), {})[key] = _laid_out(tensor, parameters[int(index)])
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})


def _laid_out(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A moment in the memory order of its parameter, which the fused kernel takes for granted; a file is row-major."""
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.shape == like.shape else tensor


def _complete(folder: Path) -> list[Path]:
    """The JSON files, oldest first."""
    return sorted(folder.glob("step_*.json"), key=lambda path: int(path.stem.removeprefix("step_")))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Own memory on the CPU, as the format wants it."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
