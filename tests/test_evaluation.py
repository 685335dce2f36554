"""The evaluator: its network, what it is trained on, and how it judges."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.evaluation import augment, measure, network, nothing, training
from dreamforge.evaluation.confusion import confusion, picture_of
from dreamforge.evaluation.examples import IGNORE, batch, colors, seen_from_front, shades
from dreamforge.evaluation.judge import judge_asset, judge_mesh, renders
from dreamforge.evaluation.network import Judge, Labels
from dreamforge.evaluation.samples import near_front
from dreamforge.evaluation.training import Training
from dreamforge.evaluation.verdict import Verdict, Votes, count_faces, decide, judge_pictures
from dreamforge.evaluation.wanted import right, wanted
from dreamforge.export.write import export
from dreamforge.pictures import png
from dreamforge.rng import generator
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import make
from dreamforge.toybox.pictures import Pictures, compose, toy_layers
from dreamforge.types import DreamforgeError, Mesh

LABELS = Labels.of_toybox()
TINY = (8, 8, 8, 8)
FACED = [name for name, kind in KINDS.items() if kind.front]
RED = (0.85, 0.10, 0.10)


def small_judge(seed: int = 0) -> Judge:
    """Untrained, with heads that say something."""
    torch.manual_seed(seed)
    judge = Judge(LABELS, TINY)
    torch.nn.init.normal_(judge.heads.weight)
    return judge.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return small_judge()


@pytest.fixture(scope="module")
def drawn() -> Pictures:
    """One toy of a few kinds, seen from the front and from behind; the chair has a cushion."""
    kinds = [*FACED[:4], "apple", "chair"]
    azimuth = torch.tensor([0.3, math.pi])
    cameras = near_front(2, 0)
    toys = [make(kind, "cushion" if kind == "chair" else None, 5) for kind in kinds]
    layers = [toy_layers(toy, cameras, antialias=1) for toy in toys]
    number = torch.tensor([list(KINDS).index(kind) for kind in kinds], dtype=torch.int16).repeat_interleave(2)
    worn = torch.full((len(number),), -1, dtype=torch.int16)
    worn[-2:] = ACCESSORIES.index("cushion")
    return Pictures(torch.cat(layers), number, worn, azimuth.repeat(len(kinds)), torch.zeros(len(number)))


# --- network ---


def test_the_network_is_small_and_answers_every_head(tmp_path: Path) -> None:
    judge = Judge(LABELS).eval()
    network.save(tmp_path, judge, {})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5_000_000
    scores = judge(torch.rand(3, 3, 64, 64))
    assert {name: value.shape[1] for name, value in vars(scores).items()} == LABELS.heads()
    assert scores.kind.shape == (3, len(KINDS) + 1) and scores.accessory.shape == (3, len(ACCESSORIES) + 1)


def test_save_and_load_round_trip(tmp_path: Path, judge: Judge) -> None:
    network.save(tmp_path, judge, {"step": 7})
    read, x = network.load(tmp_path), torch.rand(2, 3, 64, 64)
    assert (read.labels, read.widths, read.training) == (LABELS, TINY, False)
    assert torch.allclose(read(x).kind, judge(x).kind, atol=0.05)  # float16 weights
    assert not torch.equal(small_judge(1)(x).kind, judge(x).kind)


def test_a_judge_of_fewer_kinds_stays_valid_and_a_strange_kind_is_refused(tmp_path: Path) -> None:
    fewer = Labels(tuple(KINDS)[3:], LABELS.accessories, LABELS.colors)
    network.save(tmp_path, Judge(fewer, TINY), {})
    assert network.load(tmp_path).labels == fewer
    network.save(tmp_path, Judge(Labels(("unicorn", *KINDS), ACCESSORIES, tuple(COLORS)), TINY), {})
    with pytest.raises(DreamforgeError, match="unicorn"):
        network.load(tmp_path)


@pytest.mark.parametrize("part", [network.LABELS, network.WEIGHTS])
@pytest.mark.parametrize("damage", [None, b"{", b'{"kinds": []}'])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, judge: Judge, part: str, damage: bytes | None) -> None:
    network.save(tmp_path, judge, {})
    (tmp_path / part).unlink()
    if damage is not None:
        (tmp_path / part).write_bytes(damage)
    with pytest.raises(DreamforgeError, match=part):
        network.load(tmp_path)


# --- examples ---


def test_examples_are_seeded_in_range_and_labelled(drawn: Pictures) -> None:
    shown, answers = batch(drawn, LABELS, 24, seed=1, step=2)
    again, _ = batch(drawn, LABELS, 24, seed=1, step=2)
    other, _ = batch(drawn, LABELS, 24, seed=1, step=3)
    assert torch.equal(shown, again) and not torch.equal(shown, other)
    assert shown.shape == (24, 3, 64, 64) and shown.min() >= 0 and shown.max() <= 1
    empty, uncolored = answers.kind == LABELS.nothing, answers.color == IGNORE
    assert empty.sum() == round(0.12 * 24) and uncolored.sum() == empty.sum() + round(0.2 * 24)
    chairs = answers.kind == list(KINDS).index("chair")
    worn = torch.where(chairs, ACCESSORIES.index("cushion"), LABELS.bare)
    assert torch.equal(answers.accessory, torch.where(empty, IGNORE, worn))
    assert torch.equal(answers.second != IGNORE, chairs & ~uncolored)
    assert answers.azimuth[empty].isnan().all() and answers.azimuth[~empty].isfinite().all()
    faced = torch.tensor([k < len(KINDS) and LABELS.kinds[k] in FACED for k in answers.kind.tolist()])
    assert torch.equal(answers.front.isfinite(), faced)
    assert torch.equal(answers.front[faced] == 1, seen_from_front(answers.azimuth[faced]))


def test_front_is_within_sixty_degrees() -> None:
    degrees = torch.tensor([0.0, 59.0, 61.0, -59.0, -61.0, 301.0, 180.0])
    assert seen_from_front(degrees.deg2rad()).tolist() == [True, True, False, True, False, True, False]


def test_painting_agrees_with_the_toybox(drawn: Pictures) -> None:
    draw = generator(0)
    color, second = colors(len(drawn), draw)
    main, other, behind = shades(color, draw), shades(second, draw), torch.rand(len(drawn), 3, generator=draw)
    assert (color != second).all()
    ours = augment.paint(drawn.layers.float() / 255, main, other, behind[:, :, None, None])
    theirs = compose(drawn.layers, main, other, behind)
    assert torch.allclose(ours.permute(0, 2, 3, 1), theirs, atol=1e-5)


def test_augmentation_changes_pictures_but_keeps_their_range() -> None:
    pictures = torch.rand(12, 3, 64, 64, generator=generator(0))
    one, two = (augment.degrade(pictures, generator(seed)) for seed in (1, 2))
    assert one.min() >= 0 and one.max() <= 1 and not torch.equal(one, two)
    assert 1 <= (one == pictures).all(3).all(2).all(1).sum() < 12
    assert augment.backgrounds(9, 64, generator(1)).shape == (9, 3, 64, 64)


def test_blur_has_the_spread_it_is_given() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    spread = augment.blur(point, 2.0)[0, 0]
    place = torch.arange(33) - 16.0
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((spread.sum(0) * place.square()).sum()) == pytest.approx(4.0, rel=0.1)


def test_moving_turns_scales_and_shifts_within_bounds() -> None:
    square = torch.zeros(64, 1, 64, 64)
    square[:, :, 24:40, 24:40] = 1
    moved = augment.move(square, generator(3))
    area, axis = moved.sum((1, 2, 3)), torch.arange(64) - 31.5
    assert 0.75**2 * 256 * 0.97 < area.min() < area.max() < 1.15**2 * 256 * 1.03
    center = (moved.sum((1, 2)) * axis).sum(1) / area
    assert 1 < center.abs().max() < 0.07 * 64 * 1.4


@pytest.mark.parametrize("name", nothing.MAKERS)
def test_every_nothing_spoils_the_picture(name: str) -> None:
    toy = torch.rand(6, 3, 64, 64, generator=generator(1))
    behind, stranger = torch.full_like(toy, 0.5), torch.full_like(toy, 0.25)
    spoiled = nothing.MAKERS[name](toy, behind, stranger, generator(0))
    assert spoiled.shape == toy.shape and spoiled.isfinite().all()
    kept = ((spoiled - toy).abs().sum(1) < 0.05).float().mean((1, 2))
    assert (kept < 0.51).all()


def test_spoil_uses_every_maker_in_turn(drawn: Pictures) -> None:
    toy, behind = torch.ones(18, 3, 64, 64), torch.zeros(18, 3, 64, 64)
    used = []
    for seed in range(4):
        spoiled = nothing.spoil(toy, behind, toy, generator(seed))
        assert spoiled.min() >= 0 and spoiled.max() <= 1
        used.append((spoiled == 0).flatten(1).all(1).nonzero().flatten().tolist())  # the plain ones
    assert all(len(rows) == 2 and rows[1] - rows[0] == len(nothing.MAKERS) for rows in used)
    assert len({rows[0] for rows in used}) > 1


# --- training ---


def test_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, drawn: Pictures, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "draw", lambda *_: drawn)
    monkeypatch.setattr(training, "Judge", lambda labels: Judge(labels, TINY))
    settings = Training(steps=4, toys=6, batch=8, every=2, warmup=2)

    def stop(text: str) -> None:
        if text.startswith('{"step": 2'):
            raise KeyboardInterrupt

    training.train(tmp_path / "one", tmp_path / "p.safetensors", settings, "cpu", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "two", tmp_path / "p.safetensors", settings, "cpu", stop)
    training.train(tmp_path / "two", tmp_path / "p.safetensors", settings, "cpu", lambda _: None)
    for name in (network.WEIGHTS, network.LABELS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    logged = [json.loads(line)["step"] for line in (tmp_path / "two" / training.LOG).read_text().splitlines()]
    assert logged == [2, 4]
    weights = (tmp_path / "two" / network.WEIGHTS).stat().st_mtime_ns
    training.train(tmp_path / "two", tmp_path / "p.safetensors", settings, "cpu", lambda _: None)  # all is done
    assert (tmp_path / "two" / network.WEIGHTS).stat().st_mtime_ns == weights
    assert not (tmp_path / "two" / training.STATE).exists()
    with pytest.raises(DreamforgeError, match="other settings"):
        training.train(tmp_path / "two", tmp_path / "p.safetensors", replace(settings, lr=0.1), "cpu", lambda _: None)
    with pytest.raises(DreamforgeError, match="other settings or another toybox"):
        training.cached_pictures(tmp_path / "p.safetensors", 7, settings.seed)


def test_a_step_of_training_lowers_the_loss_of_its_batch(drawn: Pictures) -> None:
    torch.manual_seed(0)
    judge, settings = Judge(LABELS, TINY).train(), Training(steps=100, warmup=1, lr=5e-3)
    optimiser = training._optimiser(judge, settings)
    shown, answers = batch(drawn, LABELS, 16, 0, 0)
    losses = [training._step(judge, optimiser, shown, answers, settings, step)["all"] for step in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_learning_rate_rises_and_falls() -> None:
    settings = Training(steps=100, warmup=10)
    rates = [training.rate(step, settings) for step in range(100)]
    assert rates[0] < 0.11 and max(rates) == rates[9] > 0.95 and rates[-1] < 0.001


# --- verdicts ---


@pytest.mark.parametrize(
    ("arcs", "faces"),
    [
        ([], 0),
        ([(0, 8)], 1),
        ([(20, 28)], 1),  # across the seam
        ([(3, 14)], 1),
        ([(0, 8), (12, 20)], 2),
        ([(0, 12)], 2),  # two that melted
        ([(0, 24)], 3),
        ([(5, 6)], 0),  # one view alone
        ([(0, 4), (5, 9)], 1),  # one view missing
    ],
)
def test_faces_are_counted_by_arcs(arcs: list[tuple[int, int]], faces: int) -> None:
    front = torch.full((24,), 0.02)
    for start, end in arcs:
        front[[i % 24 for i in range(start, end)]] = 0.98
    assert count_faces(front) == faces


def votes_of(kinds: Tensor) -> Votes:
    """Probabilities of kinds ``[B,K+1]``; the rest of no opinion."""
    count, odd = len(kinds), torch.zeros
    color, worn = odd(count, len(COLORS)).log_softmax(-1), odd(count, len(ACCESSORIES) + 1).log_softmax(-1)
    return Votes(kinds.log(), color, color, worn, odd(count), odd(count))


def test_a_verdict_is_the_mean_of_log_probabilities_without_veto() -> None:
    kinds = torch.full((24, len(KINDS) + 1), 1e-9)
    kinds[:, 4], kinds[:, 5] = 0.6, 0.4
    kinds[0, 4], kinds[0, 5] = 1e-30, 1.0  # outvoted, although the plain mean of logarithms says 5
    kinds[1, 4], kinds[1, LABELS.nothing] = 0.1, 0.9
    verdict = decide(LABELS, votes_of(kinds))
    assert verdict.kind == list(KINDS)[4]
    assert (verdict.agreement, verdict.empty) == (round(22 / 24, 4), round(1 / 24, 4))
    kinds[2:, LABELS.nothing] = 1.0
    assert decide(LABELS, votes_of(kinds)).kind == "nothing"


def toy(kind: str = "snowman") -> Mesh:
    return make(kind, None, 3).mesh(RED)


def test_views_of_a_mesh() -> None:
    around, others = renders(toy(), size=16)
    assert around.shape == (24, 16, 16, 3) and others.shape == (16, 16, 16, 3)
    corners = torch.cat([around, others])[:, 0, 0]
    assert len(corners.unique(dim=0)) == 40  # every view has a background of its own
    inside, doubled = (
        (views - views[:, :1, :1]).abs().sum(-1) > 0.02
        for views in (around, renders(measure.two_faced(toy()), size=16)[0])
    )
    assert not torch.equal(inside, inside.roll(12, 0)) and torch.equal(doubled, doubled.roll(12, 0))


def test_judging_a_mesh_is_deterministic_and_reads_the_exported_file(tmp_path: Path, judge: Judge) -> None:
    verdict = judge_mesh(toy(), judge)
    assert verdict.kind in (*KINDS, "nothing") and verdict.color in COLORS
    assert (verdict.faces is not None) == (verdict.kind in FACED)
    export(toy(), tmp_path / "asset.glb", "glb")
    asked = wanted("a red snowman")
    assert asked is not None
    found = judge_asset(tmp_path / "asset.glb", "a red snowman", judge)
    assert json.loads(json.dumps(found)) == found
    assert found == {**asdict(verdict), "right": right(verdict, asked), "second_right": None}


def test_a_flat_scene_is_judged_by_its_picture(tmp_path: Path, judge: Judge) -> None:
    picture = torch.rand(128, 128, 3, generator=generator(0))
    (tmp_path / "asset.png").write_bytes(png(picture))
    read = (picture * 255).round()[None] / 255
    assert judge_asset(tmp_path / "asset.png", "peace", judge)["right"] is None
    found = judge_asset(tmp_path / "asset.png", "a cat", judge)
    assert found["kind"] == decide(LABELS, judge_pictures(judge, read)).kind and found["faces"] is None
    (tmp_path / "bad.png").write_bytes(b"PNG")
    with pytest.raises(DreamforgeError, match=r"bad\.png"):
        judge_asset(tmp_path / "bad.png", "a cat", judge)


def test_confusion_counts_every_picture() -> None:
    matrix = confusion(LABELS, torch.tensor([1, 1, 0, LABELS.nothing]), torch.tensor([1, 1, 1, 2]))
    names = list(KINDS)
    assert matrix[names[1]] == {names[1]: 2, names[0]: 1} and matrix[names[2]] == {"nothing": 1}
    assert matrix[names[0]] == {} and picture_of(matrix).startswith(b"\x89PNG")


def test_whole_toys_are_judged_with_one_face_and_with_two(judge: Judge, monkeypatch: Any) -> None:
    def fake(mesh: Mesh, judge: Judge) -> Verdict:
        one, other = mesh.vertices.chunk(2)
        turned = one.shape == other.shape and torch.equal(one, other * torch.tensor([-1.0, 1.0, -1.0]))
        return Verdict("car", "red", None, None, 1.0, 0.0, faces=2 if turned else 1)

    monkeypatch.setattr(measure, "judge_mesh", fake)
    found = measure.whole_toys(judge, ["car", "apple"])
    assert [found[name]["of"] for name in ("kind", "one face counted", "two faces counted")] == [2, 1, 1]
    assert [found[name]["right"] for name in ("kind", "one face counted", "two faces counted")] == [1, 1, 1]


def test_figures_of_the_card(judge: Judge, drawn: Pictures, monkeypatch: Any) -> None:
    monkeypatch.setattr(measure, "whole_toys", lambda judge, names: {"names": len(names)})
    found = measure.measure(judge, drawn, lambda _: None)
    assert found["kind"]["of"] == len(drawn) == sum(sum(row.values()) for row in found["confusion"].values())
    assert set(found["nothing"]) == set(nothing.MAKERS) and found["whole toys"] == {"names": len(KINDS)}
    assert found["accessory that can be seen"]["of"] == 2 and found["front"]["of"] == 8
    with pytest.raises(DreamforgeError, match="train it again"):
        measure.measure(Judge(Labels(("apple",), (), ("red",)), TINY), drawn)
