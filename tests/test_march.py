"""Occupancy, ray marching and compositing against closed forms and a slow loop."""

import importlib.util
import math

import pytest
import torch
from torch import Tensor

from dreamforge.ops import march as ops
from dreamforge.ops import native
from dreamforge.ops.march import (
    Packed,
    accumulate,
    agrees,
    box_interval,
    cell_points,
    decayed,
    march,
    occupied,
    render,
    render_native,
    render_reference,
    render_weights,
    sample,
    sample_native,
    sample_reference,
    visible,
    visible_native,
    visible_reference,
)
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels, require_tool

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])


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


def numbered(packed: Packed, near: Tensor, step: float, shift: Tensor) -> set[tuple[int, int]]:
    """Samples as (ray, number of the step)."""
    number = ((packed.t - near[packed.ray]) / step - shift[packed.ray]).round().long()
    return set(zip(packed.ray.tolist(), number.tolist(), strict=True))


@at_every_level
@pytest.mark.parametrize(
    ("cells", "filled", "step"), [(6, 0.2, 0.05), (48, 0.05, 0.03), (33, 0.9, 0.002), (1, 1.0, 0.1), (50, 0.001, 0.01)]
)
def test_the_core_finds_the_samples_of_the_reference(cells: int, filled: float, step: float, level: int) -> None:
    """But for points on the border of two cells, which a rounding may give to either: one in a thousand at most."""
    origins, directions = some_rays(200)
    directions[:3] = torch.tensor([[0.0, 0, -1], [0, -1, 0], [1, 0, 0]])  # parallel to the box
    origins[:3] = torch.tensor([[0.1, 0.2, 3], [0.3, 3, -0.4], [-1, 0.5, 0.5]])
    origins[3:20] *= 0.1  # begin inside
    occupancy = torch.rand(cells, cells, cells, generator=torch.Generator().manual_seed(1)) < filled
    shift = torch.rand(200, generator=torch.Generator().manual_seed(2))
    ours = sample_native(origins, directions, occupancy, 1.0, step, shift, level)
    theirs = sample_reference(origins, directions, occupancy, 1.0, step, shift)
    near, _ = box_interval(origins, directions, -torch.ones(3), torch.ones(3))
    one, two = (numbered(packed, near, step, shift) for packed in (ours, theirs))
    assert len(one) == len(ours.t) > 0 and len(one ^ two) <= 0.001 * len(two)
    torch.testing.assert_close(ours.position, origins[ours.ray] + directions[ours.ray] * ours.t[:, None])
    assert (ours.ray.diff() >= 0).all() and torch.equal(ours.first.diff(), torch.bincount(ours.ray, minlength=200))
    assert (ours.t.diff()[ours.ray.diff() == 0] > 0).all()


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_nothing_to_meet(backend: ops.Backend) -> None:
    origins, directions = some_rays(10)
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    for packed in (
        sample(origins, directions, ~full, 1.0, 0.1, torch.zeros(10), backend),
        sample(origins, -directions, full, 1.0, 0.1, torch.zeros(10), backend),
        sample(origins[:0], directions[:0], full, 1.0, 0.1, torch.zeros(0), backend),
    ):
        assert packed.t.shape == (0,) and packed.position.shape == (0, 3) and not packed.first.any()
        density, values = torch.zeros(0).requires_grad_(), torch.zeros(0, 3).requires_grad_()
        sums, weights = render(packed, density, values, 0.1, backend)
        assert sums.shape == (packed.rays, 5) and not sums.any() and weights.shape == (0,)
        sums.sum().backward()
        assert visible(packed, density, 0.1, 1e-3, backend).rays == packed.rays


def test_rays_that_are_not_numbers_meet_nothing() -> None:
    """And harm nobody; a direction of length zero ends too."""
    origins, directions = some_rays(4)
    full, shift = torch.ones(4, 4, 4, dtype=torch.bool), torch.zeros(4)
    good = sample_native(origins, directions, full, 1.0, 0.1, shift)
    for bad in (math.nan, math.inf, -math.inf):
        for which in range(2):
            given = [origins.clone(), directions.clone()]
            given[which][1, 2] = bad
            got = sample_native(*given, full, 1.0, 0.1, shift)
            assert torch.equal(got.t, good.t[good.ray != 1])
    directions[2] = 0
    assert len(sample_native(origins * 0, directions, full, 1.0, 0.1, shift).t) < 1000


