"""The multilayer perceptron against its definition."""

import torch

from dreamforge.ops.mlp import init, mlp


def test_it_is_relu_between_matrices() -> None:
    first = torch.tensor([[1.0, -1.0], [2.0, 0.0], [0.0, 1.0]])
    last = torch.tensor([[1.0, 1.0, -1.0]])
    # (3, 5): hidden (-2, 6, 5) -> (0, 6, 5) -> 1; (5, 3): (2, 10, 3) -> 9
    assert mlp(torch.tensor([[3.0, 5.0], [5.0, 3.0]]), [first, last]).tolist() == [[1.0], [9.0]]
    assert mlp(torch.tensor([[-3.0, 5.0]]), [last[:, :2]]).tolist() == [[2.0]]  # nothing after the last


def test_gradients_by_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    weights = [weight.double().requires_grad_() for weight in init([3, 5, 4, 2], draws)]
    x = torch.randn(7, 3, generator=draws, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *w: mlp(x, w), (x, *weights))


def test_init_is_xavier_uniform_and_seeded() -> None:
    weight, narrow = init([300, 200, 4], torch.Generator().manual_seed(0))
    limit = (6 / 500) ** 0.5
    assert weight.shape == (200, 300) and narrow.shape == (4, 200)
    assert 0.99 * limit < weight.abs().max() <= limit
    assert abs(float(weight.std()) - limit / 3**0.5) < 0.01 * limit
    assert torch.equal(weight, init([300, 200], torch.Generator().manual_seed(0))[0])
