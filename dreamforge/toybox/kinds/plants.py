"""Plants of the toybox."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.kinds.wear import on_ball, pot
from dreamforge.toybox.shapes import Part, ball, capsule, cylinder, lathe, mirrored, tube


def mushroom(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, rise, stem = rng.uniform(0.6, 0.76), rng.uniform(0.42, 0.66), rng.uniform(0.45, 0.65)
    angle = np.radians(np.linspace(-25, 90, 9))
    arc = np.stack([width * np.cos(angle), stem + 0.1 + rise * np.sin(angle)], -1)
    thick = rng.uniform(0.19, 0.26)
    foot = [(0.0, 0.0), (thick * 1.35, 0.0), (thick * 1.4, 0.1), (thick, 0.3), (thick * 0.9, stem + 0.1)]
    parts = [
        lathe([(0.0, stem + 0.05), *arc], "main"),
        lathe(foot, "cream"),
        cylinder((0, stem - 0.12, 0), (0, stem + 0.04, 0), thick * 1.2, "cream", width * 0.8),
    ]
    if rng.uniform() < 0.75:
        start, size = rng.uniform(0, 60), rng.uniform(0.13, 0.17)
        places = [(start + 60 * k, rng.uniform(10, 25) + 25 * (k % 2)) for k in range(6)] + [(start, 85)]
        reach = (width * 0.94, rise * 0.9, width * 0.94)
        spots = [on_ball((0, stem + 0.1, 0), reach, a, e) for a, e in places]
        parts += [ball(spot, size, "paper", 12) for spot in spots]
    return parts


def cactus(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    base, girth, tall = rng.uniform(0.24, 0.32), rng.uniform(0.2, 0.28), rng.uniform(0.85, 1.2)
    parts = pot(girth * 1.45, base, "second" if accessory == "pot" else "wood")
    spin, top = rng.uniform(0, 45), base + tall
    for k in range(8):
        x, z = 0.62 * girth * np.sin(np.radians(spin + 45 * k)), 0.62 * girth * np.cos(np.radians(spin + 45 * k))
        parts.append(capsule((x, base, z), (x * 0.8, top - girth * 0.5, z * 0.8), girth * 0.42, "main", 8))
    parts.append(ball((0, top - girth * 0.55, 0), girth * 0.78, "main", 14))
    for side in (-1, 1):
        low, reach, lift = base + tall * rng.uniform(0.2, 0.42), girth + rng.uniform(0.24, 0.34), rng.uniform(0.3, 0.5)
        bend = [(0.0, 0.0), *[(reach - 0.2 * (1 - np.sin(a)), 0.2 * (1 - np.cos(a))) for a in np.linspace(0, 1.57, 5)]]
        path = [(side * x, low + y, 0.0) for x, y in [*bend, (reach, lift)]]
        parts += [tube(path, 0.12, "main"), ball(path[-1], 0.12, "main", 12)]
    parts += [ball((0, top + 0.1, 0), (0.1, 0.08, 0.1), "gold", 12)] if rng.uniform() < 0.5 else []
    return parts


def tree(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    trunk, wide = rng.uniform(0.35, 0.55), rng.uniform(0.48, 0.62)
    parts = [cylinder((0, 0, 0), (0, trunk + 0.3, 0), rng.uniform(0.13, 0.18), "wood", 0.11)]
    if rng.uniform() < 0.5:
        layers, tall = int(rng.integers(3, 5)), rng.uniform(0.42, 0.52)
        for k in range(layers):
            low, radius = trunk + k * tall * 0.62, wide * (1 - 0.22 * k)
            parts.append(cylinder((0, low, 0), (0, low + tall * 1.1, 0), radius, "main", 0.04))
        return parts
    start, count = rng.uniform(0, 360), int(rng.integers(4, 6))
    for k in range(count):
        where = on_ball((0, trunk + 0.42, 0), wide * 0.55, start + 360 * k / count, rng.uniform(-5, 20))
        parts.append(ball(where, wide * rng.uniform(0.58, 0.75), "main", 18))
    return [*parts, ball((0, trunk + 0.42 + wide * 0.55, 0), wide * rng.uniform(0.7, 0.85), "main")]


def flower(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    tall, count, size = rng.uniform(0.8, 1.05), int(rng.integers(5, 8)), rng.uniform(0.46, 0.54)
    petal = ball((0, size * 0.75, 0.03), (size * 2.7 / count, size * 0.62, 0.16), "main", 16).turned("x", 22.0)
    head = [petal.turned("z", 360.0 * k / count) for k in range(count)]
    head += [ball((0, 0, 0.06), (0.22, 0.22, 0.15), "gold", 16), ball((0, 0, -0.1), (0.2, 0.2, 0.12), "leaf", 14)]
    tilt = rng.uniform(-32, -8)
    sway = rng.uniform(-0.08, 0.08)
    stem = tube([(0, 0.05, 0), (sway, tall * 0.5, -0.02), (0, tall, -0.12)], 0.055, "leaf")
    leaf = ball((0.24, 0, 0), (0.25, 0.06, 0.12), "leaf", 14).turned("z", rng.uniform(20, 45))
    parts = [stem, *[side.moved((0, tall * rng.uniform(0.2, 0.3), 0)) for side in mirrored(leaf)]]
    parts += [part.turned("x", tilt).moved((0, tall, 0)) for part in head]
    if accessory == "pot":
        return [part.moved((0, 0.2, 0)) for part in parts] + pot(0.32, 0.36, "second")
    return [*parts, lathe([(0.0, 0.0), (0.26, 0.0), (0.2, 0.08), (0.0, 0.12)], "soil")]


def pumpkin(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    count, high, wide = int(rng.integers(8, 11)), rng.uniform(0.4, 0.62), rng.uniform(0.62, 0.7)
    rib = ball((0, high, wide * 0.52), (wide * 2.35 / count, high, wide * 0.5), "main", 16)
    spin = rng.uniform(0, 40)
    parts = [rib.turned("y", spin + 360.0 * k / count) for k in range(count)]
    lean, rise = rng.uniform(0.08, 0.22), rng.uniform(0.2, 0.34)
    top = 1.86 * high
    stem = tube([(0, top - 0.1, 0), (0, top + rise * 0.6, 0), (lean, top + rise, 0)], (0.13, 0.09, 0.08), "wood")
    leaf = ball((0.24, top + 0.03, 0), (0.24, 0.05, 0.17), "leaf", 14).turned("z", -8.0)
    turn = rng.uniform(0, 360)
    return [*parts, stem.turned("y", turn), leaf.turned("y", turn + rng.uniform(60, 180))]


KINDS: tuple[Kind, ...] = (
    Kind("mushroom", mushroom, synonyms=("toadstool",)),
    Kind("cactus", cactus, accessories=("pot",)),
    Kind("tree", tree),
    Kind("flower", flower, synonyms=("blossom",), accessories=("pot",), front=True),
    Kind("pumpkin", pumpkin),
)
