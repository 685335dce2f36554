"""The multilayer perceptron: by hand, by finite differences, the compiled core against the reference."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.ops import mlp as ops
from dreamforge.ops import native
from dreamforge.ops.mlp import CHUNK, agrees, fused_mlp, init, mlp_native, mlp_reference
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chain(*widths: int) -> list[Tensor]:
    return init(widths, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_it_is_relu_between_matrices(backend: ops.Backend) -> None:
    first = torch.tensor([[1.0, -1.0], [2.0, 0.0], [0.0, 1.0]])
    last = torch.tensor([[1.0, 1.0, -1.0]])
    # (3, 5): hidden (-2, 6, 5) -> (0, 6, 5) -> 1; (5, 3): (2, 10, 3) -> 9
    (out,) = fused_mlp(torch.tensor([[3.0, 5.0], [5.0, 3.0]]), [first, last], backend=backend)
    assert out.tolist() == [[1.0], [9.0]]
    (out,) = fused_mlp(torch.tensor([[-3.0, 5.0]]), [last[:, :2]], backend=backend)
    assert out.tolist() == [[2.0]], "nothing after the last"


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_heads_are_parts_of_the_last_layer(backend: ops.Backend) -> None:
    x, weights = draw(9, 4), chain(4, 8, 5)
    density, color, rest = fused_mlp(x, weights, (1, 3, 1), backend)
    assert density.shape == (9, 1) and color.shape == (9, 3)
    torch.testing.assert_close(torch.cat([density, color, rest], 1), mlp_reference(x, weights))


def test_reference_gradients_by_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    weights = [weight.double().requires_grad_() for weight in init([3, 5, 4, 2], draws)]
    x = torch.randn(7, 3, generator=draws, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *w: mlp_reference(x, w), (x, *weights))


@at_every_level
@pytest.mark.parametrize(
    "widths", [[32, 64, 64, 16], [12, 32, 4], [9, 16, 3], [5, 7, 3], [128] * 9, [1, 1], [33, 17, 128, 31]], ids=str
)
def test_the_core_agrees_with_the_reference(widths: list[int], level: int) -> None:
    """Widths that fill no vector, all that there is room for; points that fill no block and take three chunks."""
    count = 2 * CHUNK + 77 if max(widths) < 128 else 77
    x, weights, pull = draw(count, widths[0]), chain(*widths), draw(count, widths[-1], seed=2)
    answers = []
    for dtype in (torch.float32, torch.float64):
        given = [one.to(dtype).requires_grad_() for one in (x, *weights)]
        out = mlp_native(given[0], given[1:], level) if dtype == torch.float32 else mlp_reference(given[0], given[1:])
        answers.append([out.detach(), *torch.autograd.grad(out, given, pull.to(dtype))])
    for ours, exact in zip(*answers, strict=True):
        assert_agrees(ours, exact, rtol=1e-5, atol=3e-6 * float(exact.abs().max()))


@at_every_level
@pytest.mark.parametrize("count", [0, 1, 11, 12, 13, 47, 48, 49])
def test_any_number_of_points(count: int, level: int) -> None:
    x, weights = draw(count, 6).requires_grad_(), [weight.requires_grad_() for weight in chain(6, 10, 2)]
    out, exact = mlp_native(x, weights, level), mlp_reference(x, weights)
    torch.testing.assert_close(out, exact)
    grads, wanted = (torch.autograd.grad(one.sum(), [x, *weights]) for one in (out, exact))
    torch.testing.assert_close(grads, wanted)


@at_every_level
def test_what_is_not_a_number_stays_where_it_is(level: int) -> None:
    """As torch's ReLU has it: NaN goes on as NaN, in its point alone."""
    x, weights = draw(60, 6), chain(6, 10, 2)
    good = mlp_native(x, weights, level)
    x[7, 2] = math.nan
    out, others = mlp_native(x, weights, level), torch.arange(60) != 7
    assert torch.equal(out[others], good[others]) and out[7].isnan().all()
    leaf = [weight.requires_grad_() for weight in weights]
    grads = torch.autograd.grad(mlp_native(x, leaf, level)[8].sum(), leaf)
    assert all(grad.isnan().any() for grad in grads), "a NaN is not hidden: 0 times NaN"


def test_no_points_pull_nothing() -> None:
    weights = [weight.requires_grad_() for weight in init([5, 7, 3], torch.Generator().manual_seed(0))]
    (out,) = fused_mlp(torch.zeros(0, 5), weights, backend="native")
    out.sum().backward()
    assert out.shape == (0, 3) and all(weight.grad is not None and not weight.grad.any() for weight in weights)


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weights = draw(50, 6), chain(6, 10, 2)
    alone = x.clone().requires_grad_()
    (to_x,) = torch.autograd.grad(mlp_native(alone, weights).sum(), alone)
    leaf = [weight.clone().requires_grad_() for weight in weights]
    to_weights = torch.autograd.grad(mlp_native(x, leaf).sum(), leaf)
    everything = torch.autograd.grad(mlp_native(alone, leaf).sum(), [alone, *leaf])
    assert all(torch.equal(a, b) for a, b in zip((to_x, *to_weights), everything, strict=True))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, weights, pull = draw(5 * CHUNK + 9, 12), chain(12, 32, 32, 4), draw(5 * CHUNK + 9, 4, seed=2)

    def compute() -> list[Tensor]:
        given = [one.clone().requires_grad_() for one in (x, *weights)]
        out = mlp_native(given[0], given[1:])
        return [out.detach(), *torch.autograd.grad(out, given, pull)]

    assert_same_bits(compute)


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    monkeypatch.setattr(ops, "mlp_native", lambda x, weights: 1.01 * mlp_reference(x, weights))
    assert not agrees(torch.device("cpu"))


def test_what_does_not_fit_is_told() -> None:
    x = draw(5, 6)
    with pytest.raises(DreamforgeError, match=r"x \[5, 6\] and weights \[\[4, 7\]\]"):
        fused_mlp(x, [draw(4, 7)])
    with pytest.raises(DreamforgeError, match="a chain of"):
        fused_mlp(x, [])
    with pytest.raises(DreamforgeError, match=r"heads \[1, 2\] were given, but together they must be the 4 outputs"):
        fused_mlp(x, [draw(4, 6)], (1, 2))
    with pytest.raises(DreamforgeError, match="no mlp for these types and sizes"):
        fused_mlp(x, [draw(200, 6)], backend="native")
    assert fused_mlp(x, [draw(200, 6)])[0].shape == (5, 200)


def test_init_is_xavier_uniform_and_seeded() -> None:
    weight, narrow = init([300, 200, 4], torch.Generator().manual_seed(0))
    limit = (6 / 500) ** 0.5
    assert weight.shape == (200, 300) and narrow.shape == (4, 200)
    assert 0.99 * limit < weight.abs().max() <= limit
    assert abs(float(weight.std()) - limit / 3**0.5) < 0.01 * limit
    assert torch.equal(weight, init([300, 200], torch.Generator().manual_seed(0))[0])
