"""Toybox kinds that are built: doors and gates look towards +Z."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.shapes import Part, ball, box, cylinder, dome, extrude, mirrored, ring


def house(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, depth, wall = rng.uniform(1.6, 2.0), rng.uniform(1.5, 1.9), rng.uniform(1.4, 1.7)
    rise, door, side = rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.9), rng.choice([-1, 1])
    x, front = width / 2, depth / 2
    parts = [extrude([(-x, 0), (x, 0), (x, wall), (0, wall + rise), (-x, wall)], depth, "main")]
    paint, slope = "second" if accessory == "roof" else "darkwood", float(np.degrees(np.arctan2(rise, x)))
    tile = box((0.0, 0.07, 0.0), (np.hypot(x, rise) + 0.25, 0.15, depth + 0.3), paint)
    parts += mirrored(tile.moved((0.5 * np.hypot(x, rise) + 0.1, 0, 0)).turned("z", -slope).moved((0, wall + rise, 0)))
    brick = "second" if accessory == "chimney" else "steel"
    big = 0.5 if accessory == "chimney" else 0.3
    parts += [
        box(
            (side * 0.5 * x, wall + rise, -0.2 * depth),
            (big, 0.5 * rise + (1.0 if accessory == "chimney" else 0.7), big),
            brick,
        )
    ]
    parts += [
        box((0, door / 2, front), (0.42, door, 0.12), "wood"),
        ball((0.12, 0.45 * door, front + 0.08), 0.05, "gold", 8),
        ball((0, wall + 0.2 * rise, front), (0.2, 0.2, 0.06), "glass", 12),
    ]
    windows = [(-0.62 * x, front, 0.0), (0.62 * x, front, 0.0), (0.0, x, 90.0), (0.0, x, -90.0), (0.0, front, 180.0)]
    for shift, out, turn in windows:
        parts += [box((shift, 0.62 * wall, out), (0.4, 0.46, 0.08), "paper").turned("y", turn)]
        parts += [box((shift, 0.62 * wall, out), (0.28, 0.34, 0.12), "glass").turned("y", turn)]
    return parts


def castle(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    half, wall, tower = rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0), rng.uniform(1.25, 1.5)
    radius, keep, spires = rng.uniform(0.28, 0.36), rng.uniform(1.6, 1.95), bool(rng.integers(2))
    parts = [
        box((0, wall / 2, 0), (2 * half, wall, 2 * half), "main"),
        box((0, keep / 2, 0), (half, keep, half), "main"),
    ]
    for x, z in ((-half, half), (half, half), (half, -half), (-half, -half)):
        parts += [cylinder((x, 0, z), (x, tower, z), radius, "main", segments=16)]
        if spires:
            parts += [cylinder((x, tower, z), (x, tower + 0.6, z), 1.3 * radius, "steel", 0.0, 16)]
        else:
            parts += [cylinder((x, tower - 0.05, z), (x, tower + 0.12, z), 1.25 * radius, "main", segments=16)]
            teeth = box((1.02 * radius, tower + 0.2, 0), (0.18, 0.2, 0.2), "main")
            parts += [teeth.turned("y", 60 * i).moved((x, 0, z)) for i in range(6)]
        outer = box((0, 0.72 * tower, radius), (0.12, 0.28, 0.06), "ink")
        parts += [outer.turned("y", 0 if z > 0 else 180).moved((x, 0, z))]
    for turn in (0, 90, 180, 270):
        parts += [box((s, wall + 0.1, half - 0.1), (0.2, 0.2, 0.2), "main").turned("y", turn) for s in (-0.36, 0, 0.36)]
        parts += [
            box((s, keep + 0.08, half / 2 - 0.08), (0.16, 0.2, 0.16), "main").turned("y", turn) for s in (-0.3, 0.1)
        ]
    arch = [(0.34 * np.cos(a), 0.42 + 0.34 * np.sin(a)) for a in np.linspace(0, np.pi, 9)]
    parts += [extrude([(-0.34, 0), (0.34, 0), *arch], 0.12, "darkwood", (0, 0, half))]
    if accessory == "flag":
        parts += [cylinder((0, keep, 0), (0, keep + 1.3, 0), 0.08, "wood", segments=8)]
        cloth = extrude([(0, 0), (1.0, 0.4), (0, 0.8)], 0.24, "second", (0, keep + 0.45, 0))
        parts += [cloth.turned("y", rng.choice([-1, 1]) * rng.uniform(15, 45))]
    return parts


def lighthouse(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, base, top = rng.uniform(1.8, 2.3), rng.uniform(0.5, 0.62), rng.uniform(0.34, 0.42)
    lamp, rock = rng.uniform(0.42, 0.52), rng.uniform(0.66, 0.78)
    parts = [
        cylinder((0, 0, 0), (0, height, 0), base, "main", top, 28),
        dome((0, -0.1, 0), (rock, 0.26, rock), "steel"),
        cylinder((0, height - 0.02, 0), (0, height + 0.12, 0), top + 0.16, "steel"),
        cylinder((0, height + 0.12, 0), (0, height + 0.12 + lamp, 0), 0.72 * top, "light"),
        cylinder((0, height + 0.12 + lamp, 0), (0, height + 0.5 + lamp, 0), top + 0.04, "main", 0.0),
        ring((0, height + 0.22, 0), top + 0.12, 0.05, "main"),
        box((0, 0.4, base - 0.05), (0.3, 0.5, 0.2), "darkwood"),
    ]
    if accessory == "stripe":
        for low, high in ((0.3, 0.45), (0.65, 0.82)):
            lower, upper = (base + (top - base) * t + 0.03 for t in (low, high))
            parts += [cylinder((0, low * height, 0), (0, high * height, 0), lower, "second", upper, 28)]
    return parts


def windmill(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, base, top = rng.uniform(1.6, 1.95), rng.uniform(0.65, 0.8), rng.uniform(0.4, 0.48)
    reach, turn = rng.uniform(0.95, 1.1), rng.uniform(0, 90)
    hub = (0.0, height + 0.1, top + 0.22)
    parts = [
        cylinder((0, 0, 0), (0, height, 0), base, "main", top, 28),
        dome((0, height, 0), (top + 0.1, 0.5, top + 0.1), "main"),
        cylinder((0, hub[1], 0), (0, hub[1], hub[2] + 0.08), 0.13, "darkwood", segments=12),
        box((0, 0.34, base - 0.08), (0.36, 0.68, 0.16), "darkwood"),
    ]
    for i in range(4):
        arm = [
            box((0, reach / 2, 0), (0.12, reach, 0.12), "darkwood"),
            box((0.17, 0.62 * reach, 0), (0.32, 0.7 * reach, 0.08), "cream"),
        ]
        parts += [part.turned("z", turn + 90 * i).moved(hub) for part in arm]
    return parts


KINDS: tuple[Kind, ...] = (
    Kind("house", house, ("cottage",), ("roof", "chimney"), front=True),
    Kind("castle", castle, ("fortress",), ("flag",), front=True),
    Kind("lighthouse", lighthouse, (), ("stripe",)),
    Kind("windmill", windmill, ("mill",), (), front=True),
)
