"""Births and deaths of Gaussians: what each strategy does to rows, and that pictures stay where they should."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.optimiser import SceneAdam
from dreamforge.scenes.densify import Rows, grow_and_prune, relocate_and_add, reset_opacity, shared, split, wander

LIMITS = {"grow_pull": 1.0, "grow_scale": 0.1, "prune_opacity": 0.01, "prune_scale": 1.0}


def rows(opacities: list[float], scale: float = 0.05, room: int = 0) -> Rows:
    count = len(opacities)
    total = count + room
    means = torch.randn(total, 3, generator=torch.Generator().manual_seed(0))
    quaternions = torch.randn(total, 4, generator=torch.Generator().manual_seed(1))
    logits = torch.logit(torch.tensor(opacities + [0.5] * room))
    colors = torch.arange(3.0 * total).view(total, 1, 3)
    tensors = {
        "means": means,
        "log_scales": torch.full((total, 3), math.log(scale)) + torch.tensor([0.0, 0.1, 0.2]),
        "quaternions": quaternions,
        "logits": logits,
        "colors": colors,
    }
    return Rows(tensors, torch.arange(total) < count, torch.zeros(total, dtype=torch.bool))


def copies(of: Rows) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in of.tensors.items()}


def test_a_small_one_that_is_pulled_is_cloned() -> None:
    some = rows([0.5, 0.5, 0.5], room=2)
    before = copies(some)
    grow_and_prune(some, torch.tensor([0.5, 2.0, 0.9, 9.0, 9.0]), 0, **LIMITS)
    assert some.alive.tolist() == [True, True, True, True, False]
    assert some.renewed.tolist() == [False, False, False, True, False]
    for name, tensor in some.tensors.items():
        assert torch.equal(tensor[:3], before[name][:3]) and torch.equal(tensor[3], before[name][1])


def test_a_large_one_is_split_into_two_within_it() -> None:
    some = rows([0.5] * 2000, scale=0.3, room=2000)
    for name in ("means", "quaternions"):
        some[name][:] = some[name][0]
    before = copies(some)
    grow_and_prune(some, torch.full((4000,), 2.0), 0, **LIMITS)
    assert some.alive.all() and some.renewed.all()
    torch.testing.assert_close(some["log_scales"], before["log_scales"] - math.log(1.6))
    offset = some["means"] - before["means"][0]
    w, x, y, z = torch.nn.functional.normalize(before["quaternions"][0], dim=0).double()
    turn = torch.tensor(  # written out: the matrix of a unit quaternion
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )
    spread = torch.cov((offset.double() @ turn).t())
    assert torch.allclose(spread.diag(), (2 * before["log_scales"][0]).exp().double(), rtol=0.1)
    assert (spread - spread.diag().diag()).abs().max() < 0.01 and offset.mean(0).norm() < 0.02


def test_the_longest_side_says_whether_one_is_large() -> None:
    some = rows([0.5], scale=0.095, room=1)  # 0.095, 0.105, 0.116: the limit is 0.1
    before = copies(some)
    grow_and_prune(some, torch.tensor([2.0, 0.0]), 0, **LIMITS)
    torch.testing.assert_close(some["log_scales"], before["log_scales"] - math.log(1.6))


def test_the_strongest_grow_where_there_is_little_room() -> None:
    some = rows([0.5] * 4, room=1)
    grow_and_prune(some, torch.tensor([2.0, 3.0, 2.5, 0.0, 0.0]), 0, **LIMITS)
    assert torch.equal(some["colors"][4], some["colors"][1]) and some.alive.all()
    grow_and_prune(some, torch.full((5,), 3.0), 0, **LIMITS)  # no room at all
    assert some.alive.all()


def test_the_faint_and_the_vast_go() -> None:
    some = rows([0.5, 0.001, 0.5])
    some["log_scales"][2, 1] = 0.1
    grow_and_prune(some, torch.zeros(3), 0, **LIMITS)
    assert some.alive.tolist() == [True, False, False]


def test_opacities_are_reset() -> None:
    some = rows([0.5, 0.001, 0.9], room=1)
    reset_opacity(some, 0.01)
    torch.testing.assert_close(torch.sigmoid(some["logits"])[:3], torch.tensor([0.01, 0.001, 0.01]))
    assert some.renewed.tolist() == [True, True, True, False]


@pytest.mark.parametrize("number", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("opacity", [0.01, 0.5, 0.99])
def test_sharing_keeps_opacity_and_light(opacity: float, number: int) -> None:
    """n Gaussians of the new opacity have the old one together; and the light that they take along a line through
    the middle is that of one: the condition of eq. 9, integrated here by numbers."""
    new, factor = shared(torch.tensor([opacity]), torch.tensor([number]))
    assert float(1 - (1 - new) ** number) == pytest.approx(opacity, rel=1e-6)
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    one = (opacity * torch.exp(-0.5 * x**2)).sum()
    all_of_them = (1 - (1 - new * torch.exp(-0.5 * (x / factor) ** 2)) ** number).sum()
    assert float(all_of_them / one) == pytest.approx(1.0, rel=2e-3)


def test_the_faint_move_to_where_opacity_is_and_the_number_grows() -> None:
    some = rows([0.9, 0.001, 0.0001, 0.3], room=3)
    before = copies(some)
    where = before["means"]
    relocate_and_add(some, 0, least=0.005, growth=1.5, most=6)
    assert some.alive.tolist() == [True] * 6 + [False]
    strong = where[[0, 3]]
    apart = torch.cdist(some["means"][:6], strong).amin(1)
    assert (apart == 0).all(), "everyone stands where a strong one stood"
    assert torch.equal(some["means"][[0, 3]], strong) and some.renewed[[1, 2, 4, 5]].all()
    for place in strong:
        there = (some["means"][:6] == place).all(1)
        together = 1 - (1 - torch.sigmoid(some["logits"][:6][there]).double()).prod()
        assert float(together) == pytest.approx(0.9 if torch.equal(place, where[0]) else 0.3, rel=1e-3)
        assert (some["log_scales"][:6][there] <= before["log_scales"][0]).all(), "shares are smaller"
    relocate_and_add(rows([0.001]), 0, least=0.005, growth=1.5, most=1)  # nobody to move to


def test_the_faint_wander_by_their_own_covariance_and_the_opaque_stay() -> None:
    some = rows([0.001] * 4000 + [0.9], scale=0.05, room=1)
    for name in ("means", "quaternions"):
        some[name][:] = some[name][0]
    some["log_scales"][:] = torch.tensor([0.5, 0.2, 0.1]).log()
    before = some["means"].clone()
    wander(some, 0, rate=1.0)
    offset = some["means"] - before
    assert offset[4000].norm() < 1e-6 and not offset[4001].any()
    loose = 1 / (1 + math.exp(-100 * (0.005 - 0.001)))
    spread = torch.linalg.eigvalsh(torch.cov(offset[:4000].t())).sqrt().flip(0) / loose
    assert torch.allclose(spread, torch.tensor([0.25, 0.04, 0.01]), rtol=0.05)


def test_split_halves_are_drawn_apart() -> None:
    some = rows([0.5], scale=0.3, room=1)
    some.copy(torch.tensor([0]), torch.tensor([1]))
    split(some, torch.tensor([0]), torch.tensor([1]), 0)
    assert (some["means"][0] - some["means"][1]).norm() > 0.05


def test_renewed_rows_lose_their_moments_once() -> None:
    table = torch.ones(3, 2, requires_grad=True)
    mark = torch.zeros(3, dtype=torch.bool)
    optimiser = SceneAdam([{"params": [table], "lr": 0.1, "renewed": mark}], (0.9, 0.99), 1e-15)
    table.grad = torch.ones(3, 2)
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())  # as a run goes on
    mark[1] = True
    table.grad = torch.zeros(3, 2)
    optimiser.step()
    moments = optimiser.state[table]["exp_avg"]
    assert not moments[1].any() and (moments[[0, 2]] > 0).all() and not mark.any()
    assert not optimiser.state[table]["exp_avg_sq"][1].any()


def test_newcomers_are_drawn_by_opacity_up_to_the_most_and_by_the_seed() -> None:
    """Of 300 that are born half belong to the one whose opacity is half of all."""

    def grown(seed: int) -> Rows:
        some = rows([0.9] + [0.1] * 9, room=310)
        some["means"][:] = torch.arange(320.0)[:, None]
        relocate_and_add(some, seed, least=0.005, growth=100.0, most=310)
        return some

    one, again, other = grown(0), grown(0), grown(1)
    assert int(one.alive.sum()) == 310, "the growth would be 1000"
    assert 120 < int((one["means"][10:310, 0] == 0).sum()) < 180
    assert one.renewed[:310].all() and not one.renewed[310:].any(), "whoever shares has other moments"
    assert torch.equal(one["means"], again["means"]) and not torch.equal(one["means"], other["means"])


def test_many_share_as_fifty_do() -> None:
    few, many = (shared(torch.tensor([0.7, 0.2]), torch.tensor([number, 3])) for number in (50, 60))
    assert torch.equal(few[0], many[0]) and torch.equal(few[1], many[1])


def test_other_seeds_split_and_wander_otherwise() -> None:
    places = []
    for seed in (0, 0, 1):
        some = rows([0.001, 0.5], scale=0.3, room=1)
        wander(some, seed, rate=1.0)
        some.copy(torch.tensor([1]), torch.tensor([2]))
        split(some, torch.tensor([1]), torch.tensor([2]), seed)
        places.append(some["means"])
    assert torch.equal(places[0], places[1])
    assert all((places[0][row] != places[2][row]).any() for row in range(3))
