"""How close a kernel is to its reference: number by number, and over all by direction, size and bias.

A missing branch of a gradient may hide below a tolerance for each number; it does not hide from the other three.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_agrees(got: Tensor, wanted: Tensor, rtol: float = 1e-5, atol: float = 1e-6, whole: float = 1e-5) -> None:
    """``got`` of float32 against ``wanted`` of float64; ``whole``: tolerance of cosine, norm and mean error."""
    assert got.dtype == torch.float32 and wanted.dtype == torch.float64 and got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol)
    a, b = got.double().flatten(), wanted.flatten()
    size = b.norm()
    if size > 0:
        assert 1 - float(a @ b / (a.norm() * size)) < whole, "direction"
        assert abs(float(a.norm() / size) - 1) < whole, "size"
        assert abs(float((a - b).sum())) <= whole * float(b.abs().sum()), "bias"


def assert_same_bits(compute: Callable[[], Sequence[Tensor]]) -> None:
    """What ``compute`` answers on 1, 2 and 4 of torch's threads is the same to the bit."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(compute())
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
