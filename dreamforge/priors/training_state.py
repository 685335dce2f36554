"""What trainings of priors share: the moving average of the weights, the learning rate's course, the state on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def rate(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Of the learning rate: up over ``warmup`` steps, level, down linearly to 2 % over the last ``decay_share``."""
    left = (steps - step) / max(1.0, decay_share * steps)
    return min(1.0, (step + 1) / warmup, max(left, 0.02))


def set_rate(optimisers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = lr


def step_all(optimisers: Sequence[torch.optim.Optimizer]) -> None:
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def copies(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters by name, detached copies."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def follow(average: dict[str, Tensor], model: torch.nn.Module, decay: float) -> None:
    """Move the average ``1 - decay`` of the way to the parameters."""
    values = [p.detach() for _, p in model.named_parameters()]
    torch._foreach_lerp_(list(average.values()), values, 1.0 - decay)


def assign(model: torch.nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(values[name])


def save_state(
    path: Path, live: dict[str, Tensor], average: dict[str, Tensor], optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    """Everything that going on needs beside the number of the step, as one safetensors file."""
    from safetensors.torch import save_file

    state = {f"live.{name}": value for name, value in live.items()}
    state |= {f"average.{name}": value for name, value in average.items()}
    for k, optimiser in enumerate(optimisers):
        for i, values in optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{k}.{i}.{key}": torch.as_tensor(v).clone() for key, v in values.items()}
    partial = path.with_suffix(".tmp")
    save_file(state, partial)
    partial.rename(path)


def load_state(
    path: Path, model: torch.nn.Module, average: dict[str, Tensor], optimisers: Sequence[torch.optim.Optimizer]
) -> None:
    """Undo ``save_state``; nothing happens where the file is missing."""
    from safetensors.torch import load_file

    if not path.exists():
        return
    state = {name: value.clone() for name, value in load_file(path).items()}  # aligned, as products want to be repeated
    assign(model, {name: state[f"live.{name}"] for name in average})
    average.update({name: state[f"average.{name}"] for name in average})
    for k, optimiser in enumerate(optimisers):
        stored: dict[str, Any] = optimiser.state_dict()
        for key, value in state.items():
            if key.startswith(f"optimiser.{k}."):
                _, _, i, name = key.split(".", 3)
                stored["state"].setdefault(int(i), {})[name] = value
        optimiser.load_state_dict(stored)
