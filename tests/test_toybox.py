"""The toybox keeps its promises: sound geometry, kinds that differ, a fixed list of held-out pairs, true pictures."""

import json
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

from dreamforge.cameras import orbit
from dreamforge.data import asset
from dreamforge.render.raster import render_layers, render_mesh
from dreamforge.toybox.catalog import ACCESSORIES, KINDS, held_out, pairs
from dreamforge.toybox.colors import COLOR_SYNONYMS, COLORS, PAINTS
from dreamforge.toybox.objects import RADIUS, Toy, make
from dreamforge.toybox.pictures import (
    FOV,
    Pictures,
    choose_color,
    compose,
    compose_clay,
    draw,
    shade_of,
    toy_layers,
    view_angles,
)
from dreamforge.toybox.show import GAP, LINE, sheet, show
from dreamforge.types import DreamforgeError, Mesh

SEEDS = (0, 1)
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def toy(kind: str, accessory: str | None = None, seed: int = 0) -> Toy:
    return make(kind, accessory, seed)


def toys_of(kind: str) -> list[Toy]:
    """The kind plain and with each of its accessories, over all seeds."""
    return [toy(kind, accessory, seed) for accessory in (None, *KINDS[kind].accessories) for seed in SEEDS]


def around(views: int, size: int, elevation_deg: float = 15.0):
    azimuth = torch.arange(views) * (2 * torch.pi / views)
    return orbit(azimuth, torch.full((views,), elevation_deg).deg2rad(), 3.0, FOV, size, size)


@every_kind
def test_geometry_is_sound(kind):
    for one in toys_of(kind):
        assert torch.isfinite(one.vertices).all() and torch.isfinite(one.normals).all()
        assert 50 < len(one.faces) < 5000
        assert one.faces.min() >= 0 and one.faces.max() < len(one.vertices)
        torch.testing.assert_close(one.normals.norm(dim=-1), torch.ones(len(one.normals)))
        corners = one.vertices[one.faces]
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        agreement = (across[:, None] * one.normals[one.faces]).sum(-1)
        assert (agreement > 0).all(), "a face is wound against its normals"


@every_kind
def test_it_fills_the_ball_and_is_centred(kind):
    for one in toys_of(kind):
        assert one.vertices.norm(dim=-1).max() == pytest.approx(RADIUS, abs=1e-5)
        torch.testing.assert_close(one.vertices.amin(0), -one.vertices.amax(0), rtol=0, atol=1e-5)


@every_kind
def test_parts_and_curves(kind):
    parts = KINDS[kind].build(np.random.default_rng(0), None)
    curved = any(len(np.unique(part.normals.round(3), axis=0)) > 24 for part in parts)
    assert len(parts) >= 3 or curved
    used = {part.color for part in parts}
    assert "main" in used and used <= {"main", *PAINTS}, "every part takes the caption's colour or a known paint"


@every_kind
def test_the_second_colour_is_the_accessory(kind):
    for one in toys_of(kind):
        assert bool(one.slots[:, 1].any()) == (one.accessory is not None)
        assert ((one.slots.sum(-1) == 0) | (one.slots.sum(-1) == 1)).all()
        assert not (one.paints * one.slots.sum(-1, keepdim=True)).any(), "a coloured vertex has no paint besides"


@every_kind
def test_the_main_colour_shows_and_the_accessory_can_be_seen(kind):
    for accessory in (None, *KINDS[kind].accessories):
        one = toy(kind, accessory)
        shown = render_layers(one.vertices, one.faces, one.normals, one.slots, around(6, 32), None, 1).sum((1, 2))
        main, second = shown[:, 0] / shown[:, 2], shown[:, 1] / shown[:, 2]
        assert (main >= 0.35).sum() >= 4, f"main colour covers {main.tolist()}"
        assert accessory is None or second.max() > 0.05


@every_kind
def test_proportions_are_random_and_a_function_of_the_seed(kind):
    again, other = make(kind, None, SEEDS[0]), toy(kind, None, SEEDS[1])
    assert torch.equal(again.vertices, toy(kind).vertices) and torch.equal(again.faces, toy(kind).faces)
    assert other.vertices.shape != again.vertices.shape or (other.vertices - again.vertices).abs().max() > 0.01


