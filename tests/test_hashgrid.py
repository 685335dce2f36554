"""Hash encoding: published sizes, trilinear exactness, gradients, the fast form against the reference."""

import pytest
import torch

from dreamforge.ops.hashgrid import HashGrid, encode, encode_reference, vertex_rows
from dreamforge.types import DreamforgeError

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


@pytest.mark.parametrize("grid", [SMALL, HashGrid(4, 4, 10, 3, 1.7), HashGrid(2, 1, 19, 16, 2.0)])
def test_the_fast_form_equals_the_reference(grid: HashGrid) -> None:
    inside = torch.cat([points(500), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 1], [0.2, 1.0, 0.7]])])
    pull = torch.randn(len(inside), grid.width, generator=torch.Generator().manual_seed(2))
    answers = []
    for backend in ("auto", "torch"):
        features = table(grid).requires_grad_()
        out = encode(inside, features, grid, backend=backend)
        out.backward(pull)
        answers.append((out.detach(), features.grad))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_positions_get_their_gradient_too() -> None:
    inside = points(10).requires_grad_()
    encode(inside, table(SMALL), SMALL).sum().backward()
    assert inside.grad is not None and inside.grad.abs().min() > 0


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    grid = HashGrid(3, 2, 12, 8, 2.0)
    inside, pull = points(20_000), torch.randn(20_000, grid.width, generator=torch.Generator().manual_seed(3))
    threads, grads = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            features = table(grid).requires_grad_()
            encode(inside, features, grid).backward(pull)
            assert features.grad is not None
            grads.append(features.grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[1], grads[2])


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
