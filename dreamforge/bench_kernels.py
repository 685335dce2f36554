"""``dreamforge bench``: every operation beside its torch reference and, where they are installed, other libraries.

Times are medians of wall time after a first call, on as many threads as torch has. Sizes are those of the public
comparisons: 262 144 points, 16 levels of 2^19 entries, a perceptron of 32-64-64-16.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from dreamforge import bench_isosurface, bench_meshes, bench_splat
from dreamforge.ops.adam import sparse_step, sparse_step_reference
from dreamforge.ops.hashgrid import HashGrid, encode, encode_reference
from dreamforge.ops.march import Packed, offsets, render, render_reference
from dreamforge.ops.mlp import fused_mlp, init, mlp_reference
from dreamforge.ops.splat import rasterization
from dreamforge.types import DreamforgeError

POINTS = 2**18
RAYS = 2**14  # of 16 samples
LEAST, LONG = 21, 1.5  # calls that are timed: so many, as memory is new in the first ones; or these seconds
GRID = HashGrid(16, 2, 19, 16, 256 ** (1 / 15))  # 16 to 4096
WIDTHS = (32, 64, 64, 16)
HIT = 0.1  # of the rows of a table in a step
Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line, in milliseconds; None: not measured."""

    name: str
    size: str
    ours_ms: float
    reference_ms: float | None
    peers_ms: dict[str, float] = field(default_factory=dict)


def rows(only: str = "") -> Iterator[Row]:
    """The rows one after another as they are measured; ``only`` the one of this name. Raises DreamforgeError."""
    if only and only not in ROWS:
        raise DreamforgeError(f"--only {only} was given, but the rows are {', '.join(ROWS)}: choose one.")
    for name in [only] if only else ROWS:
        yield ROWS[name](name)


def timed(call: Call, least: int = LEAST) -> float:
    """Median milliseconds of a call."""
    call()
    taken: list[float] = []
    while len(taken) < least and sum(taken) < LONG:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(1e3 * median(taken), 4)


def _backward(out: Tensor, of: list[Tensor], pull: Tensor) -> float:
    return timed(lambda: torch.autograd.grad(out, of, pull, retain_graph=True))


def _hashgrid(name: str) -> Row:
    draws = torch.Generator().manual_seed(0)
    x, table = torch.rand(POINTS, 3, generator=draws), GRID.table(draws)
    size = f"{POINTS} points, {GRID.levels} levels, 2^{GRID.log2_entries}"
    if name != "hashgrid_backward":
        half = table.half() if name == "hashgrid_forward_f16" else None
        ours = timed(lambda: encode(x, table, GRID, half))
        return Row(name, size, ours, timed(lambda: encode_reference(x, table, GRID, half)), _drjit(name))
    pull, table = torch.randn(POINTS, GRID.width, generator=draws), table.requires_grad_()
    ours, reference = (_backward(compute(x, table, GRID), [table], pull) for compute in (encode, encode_reference))
    return Row(name, size, ours, reference, _drjit(name))


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
    points = torch.rand(3, POINTS, generator=torch.Generator().manual_seed(0)).numpy()
    x = ArrayXf(points)
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


def _mlp(name: str) -> Row:
    draws = torch.Generator().manual_seed(0)
    weights = [weight.requires_grad_() for weight in init(WIDTHS, draws)]
    x = torch.randn(WIDTHS[0], POINTS, generator=draws).t().requires_grad_()  # as the hash encoding leaves it
    pull, size = torch.randn(POINTS, WIDTHS[-1], generator=draws), f"{POINTS} rows, {'-'.join(map(str, WIDTHS))}"
    if name == "mlp_forward":
        with torch.no_grad():
            return Row(name, size, timed(lambda: fused_mlp(x, weights)), timed(lambda: mlp_reference(x, weights)))
    ours, reference = (
        _backward(out, [x, *weights], pull) for out in (fused_mlp(x, weights)[0], mlp_reference(x, weights))
    )
    return Row(name, size, ours, reference)


def _march_render(name: str) -> Row:
    draws, each = torch.Generator().manual_seed(0), POINTS // RAYS
    ray = torch.arange(RAYS).repeat_interleave(each)
    t = (torch.arange(each) * 0.03 + torch.rand(RAYS, 1, generator=draws)).flatten()
    packed = Packed(ray, t, torch.zeros(POINTS, 3), offsets(torch.full((RAYS,), each)))
    density = (30 * torch.rand(POINTS, generator=draws)).requires_grad_()
    values = torch.rand(3, POINTS, generator=draws).t().requires_grad_()

    def both_ways(compute: Callable[..., tuple[Tensor, Tensor]]) -> Call:
        return lambda: torch.autograd.grad(compute(packed, density, values, 0.03)[0].sum(), [density, values])

    peers = {}
    if importlib.util.find_spec("nerfacc") is not None:
        from nerfacc import accumulate_along_rays, render_weight_from_density

        start = t.view(RAYS, each)

        def theirs() -> None:
            weights, _, _ = render_weight_from_density(start, start + 0.03, density.view(RAYS, each))
            columns = torch.cat([values.view(RAYS, each, 3), torch.ones(RAYS, each, 1), start[..., None]], -1)
            torch.autograd.grad(accumulate_along_rays(weights, columns).sum(), [density, values])

        peers = {"nerfacc, batched": timed(theirs)}
    size = f"{POINTS} samples on {RAYS} rays, both ways"
    return Row(name, size, timed(both_ways(render)), timed(both_ways(render_reference)), peers)


