"""Hash encoding: published sizes, trilinear exactness, gradients, the compiled core against the reference."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.ops import native
from dreamforge.ops.hashgrid import HashGrid, encode, encode_native, encode_reference, vertex_rows
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels

SMALL = HashGrid(levels=3, features=2, log2_entries=9, base=4, growth=2.0)  # 64 and 512 dense entries, then 512 hashed


def points(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def table(grid: HashGrid, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(grid.rows, grid.features, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_sizes_are_those_of_tiny_cuda_nn() -> None:
    grid = HashGrid(levels=20, features=2, log2_entries=16, base=32, growth=1.5)
    entries = [level.entries for level in grid.grids()]
    assert entries == [32768] + [65536] * 19
    assert grid.rows * grid.features == 2_555_904
    assert grid.grids()[1].resolution == 48
    assert HashGrid(levels=6, base=8, growth=8**0.2).grids()[-1].resolution == 64  # rounding must not make it 65


def test_dense_rows_count_up_and_hashed_rows_follow_the_primes() -> None:
    dense, _, hashed = SMALL.grids()
    assert (dense.resolution, dense.hashed, hashed.resolution, hashed.hashed) == (4, False, 16, True)
    vertex = torch.tensor([[1, 2, 3], [4, 0, 0], [4, 4, 4]])
    assert vertex_rows(vertex, dense).tolist() == [1 + 8 + 48, 4, (4 + 16 + 64) % 64]
    expected = [
        ((x * 1) ^ (y * 2654435761 & 0xFFFFFFFF) ^ (z * 805459861 & 0xFFFFFFFF)) % 512 for x, y, z in vertex.tolist()
    ]
    assert vertex_rows(vertex, hashed).tolist() == expected


def test_a_linear_field_on_a_dense_level_is_interpolated_exactly() -> None:
    grid = HashGrid(levels=1, features=1, log2_entries=12, base=16, growth=1.0)
    level = grid.grids()[0]
    axis = torch.arange(16, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")  # x is the fastest axis of the table
    field = (2 * x - 3 * y + 0.5 * z + 1).reshape(-1, 1)
    inside = points(200, dtype=torch.float64) * 0.9
    place = inside * level.scale + 0.5
    expected = 2 * place[:, 0] - 3 * place[:, 1] + 0.5 * place[:, 2] + 1
    torch.testing.assert_close(encode_reference(inside, field, grid)[:, 0], expected)
    torch.testing.assert_close(encode(inside, field, grid)[:, 0], expected)


def test_reference_gradients_by_finite_differences() -> None:
    inside = points(6, dtype=torch.float64).requires_grad_()
    features = table(SMALL, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, f: encode_reference(p, f, SMALL), (inside, features))


def test_the_references_second_derivatives_by_finite_differences() -> None:
    """What native kernels leave out: they are the reference's alone. Inside cells, where the encoding is smooth."""
    grid = HashGrid(levels=2, features=1, log2_entries=6, base=3, growth=2.0)
    inside = (torch.tensor([[0.33, 0.41, 0.21], [0.62, 0.37, 0.47]], dtype=torch.float64)).requires_grad_()
    features = table(grid, torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda p, f: encode_reference(p, f, grid), (inside, features))
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiated twice"):
        given = points(4).requires_grad_()
        loss = encode_native(given, table(SMALL), SMALL).square().sum()
        (first,) = torch.autograd.grad(loss, given, create_graph=True)
        first.sum().backward()


GRIDS = [SMALL, HashGrid(4, 4, 10, 3, 1.7), HashGrid(2, 1, 19, 16, 2.0), HashGrid(3, 8, 8, 2, 2.0)]
LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(
    x: Tensor, features: Tensor, grid: HashGrid, half: Tensor | None, level: int | None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Values, gradients of points and of the table: ours in float32, the reference's in float64."""
    pull, answers = draw(len(x), grid.width), []
    for dtype in (torch.float32, torch.float64):
        given = [tensor.to(dtype).requires_grad_() for tensor in (x, features)]
        if dtype == torch.float32:
            out = encode_native(*given, grid, half, level)
        else:
            out = encode_reference(*given, grid, half)
        answers.append((out.detach(), *torch.autograd.grad(out, given, pull.to(dtype))))
    return answers


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
@pytest.mark.parametrize("halved", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_core_agrees_with_the_reference(grid: HashGrid, halved: bool, level: int) -> None:
    features = table(grid)
    ours, wanted = both(points(1003), features, grid, features.half() if halved else None, level)
    scale = max(one.scale for one in grid.grids())  # a position's rounding grows with it
    for got, exact, size in zip(ours, wanted, (1.0, scale, 1.0), strict=True):
        assert_agrees(got, exact, atol=2e-6 * scale * size, whole=1e-5)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
@pytest.mark.parametrize("count", [1, 3, 15, 16, 17, 33])
def test_odd_numbers_of_points_on_the_border_and_outside(count: int, level: int) -> None:
    """Points beyond [0, 1] wrap as the reference's do; in binary fractions, for a cell must not hang on a rounding."""
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 1], [0.25, 1, 0.75], [-0.5, 0.5, 2], [3, -2, 0.5]])
    x = corners.repeat(6, 1)[:count]
    grid = HashGrid(3, 2, 6, 3, 2.0)  # scales 2, 5 and 11
    ours, wanted = both(x, table(grid), grid, None, level)
    for got, exact in zip(ours, wanted, strict=True):
        assert_agrees(got, exact)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
