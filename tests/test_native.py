"""The compiled core as a whole: which backend runs, what is said where there is none, torch's threads."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamforge import data
from dreamforge.doctor import examine
from dreamforge.ops import (
    adam,
    antialias,
    backends,
    cuda,
    dispatch,
    hashgrid,
    isosurface_native,
    march,
    mlp,
    native,
    peers,
    raster,
    splat_native,
    texture,
)
from dreamforge.ops.dispatch import OPS, choose
from dreamforge.ops.hashgrid import HashGrid, agrees, encode, encode_reference
from dreamforge.types import DreamforgeError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkout where the core was not built."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "none.so")
    native.loaded.cache_clear()
    yield
    monkeypatch.undo()
    native.loaded.cache_clear()


def test_the_core_is_there_and_is_told_about_torchs_threads(core: None) -> None:
    found = native.core()
    assert found.sources == native.hash_of(Path(__file__).parents[1] / "extensions")
    best = {"AVX512": 2, "AVX2": 1}.get(torch.backends.cpu.get_cpu_capability(), 0)  # torch looks at the same flags
    assert found.threads and found.level == best
    assert {one.op for one in backends()} == set(OPS)
    assert all(one.backend == "native" and "instructions" in one.why for one in backends() if one.device == "cpu")


def test_without_a_core_the_reference_answers_and_says_so(absent: None) -> None:
    grid = HashGrid(2, 2, 8, 4, 2.0)
    x, table = torch.rand(5, 3), grid.table(torch.Generator().manual_seed(0))
    assert torch.equal(encode(x, table, grid), encode(x, table, grid, backend="torch"))
    with pytest.raises(DreamforgeError, match=r"native was asked for, but .* was not built: .*C\+\+17.*backend torch"):
        encode(x, table, grid, backend="native")
    assert all(one.backend == "torch" and "not built" in one.why for one in backends() if one.device == "cpu")
    (line,) = [finding for finding in examine() if finding.name == "kernels"]
    assert "slow" in line.text and "compiler" in line.text


def test_a_core_of_other_sources_is_not_used(core: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "hash_of", lambda sources: "another")
    native.loaded.cache_clear()
    try:
        assert "built from other sources" in str(native.loaded())
    finally:
        native.loaded.cache_clear()


def test_a_damaged_core_is_told(absent: None) -> None:
    native.LIBRARY.write_bytes(b"no library")
    native.loaded.cache_clear()
    assert "cannot be loaded" in str(native.loaded())


def test_wrong_backends_are_told(core: None) -> None:
    grid = HashGrid(1, 3, 8, 4, 2.0)  # three features: no kernel
    x, table = torch.rand(5, 3), grid.table(torch.Generator().manual_seed(0))
    assert encode(x, table, grid).shape == (5, 3)
    with pytest.raises(DreamforgeError, match="no hashgrid for these types and sizes"):
        encode(x, table, grid, backend="native")
    with pytest.raises(
        DreamforgeError, match="'cupy' was given, but one of auto, torch, native, nerfacc, tinycudann, gsplat"
    ):
        encode(x, table, grid, backend="cupy")


def test_kernels_that_disagree_on_a_gpu_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked once for each GPU; a driver that refuses counts too."""
    monkeypatch.setattr(cuda, "nvrtc", lambda: None)
    asked = []

    def disagrees(device: torch.device) -> bool:
        asked.append(device)
        return False

    def refuses(device: torch.device) -> bool:
        raise DreamforgeError("no device")

    dispatch._trusted.cache_clear()
    with pytest.warns(RuntimeWarning, match="not used on cuda:0: they do not agree"):
        assert choose("hashgrid", CUDA, "auto", True, disagrees) == "torch"
    assert choose("hashgrid", CUDA, "auto", True, disagrees) == "torch" and asked == [CUDA]
    with pytest.warns(RuntimeWarning, match="no device"):
        assert choose("hashgrid", CUDA, "auto", True, refuses) == "torch"
    assert choose("hashgrid", CUDA, "auto", True, lambda device: True) == "native"
    assert choose("hashgrid", CUDA, "native", True, disagrees) == "native", "who asks by name gets it"
    dispatch._trusted.cache_clear()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kernels_are_compared_with_their_gradients_wherever_they_are_asked(mode: Any) -> None:
    dispatch._trusted.cache_clear()
    with mode():
        assert dispatch._trusted("hashgrid", CPU, agrees)
    dispatch._trusted.cache_clear()


def test_the_comparison_finds_a_wrong_kernel(core: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(CPU)
    right = hashgrid.encode_native
    monkeypatch.setattr(hashgrid, "encode_native", lambda *given: 1.01 * right(*given))
    assert not agrees(CPU)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("adam_sparse_step", adam.AdamArgs),
        ("flexicubes_pull", isosurface_native.FlexiArgs),
        ("hashgrid_encode", hashgrid.HashGridArgs),
        ("march_fill", march.MarchArgs),
        ("march_render", march.RenderArgs),
        ("mlp_backward", mlp.MlpArgs),
        ("raster_cover", raster.RasterArgs),
        ("raster_interpolate", raster.InterpolateArgs),
        ("antialias_blend", antialias.AntialiasArgs),
        ("texture_forward", texture.TextureArgs),
        ("tetrahedra_fill", isosurface_native.TetraArgs),
        ("splat_bin", splat_native.BinArgs),
        ("splat_blend", splat_native.BlendArgs),
        ("splat_harmonics", splat_native.HarmonicsArgs),
        ("splat_project", splat_native.ProjectArgs),
    ],
)
def test_arguments_are_laid_out_as_in_the_core(name: str, args: type[ctypes.Structure], core: None) -> None:
    size = getattr(native.core().functions, f"df_size_{name}")
    size.restype = ctypes.c_int64
    assert size() == ctypes.sizeof(args)


