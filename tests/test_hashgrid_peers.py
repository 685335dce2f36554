"""The hash encoding against Dr.Jit's (BSD-3), run by its LLVM backend where it is installed."""

import importlib.util
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import torch

from dreamforge.ops.hashgrid import HashGrid, encode
from tests.tools import require_tool

GRID = HashGrid(6, 2, 12, 5, 1.6)


def test_values_are_those_of_drjit(core: None) -> None:
    """Level by level: it pads a level's entries to others than tiny-cuda-nn does. Inside, where neither wraps."""
    require_tool(importlib.util.find_spec("drjit"), "drjit is not installed")
    require_tool(find_library("LLVM") or list(Path("/usr/lib").glob("*/libLLVM*.so*")), "libLLVM is not installed")
    from drjit.llvm.ad import ArrayXf, Float32
    from drjit.nn import HashGridEncoding

    theirs = HashGridEncoding(
        Float32, 3, n_levels=6, n_features_per_level=2, hashmap_size=2**12, base_resolution=5, per_level_scale=1.6,
        torchngp_compat=True,
    )  # fmt: skip
    draws = torch.Generator().manual_seed(0)
    table, x = torch.randn(GRID.rows, 2, generator=draws), 0.8 * torch.rand(2000, 3, generator=draws)
    params = torch.zeros(theirs.n_params)
    for number, level in enumerate(GRID.grids()):
        first, end = (2 * theirs.level_offset(one) for one in (number, number + 1))  # of entries of two features
        ours = table[level.first : level.first + level.entries].flatten()[: end - first]
        params[first : first + len(ours)] = ours
    given, axes = params.numpy(), x.t().contiguous().numpy()
    theirs.set_params(Float32(given))
    out = torch.from_numpy(np.array(theirs(ArrayXf(axes)))).t()
    torch.testing.assert_close(encode(x, table, GRID, backend="native"), out, rtol=1e-4, atol=2e-4)
