"""Gaussian noise: N(0, I), a function of the seed."""

import pytest
import torch

from dreamforge.noise import Gaussian
from dreamforge.types import DreamforgeError, Noise


def test_standard_normal():
    """Mean 0, variance 1, no correlation between views; 4 standard errors of 2 x 60000 draws."""
    noise = Gaussian().sample(torch.zeros(2, 3, 100, 200), None, None, seed=0)
    n = noise[0].numel()
    assert abs(noise.mean().item()) < 4 / (2 * n) ** 0.5
    assert abs(noise.var().item() - 1) < 4 * (2 / (2 * n)) ** 0.5
    assert abs((noise[0] * noise[1]).mean().item()) < 4 / n**0.5


def test_same_seed_same_noise_in_the_dtype_of_x():
    x = torch.zeros(2, 4, 8, 8)
    one, same, other = (Gaussian().sample(x, None, None, seed) for seed in (5, 5, 6))
    assert isinstance(Gaussian(), Noise)
    assert torch.equal(one, same) and not torch.equal(one, other)
    half = Gaussian().sample(x.bfloat16(), None, None, 5)
    assert half.dtype == torch.bfloat16 and torch.equal(half, one.bfloat16())


def test_shared_noise_is_one_picture_for_all_views():
    noise = Gaussian(shared=True).sample(torch.zeros(3, 4, 8, 8), None, None, 1)
    assert noise.shape == (3, 4, 8, 8)
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0, 0], noise[0, 1])


def test_draws_must_be_positive_and_antithetic_ones_even():
    with pytest.raises(DreamforgeError, match="at least 1"):
        Gaussian(draws=0)
    with pytest.raises(DreamforgeError, match="come in pairs"):
        Gaussian(draws=3, antithetic=True)