def some_samples(rays: int, most: int, seed: int = 0) -> Packed:
    """Random numbers of samples on rays, some without any."""
    draws = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, most, (rays,), generator=draws)
    ray = torch.arange(rays).repeat_interleave(counts)
    return Packed(ray, torch.rand(len(ray), generator=draws) + 1, torch.zeros(len(ray), 3), ops.offsets(counts))


def densities(count: int) -> Tensor:
    """From nothing over fog to walls; float32 numbers as they are."""
    draws = torch.Generator().manual_seed(3)
    density = torch.exp(6 * torch.randn(count, generator=draws))
    density[::7] = 0.0
    return density


@at_every_level
@pytest.mark.parametrize("channels", [0, 1, 3, 8])
def test_the_core_renders_as_the_reference(channels: int, level: int) -> None:
    """Sums, weights and all gradients, from both answers."""
    packed = some_samples(400, 30)
    draws = torch.Generator().manual_seed(4)
    density, values = densities(len(packed.t)), torch.rand(len(packed.t), channels, generator=draws)
    pulls = torch.randn(400, channels + 2, generator=draws), torch.randn(len(packed.t), generator=draws)
    answers = []
    for dtype in (torch.float32, torch.float64):
        one, two = (tensor.to(dtype).requires_grad_() for tensor in (density, values))
        here = Packed(packed.ray, packed.t.to(dtype), packed.position, packed.first)
        out = (
            render_native(here, one, two, 0.03, level)
            if dtype == torch.float32
            else render_reference(here, one, two, 0.03)
        )
        grads = torch.autograd.grad(out, [one, two], [pull.to(dtype) for pull in pulls])
        answers.append([*(tensor.detach() for tensor in out), *grads])
    for ours, exact in zip(*answers, strict=True):
        assert_agrees(ours, exact, rtol=2e-5, atol=2e-6)


def test_the_references_gradients_by_finite_differences() -> None:
    packed = some_samples(6, 5)
    packed = Packed(packed.ray, packed.t.double(), packed.position, packed.first)
    density = (torch.rand(len(packed.t), dtype=torch.float64) * 30).requires_grad_()
    values = torch.rand(len(packed.t), 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, v: render_reference(packed, d, v, 0.03), (density, values))


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_both_answers_is_enough(used: int) -> None:
    """Regularisers may use the weights alone, a picture the sums alone."""
    packed = some_samples(50, 20)
    density, values = densities(len(packed.t)).requires_grad_(), torch.rand(len(packed.t), 3).requires_grad_()
    grads = [
        torch.autograd.grad(
            compute(packed, density, values, 0.03)[used].square().sum(), [density, values], allow_unused=True
        )
        for compute in (render_native, render_reference)
    ]
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-4, atol=1e-5)
    if used == 0:
        torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-6)
    else:
        assert not grads[0][1].any() and grads[1][1] is None


@at_every_level
def test_the_last_sample_before_the_wall_lies_in_the_last_cell(level: int) -> None:
    """Where rounding puts it into the cell behind, which is not there: samples just before rays leave the cube."""
    draws = torch.Generator().manual_seed(3)
    origins = torch.rand(20_000, 3, generator=draws) * 1.8 - 0.9
    directions = torch.nn.functional.normalize(torch.rand(20_000, 3, generator=draws) + 0.1, dim=-1)
    _, far = box_interval(origins, directions, torch.full((3,), -1.0), torch.full((3,), 1.0))
    last = torch.nextafter(far, torch.zeros(()))
    cell = torch.addcmul((origins + 1) * 2.5, directions * 2.5, last[:, None])
    assert (cell == 5).any(1).sum() > 100
    occupancy = torch.rand(5, 5, 5, generator=draws) > 0.5
    found = [
        take(origins, directions, occupancy, 1.0, 4.0, last / 4)  # one step is longer than the cube
        for take in (lambda *given: sample_native(*given, level=level), sample_reference)
    ]
    missed = set(found[0].ray.tolist()) ^ set(found[1].ray.tolist())
    assert len(found[1].ray) > 5000 and len(missed) < 20, "a sample on the border of two cells may fall either way"