@pytest.mark.parametrize("feature", range(SMALL.features))
def test_a_point_that_pulls_one_feature_only(feature: int, level: int) -> None:
    """Points without a gradient are passed over: not those with one in a single feature."""
    pull = torch.zeros(40, SMALL.width)
    pull[3::9, feature :: SMALL.features] = draw(5, SMALL.levels)
    ours, exact = table(SMALL).requires_grad_(), table(SMALL, torch.float64).requires_grad_()
    encode_native(points(40), ours, SMALL, None, level).backward(pull)
    encode_reference(points(40).double(), exact, SMALL).backward(pull.double())
    assert ours.grad is not None and exact.grad is not None
    assert_agrees(ours.grad, exact.grad, atol=2e-5)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
def test_what_is_not_a_number_stays_where_it_is(level: int) -> None:
    """A bad point is NaN and nothing else is; a bad entry of the table reaches its points alone."""
    x, features = points(40), table(SMALL)
    good = encode_native(x, features, SMALL, None, level)
    for bad in (math.nan, math.inf, -math.inf, 1e30):
        broken = x.clone()
        broken[7, 1] = bad
        out = encode_native(broken, features, SMALL, None, level)
        assert torch.equal(out[torch.arange(40) != 7], good[torch.arange(40) != 7])
        assert not out[7].isfinite().all() or bad == 1e30
    row = vertex_rows((x[3] * 15 + 0.5).floor().long(), SMALL.grids()[2]) + SMALL.grids()[2].first
    features[row] = math.inf
    out = encode_native(x, features, SMALL, None, level)
    assert not out[3, 4:].isfinite().any() and torch.equal(out[:, :4], good[:, :4])


def test_the_half_table_is_read_and_the_float_table_learns() -> None:
    features = table(SMALL).requires_grad_()
    half = torch.zeros(SMALL.rows, SMALL.features, dtype=torch.float16)
    for backend in ("torch", "native"):
        out = encode(points(9), features, SMALL, half, backend)
        assert not out.any()
        (grad,) = torch.autograd.grad(out.sum(), features)
        assert grad.any()


@pytest.mark.parametrize("features", [1, 2])
def test_every_finite_half_is_read_exactly(features: int) -> None:
    """Subnormal ones too: points that lie on the vertices, in binary fractions, so that weights are 1 and 0."""
    grid = HashGrid(1, features, 16, 33, 1.0)
    spot = torch.arange(1, 64, 2) / 64.0  # position 32 x + 0.5: 1, 2, ..., 32
    x = torch.cartesian_prod(spot, spot, spot)[:31744]
    rows = vertex_rows((x * 32 + 0.5).long(), grid.grids()[0])
    positive = torch.arange(31744, dtype=torch.int16).view(torch.float16)
    half = torch.zeros(grid.rows, features, dtype=torch.float16)
    half[rows] = torch.stack([positive, -positive], 1)[:, :features]
    for level in LEVELS:
        got = encode_native(x, torch.zeros(grid.rows, features), grid, half, level)
        assert torch.equal(got, half[rows].float())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
def test_halves_that_are_no_numbers_are_read_as_such(level: int) -> None:
    grid = HashGrid(1, 1, 12, 5, 1.0)
    x = torch.tensor([[0.375, 0.125, 0.625]])  # position 4 x + 0.5: the vertex 2, 1, 3
    (row,) = vertex_rows((x * 4 + 0.5).long(), grid.grids()[0])
    for number in (math.inf, -math.inf, math.nan):
        half = torch.zeros(grid.rows, 1, dtype=torch.float16).index_fill_(0, row, number)
        got = encode_native(x, torch.zeros(grid.rows, 1), grid, half, level)
        torch.testing.assert_close(got, torch.tensor([[number]]), equal_nan=True)


@pytest.mark.parametrize("grid", [HashGrid(3, 2, 12, 8, 2.0), HashGrid(1, 2, 8, 8, 2.0)], ids=["levels", "one level"])
def test_bits_do_not_depend_on_the_number_of_threads(grid: HashGrid) -> None:
    """With four threads a level is shared by several, which own a part of its entries each."""
    x, pull = points(40_000), draw(40_000, grid.width)

    def compute() -> list[Tensor]:
        given = [x.clone().requires_grad_(), table(grid).requires_grad_()]
        out = encode(*given, grid, backend="native")
        return [out.detach(), *torch.autograd.grad(out, given, pull)]

    assert_same_bits(compute)


def test_no_points_and_a_fresh_table() -> None:
    features = SMALL.table(torch.Generator().manual_seed(0)).requires_grad_()
    assert 0.9e-4 < features.abs().max() <= 1e-4 and features.mean().abs() < 1e-5
    out = encode(torch.zeros(0, 3), features, SMALL)
    out.sum().backward()
    assert out.shape == (0, 6) and features.grad is not None and not features.grad.any()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(DreamforgeError, match=r"expects \[N, 3\]"):
        encode(torch.zeros(4, 3), torch.zeros(7, 2), SMALL)
    with pytest.raises(DreamforgeError, match="at least 1"):
        HashGrid(levels=0)
