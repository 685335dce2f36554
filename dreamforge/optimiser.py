"""The optimiser of scenes: torch's fused Adam, and ``ops.adam`` for tables of which a step hits few rows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dreamforge.ops.adam import sparse_step
from dreamforge.types import ParamGroup


class SceneAdam(torch.optim.Adam):
    """Adam; in groups with ``sparse: True`` rows without a gradient rest, their moments too.

    ``backend`` of such a group is that of the operation.
    """

    def __init__(self, groups: Sequence[ParamGroup], betas: tuple[float, float], eps: float) -> None:
        # One fused kernel: the same bytes every time, and one pass over the memory.
        super().__init__(list(groups), betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
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