@at_every_level
def test_what_no_light_reaches_is_left_out(level: int) -> None:
    packed = some_samples(300, 40)
    density = densities(len(packed.t))
    index, first = visible_native(packed, density, 0.03, 1e-3, level)
    wanted, expected = visible_reference(packed, density, 0.03, 1e-3)
    assert torch.equal(index, wanted) and torch.equal(first, expected)
    clear = torch.zeros_like(density)
    assert len(visible_native(packed, clear, 0.03, 1.0, level)[0]) == len(clear), "all of the light is enough"
    seen = visible(packed, density, 0.03, 1e-3, "native")
    assert 0 < len(seen.t) < len(packed.t) and torch.equal(seen.t, packed.t[wanted])
    lost = render_native(packed, density, torch.zeros(len(density), 0), 0.03)[0][:, 0]
    kept = render_native(seen, density[index], torch.zeros(len(index), 0), 0.03)[0][:, 0]
    assert ((lost - kept) >= -1e-6).all() and ((lost - kept) <= 1.001e-3).all()


@at_every_level
def test_densities_that_are_no_numbers_stay_on_their_ray(level: int) -> None:
    packed = some_samples(20, 8)
    density, values = densities(len(packed.t)), torch.rand(len(packed.t), 3)
    good, _ = render_native(packed, density, values, 0.03, level)
    place = len(density) // 2
    others = torch.arange(20) != packed.ray[place]
    for bad, alpha in ((math.inf, 1.0), (math.nan, math.nan)):
        density[place] = bad
        sums, _ = render_native(packed, density, values, 0.03, level)
        assert torch.equal(sums[others], good[others])
        torch.testing.assert_close(sums[~others][0, 3], torch.tensor(alpha), equal_nan=True)


def test_the_cores_bits_do_not_depend_on_the_number_of_threads() -> None:
    origins, directions = some_rays(3000)
    occupancy = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.3

    def compute() -> list[Tensor]:
        packed = sample(origins, directions, occupancy, 1.0, 0.02, torch.full((3000,), 0.5), "native")
        density, values = densities(len(packed.t)).requires_grad_(), packed.position.abs().requires_grad_()
        sums, weights = render(packed, density, values, 0.02, "native")
        grads = torch.autograd.grad(sums.square().sum() + weights.square().sum(), [density, values])
        seen = visible(packed, density, 0.02, 1e-3, "native")
        return [packed.ray, packed.t, packed.position, sums.detach(), weights.detach(), *grads, seen.t]

    assert_same_bits(compute)


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    monkeypatch.setattr(ops, "render_native", lambda *given: [1.01 * one for one in render_reference(*given)])
    assert not agrees(torch.device("cpu"))


def test_what_does_not_fit_is_told() -> None:
    origins, directions = some_rays(10)
    full, shift = torch.ones(4, 4, 4, dtype=torch.bool), torch.zeros(10)
    with pytest.raises(DreamforgeError, match=r"shift \[9\] and occupancy \[4, 4, 4\] were given"):
        sample(origins, directions, full, 1.0, 0.1, shift[:9])
    with pytest.raises(DreamforgeError, match="a cube of up to 1024"):
        sample(origins, directions, full[:3], 1.0, 0.1, shift)
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DreamforgeError, match="lengths above 0"):
            sample(origins, directions, full, 1.0, step, shift)


def test_weights_are_those_of_nerfacc() -> None:
    """Its batched functions run without CUDA: rays with equally many samples (nerfacc 0.5.3, MIT)."""
    require_tool(importlib.util.find_spec("nerfacc"), "nerfacc is not installed")
    from nerfacc import accumulate_along_rays, render_weight_from_density

    draws = torch.Generator().manual_seed(0)
    t = torch.arange(12) * 0.05 + torch.rand(40, 1, generator=draws)
    density, values = 20 * torch.rand(40, 12, generator=draws), torch.rand(40, 12, 3, generator=draws)
    given = [density.clone().requires_grad_(), values.clone().requires_grad_()]
    weights, _, _ = render_weight_from_density(t - 0.025, t + 0.025, given[0])
    theirs = torch.cat([accumulate_along_rays(weights, one) for one in (given[1], None, t[..., None])], -1)
    packed = Packed(
        torch.arange(40).repeat_interleave(12), t.flatten(), torch.zeros(480, 3), ops.offsets(torch.full((40,), 12))
    )
    own = [density.flatten().requires_grad_(), values.view(-1, 3).requires_grad_()]
    sums, mine = render_native(packed, *own, 0.05)
    torch.testing.assert_close(mine.view(40, 12), weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sums, theirs, rtol=1e-4, atol=1e-6)
    pull = torch.randn(40, 5, generator=draws)
    for ours, other in zip(torch.autograd.grad(sums, own, pull), torch.autograd.grad(theirs, given, pull), strict=True):
        torch.testing.assert_close(ours.view_as(other), other, rtol=1e-3, atol=1e-5)
