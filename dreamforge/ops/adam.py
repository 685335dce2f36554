"""Adam on a table of which a step hits few rows (Kingma and Ba 2015; the rule is that of torch's SparseAdam)."""

import ctypes
import math

import torch
from torch import Tensor

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.types import DreamforgeError

WIDTHS = (1, 2, 4, 8)  # features for which there is a kernel


@torch.no_grad()
def sparse_step(
    table: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    backend: Backend = "auto",
) -> None:
    """One step, the ``step``-th from 1 on, in place: ``table``, ``grad``, moments ``mean`` and ``square``,
    all ``[rows, features]``.

    A row is hit where one of its gradients is not zero. There m += (1 - beta1) (g - m), v += (1 - beta2) (g^2 - v),
    p -= lr sqrt(1 - beta2^step) / (1 - beta1^step) m / (sqrt(v) + eps); other rows, moments too, stay as they are.
    Gradients become zero. Raises
    DreamforgeError for shapes that differ and tensors that are not contiguous.
    """
    tensors = (table, grad, mean, square)
    if table.ndim != 2 or any(one.shape != table.shape or not one.is_contiguous() for one in tensors):
        raise DreamforgeError(
            f"tensors {[list(one.shape) for one in tensors]} were given to sparse_step, but equal shapes [rows, "
            "features], contiguous, are expected."
        )
    able = {one.dtype for one in tensors} == {torch.float32} and table.shape[1] in WIDTHS
    rate = lr * math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
    if choose("adam", table.device, backend, able, agrees) == "torch":
        sparse_step_reference(table, grad, mean, square, rate, betas, eps)
    else:
        sparse_step_native(table, grad, mean, square, rate, betas, eps)


def sparse_step_reference(
    table: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    rate: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """The definition; ``rate`` is the learning rate with both corrections of the bias."""
    hit = (grad != 0).any(1, keepdim=True)
    mean.copy_(torch.where(hit, mean + (1 - betas[0]) * (grad - mean), mean))
    square.copy_(torch.where(hit, square + (1 - betas[1]) * (grad.square() - square), square))
    table.copy_(torch.where(hit, table - rate * mean / (square.sqrt() + eps), table))
    grad.zero_()


class AdamArgs(ctypes.Structure):
    """``AdamArgs`` of extensions/include/adam.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("table", "grad", "mean", "square")],
        ("rows", ctypes.c_int64),
        ("features", ctypes.c_int32),
        *[(name, ctypes.c_float) for name in ("rate", "beta1", "beta2", "eps")],
    ]


def sparse_step_native(
    table: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    level: native.Level = None,
) -> None:
    """As ``sparse_step_reference``, by the compiled core at a ``level``, see ``native.Level``."""
    pointers = [one.data_ptr() for one in (table, grad, mean, square)]
    args = AdamArgs(*pointers, *table.shape, rate, *betas, eps)
    call("adam", "adam_sparse_step", table, args, (cuda.blocks(len(table)), 1), level)


def agrees(device: torch.device) -> bool:
    """Whether the core's kernel on a device answers a small case as the reference does."""
    answers = []
    for take in (sparse_step_native, sparse_step_reference):
        draws = torch.Generator().manual_seed(0)
        table, grad, mean, square = (torch.randn(300, 2, generator=draws).to(device) for _ in range(4))
        grad[::3] = 0.0
        take(table, grad, mean, square.abs_(), 0.01, (0.9, 0.99), 1e-15)
        answers.append([table, grad, mean, square])
    return all(torch.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in zip(*answers, strict=True))
