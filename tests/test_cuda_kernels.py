"""CUDA kernels without a GPU: NVRTC compiles them for every architecture, and the host build runs their logic."""

import ctypes
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge import data
from dreamforge.ops import adam, antialias, cuda, hashgrid, march, mlp, raster, texture
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.isosurface_native import flexicubes_native, tetrahedra_native
from dreamforge.ops.isosurface_reference import Weights
from dreamforge.ops.native import Level
from dreamforge.ops.splat import rasterization
from dreamforge.types import DreamforgeError
from tests.splats import answers as splat_answers
from tests.splats import assert_close, lone_gradients, scene
from tests.tools import require_tool

FILES = sorted(path.stem for path in (data.extensions() / "cuda").glob("*.cu"))
BLOCK = 64  # threads: small inputs still take several blocks, and the last one is not full


@pytest.mark.parametrize("architecture", cuda.ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles(file: str, architecture: str) -> None:
    try:
        cuda.nvrtc()
    except DreamforgeError as error:
        require_tool(None, str(error))
    assert cuda.compiled(file, architecture)[:4] == b"\x7fELF"


def test_what_does_not_compile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "wrong.cu").write_text("__global__ void f() { nonsense; }")
    monkeypatch.setattr(data, "extensions", lambda: tmp_path)
    with pytest.raises(DreamforgeError, match=r"wrong.cu does not compile for sm_90 with NVRTC[\s\S]*nonsense"):
        cuda.compiled("wrong", "sm_90")


def test_nothing_to_do_starts_nothing() -> None:
    """The driver refuses a grid of no blocks; it is not even asked."""
    cuda.launch("mlp", "mlp_forward", torch.device("cuda", 7), (0, 1), mlp.MlpArgs())


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> ctypes.CDLL:
    """The kernels built for the host; ``--host-kernels`` gives a library that is there already."""
    given = pytestconfig.getoption("--host-kernels")
    if given:
        return ctypes.CDLL(given)
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    require_tool(compiler, "there is no C++ compiler")
    library = tmp_path_factory.mktemp("host") / "kernels.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-DDF_HOST_CUDA", "-Wall", "-Wextra", "-Werror"]
    source = data.extensions() / "host" / "kernels.cpp"
    subprocess.run([str(compiler), *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def run(host: ctypes.CDLL, name: str, args: ctypes.Structure, grid: tuple[int, int], block: int = BLOCK) -> None:
    getattr(host, f"host_{name}")(ctypes.byref(args), *grid, block)


class SumArgs(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_void_p), ("sums", ctypes.c_void_p), ("total", ctypes.c_void_p)]


@pytest.mark.parametrize("block", [32, 128])
def test_the_launch_layer_has_warps_barriers_shared_memory_and_atomic_sums(host: ctypes.CDLL, block: int) -> None:
    numbers = torch.arange(5.0 * block).view(5, block)
    sums, total = torch.zeros(5), torch.zeros(1)
    run(host, "selftest_sum", SumArgs(numbers.data_ptr(), sums.data_ptr(), total.data_ptr()), (5, 1), block)
    assert torch.equal(sums, numbers.sum(1)) and total == numbers.sum()


class VoteArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("numbers", "of_warp", "of_block", "sums", "many")]


def test_the_launch_layer_has_votes_and_sums_of_many_numbers(host: ctypes.CDLL) -> None:
    """Two votes with the opposite answer go before the one that is looked at."""
    numbers = torch.zeros(3, 96, dtype=torch.int32)
    numbers[0, 40], numbers[2, [0, 70, 95]] = 5, 7
    warps, blocks, many = torch.empty_like(numbers), torch.empty_like(numbers), torch.empty(3, 96)
    sums = torch.zeros(3)
    run(host, "selftest_vote", VoteArgs(*(one.data_ptr() for one in (numbers, warps, blocks, sums, many))), (3, 1), 96)
    some = numbers.view(3, 3, 32)
    assert torch.equal(warps.view(3, 3, 32), (some > 0).any(2, keepdim=True).int().expand_as(some))
    assert torch.equal(blocks, (numbers > 0).any(1, keepdim=True).int().expand(3, 96))
    assert sums.tolist() == [5, 0, 21]
    wanted = torch.arange(16.0).repeat_interleave(2) * some.sum(2, keepdim=True)
    assert torch.equal(many.view(3, 3, 32), wanted)


