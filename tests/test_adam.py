"""Sparse Adam: torch's SparseAdam live, the compiled core against the reference, what is left alone."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.checkpoints import load_optimiser_state, optimiser_state
from dreamforge.ops import native
from dreamforge.ops.adam import agrees, sparse_step, sparse_step_native, sparse_step_reference
from dreamforge.optimiser import SceneAdam
from dreamforge.scenes.hash_nerf import HashNerf
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
BETAS, EPS = (0.9, 0.99), 1e-15


def draw(rows: int, features: int, seed: int = 0) -> list[Tensor]:
    """Table, gradient with two thirds of its rows zero, moments."""
    draws = torch.Generator().manual_seed(seed)
    table, grad, mean, square = (torch.randn(rows, features, generator=draws) for _ in range(4))
    grad[torch.rand(rows, generator=draws) < 0.67] = 0.0
    grad[::5, 0] = 0.0  # a zero beside other features is no miss
    return [table, grad, mean, square.square_()]


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_five_steps_are_those_of_torchs_sparse_adam(backend: str) -> None:
    table, *_ = draw(200, 2)
    theirs = table.clone().requires_grad_()
    optimiser = torch.optim.SparseAdam([theirs], lr=0.02, betas=BETAS, eps=1e-8)
    mean, square = torch.zeros_like(table), torch.zeros_like(table)
    for step in range(1, 6):
        grad = draw(200, 2, step)[1]
        rows = (grad != 0).any(1).nonzero().squeeze(1)
        theirs.grad = torch.sparse_coo_tensor(rows[None], grad[rows], grad.shape, check_invariants=True)
        optimiser.step()
        sparse_step(table, grad, mean, square, step=step, lr=0.02, betas=BETAS, eps=1e-8, backend=backend)
        assert not grad.any()
    torch.testing.assert_close(table, theirs.detach())
    state = optimiser.state[theirs]
    torch.testing.assert_close((mean, square), (state["exp_avg"], state["exp_avg_sq"]))


@at_every_level
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [0, 1, 3, 17, 40_000])
def test_the_core_agrees_with_the_reference(rows: int, features: int, level: int) -> None:
    ours, exact = draw(rows, features), [one.double() for one in draw(rows, features)]
    before = [one.clone() for one in ours]
    sparse_step_native(*ours, 0.01, BETAS, EPS, level)
    sparse_step_reference(*exact, 0.01, BETAS, EPS)
    for number in (0, 2, 3):
        assert_agrees(ours[number], exact[number], rtol=1e-5, atol=1e-6)
    assert not ours[1].any()
    rested = ~(before[1] != 0).any(1)
    for one, old in ((ours[0], before[0]), (ours[2], before[2]), (ours[3], before[3])):
        assert torch.equal(one[rested], old[rested]), "a row that was not hit stays as it is, to the bit"


@at_every_level
def test_what_is_not_a_number_stays_in_its_row(level: int) -> None:
    tensors, same = draw(50, 2), draw(50, 2)
    tensors[1][7, 1] = math.nan
    sparse_step_native(*tensors, 0.01, BETAS, EPS, level)
    sparse_step_native(*same, 0.01, BETAS, EPS, level)
    others = torch.arange(50) != 7
    assert torch.equal(tensors[0][others], same[0][others]) and tensors[0][7, 1].isnan()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:

    def compute() -> list[Tensor]:
        tensors = draw(100_000, 2)
        sparse_step_native(*tensors, 0.01, BETAS, EPS)
        return tensors

    assert_same_bits(compute)


def test_the_comparison_and_what_does_not_fit() -> None:
    assert agrees(torch.device("cpu"))
    table, grad, mean, square = draw(10, 2)
    rest = {"step": 1, "lr": 0.1, "betas": BETAS, "eps": EPS}
    with pytest.raises(DreamforgeError, match=r"\[10, 2\], \[9, 2\]"):
        sparse_step(table, grad[:9], mean, square, **rest)
    with pytest.raises(DreamforgeError, match="contiguous"):
        sparse_step(table.t(), grad.t(), mean.t(), square.t(), **rest)
    with pytest.raises(DreamforgeError, match="no adam for these types and sizes"):
        sparse_step(*(one.double() for one in (table, grad, mean, square)), backend="native", **rest)


def test_a_scenes_optimiser_rests_what_is_not_hit() -> None:
    """Dense groups are torch's Adam to the bit; a sparse one is ``sparse_step``; a state goes out and in."""
    table, weight = draw(40, 2)[0].requires_grad_(), draw(3, 2, seed=1)[0].requires_grad_()
    plain = weight.detach().clone().requires_grad_()
    groups = [{"params": [table], "lr": 0.1, "sparse": True}, {"params": [weight], "lr": 0.2}]
    ours, theirs = SceneAdam(groups, BETAS, EPS), torch.optim.Adam([plain], 0.2, BETAS, EPS, fused=True)
    expected = [table.detach().clone(), *(torch.zeros_like(table) for _ in range(3))]
    for step in range(1, 4):
        grad = draw(40, 2, step)[1]
        table.grad, weight.grad, plain.grad = grad.clone(), torch.ones_like(weight), torch.ones_like(plain)
        expected[1] = grad.clone()
        ours.step()
        theirs.step()
        sparse_step(*expected, step=step, lr=0.1, betas=BETAS, eps=EPS)
    assert torch.equal(table, expected[0]) and torch.equal(weight, plain)
    again = SceneAdam(groups, BETAS, EPS)
    load_optimiser_state(again, {name: tensor.clone() for name, tensor in optimiser_state(ours).items()})
    before = table.detach().clone()
    results = []
    for optimiser in (ours, again):
        with torch.no_grad():
            table.copy_(before)
        table.grad = draw(40, 2, 9)[1]
        optimiser.step()
        results.append(table.detach().clone())
    assert torch.equal(*results) and not torch.equal(results[0], before)


@pytest.mark.parametrize(("sparse_adam", "half_table"), [(True, False), (False, True), (True, True)])
def test_a_scene_learns_with_them_and_its_backends_agree(sparse_adam: bool, half_table: bool) -> None:
    """25 steps towards a grey picture; native and reference end close to each other."""
    found = []
    for backend in ("native", "torch"):
        sizes = {"levels": 3, "log2_entries": 10, "finest": 16, "occupancy_cells": 12, "samples": 24}
        rates = {"lr_encoding": 0.1, "lr_mlp": 0.1}
        spec = HashNerf(**sizes, **rates, sparse_adam=sparse_adam, half_table=half_table, backend=backend)
        scene = spec.build(0)
        optimiser = SceneAdam(scene.param_groups(), BETAS, EPS)
        cameras = orbit(torch.tensor([0.0, 2.0]), torch.zeros(2), 3.0, 0.7, 12, 12)
        losses = []
        for step in range(25):
            optimiser.zero_grad(set_to_none=True)
            loss = (scene.render(cameras, torch.zeros(3), seed=step).rgb - 0.3).square().mean()
            loss.backward()
            optimiser.step()
            scene.adapt(step, step)
            losses.append(loss.item())
        if half_table:
            assert torch.equal(scene.half, scene.table.detach().half())
        assert losses[-1] < 0.7 * losses[0]
        found.append(torch.tensor(losses))
    torch.testing.assert_close(*found, rtol=2e-2, atol=1e-4)