def boxed(one: Toy) -> torch.Tensor:
    """Depths from front, side and top of the toy stretched along each axis to fill a cube: scale is gone."""
    low, high = one.vertices.amin(0), one.vertices.amax(0)
    vertices = (one.vertices - (low + high) / 2) / ((high - low) / 2)
    angles = torch.tensor([0.0, 90.0, 0.0]).deg2rad(), torch.tensor([0.0, 0.0, 90.0]).deg2rad()
    cameras = orbit(*angles, 6.0, float(np.radians(26.0)), 24, 24)
    out = render_mesh(Mesh(vertices, one.faces, one.normals), cameras, torch.zeros(3), None, 1)
    return torch.where(out.alpha > 0, (7.5 - out.depth) / 3, 0.0).flatten()  # 0 behind, up to 1 near


def test_no_two_kinds_differ_by_scale_or_colour_only():
    """Kinds stay apart with colours dropped and every axis stretched alike; a stretched copy does not."""
    depths = {kind: [boxed(toy(kind, None, seed)) for seed in SEEDS] for kind in KINDS}
    for a, b in combinations(KINDS, 2):
        apart = min(float((one - two).abs().mean()) for one in depths[a] for two in depths[b])
        assert apart > 0.03, f"{a} and {b} look alike: {apart:.3f}"
    one = toy("apple")
    stretched = replace(one, vertices=one.vertices * torch.tensor([0.5, 1.7, 1.1]), kind="melon")
    assert (boxed(stretched) - boxed(one)).abs().mean() < 0.001


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.front])
def test_a_front_is_not_a_back(kind):
    """From the front it looks unlike from behind, also when one of the two is mirrored."""
    cameras = around(2, 32, 5.0)
    front, back = in_green(toy(kind), cameras)
    for other in (back, back.flip(1)):
        assert (front - other).abs().mean() > 0.01


def in_green(one: Toy, cameras) -> torch.Tensor:
    color = torch.tensor([COLORS["green"]]).expand(len(cameras), 3)
    return compose(toy_layers(one, cameras, 1), color, color, torch.ones(len(cameras), 3))


def test_enough_of_everything():
    assert len(KINDS) >= 40 and len(COLORS) >= 12
    assert sum(kind.front for kind in KINDS.values()) >= 12
    assert len(ACCESSORIES) >= 5


def test_names_are_unique_single_words():
    nouns = [noun for kind in KINDS.values() for noun in (kind.name, *kind.synonyms)]
    shades = [shade for color in COLORS for shade in (color, *COLOR_SYNONYMS.get(color, ()))]
    assert len(set(nouns)) == len(nouns) and len(set(shades)) == len(shades)
    assert not set(nouns) & set(shades)
    for word in [*nouns, *shades, *ACCESSORIES]:
        assert word.isascii() and word.isalpha() and word.islower(), word
    for name, kind in KINDS.items():
        assert kind.name == name
        assert len(set(kind.accessories)) == len(kind.accessories)


def test_colours_are_apart():
    for a, b in combinations(COLORS, 2):
        assert np.abs(np.subtract(COLORS[a], COLORS[b])).max() > 0.2, (a, b)


def test_held_out_share_and_spread():
    share = len(pairs(held=True)) / (len(KINDS) * len(COLORS))
    assert 0.15 <= share <= 0.25
    for kind in KINDS:
        assert sum(held_out(kind, color) for color in COLORS) in (2, 3)
    for color in COLORS:
        assert 0 < sum(held_out(kind, color) for kind in KINDS) < len(KINDS) / 2
    assert {*pairs(held=True), *pairs(held=False)} == {(kind, color) for kind in KINDS for color in COLORS}


def test_the_published_list_is_the_rule():
    published = json.loads(asset("toybox/held_out.json").read_text("utf-8"))
    assert [tuple(pair) for pair in published] == pairs(held=True)


def test_training_colours_leave_the_held_out_pairs_out():
    rng = np.random.default_rng(0)
    trained = {(kind, choose_color(kind, rng, trained_only=True)) for kind in ("apple", "robot") for _ in range(400)}
    assert trained == {pair for pair in pairs(held=False) if pair[0] in ("apple", "robot")}
    everything = {choose_color("apple", rng, trained_only=False) for _ in range(400)}
    assert everything == set(COLORS)