@pytest.fixture
def on_host(core: None, host: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that are asked for tensors on the CPU launch CUDA kernels on the host in place of the CPU's driver."""

    def launch(file: str, name: str, device: torch.device, grid: tuple[int, int], args: Any) -> None:
        run(host, name, args, grid, cuda.BLOCK if file in ("mlp", "splat") else BLOCK)

    monkeypatch.setattr(cuda, "launch", launch)
    monkeypatch.setattr(cuda, "blocks", lambda items: -(-items // BLOCK))


def answers(grid: HashGrid, half: bool, level: Level) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    x, table = torch.rand(150, 3, generator=draws), torch.randn(grid.rows, grid.features, generator=draws)
    x[:3] = torch.tensor([[0.0, 1, 0.5], [1, 1, 1], [-0.5, 2, 0.25]])
    pull = torch.randn(150, grid.width, generator=draws)
    given = [x.requires_grad_(), table.requires_grad_()]
    out = hashgrid.encode_native(*given, grid, table.detach().half() if half else None, level)
    return [out.detach(), *torch.autograd.grad(out, given, pull)]


@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("grid", [HashGrid(3, 2, 9, 4, 2.0), HashGrid(2, 4, 8, 5, 1.5)], ids=str)
def test_the_hash_grids_logic_is_that_of_the_cpu(grid: HashGrid, half: bool, on_host: None) -> None:
    """The same bodies behind both drivers; sums in another order."""
    for ours, theirs in zip(answers(grid, half, "cuda"), answers(grid, half, None), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("widths", [[20, 33, 64, 5], [3, 2], [128, 128, 70]], ids=str)
def test_the_perceptrons_logic_is_that_of_the_cpu(
    widths: list[int], on_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that take several tiles, the last one not full."""
    monkeypatch.setattr(mlp, "MOST_BLOCKS", 2)
    draws = torch.Generator().manual_seed(0)
    x, weights = torch.randn(150, widths[0], generator=draws), mlp.init(widths, draws)
    pull, found = torch.randn(150, widths[-1], generator=draws), []
    for level in ("cuda", None):
        given = [one.requires_grad_() for one in (x, *weights)]
        out = mlp.mlp_native(given[0], given[1:], level)
        found.append([out.detach(), *torch.autograd.grad(out, given, pull)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_rays_logic_is_that_of_the_cpu(on_host: None) -> None:
    draws = torch.Generator().manual_seed(0)
    origins = torch.randn(150, 3, generator=draws)
    directions = torch.nn.functional.normalize(torch.rand(150, 3, generator=draws) - 0.5 - origins, dim=-1)
    occupancy, shift = torch.rand(7, 7, 7, generator=draws) > 0.5, torch.rand(150, generator=draws)
    occupancy[:4, 4:] = False  # blocks that rays leap over
    found: list[list[Tensor]] = []
    for level in ("cuda", None):
        packed = march.sample_native(origins, directions, occupancy, 1.0, 0.05, shift, level)
        draws.manual_seed(1)
        density = (40 * torch.rand(len(packed.t), generator=draws)).requires_grad_()
        values = torch.rand(len(packed.t), 3, generator=draws).requires_grad_()
        sums, weights = march.render_native(packed, density, values, 0.05, level)
        grads = torch.autograd.grad(sums.square().sum() + weights.square().sum(), [density, values])
        index, first = march.visible_native(packed, density, 0.05, 1e-2, level)
        found.append([packed.ray, packed.t, packed.position, sums.detach(), weights.detach(), *grads, index, first])
    assert 0 < len(found[0][-2]) < len(found[0][0])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [1, 2, 8])
def test_sparse_adams_logic_is_that_of_the_cpu(features: int, on_host: None) -> None:
    found = []
    for level in ("cuda", None):
        draws = torch.Generator().manual_seed(0)
        table, grad, mean, square = (torch.randn(150, features, generator=draws) for _ in range(4))
        grad[::3] = 0.0
        adam.sparse_step_native(table, grad, mean, square.abs_(), 0.01, (0.9, 0.99), 1e-15, level)
        found.append([table, grad, mean, square])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def drawn_by(level: Level, kind: str) -> list[Tensor]:
    """All that the verbs of mesh rendering answer, and their gradients."""
    draws = torch.Generator().manual_seed(0)
    pixels, depth = 40 * torch.rand(2, 30, 2, generator=draws) - 8, torch.rand(2, 30, generator=draws) + 0.5
    faces, values = torch.randint(0, 30, (25, 3), generator=draws), torch.rand(30, 3, generator=draws)
    if kind == "near":  # cut by the near plane, equal depths, corners on centres
        pixels, depth = (2 * pixels).round() / 2, (2 * depth - 2).round() / 2 + 0.25
    pull = torch.randn(2, 17, 21, 7, generator=draws)
    given = [one.clone().requires_grad_() for one in (pixels, depth, values)]
    found = raster.rasterize_native(given[0], given[1], faces, 17, 21, derivatives=True, level=level)
    mixed = raster.interpolate_native(given[2], faces, found.face, found.bary, level)
    soft = antialias.antialias_native(mixed, found, given[0], given[1], faces, antialias.neighbours(faces), level)
    out = torch.cat([soft, found.bary, found.depth[..., None]], -1)
    assert found.dx is not None and found.dy is not None
    grads = torch.autograd.grad((out * pull).sum(), given)
    return [found.face, out.detach(), found.dx, found.dy, *grads]


@pytest.mark.parametrize("kind", ["plain", "near"])
def test_the_rasterisers_logic_is_that_of_the_cpu(kind: str, on_host: None) -> None:
    ours, theirs = drawn_by("cuda", kind), drawn_by(None, kind)
    assert torch.equal(ours[0], theirs[0]) and ours[0].unique().numel() > 6
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("filter", ["nearest", "linear", "trilinear"])
@pytest.mark.parametrize("boundary", ["wrap", "clamp"])
def test_the_textures_logic_is_that_of_the_cpu(
    filter: texture.Filter, boundary: texture.Boundary, on_host: None
) -> None:
    draws = torch.Generator().manual_seed(0)
    texels, uv = torch.rand(2, 4, 6, 3, generator=draws), 3 * torch.rand(2, 90, 2, generator=draws) - 1
    mix = 3 * torch.rand(2, 90, generator=draws) - 0.5 if filter == "trilinear" else None
    pull, found = torch.randn(2, 90, 3, generator=draws), []
    for level in ("cuda", None):
        given = [one.clone().requires_grad_() for one in (texels, uv)]
        chain = texture.pyramid(given[0]) if filter == "trilinear" else [given[0]]
        out = texture.texture_native(chain, given[1], mix, filter, boundary, level)
        found.append([out.detach(), *torch.autograd.grad((out * pull).sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_flexicubes_logic_is_that_of_the_cpu(training: bool, on_host: None) -> None:
    """Random signs: every case; the same faces index by index."""
    size, found = (5, 4, 6), []
    for level in ("cuda", None):
        draws = torch.Generator().manual_seed(0)
        given = [torch.randn(shape, generator=draws) for shape in ((210, 3), (210,), (120, 8), (120, 12), (120,))]
        leaves = [one.requires_grad_() for one in given]
        vertices, faces, deviation = flexicubes_native(
            leaves[0], leaves[1], size, Weights(*leaves[2:], training=training), level
        )
        grads = torch.autograd.grad(vertices.square().sum() + deviation.square().sum(), leaves)
        found.append([faces, vertices.detach(), deviation.detach(), *grads])
    assert torch.equal(found[0][0], found[1][0]) and len(found[0][0]) > 100
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_marching_tetrahedras_logic_is_that_of_the_cpu(on_host: None) -> None:
    size, found = (5, 4, 6), []
    for level in ("cuda", None):
        draws = torch.Generator().manual_seed(0)
        leaves = [torch.randn(shape, generator=draws).requires_grad_() for shape in ((210, 3), (210,))]
        vertices, faces = tetrahedra_native(leaves[0], leaves[1], size, level)
        found.append([faces, vertices.detach(), *torch.autograd.grad(vertices.square().sum(), leaves)])
    assert torch.equal(found[0][0], found[1][0]) and len(found[0][0]) > 100
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def splats(level: Level, count: int, size: tuple[int, int], **more: Any) -> dict[str, Tensor]:
    options = {
        name: more.pop(name) for name in ("sh_degree", "rasterize_mode", "packed", "render_mode") if name in more
    }
    given = scene(count, *size, **more)
    given["scales"] *= 0.4
    given["means"][5, 1] = math.nan
    return splat_answers(given, torch.float32, backend="native", level=level, **options)


@pytest.mark.parametrize(
    ("count", "size", "more"),
    [
        (70, (18, 10), {"views": 2, "bases": 16, "sh_degree": 2, "rasterize_mode": "antialiased"}),
        (20, (10, 10), {"views": 1, "channels": 6, "render_mode": "RGB+D", "packed": True}),
    ],
    ids=["harmonics", "seven channels"],
)
def test_the_splats_logic_is_that_of_the_cpu(
    count: int, size: tuple[int, int], more: dict[str, Any], on_host: None
) -> None:
    """From Gaussians to pictures and back; several tiles, images, and warps of Gaussians."""
    ours, theirs = (splats(level, count, size, **more) for level in ("cuda", None))
    for name, wanted in theirs.items():
        atol = 2e-5 * float(wanted.abs().max())
        torch.testing.assert_close(
            ours[name], wanted, rtol=2e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_answers_that_nothing_pulls_at(on_host: None) -> None:
    given = scene(40, 30, 20)
    ours = lone_gradients(given, torch.float32, backend="native", level="cuda")
    assert_close(ours, lone_gradients(given, torch.float64, backend="torch"))


def test_a_tile_with_more_splats_than_threads(on_host: None) -> None:
    """Two batches through shared memory, both ways; walls in either end some pixels."""
    given = scene(300, 6, 6, views=1)
    given["means"][:, :2] *= 0.4
    given["scales"] = 0.03 + 0.04 * torch.rand(300, 3, generator=torch.Generator().manual_seed(1))
    order = rasterization(**given)[2]["depths"].flatten().argsort()
    given["opacities"] = 0.01 + 0.02 * given["opacities"]
    given["opacities"][order[[20, 22, 24]]] = given["opacities"][order[-30:]] = 1.0
    found = [splat_answers(given, torch.float32, backend="native", level=level) for level in ("cuda", None)]
    assert (rasterization(**given)[2]["tiles_per_gauss"] > 0).sum() > 256
    for name, wanted in found[1].items():
        torch.testing.assert_close(found[0][name], wanted, rtol=2e-4, atol=2e-5 * float(wanted.abs().max()))
