"""Characters of the toybox: snowmen, robots and creatures of tales."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.kinds.wear import eyes, on_ball, smile, soft, turned, worn
from dreamforge.toybox.shapes import Part, ball, box, capsule, cylinder, lathe, mirrored, rounded_box, tube


def snowman(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    count = int(rng.integers(2, 4))
    radii = [0.5, rng.uniform(0.34, 0.4), 0.29] if count == 3 else [0.5, rng.uniform(0.34, 0.4)]
    heights = np.cumsum([radii[0] * 0.9] + [0.74 * (a + b) for a, b in pairwise(radii)])
    h, r = float(heights[-1]), radii[-1]
    chest, girth = float(heights[-2]), radii[-2]
    arm, lift = (girth * 0.85, chest + girth * 0.3, 0.0), rng.uniform(-0.1, 0.45)
    hand = (girth + 0.42, arm[1] + lift, 0.1)
    twig = tube(
        [(hand[0] - 0.16, hand[1] - lift * 0.35, 0.05), (hand[0] - 0.06, hand[1] + 0.16, 0.1)], 0.045, "darkwood"
    )
    buttons = [on_ball((0, chest, 0), girth, 0, e) for e in (35, 0, -35)[: 3 if count == 2 else 2]]
    return [
        *[ball((0, y, 0), s, "main", 24) for y, s in zip(heights, radii, strict=True)],
        *[ball(place, 0.065, "ink", 12) for place in buttons],
        cylinder((0, h, r * 0.8), (0, h - 0.02, r + rng.uniform(0.25, 0.4)), 0.085, "nose", 0.015, 12),
        *eyes(on_ball((0, h, 0), r * 0.94, 26, 22), 0.085),
        smile((0, h - r * 0.52, r * 0.86), r * 0.8, 0.055, r * 0.12),
        *mirrored(tube([arm, hand], 0.045, "darkwood")),
        *mirrored(twig),
        *worn(accessory, scarf=((0, h - r * 0.75, 0), r * 0.92), hat=((0, h + r * 0.8, 0), r * 1.15)),
    ]


def robot(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, tall, leg = rng.uniform(0.6, 0.78), rng.uniform(0.5, 0.66), rng.uniform(0.2, 0.34)
    size = (wide * rng.uniform(0.85, 1.1), rng.uniform(0.42, 0.54), 0.46)
    chest, h, arm = leg + tall / 2, leg + tall + 0.08 + size[1] / 2, rng.uniform(-20, 60)
    face = size[2] / 2
    x, shoulder = wide / 2 + 0.12, leg + tall - 0.12
    limb = [capsule((0, 0, 0), (0, -0.36, 0), 0.095, "main", 12), ball((0, -0.5, 0), 0.12, "steel", 14)]
    arms = [part.moved((x, shoulder, 0)) for part in turned(limb, "x", -arm, (0, 0, 0))]
    top = h + size[1] / 2
    antenna = [capsule((0, h, 0), (0, top + 0.2, 0), 0.045, "metal", 12), ball((0, top + 0.26, 0), 0.1, "light", 14)]
    return [
        rounded_box((0, chest, 0), (wide, tall, 0.46), 0.08, "main"),
        rounded_box((0, h, 0), size, 0.1, "main"),
        cylinder((0, leg + tall - 0.05, 0), (0, h, 0), 0.14, "steel"),
        rounded_box((0, h, face), (size[0] * 0.84, size[1] * 0.72, 0.06), 0.07, "screen"),
        *mirrored(ball((size[0] * 0.2, h + 0.05, face + 0.02), (0.085, 0.095, 0.05), "light", 14)),
        box((0, h - 0.12, face + 0.03), (size[0] * 0.36, 0.055, 0.05), "light"),
        rounded_box((0, chest, 0.23), (wide * 0.6, tall * 0.42, 0.06), 0.05, "metal"),
        *mirrored(ball((wide * 0.14, chest, 0.27), 0.06, "blush", 12)),
        *[part for one in arms for part in mirrored(one)],
        *mirrored(cylinder((wide * 0.25, 0.06, 0), (wide * 0.25, leg, 0), 0.11, "steel")),
        *mirrored(rounded_box((wide * 0.26, 0.07, 0.06), (0.26, 0.14, 0.4), 0.05, "main")),
        *(antenna if accessory != "hat" else []),
        *worn(accessory, hat=((0, top + 0.02, 0), 0.32), scarf=((0, leg + tall + 0.04, 0.02), 0.25)),
    ]


def ghost(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, tall, lobes = rng.uniform(0.44, 0.54), rng.uniform(1.05, 1.3), int(rng.integers(5, 8))
    shape = [
        (0, 0.3),
        (1.12, 0.0),
        (1.12, 0.12),
        (0.92, 0.4),
        (0.8, tall * 0.7),
        (0.74, tall * 0.95),
        (0.4, tall * 1.1),
        (0, tall * 1.06),
    ]
    sheet = lathe(soft([(r * wide, y) for r, y in shape]), "main", segments=48)
    front = wide * 0.72
    arm = rng.uniform(-25, 45)
    hand = [cylinder((0, 0, 0), (0.3, 0, 0.08), 0.17, "main", 0.09), ball((0.3, 0, 0.08), 0.092, "main", 12)]
    hands = [part.moved((wide * 0.7, tall * 0.55, 0.06)) for part in turned(hand, "z", arm, (0, 0, 0))]
    return [
        _wavy(sheet, lobes, 0.4),
        *[part for one in hands for part in mirrored(one)],
        *eyes((0.17, tall * 0.8, front), 0.13),
        ball((0, tall * 0.56, front + 0.02), (0.1, rng.uniform(0.08, 0.15), 0.07), "ink", 14),
        *worn(accessory, hat=((0, tall * 1.02, 0), 0.36), crown=((0, tall * 0.96, 0), 0.3)),
    ]


def _wavy(sheet: Part, lobes: int, high: float) -> Part:
    """The surface of revolution with folds around its hem that fade out at the height ``high``."""
    x, y, z = sheet.vertices.T
    angle, low = np.arctan2(x, z), np.clip(1.0 - y / high, 0.0, 1.0)
    swell, slope = 1.0 + 0.13 * low * np.cos(lobes * angle), -0.13 * low * lobes * np.sin(lobes * angle)
    vertices = np.stack([x * swell, y + 0.1 * low * (1.0 - np.cos(lobes * angle)), z * swell], -1)
    tangent = np.stack([np.cos(angle), np.zeros_like(angle), -np.sin(angle)], -1)
    radial = np.hypot(sheet.normals[:, 0], sheet.normals[:, 2])
    normals = sheet.normals - (radial * slope / swell)[:, None] * tangent
    return replace(sheet, vertices=vertices, normals=normals / np.linalg.norm(normals, axis=-1, keepdims=True))


def gnome(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, body, peak = rng.uniform(0.4, 0.48), rng.uniform(0.45, 0.58), rng.uniform(0.75, 1.0)
    h, bend = body + 0.2, rng.uniform(-0.16, 0.16)
    brim, beard = h + 0.16, rng.uniform(0.3, 0.42)
    cone = [(0, brim - 0.04, 0), (0, brim + 0.02, 0), (0, brim + peak * 0.5, 0), (bend, brim + peak, 0)]
    return [
        lathe(soft([(0, 0.1), (wide, 0.1), (wide * 1.12, body * 0.4), (0.3, body), (0, body + 0.1)]), "main"),
        ball((0, h, 0), (0.3, 0.27, 0.28), "skin"),
        tube(cone, (0.4, 0.4, 0.23, 0.03), "main", 24),
        ball((0, h - 0.16, 0.2), (0.27, beard, 0.2), "paper", 16),
        ball((0, h - 0.24 - beard * 0.5, 0.26), (0.16, beard * 0.7, 0.16), "paper", 16),
        ball((0, h + 0.01, 0.36), 0.115, "skin", 14),
        *eyes((0.14, h + 0.08, 0.27), 0.08),
        *mirrored(capsule((wide * 0.8, body * 0.75, 0), (wide * 1.1, body * 0.4, 0.18), 0.11, "main", 12)),
        *mirrored(ball((wide * 1.12, body * 0.32, 0.24), 0.1, "skin", 12)),
        *mirrored(ball((0.2, 0.08, 0.14), (0.17, 0.1, 0.26), "darkwood", 14)),
        *worn(accessory, belt=((0, body * 0.42, 0), wide)),
    ]


def dinosaur(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    leg, fat, jaw = rng.uniform(0.3, 0.4), rng.uniform(0.34, 0.4), rng.uniform(0.32, 0.42)
    hip, h = leg + 0.2, leg + rng.uniform(0.95, 1.1)
    chest, side = hip + 0.36, rng.uniform(-0.25, 0.25)
    tail = [(0, hip, 0), (0, hip - 0.06, -0.4), (side * 0.5, hip - 0.3, -0.68), (side, 0.12, -0.92)]
    spine = [(h + 0.3, -0.02, 0.13), (h + 0.08, -0.26, 0.16), (chest + 0.06, -0.3, 0.18), (hip + 0.1, -0.44, 0.16)]
    spikes = [cylinder((0, y, z + 0.06), (0, y + 0.12, z - 0.14), r, "gold", 0.01, 8) for y, z, r in spine]
    return [
        ball((0, hip + 0.08, 0), (fat, 0.4, 0.38), "main", 14),
        capsule((0, chest, 0.02), (0, h, 0.08), 0.26, "main", 14),
        ball((0, hip + 0.12, 0.16), (fat * 0.66, 0.36, 0.28), "cream", 18),
        tube(tail, (fat * 0.9, 0.27, 0.17, 0.05), "main", 12),
        *_jaws(h, jaw),
        *[spike.scaled((0.6, 1, 1)) for spike in spikes],
        *mirrored(ball((0.28, leg + 0.1, 0), (0.17, 0.27, 0.26), "main", 14)),
        *mirrored(capsule((0.29, leg, -0.02), (0.29, 0.12, 0.0), 0.14, "main", 10)),
        *mirrored(ball((0.3, 0.08, 0.12), (0.17, 0.09, 0.27), "main", 14)),
        *mirrored(capsule((0.24, chest + 0.02, 0.18), (0.3, chest - 0.06, 0.42), 0.075, "main", 8)),
        *worn(accessory, hat=((0, h + 0.32, 0.14), 0.32), scarf=((0, h - 0.22, 0.06), 0.27)),
    ]


def _jaws(h: float, jaw: float) -> list[Part]:
    """A dinosaur's head at the height ``h``, with teeth along a snout of the length ``jaw``."""
    fang = cylinder((0, 0, 0), (0, -0.14, 0), 0.05, "paper", 0.01, 8)
    teeth = [(0.08 + 0.08 * k, h - 0.02, 0.26 + jaw * (1.3 - 0.25 * k)) for k in range(3)]
    return [
        ball((0, h + 0.08, 0.16), (0.32, 0.28, 0.34), "main", 16),
        ball((0, h + 0.02, 0.24 + jaw * 0.6), (0.27, 0.15, jaw * 0.85), "main", 14),
        ball((0, h - 0.13, 0.2 + jaw * 0.5), (0.24, 0.1, jaw * 0.75), "main", 14),
        *[tooth for place in teeth for tooth in mirrored(fang.moved(place))],
        *eyes((0.2, h + 0.22, 0.32), 0.1, (0.5, 0.0, 1.0)),
    ]


KINDS: tuple[Kind, ...] = (
    Kind("snowman", snowman, (), ("scarf", "hat"), front=True),
    Kind("robot", robot, ("android",), ("hat", "scarf"), front=True),
    Kind("ghost", ghost, ("phantom",), ("hat", "crown"), front=True),
    Kind("gnome", gnome, ("dwarf",), ("belt",), front=True),
    Kind("dinosaur", dinosaur, ("dino",), ("hat", "scarf"), front=True),
)