def _adam(name: str) -> Row:
    draws, betas, eps = torch.Generator().manual_seed(0), (0.9, 0.99), 1e-15
    table, kept = GRID.table(draws), torch.randn(GRID.rows, GRID.features, generator=draws)
    kept[torch.rand(GRID.rows, generator=draws) > HIT] = 0.0
    grad, mean, square = kept.clone(), torch.zeros_like(table), torch.zeros_like(table)

    def again(step: Call) -> float:
        """Milliseconds of a step without those of giving it its gradient back."""
        taken = []
        for _ in range(LEAST):
            grad.copy_(kept)
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        return round(1e3 * median(taken), 4)

    ours = again(lambda: sparse_step(table, grad, mean, square, step=1, lr=0.01, betas=betas, eps=eps))
    reference = again(lambda: sparse_step_reference(table, grad, mean, square, 0.01, betas, eps))
    leaf = table.requires_grad_()
    hit = (kept != 0).any(1).nonzero().squeeze(1)
    dense, sparse = torch.optim.Adam([leaf], 0.01, betas, eps, fused=True), torch.optim.SparseAdam([leaf], 0.01, betas)
    leaf.grad = kept
    peers = {"torch Adam, fused, all rows": timed(dense.step)}
    leaf.grad = torch.sparse_coo_tensor(hit[None], kept[hit], kept.shape, check_invariants=True).coalesce()
    peers["torch SparseAdam"] = timed(sparse.step)
    return Row(name, f"{GRID.rows} rows of {GRID.features}, {HIT:.0%} hit", ours, reference, peers)


def _mesh(name: str) -> Row:
    size, ours, reference = bench_meshes.both_ways()
    return Row(name, size, timed(ours), timed(reference))


def _isosurface(name: str) -> Row:
    size, ours, reference = bench_isosurface.ROWS[name]()
    return Row(name, size, timed(ours), None if reference is None else timed(reference))


def _splat(name: str) -> Row:
    """gsplat has no kernel for a CPU, and its functions in torch loop over tiles in Python."""
    tiles = len(rasterization(**bench_splat.scene())[2]["flatten_ids"])
    size = f"{bench_splat.GAUSSIANS} Gaussians, {tiles} in tiles, {bench_splat.SIZE}x{bench_splat.SIZE}"
    ours = timed(bench_splat.call(name, bench_splat.scene()))
    return Row(name, size, ours, timed(bench_splat.call(name, bench_splat.scene(), "torch"), 1))


def _call_overhead(name: str) -> Row:
    draws, grid = torch.Generator().manual_seed(0), HashGrid(1, 2, 8, 4, 1.0)
    x, table = torch.rand(1, 3, generator=draws), grid.table(draws).requires_grad_()
    pull = torch.ones(1, grid.width)

    def both_ways(compute: Callable[..., Tensor]) -> Call:
        return lambda: torch.autograd.grad(compute(x, table, grid), table, pull)

    ours, reference = (timed(both_ways(compute), 2000) for compute in (encode, encode_reference))
    return Row(name, "hash grid of one level, one point, both ways", ours, reference)


def _generate(name: str) -> Row:
    """As a user starts it, Python's own start and the export too. The reference would take a quarter of an hour."""
    import subprocess

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dreamforge", "generate", "a red mushroom", "--out", f"{folder}/run"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise DreamforgeError(f"generate ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return Row(name, "default recipe, prompt to GLB", round(1e3 * seconds, 1), None)


ROWS: dict[str, Callable[[str], Row]] = {
    "hashgrid_forward_f32": _hashgrid,
    "hashgrid_forward_f16": _hashgrid,
    "hashgrid_backward": _hashgrid,
    "mlp_forward": _mlp,
    "mlp_backward": _mlp,
    "march_render": _march_render,
    "mesh_forward_backward": _mesh,
    "adam_sparse": _adam,
    **dict.fromkeys(bench_isosurface.ROWS, _isosurface),
    "splat_forward": _splat,
    "splat_backward": _splat,
    "call_overhead": _call_overhead,
    "generate_default": _generate,
}
