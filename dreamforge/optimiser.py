"""The optimiser of scenes: torch's fused Adam, and ``ops.adam`` for tables of which a step hits few rows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dreamforge.ops.adam import sparse_step
from dreamforge.types import ParamGroup


class SceneAdam(torch.optim.Adam):
    """Adam; in groups with ``sparse: True`` rows without a gradient rest, their moments too.

    ``backend`` of such a group is that of the operation. ``renewed`` of a group marks rows that have been given to
    something else: before the next step their moments become zero, and the marks go.
    """

    def __init__(self, groups: Sequence[ParamGroup], betas: tuple[float, float], eps: float) -> None:
        # One fused kernel: the same bytes every time, and one pass over the memory.
        super().__init__(list(groups), betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        self._forget()
        for group in self.param_groups:
            for table in group["params"] if group.get("sparse") else ():
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
                state["step"] += 1
                sparse_step(
                    table,
                    table.grad.contiguous(),
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    step=int(state["step"]),
                    lr=group["lr"],
                    betas=group["betas"],
                    eps=group["eps"],
                    backend=group.get("backend", "auto"),
                )
                table.grad = None  # Adam's own step leaves it alone
        return super().step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The marks stay those of the scene: torch would copy them."""
        marks = [group.get("renewed") for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, mark in zip(self.param_groups, marks, strict=True):
            if mark is not None:
                group["renewed"] = mark

    def _forget(self) -> None:
        """Rows that are others now have no past: their moments become zero."""
        marks = {id(group["renewed"]): group["renewed"] for group in self.param_groups if "renewed" in group}
        if not any(bool(mark.any()) for mark in marks.values()):
            return
        for group in self.param_groups:
            for tensor in group["params"] if "renewed" in group else ():
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in self.state[tensor]:
                        self.state[tensor][name][group["renewed"]] = 0.0
        for mark in marks.values():
            mark.zero_()