def test_sizes_are_those_of_the_headers() -> None:
    headers = "".join(path.read_text("utf-8") for path in (data.extensions() / "include").glob("*.h"))
    sizes = {"MLP_LAYERS": mlp.LAYERS, "MLP_WIDTH": mlp.WIDTH, "MLP_CHUNK": mlp.CHUNK, "MARCH_CHANNELS": march.CHANNELS}
    assert all(f"{name} = {size}" in headers for name, size in sizes.items())


def test_work_goes_to_the_pool_that_was_lent(core: None) -> None:
    """Three threads are offered: the pool is asked for three shares, whoever comes takes tasks, and none is left."""
    body = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    asked = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, body, ctypes.c_void_p)
    def pool(begin: int, end: int, grain: int, share: Any, context: int) -> int:
        asked.append((begin, end, grain))
        share(1, 2, context)  # one share takes all there is; the others come too late
        share(0, 1, context)
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint32))
    def threads(out: Any) -> int:
        out[0] = 3
        return 0

    grid = HashGrid(3, 2, 9, 4, 2.0)
    x, table = torch.rand(100, 3), grid.table(torch.Generator().manual_seed(0))
    before = encode(x, table, grid, backend="native")
    try:
        native.core().functions.df_use_threads(pool, threads)
        assert torch.equal(encode(x, table, grid, backend="native"), before) and asked == [(0, 3, 1)]
    finally:
        native.Core(native.LIBRARY)  # lends torch's again


def test_other_libraries_are_asked_by_name_on_cuda_only() -> None:
    grid = HashGrid(2, 2, 8, 4, 2.0)
    x, table = torch.rand(5, 3), grid.table(torch.Generator().manual_seed(0))
    with pytest.raises(DreamforgeError, match="backend tinycudann was asked for, but it runs on CUDA only, not on cpu"):
        encode(x, table, grid, backend="tinycudann")
    packed = march.Packed(torch.zeros(1, dtype=torch.long), torch.ones(1), torch.zeros(1, 3), torch.tensor([0, 1]))
    with pytest.raises(DreamforgeError, match=r"nerfacc .* on CUDA only"):
        march.render(packed, torch.ones(1), torch.ones(1, 3), 0.1, "nerfacc")
    assert torch.equal(encode(x, table, grid, backend="nerfacc"), encode(x, table, grid)), "it has no hash grid"
    with pytest.raises(DreamforgeError, match=r"tinycudann was asked for, but it cannot be imported.*pip install git"):
        peers.module("tinycudann", CUDA)


def test_tiny_cuda_nn_is_given_our_table_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with its interface: flat parameters, a configuration, padding by itself."""
    grid = HashGrid(3, 2, 9, 4, 2.0)
    asked: list[dict[str, Any]] = []

    class Encoding(torch.nn.Module):
        def __init__(self, inputs: int, config: dict[str, Any], dtype: torch.dtype) -> None:
            super().__init__()
            asked.append({**config, "inputs": inputs, "dtype": dtype})
            self.params = torch.nn.Parameter(torch.zeros(grid.rows * grid.features))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return encode_reference(x, self.params.view(grid.rows, grid.features), grid)

    monkeypatch.setattr(peers, "module", lambda name, device: SimpleNamespace(Encoding=Encoding))
    peers._encoding.cache_clear()
    x, table = torch.rand(50, 3), grid.table(torch.Generator().manual_seed(0)).requires_grad_()
    out = peers.encode_tinycudann(x, table, grid)
    assert torch.equal(out, encode_reference(x, table, grid))
    out.sum().backward()
    assert table.grad is not None and table.grad.any()
    assert asked == [{
        "otype": "HashGrid", "n_levels": 3, "n_features_per_level": 2, "log2_hashmap_size": 9, "base_resolution": 4,
        "per_level_scale": 2.0, "inputs": 3, "dtype": torch.float32,
    }]  # fmt: skip
    peers._encoding.cache_clear()
    with pytest.raises(DreamforgeError, match="tiny-cuda-nn lays out"):
        peers.encode_tinycudann(x, torch.zeros(8, 2), HashGrid(1, 2, 3, 2, 2.0))
    peers._encoding.cache_clear()


def test_nerfacc_is_given_our_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own batched functions stand in for those of flat samples, which need CUDA: two rays of three samples."""
    nerfacc = pytest.importorskip("nerfacc")

    def weights(start: Any, end: Any, density: Any, ray_indices: Any, n_rays: int) -> Any:
        rows = [one.view(n_rays, 3) for one in (start, end, density)]
        return [one.flatten() for one in nerfacc.render_weight_from_density(*rows)]

    def sums(weights: Any, values: Any, ray_indices: Any, n_rays: int) -> Any:
        return nerfacc.accumulate_along_rays(weights.view(n_rays, 3), values.view(n_rays, 3, -1))

    stand_in = SimpleNamespace(render_weight_from_density=weights, accumulate_along_rays=sums)
    monkeypatch.setattr(peers, "module", lambda name, device: stand_in)
    ray = torch.tensor([0, 0, 0, 1, 1, 1])
    packed = march.Packed(ray, torch.rand(6) + 1, torch.zeros(6, 3), torch.tensor([0, 3, 6]))
    density, values = 30 * torch.rand(6), torch.rand(6, 3)
    for got, wanted in zip(
        peers.render_nerfacc(packed, density, values, 0.05),
        march.render_reference(packed, density, values, 0.05),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
