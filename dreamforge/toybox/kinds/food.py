"""Toybox kinds that can be eaten."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.shapes import Part, ball, box, cylinder, dome, extrude, lathe, ring, tube


def apple(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, dimple, taper = rng.uniform(0.95, 1.15), rng.uniform(0.4, 0.5), rng.uniform(0.06, 0.16)
    y = -np.cos(np.linspace(0.0, np.pi, 21))
    top = height * (1 - dimple)
    profile = np.stack([np.sqrt(1 - y**2) * (1 + taper * y), height * y * (1 - dimple * y**6)], -1)
    leaf = ball((0.34, 0, 0), (0.36, 0.07, 0.2), "leaf", 12).turned("z", rng.uniform(15, 40))
    return [
        lathe(profile.tolist(), "main"),
        tube([(0, top - 0.1, 0), (0.02, top + 0.25, 0), (rng.uniform(0.1, 0.2), top + 0.5, 0)], 0.08, "darkwood"),
        leaf.turned("y", rng.uniform(-60, 60)).moved((0, top + 0.2, 0)),
    ]


def banana(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    arc, thick, count = np.radians(rng.uniform(115, 140)), rng.uniform(0.25, 0.31), int(rng.integers(1, 4))
    turn, spread, yaw = rng.uniform(10, 30), rng.uniform(28, 36), rng.uniform(-15, 15)
    t = np.linspace(-0.5, 0.5, 15)
    path = np.stack([np.sin(arc * t) - np.sin(arc / 2), -np.cos(arc * t), 0 * t], -1)  # the stem is at x = 0
    radii = thick * np.clip(1 - np.abs(2 * t) ** 3.5, 0.32, None)
    tip = path[-1] + 0.22 * (path[-1] - path[-2]) / np.linalg.norm(path[-1] - path[-2])
    fruit = [tube(path.tolist(), radii.tolist(), "main", 14), ball(path[0], 0.36 * thick, "ink", 10)]
    fruit += [cylinder(path[-1] * [1, 1.02, 1], tip, 0.33 * thick, "darkwood", 0.42 * thick, 12)]
    fruit = [part.turned("z", turn, path[-1]) for part in fruit]
    return [part.turned("y", yaw + spread * (k - (count - 1) / 2)) for k in range(count) for part in fruit]


def cake(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, height, tiers = rng.uniform(0.85, 1.0), rng.uniform(0.7, 0.82), int(rng.integers(1, 3))
    parts, y = [cylinder((0, -0.1, 0), (0, 0, 0), 1.12 * radius, "metal")], 0.0
    for i in range(tiers):
        r, tall = radius * (1 - 0.36 * i), height * (1.35 if tiers == 1 else 1.0)
        parts += [cylinder((0, y, 0), (0, y + tall, 0), r, "main", segments=28)]
        parts += [ring((0, y + 0.06, 0), r, 0.06, "paper", segments=20)]
        y += tall
        if accessory == "icing":
            parts += [cylinder((0, y - 0.06, 0), (0, y + 0.06, 0), r + 0.05, "second", segments=28)]
            drips = [ball((0, y - 0.8 * d, r), (0.13, d, 0.09), "second", 8) for d in rng.uniform(0.12, 0.24, 8)]
            parts += [part.turned("y", 45 * k) for k, part in enumerate(drips)]
        else:
            parts += [cylinder((0, y - 0.55 * tall, 0), (0, y - 0.4 * tall, 0), r + 0.02, "blush", segments=28)]
    candles, place = int(rng.integers(1, 5)), 0.5 * radius * (1 - 0.36 * (tiers - 1))
    for k in range(candles):
        at = (0.0, y, place if candles > 1 else 0.0)
        candle = cylinder(at, (0, y + 0.4, at[2]), 0.09, "paper", segments=10)
        flame = ball((0, y + 0.52, at[2]), (0.09, 0.15, 0.09), "nose", 8)
        parts += [part.turned("y", 45 + 360 * k / candles) for part in (candle, flame)]
    return parts


def icecream(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, radius, scoops = rng.uniform(1.1, 1.35), rng.uniform(0.6, 0.7), int(rng.integers(1, 3))
    rim = 0.82 * radius
    parts = [cylinder((0, 0, 0), (0, length, 0), 0.09, "wood", rim)]
    parts += [ring((0, f * length, 0), 0.09 + (rim - 0.09) * f, 0.05, "darkwood", segments=16) for f in (0.35, 0.65)]
    y = length + 0.3 * radius
    for i in range(scoops):
        r = radius * (1 - 0.12 * i)
        parts += [ball((0, y, 0), r, "main"), ring((0, y - 0.45 * r, 0), 0.82 * r, 0.17 * r, "main", segments=20)]
        y += 1.15 * r
    side = rng.choice([-1, 1])
    wafer = box((0, 0, 0), (0.2, 0.7, 0.16), "wood").turned("z", -25 * side)
    return [*parts, wafer.moved((side * 0.3, y - 0.05, 0)), ball((0, y, 0), 0.17, "blush", 12)]


def burger(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, rise, base = rng.uniform(0.9, 1.05), rng.uniform(0.6, 0.8), rng.uniform(0.32, 0.42)
    waves, patty = int(rng.integers(9, 13)), rng.uniform(0.18, 0.26)
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    frill = (1.03 + 0.06 * np.cos(waves * angle)) * radius
    lettuce = extrude(np.stack([frill * np.cos(angle), frill * np.sin(angle)], -1).tolist(), 0.1, "leaf").turned(
        "x", 90
    )
    y = base + patty
    parts = [
        lathe([(0, 0), (0.85 * radius, 0), (0.97 * radius, 0.12), (radius, base), (0, base)], "main"),
        lathe([(0, 0), (radius, 0), (1.04 * radius, patty / 2), (radius, patty), (0, patty)], "soil", (0, base, 0)),
        box((0, y + 0.02, 0), (1.5 * radius, 0.07, 1.5 * radius), "gold").turned("y", rng.uniform(30, 60)),
        lettuce.moved((0, y + 0.09, 0)),
        dome((0, y + 0.13, 0), (1.05 * radius, rise, 1.05 * radius), "main", 24),
    ]
    for k in range(11):
        tilt, turn = np.radians(rng.uniform(15, 60)), 137.5 * k
        at = (0.0, y + 0.13 + rise * np.cos(tilt), 1.05 * radius * np.sin(tilt))
        parts += [ball(at, (0.05, 0.05, 0.08), "cream", 8).turned("y", turn)]
    return parts


def carrot(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, radius, leaves = rng.uniform(1.7, 2.1), rng.uniform(0.42, 0.52), int(rng.integers(5, 8))
    t, groove, tilt = np.linspace(0, 1, 40), rng.uniform(16, 24), rng.uniform(-12, 12)
    width = radius * (0.12 + 0.88 * t**0.75) * (1 + 0.04 * np.sin(groove * t)) * np.sqrt(np.clip((1 - t) / 0.06, 0, 1))
    parts = [lathe([(0, -0.02), *zip(width, length * t, strict=True)], "main")]
    for k in range(leaves):
        lean = 0.0 if k == 0 else rng.uniform(18, 34)
        blade = ball((0, 0.4, 0), (0.13, rng.uniform(0.4, 0.5), 0.13), "leaf", 10).turned("z", lean)
        parts += [blade.turned("y", 360 * k / (leaves - 1)).moved((0, length - 0.08, 0))]
    return [part.turned("z", tilt) for part in parts]


def donut(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, thick, tilt = rng.uniform(0.68, 0.76), rng.uniform(0.28, 0.34), rng.uniform(25, 38)
    angle = np.radians(np.linspace(-35, 205, 19))
    shell = np.full(19, 1.1 * thick)
    shell[[0, -1]] = 0.95 * thick
    glaze = lathe(np.stack([radius + shell * np.cos(angle), shell * np.sin(angle)], -1).tolist(), "main", segments=32)
    parts = [ring((0, 0, 0), radius, thick, "wood"), glaze]
    for k in range(14):
        up, spin = np.radians(rng.uniform(40, 140)), 137.5 * k
        crumb = ball((0, 0, 0), (0.05, 0.05, 0.1), str(rng.choice(["paper", "gold", "blush", "leaf"])), 8)
        at = (0, 1.1 * thick * np.sin(up), radius + 1.1 * thick * np.cos(up))
        parts += [crumb.turned("y", rng.uniform(0, 180)).moved(at).turned("y", spin)]
    return [part.turned("x", tilt) for part in parts]


def pineapple(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, height, tall = rng.uniform(0.62, 0.72), rng.uniform(0.85, 1.0), rng.uniform(0.65, 0.85)
    rows = int(rng.integers(5, 7))
    parts = [ball((0, 0, 0), (radius, height, radius), "main")]
    spike = cylinder((0, 0, -0.04), (0, 0, 0.1), 0.15, "main", 0.0, 5)
    for i in range(rows):
        up = np.radians(-60 + 120 * i / (rows - 1))
        at = (0, height * np.sin(up), radius * np.cos(up))
        count = max(round(10 * np.cos(up)), 5)
        scale = spike.turned("x", -np.degrees(up)).moved(at)
        parts += [scale.turned("y", 360 * (k + 0.5 * (i % 2)) / count) for k in range(count)]
    for lean, count, length in ((48, 7, 0.8), (24, 5, 1.0), (0, 1, 1.1)):
        leaf = cylinder((0, 0, 0), (0, tall * length, 0), 0.19, "leaf", 0.0, 8).scaled((1, 1, 0.5)).turned("x", lean)
        parts += [leaf.turned("y", 360 * k / count + lean).moved((0, height - 0.1, 0)) for k in range(count)]
    return parts


KINDS: tuple[Kind, ...] = (
    Kind("apple", apple),
    Kind("banana", banana),
    Kind("cake", cake, ("gateau",), ("icing",)),
    Kind("icecream", icecream, ("gelato",)),
    Kind("burger", burger, ("hamburger",)),
    Kind("carrot", carrot),
    Kind("donut", donut, ("doughnut",)),
    Kind("pineapple", pineapple, ("ananas",)),
)
