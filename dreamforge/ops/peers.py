"""Other people's kernels in the place of ours: optional, imported when asked for by name, on CUDA only.

nerfacc (MIT; ``pip install dreamforge3d[nerfacc]``) composites; tiny-cuda-nn (BSD-3-Clause; built from its repository,
there is no package) encodes, with the same sizes and tables; gsplat (Apache-2.0; ``pip install dreamforge3d[gsplat]``,
it compiles itself when first used) splats. ``tests.gpu.kernels`` compares them with ours.
"""

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamforge.types import DreamforgeError

if TYPE_CHECKING:
    from dreamforge.ops.hashgrid import HashGrid
    from dreamforge.ops.march import Packed

INSTALL = {
    "gsplat": "pip install gsplat",
    "nerfacc": "pip install nerfacc",
    "tinycudann": "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
}


@cache
def module(name: str, device: torch.device) -> Any:
    """The library. Raises DreamforgeError where it cannot run."""
    if device.type != "cuda":
        raise DreamforgeError(
            f"backend {name} was asked for, but it runs on CUDA only, not on {device.type}: use auto."
        )
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise DreamforgeError(
            f"backend {name} was asked for, but it cannot be imported ({error}): {INSTALL[name]}, or use backend auto."
        ) from error


def encode_tinycudann(x: Tensor, table: Tensor, grid: "HashGrid") -> Tensor:
    """``hashgrid.encode`` by tiny-cuda-nn in float32, from our table."""
    encoding = _encoding(grid, x.device)
    out: Tensor = torch.func.functional_call(encoding, {"params": table.reshape(-1)}, (x.contiguous(),))
    return out.float()


def tinycudann_config(grid: "HashGrid") -> dict[str, Any]:
    """The grid in tiny-cuda-nn's words."""
    return {
        "otype": "HashGrid",
        "n_levels": grid.levels,
        "n_features_per_level": grid.features,
        "log2_hashmap_size": grid.log2_entries,
        "base_resolution": grid.base,
        "per_level_scale": grid.growth,
    }


@cache
def _encoding(grid: "HashGrid", device: torch.device) -> Any:
    encoding = module("tinycudann", device).Encoding(3, tinycudann_config(grid), dtype=torch.float32)
    if encoding.params.numel() != grid.rows * grid.features:
        raise DreamforgeError(
            f"tiny-cuda-nn lays out {encoding.params.numel()} numbers where {grid.rows * grid.features} are expected: "
            "its version has other sizes; use backend auto."
        )
    return encoding.to(device)


def render_nerfacc(packed: "Packed", density: Tensor, values: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """``march.render`` by nerfacc."""
    nerfacc = module("nerfacc", density.device)
    where = {"ray_indices": packed.ray, "n_rays": packed.rays}
    start = packed.t - step / 2
    weights, _, _ = nerfacc.render_weight_from_density(start, start + step, density, **where)
    columns = torch.cat([values, torch.ones_like(weights)[:, None], packed.t[:, None]], 1)
    return nerfacc.accumulate_along_rays(weights, columns, **where), weights


def rasterize_gsplat(means: Tensor, *given: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """``splat.rasterization`` by gsplat, which has the same names, with the constants of the version that is there."""
    rendered, alphas, meta = module("gsplat", means.device).rasterization(means, *given, **options)
    return rendered, alphas, meta