def test_shades_stay_near_their_name():
    rng = np.random.default_rng(0)
    for color in COLORS:
        shades = np.stack([shade_of(color, rng) for _ in range(50)])
        assert shades.min() >= 0 and shades.max() <= 1 and np.ptp(shades, axis=0).max() > 0.02
        assert np.abs(shades - COLORS[color]).max() <= 0.12 * max(COLORS[color]) + 0.031


def test_views_lean_to_the_front():
    azimuth, elevation = view_angles(20_000, np.random.default_rng(0))
    turn = np.abs(np.degrees(azimuth))
    assert turn.max() <= 180
    # 0.45 of N(0, 45 deg) and 0.55 of the circle: 0.445 within 45 degrees of the front, 0.138 of the back
    assert np.mean(turn < 45) == pytest.approx(0.45 * 0.6827 + 0.55 * 0.25, abs=0.02)
    assert np.mean(turn > 135) == pytest.approx(0.55 * 0.25, abs=0.02)
    assert np.mean(np.degrees(elevation) > 60) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("accessory", [None, "scarf"])
def test_composed_layers_are_the_render_of_the_coloured_mesh(accessory):
    one, cameras = toy("snowman", accessory), around(3, 24)
    main, second, background = COLORS["blue"], COLORS["orange"], torch.tensor([0.8, 0.7, 0.4])
    colors = [torch.tensor([color]).expand(3, 3) for color in (main, second)]
    pictures = compose(toy_layers(one, cameras), *colors, background.expand(3, 3))
    rendered = render_mesh(one.mesh(main, second), cameras, background).rgb
    assert (pictures - rendered).abs().max() < 1.5 / 255  # layers are rounded to 8 bits before the sum


def test_clay_is_the_render_of_an_untextured_mesh():
    one, cameras, background = toy("robot"), around(3, 24), torch.tensor([0.2, 0.7, 0.4])
    clay = torch.full((3, 3), 0.6)
    pictures = compose_clay(toy_layers(one, cameras), clay, background.expand(3, 3))
    gray = Mesh(one.vertices, one.faces, one.normals, torch.full_like(one.vertices, 0.6))
    assert (pictures - render_mesh(gray, cameras, background).rgb).abs().max() < 1.5 / 255


def test_drawn_pictures_are_labelled_and_come_back_from_their_file(tmp_path):
    drawn = draw(3, seed=5, size=12, workers=1)
    assert drawn.layers.shape == (6, 7, 12, 12) and drawn.layers.dtype == torch.uint8
    assert drawn.kind.tolist() == [0, 0, 1, 1, 2, 2]
    names = list(KINDS)
    for kind, accessory in zip(drawn.kind.tolist(), drawn.accessory.tolist(), strict=True):
        assert accessory == -1 or ACCESSORIES[accessory] in KINDS[names[kind]].accessories
    assert (drawn.layers[:, 1].flatten(1).any(1) <= (drawn.accessory >= 0)).all(), "a second colour without accessory"
    drawn.save(tmp_path / "pictures.safetensors")
    read = Pictures.load(tmp_path / "pictures.safetensors")
    for name in Pictures.__dataclass_fields__:
        assert torch.equal(getattr(read, name), getattr(drawn, name))


def test_a_toy_that_cannot_be_is_refused():
    with pytest.raises(DreamforgeError, match="toybox"):
        make("unicorn", None, 0)
    with pytest.raises(DreamforgeError, match="toybox"):
        make("apple", "scarf", 0)


def test_the_sheet_shows_every_kind():
    first = sheet(size=16, columns=12)
    assert first.tobytes() != sheet(size=16, columns=12, seed=1).tobytes()
    pixels = torch.from_numpy(np.array(first))
    for number in range(len(KINDS)):
        x, y = GAP + number % 12 * (16 + GAP), GAP + number // 12 * (16 + GAP + 2 * LINE)
        cell = pixels[y : y + 16, x : x + 16].reshape(-1, 3)
        assert len(cell.unique(dim=0)) > 8, f"nothing is drawn for {list(KINDS)[number]}"


def test_the_shipped_sheet_is_what_the_command_draws(tmp_path):
    from PIL import Image

    show(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn, Image.open(asset("toybox/sheet.png")) as shipped:
        assert drawn.format == "PNG" and drawn.size == shipped.size
        difference = np.asarray(drawn, float) - np.asarray(shipped, float)
    assert np.abs(difference).mean() < 0.05, "renew it: dreamforge toybox show --out assets/toybox/sheet.png"
