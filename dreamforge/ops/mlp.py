"""A small multilayer perceptron without biases: ReLU between the layers, several heads at its end."""

import ctypes
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import native
from dreamforge.ops.dispatch import Backend, call, choose
from dreamforge.types import DreamforgeError

LAYERS, WIDTH = 8, 128  # that the core's kernels have room for; as in extensions/include/mlp.h
CHUNK = 4080  # points whose share of the weights' gradient is summed up by itself; as there
TILE, MOST_BLOCKS = 32, 1024  # points of a block on a GPU; blocks that go backward, each with its own sums
MANY = 2**15  # points from which on a GPU torch's products of matrices were faster than the core's kernels (H200)


def init(widths: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Xavier-uniform weights ``[out, in]`` between consecutive ``widths`` (input first), on the generator's device."""
    weights = []
    for inside, outside in pairwise(widths):
        limit = math.sqrt(6 / (inside + outside))
        weight = torch.empty(outside, inside, device=generator.device)
        weights.append(weight.uniform_(-limit, limit, generator=generator))
    return weights


def fused_mlp(
    x: Tensor, weights: Sequence[Tensor], heads: Sequence[int] = (), backend: Backend = "auto"
) -> tuple[Tensor, ...]:
    """``x [N, in]`` through ``weights``, each ``[out, in]`` -> ``[N, head]`` for each of ``heads``.

    ``heads``: widths of parts of the last layer, which has no ReLU; none given, the whole. Gradients reach ``x`` and
    ``weights``; second ones for ``backend="torch"`` only. Nothing but the input is kept for the backward pass, which
    computes the activations again, except for many points on a GPU, which torch multiplies. Natively on a CPU sums have
    a fixed order: the same bits for any number of threads. Raises DreamforgeError for sizes that do not fit together.
    """
    widths = check(x, weights)
    heads = heads or (widths[-1],)
    if sum(heads) != widths[-1] or min(heads) < 1:
        raise DreamforgeError(f"heads {list(heads)} were given, but together they must be the {widths[-1]} outputs.")
    able = len(weights) <= LAYERS and max(widths) <= WIDTH and {x.dtype, *(w.dtype for w in weights)} == {torch.float32}
    if backend == "auto" and x.is_cuda and len(x) >= MANY:
        backend = "torch"
    if choose("mlp", x.device, backend, able, agrees) == "torch":
        out = mlp_reference(x, weights)
    else:
        out = mlp_native(x, weights)
    parts: tuple[Tensor, ...] = out.split(list(heads), 1)
    return parts


def mlp_reference(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The definition: any float type, differentiable in everything as often as wanted."""
    for weight in weights[:-1]:
        x = torch.relu(x @ weight.t())
    return x @ weights[-1].t()


def mlp_native(x: Tensor, weights: Sequence[Tensor], level: native.Level = None) -> Tensor:
    """The whole last layer by the compiled core at a ``level``, see ``native.Level``."""
    out: Tensor = _Native.apply(x, level, *weights)
    return out


def check(x: Tensor, weights: Sequence[Tensor]) -> list[int]:
    """The widths, input first. Raises DreamforgeError where one layer does not fit the next."""
    shapes = [tuple(weight.shape) for weight in weights]
    fits = x.ndim == 2 and all(len(shape) == 2 and min(shape) > 0 for shape in shapes) and bool(shapes)
    inputs = [x.shape[-1], *(shape[0] for shape in shapes[:-1])] if fits else []
    if not fits or [shape[1] for shape in shapes] != inputs:
        raise DreamforgeError(
            f"x {list(x.shape)} and weights {[list(shape) for shape in shapes]} were given, but [N, in] and a chain of "
            "[out, in] are expected; use weights made by mlp.init."
        )
    return [x.shape[1], *(shape[0] for shape in shapes)]


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(300, 20, generator=draws).to(device).requires_grad_()
    weights = [weight.to(device).requires_grad_() for weight in init([20, 33, 64, 5], draws)]
    pull = torch.randn(300, 5, generator=draws).to(device)
    answers = []
    for out in (mlp_native(x, weights), mlp_reference(x, weights)):
        answers.append([out.detach(), *torch.autograd.grad(out, [x, *weights], pull)])
    return all(torch.allclose(one, two, rtol=1e-3, atol=1e-3) for one, two in zip(*answers, strict=True))


class MlpArgs(ctypes.Structure):
    """``MlpArgs`` of extensions/include/mlp.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("grad_x", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("points", ctypes.c_int64),
        ("blocks", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("widths", ctypes.c_int32 * (LAYERS + 1)),
    ]


class _Native(torch.autograd.Function):
    """The perceptron by the compiled core. Numbers lie point by point in memory: it returns a transposed view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: native.Level, *weights: Tensor) -> Tensor:
        rows, flat = x.t().contiguous(), torch.cat([weight.flatten() for weight in weights])
        widths = [len(rows), *(len(weight) for weight in weights)]
        out = x.new_empty(widths[-1], len(x))
        _run("mlp_forward", level, rows, widths, flat, out=out)
        ctx.save_for_backward(rows, flat)
        ctx.widths, ctx.level = widths, level
        return out.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, flat = ctx.saved_tensors
        widths, on_cuda = ctx.widths, native.on_cuda(rows, ctx.level)
        pull = grad.t().contiguous()
        to_x = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        to_weights, scratch = None, None
        if any(ctx.needs_input_grad[2:]):
            to_weights = torch.zeros_like(flat)
            if not on_cuda:
                padded = sum(outside * (-(-inside // 32) * 32) for inside, outside in pairwise(widths))
                scratch = flat.new_empty(-(-rows.shape[1] // CHUNK), padded)
        if on_cuda:
            scratch = flat.new_zeros(_tiles(rows, MOST_BLOCKS), TILE * sum(widths[:-1]) + len(flat))
        _run("mlp_backward", ctx.level, rows, widths, flat, pull, None, to_x, to_weights, scratch)
        parts: list[Tensor | None] = [None] * (len(widths) - 1)
        if to_weights is not None:
            sizes = [inside * outside for inside, outside in pairwise(widths)]
            shapes = [(outside, inside) for inside, outside in pairwise(widths)]
            parts = [part.view(shape) for part, shape in zip(to_weights.split(sizes), shapes, strict=True)]
        return None if to_x is None else to_x.t(), None, *parts


def _run(
    name: str,
    level: native.Level,
    rows: Tensor,
    widths: Sequence[int],
    weights: Tensor,
    grad: Tensor | None = None,
    out: Tensor | None = None,
    grad_x: Tensor | None = None,
    grad_weights: Tensor | None = None,
    scratch: Tensor | None = None,
) -> None:
    tensors = (rows, weights, grad, out, grad_x, grad_weights, scratch)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    blocks = _tiles(rows, MOST_BLOCKS if name == "mlp_backward" else 2**31 - 1)
    args = MlpArgs(*pointers, rows.shape[1], blocks, len(widths) - 1, (ctypes.c_int32 * (LAYERS + 1))(*widths))
    call("mlp", name, rows, args, (blocks, 1), level)


def _tiles(rows: Tensor, most: int) -> int:
    """Blocks of a kernel whose blocks take ``TILE`` points each."""
    return min(-(-rows.shape[1] // TILE), most)
