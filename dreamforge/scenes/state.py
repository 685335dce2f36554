"""The state of a scene: its tensors by name."""

import torch

from dreamforge.types import DreamforgeError, State


def copied(own: State) -> State:
    """A copy that does not follow the scene."""
    return {name: tensor.detach().clone() for name, tensor in own.items()}


@torch.no_grad()
def restore(own: State, given: State, scene: str) -> None:
    """Write ``given`` into the tensors ``own``. Raises DreamforgeError for the state of a scene of other sizes."""
    names = own.keys() | given.keys()
    wrong = sorted(n for n in names if n not in own or n not in given or own[n].shape != given[n].shape)
    if wrong:
        raise DreamforgeError(
            f"{', '.join(wrong)} in the given state do not fit this {scene}; use the recipe that made it."
        )
    for name, tensor in own.items():
        tensor.copy_(given[name])
