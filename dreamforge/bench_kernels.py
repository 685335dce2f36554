"""``dreamforge bench``: every operation beside its torch reference and, where they are installed, other libraries.

Times are medians of wall time after a first call; one thread unless torch was told otherwise. Sizes are those of the
public comparisons: 262 144 points, 16 levels of 2^19 entries.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from dreamforge.ops.hashgrid import HashGrid, encode, encode_reference
from dreamforge.types import DreamforgeError

POINTS = 2**18
LEAST, LONG = 5, 1.5  # calls that are timed: at least so many, unless they take this many seconds
GRID = HashGrid(16, 2, 19, 16, 256 ** (1 / 15))  # 16 to 4096
Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line, in milliseconds; NaN does not occur, what is not there is left out of ``peers_ms``."""

    name: str
    size: str
    ours_ms: float
    reference_ms: float
    peers_ms: dict[str, float] = field(default_factory=dict)


def rows(only: str = "") -> Iterator[Row]:
    """The rows one after another as they are measured; ``only`` the one of this name. Raises DreamforgeError."""
    if only and only not in ROWS:
        raise DreamforgeError(f"--only {only} was given, but the rows are {', '.join(ROWS)}: choose one.")
    for name in [only] if only else ROWS:
        yield ROWS[name](name)


def timed(call: Call) -> float:
    """Median milliseconds of a call."""
    call()
    taken: list[float] = []
    while len(taken) < LEAST and sum(taken) < LONG:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(1e3 * median(taken), 3)


def _hashgrid(name: str) -> Row:
    draws = torch.Generator().manual_seed(0)
    x, table = torch.rand(POINTS, 3, generator=draws), GRID.table(draws)
    size = f"{POINTS} points, {GRID.levels} levels, 2^{GRID.log2_entries}"
    if name != "hashgrid_backward":
        half = table.half() if name == "hashgrid_forward_f16" else None
        ours = timed(lambda: encode(x, table, GRID, half))
        return Row(name, size, ours, timed(lambda: encode_reference(x, table, GRID, half)), _drjit(name))
    pull, table = torch.randn(POINTS, GRID.width, generator=draws), table.requires_grad_()
    ours, reference = (_backward(compute(x, table, GRID), table, pull) for compute in (encode, encode_reference))
    return Row(name, size, ours, reference, _drjit(name))


def _backward(out: Tensor, of: Tensor, pull: Tensor) -> float:
    return timed(lambda: torch.autograd.grad(out, of, pull, retain_graph=True))


def _drjit(name: str) -> dict[str, float]:
    if importlib.util.find_spec("drjit") is None or name == "hashgrid_forward_f16":
        return {}
    import drjit as dr
    from drjit.llvm.ad import ArrayXf, Float32
    from drjit.nn import HashGridEncoding

    sizes = {"n_levels": GRID.levels, "n_features_per_level": GRID.features, "hashmap_size": 2**GRID.log2_entries}
    encoding = HashGridEncoding(
        Float32, 3, **sizes, base_resolution=GRID.base, per_level_scale=GRID.growth, torchngp_compat=True
    )
    x = ArrayXf(torch.rand(3, POINTS, generator=torch.Generator().manual_seed(0)).numpy())
    dr.eval(x)

    def forward() -> None:
        dr.eval(encoding(x))
        dr.sync_thread()

    def both_ways() -> None:
        params = Float32(encoding.params)
        dr.enable_grad(params)
        encoding.set_params(params)
        dr.backward(dr.sum(dr.sum(encoding(x))))
        dr.eval(dr.grad(params))
        dr.sync_thread()

    dr.set_thread_count(torch.get_num_threads())
    if name == "hashgrid_forward_f32":
        return {"drjit": timed(forward)}
    return {"drjit, forward too": timed(both_ways)}


ROWS: dict[str, Callable[[str], Row]] = {
    "hashgrid_forward_f32": _hashgrid,
    "hashgrid_forward_f16": _hashgrid,
    "hashgrid_backward": _hashgrid,
}
