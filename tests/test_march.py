"""Occupancy, ray marching and compositing against closed forms and a slow loop."""

import math

import pytest
import torch

from dreamforge.ops.march import accumulate, box_interval, cell_points, decayed, march, occupied, render_weights


def some_rays(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=-1) * 3
    targets = torch.rand(count, 3, generator=draws) - 0.5
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def test_cell_points_are_one_in_every_cell() -> None:
    points = cell_points(5, 2.0, torch.Generator().manual_seed(0))
    cell = ((points + 2) / 0.8).floor().long()
    assert torch.equal((cell[:, 0] * 5 + cell[:, 1]) * 5 + cell[:, 2], torch.arange(125))


def test_occupancy_decays_and_is_cut_at_the_mean_or_the_threshold() -> None:
    assert decayed(torch.tensor([0.8, 0.1]), torch.tensor([0.2, 0.4])).tolist() == pytest.approx([0.76, 0.4])
    assert occupied(torch.tensor([0.0, 0.004, 0.001, 0.0])).tolist() == [False, True, False, False]  # mean 0.00125
    assert occupied(torch.tensor([0.5, 0.02, 0.005, 0.0])).tolist() == [True, True, False, False]  # threshold 0.01
    assert not occupied(torch.zeros(4)).any()


def test_box_interval() -> None:
    origins = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [0.0, 5.0, 3.0], [-2.0, -2.0, -2.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [3**-0.5] * 3])
    near, far = box_interval(origins, directions, torch.full((3,), -1.0), torch.full((3,), 1.0))
    assert near[[0, 1, 3]].tolist() == pytest.approx([2.0, 0.0, 3**0.5], rel=1e-6)
    assert far[[0, 1, 3]].tolist() == pytest.approx([4.0, 1.0, 3 * 3**0.5], rel=1e-6)
    assert far[2] <= near[2]  # misses


def test_march_finds_exactly_the_samples_in_occupied_cells() -> None:
    origins, directions = some_rays(300)
    occupancy = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.8
    occupancy[0] = False  # the box of what is occupied is smaller than the volume
    shift = torch.rand(300, generator=torch.Generator().manual_seed(2))
    everything = march(origins, directions, torch.ones_like(occupancy), 1.0, 0.05, shift)
    position = origins[everything[0]] + directions[everything[0]] * everything[1][:, None]
    cell = ((position + 1) * 3).long().clamp(0, 5)
    kept = occupancy[cell[:, 0], cell[:, 1], cell[:, 2]]
    ray, t = march(origins, directions, occupancy, 1.0, 0.05, shift)
    assert 0 < len(ray) < len(kept) / 2 and position.abs().max() < 1 + 1e-5
    assert torch.equal(ray, everything[0][kept])
    torch.testing.assert_close(t, everything[1][kept])


def test_march_covers_every_chord_with_evenly_spaced_samples() -> None:
    origins, directions = some_rays(200)
    full, edge = torch.ones(4, 4, 4, dtype=torch.bool), torch.ones(3)
    ray, t = march(origins, directions, full, 1.0, 0.1, torch.rand(200, generator=torch.Generator().manual_seed(2)))
    near, far = box_interval(origins, directions, -edge, edge)
    counts = torch.bincount(ray, minlength=200)
    assert ((counts * 0.1 - (far - near).clamp(min=0)).abs() < 0.1 + 1e-5).all()
    same = ray[1:] == ray[:-1]
    assert (ray.diff() >= 0).all()
    torch.testing.assert_close(t.diff()[same], torch.full_like(t.diff()[same], 0.1), rtol=1e-4, atol=1e-5)


def test_march_without_anything_to_meet() -> None:
    origins, directions = some_rays(10)
    for case in (
        march(origins, directions, torch.zeros(4, 4, 4, dtype=torch.bool), 1.0, 0.1, torch.zeros(10)),
        march(origins, -directions, torch.ones(4, 4, 4, dtype=torch.bool), 1.0, 0.1, torch.zeros(10)),
        march(origins[:0], directions[:0], torch.ones(4, 4, 4, dtype=torch.bool), 1.0, 0.1, torch.zeros(0)),
    ):
        assert case[0].shape == case[1].shape == (0,) and case[0].dtype == torch.long


RAY = torch.tensor([0, 0, 0, 2, 2, 5])


def loop(depth: torch.Tensor) -> torch.Tensor:
    weights, light, last = [], 1.0, -1
    for value, ray in zip(depth.tolist(), RAY.tolist(), strict=True):
        light = light if ray == last else 1.0
        weights.append(light * (1 - math.exp(-value)))
        light, last = light * math.exp(-value), ray
    return torch.tensor(weights, dtype=depth.dtype)


def test_weights_are_those_of_a_loop_and_sum_to_alpha() -> None:
    depth = torch.tensor([0.3, 0.0, 2.0, 50.0, 1.0, 1e-4])
    weights, transmittance = render_weights(depth, RAY, 6)
    torch.testing.assert_close(weights, loop(depth))
    torch.testing.assert_close(transmittance, torch.tensor([1, math.exp(-0.3), math.exp(-0.3), 1, math.exp(-50), 1]))
    alpha = accumulate(weights[:, None], RAY, 6)[:, 0]
    expected = 1 - torch.exp(-accumulate(depth[:, None], RAY, 6)[:, 0])
    torch.testing.assert_close(alpha, expected)


def test_gradient_of_the_weights_by_finite_differences() -> None:
    depth = torch.tensor([0.3, 0.1, 2.0, 0.7, 1.0, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: render_weights(d, RAY, 6)[0], depth)


def test_weights_stay_accurate_behind_a_hundred_thousand_samples() -> None:
    ray = torch.arange(2000).repeat_interleave(50)
    depth = torch.full((100_000,), 0.02).requires_grad_()
    weights, _ = render_weights(depth, ray, 2000)
    rows = weights.view(2000, 50)
    torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=2e-6, atol=0)
    rows.square().sum().backward()
    assert depth.grad is not None
    grads = depth.grad.view(2000, 50)
    torch.testing.assert_close(grads, grads[:1].expand_as(grads), rtol=1e-5, atol=1e-9)


def test_accumulate_gives_the_same_bits_for_any_number_of_threads() -> None:
    draws = torch.Generator().manual_seed(0)
    ray = torch.randint(0, 500, (20_000,), generator=draws).sort().values
    values = torch.randn(20_000, 5, generator=draws)
    threads = torch.get_num_threads()
    try:
        sums = []
        for count in (1, 2):
            torch.set_num_threads(count)
            sums.append(accumulate(values, ray, 500))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*sums)
