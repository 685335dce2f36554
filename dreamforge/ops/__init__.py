"""The operations that score distillation spends its time in: a readable reference and compiled kernels of each."""

from dreamforge.ops.dispatch import backends

__all__ = ["backends"]
