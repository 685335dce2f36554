"""Trainable twins of a prior's network."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from dreamforge.types import DreamforgeError, ParamGroup, Query, State, TrainablePrior

Predict = Callable[[Any, Any, Tensor, Tensor, Sequence[Query]], list[Tensor]]


def trainable(network: Any, mode: Literal["lora", "full"], camera: bool, predict: Predict) -> TrainablePrior:
    """A trainable copy of ``network``; ``camera=False`` drops the cameras of every query. Adapters follow with VSD."""
    if mode != "full":
        raise DreamforgeError(f"Mode {mode!r} was given, but this prior trains as mode 'full' only: use mode='full'.")
    return FullCopy(copy.deepcopy(network).requires_grad_(True), camera, predict)


class FullCopy:
    """All weights of a copy learn. Predicts eps as the prior does."""

    def __init__(self, network: Any, camera: bool, predict: Predict) -> None:
        self.network, self.camera, self.predict = network, camera, predict

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        asked = [q if self.camera else Query(q.text, None, q.control) for q in queries]
        return self.predict(self.network, self.network, x_t, t, asked)

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": list(self.network.parameters()), "lr": 1e-4, "name": "estimator"}]

    def state(self) -> State:
        return dict(self.network.state_dict())

    def load_state(self, state: State) -> None:
        self.network.load_state_dict(state)
