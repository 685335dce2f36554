"""Curves over progress, and the draws of t."""

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge.schedule import Deterministic, SquareRoot, Uniform, check_curve, curve
from dreamforge.types import DreamforgeError, Timesteps


def test_curve_start_middle_end_and_outside():
    """v0 + (v1 - v0) (p - p0) / (p1 - p0) between knots, constant outside."""
    knots = [[0.2, 1.0], [0.6, 3.0], [0.8, -1.0]]
    for progress, value in [(0.0, 1.0), (0.2, 1.0), (0.4, 2.0), (0.6, 3.0), (0.7, 1.0), (0.8, -1.0), (1.0, -1.0)]:
        assert curve(knots, progress) == pytest.approx(value)
    assert curve(7, 0.3) == 7.0
    assert curve([[0.5, 2]], 0.0) == curve([[0.5, 2]], 1.0) == 2.0


def test_two_knots_at_one_progress_jump():
    """ProlificDreamer: t_max 0.98 before the switch, 0.5 from it on."""
    knots = [[0.0, 0.98], [0.2, 0.98], [0.2, 0.5]]
    assert [curve(knots, p) for p in (0.0, 0.1999, 0.2, 1.0)] == [0.98, 0.98, 0.5, 0.5]


@pytest.mark.parametrize(
    "wrong", ["fast", True, [], [0.1, 0.2], [[0.5, 1], [0.2, 2]], [[0, 1], [2, 2]], float("nan"), [[0, 1, 2]], None]
)
def test_what_is_not_a_curve_is_refused(wrong):
    with pytest.raises(DreamforgeError, match=r"losses\.sparsity"):
        check_curve("losses.sparsity", wrong)


def test_limits_of_a_curve():
    check_curve("low", [[0, 0.1], [1, 0.9]], above=0.0, below=1.0)
    with pytest.raises(DreamforgeError, match=r"above 0\.0 and below 1\.0"):
        check_curve("low", [[0, 0.1], [1, 1.0]], above=0.0, below=1.0)


def test_uniform_fills_its_range():
    """U(low, high): mean (low + high)/2, variance (high - low)^2/12; 20000 draws, 4 standard errors."""
    t = Uniform(0.1, 0.7).sample(20000, 0.5, seed=1)
    assert t.shape == (20000,) and t.dtype == torch.float32
    assert 0.1 <= t.min() < 0.11 and 0.69 < t.max() <= 0.7
    assert t.mean().item() == pytest.approx(0.4, abs=4 * 0.6 / 12**0.5 / 20000**0.5)
    assert t.var().item() == pytest.approx(0.03, rel=0.05)


def test_uniform_is_a_function_of_the_seed():
    one, same, other = (Uniform().sample(4, 0.0, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert len(one.unique()) == 4
    assert len(Uniform(shared=True).sample(4, 0.0, 1).unique()) == 1


def test_uniform_anneals():
    """DreamCraft3D: low 0.7 -> 0.2, high 0.85 -> 0.5."""
    t = Uniform([[0.0, 0.7], [1.0, 0.2]], [[0.0, 0.85], [1.0, 0.5]])
    for progress, low, high in [(0.0, 0.7, 0.85), (0.5, 0.45, 0.675), (1.0, 0.2, 0.5)]:
        draws = t.sample(500, progress, 0)
        assert low <= draws.min() < low + 0.01 and high - 0.01 < draws.max() <= high


def test_square_root():
    """HiFA: t = low + (high - low) (1 - sqrt(progress))."""
    for progress, t in [(0.0, 0.98), (0.25, 0.64), (1.0, 0.3)]:
        assert SquareRoot().sample(3, progress, 0).tolist() == pytest.approx([t] * 3)


def test_deterministic():
    """DreamGaussian: t = 1 - progress, clipped to [0.02, 0.98]."""
    for progress, t in [(0.0, 0.98), (0.3, 0.7), (1.0, 0.02)]:
        assert Deterministic().sample(2, progress, 0).tolist() == pytest.approx([t] * 2)


@pytest.mark.parametrize("kind", [Uniform, SquareRoot, Deterministic])
def test_all_are_timesteps_and_check_their_range(kind):
    assert isinstance(kind(), Timesteps)
    with pytest.raises(DreamforgeError, match="above high"):
        kind(0.9, 0.1)
    with pytest.raises(DreamforgeError, match="below 1"):
        kind(0.1, 1.0)


def test_crossing_curves_are_refused():
    with pytest.raises(DreamforgeError, match="swap them"):
        Uniform([[0.0, 0.1], [1.0, 0.9]], 0.5)
    with pytest.raises(DreamforgeError, match="swap them"):  # only just before the jump
        Uniform(0.4, [[0.0, 0.9], [0.5, 0.2], [0.5, 0.9]])


def test_a_recipe_may_write_an_integer_a_number_or_knots():
    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Uniform), {"low": [[0, 0.5], [1, 0.1]]}))
    assert typed == Uniform(low=[[0, 0.5], [1, 0.1]])
    assert OmegaConf.to_container(OmegaConf.structured(typed)) == {
        "low": [[0, 0.5], [1, 0.1]],
        "high": 0.98,
        "shared": False,
    }
