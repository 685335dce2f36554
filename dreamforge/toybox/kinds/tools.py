"""Tools and instruments."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.shapes import (
    Part,
    ball,
    box,
    capsule,
    cylinder,
    extrude,
    lathe,
    mirrored,
    ring,
    rounded_box,
    tube,
)


def _handle(height: float, radius: float) -> list[Part]:
    """An upright wooden shaft from the floor, with a grip over its lower half."""
    shaft = cylinder((0, 0.1, 0), (0, height, 0), radius, "wood", 0.85 * radius)
    return [shaft, capsule((0, 1.4 * radius, 0), (0, 0.5 * height, 0), 1.4 * radius, "main")]


def hammer(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, radius, size = rng.uniform(1.15, 1.45), rng.uniform(0.1, 0.12), rng.uniform(0.18, 0.22)
    face, reach, droop = rng.uniform(1.15, 1.35) * size, rng.uniform(0.5, 0.62), rng.uniform(0.16, 0.28)
    parts = [
        *_handle(height, radius),
        box((0, height, 0), (2.2 * size, 2.2 * size, 2 * size), "main"),
        cylinder((0, height, 0), (0.4, height, 0), 0.85 * size, "main"),
        cylinder((0.36, height, 0), (0.58, height, 0), face, "main"),
        cylinder((0.57, height, 0), (0.64, height, 0), 0.94 * face, "metal"),
    ]
    path = [
        (-0.1, height, 0),
        (-0.3, height + 0.02, 0),
        (-0.75 * reach, height - 0.3 * droop, 0),
        (-reach - 0.1, height - droop, 0),
    ]
    prong = tube(path, [size, 0.9 * size, 0.65 * size, 0.3 * size], "main")
    return [*parts, prong.moved((0, 0, 0.45 * size)).turned("y", -8), prong.moved((0, 0, -0.45 * size)).turned("y", 8)]


def axe(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, radius, thick = rng.uniform(1.5, 1.8), rng.uniform(0.09, 0.11), rng.uniform(0.22, 0.28)
    reach, flare, back = rng.uniform(0.62, 0.78), rng.uniform(0.4, 0.5), rng.uniform(0.2, 0.3)
    bow = np.linspace(-1.0, 1.0, 9)
    edge = np.column_stack([reach - 0.16 * bow**2, flare * bow - 0.05])
    blade = [(-back, -0.18), (0.12, -0.17), *edge, (0.12, 0.17), (-back, 0.18)]
    top = height - 0.22
    return [
        *_handle(height, radius),
        extrude(blade, thick, "main", (0, top, 0)),
        extrude([*edge], 0.5 * thick, "metal", (0.1, top, 0)),
    ]


def umbrella(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, tall, length = rng.uniform(0.95, 1.15), rng.uniform(0.5, 0.66), rng.uniform(1.15, 1.4)
    angle = np.linspace(0.0, np.pi / 2, 9)
    outer = np.column_stack([np.cos(angle), np.sin(angle)]) * (radius, tall)
    inner = outer[::-1] * (0.96, 0.9) - (0.0, 0.03)
    canopy = lathe([*outer, *inner, outer[0]], "main", (0, length, 0), 32)
    ribs = [
        tube([(0, length + tall * np.sin(a), radius * np.cos(a)) for a in angle], 0.035, "main", 6).turned("y", 45 * i)
        for i in range(8)
    ]
    hook, around = rng.uniform(0.17, 0.22), np.linspace(0.0, -np.pi, 9)
    crook = [(hook * np.cos(a) - hook, 0.25 + hook * np.sin(a), 0.0) for a in around]
    handle = tube([(0, 0.6, 0), *crook, (-2 * hook, 0.34, 0)], 0.075, "darkwood")
    shaft = cylinder((0, 0.5, 0), (0, length + tall + 0.18, 0), 0.055, "metal", segments=12)
    return [canopy, *ribs, shaft, handle]


def guitar(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, waist, depth = rng.uniform(0.72, 0.84), rng.uniform(0.22, 0.3), rng.uniform(0.36, 0.46)
    neck, front = rng.uniform(0.72, 0.95), depth / 2
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = -np.cos(t) * 0.9
    half = wide * (1 - 0.13 * y - waist * np.exp(-((y - 0.16) ** 2) / 0.06))
    body = np.column_stack([half * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.75, y])
    return [
        extrude([*body], depth, "main"),
        cylinder((0, 0.12, front - 0.05), (0, 0.12, front + 0.02), 0.25, "ink", segments=24),
        box((0, -0.45, front + 0.03), (0.5, 0.13, 0.08), "darkwood"),
        box((0, 0.5 + neck / 2, front), (0.19, neck + 0.4, 0.16), "darkwood"),
        box((0, 0.12 + neck / 2, front + 0.05), (0.06, neck + 1.15, 0.1), "metal"),
        rounded_box((0, 0.9 + neck, front - 0.02), (0.36, 0.46, 0.18), 0.07, "main"),
        *[p for h in (0.76, 0.92, 1.06) for p in mirrored(ball((0.23, h + neck, front - 0.02), 0.075, "metal", 10))],
    ]


def bucket(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, top, foot = rng.uniform(0.85, 1.1), rng.uniform(0.55, 0.64), rng.uniform(0.36, 0.44)
    lift, wall = rng.uniform(0.5, 0.7), 0.05
    slope = (top - foot) / height
    body = [(0, 0), (foot, 0), (top, height), (top - wall, height), (foot - wall, 0.08), (0, 0.08)]
    angle = np.linspace(0, np.pi, 17)
    bail = np.column_stack([1.04 * top * np.cos(angle), height - 0.1 + lift * np.sin(angle), 0 * angle])
    grip = capsule((-0.16, height - 0.1 + lift, 0), (0.16, height - 0.1 + lift, 0), 0.085, "wood", 12)
    parts = [lathe(body, "main"), ring((0, height, 0), top, 0.055, "main"), tube([*bail], 0.045, "metal", 10), grip]
    parts += mirrored(cylinder((0.9 * top, height - 0.1, 0), (1.13 * top, height - 0.1, 0), 0.08, "metal", segments=12))
    if accessory == "stripe":
        low, high = 0.34 * height, 0.66 * height
        r0, r1 = foot + slope * low, foot + slope * high
        parts.append(lathe([(r0 - 0.02, low), (r0 + 0.025, low), (r1 + 0.025, high), (r1 - 0.02, high)], "second"))
    return parts


def anvil(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    base, waist, top = rng.uniform(0.55, 0.68), rng.uniform(0.28, 0.36), rng.uniform(0.6, 0.72)
    height, depth, horn = rng.uniform(0.4, 0.55), rng.uniform(0.42, 0.55), rng.uniform(0.6, 0.8)
    foot, block, sweep = 0.2, rng.uniform(0.3, 0.36), np.linspace(-1.0, 1.0, 9)
    y, face = foot + height * (sweep + 1) / 2, foot + height + block
    side = np.column_stack([waist + np.where(sweep < 0, base - 0.1 - waist, top - 0.06 - waist) * sweep**2, y])
    cone = cylinder((top - 0.06, 0, 0), (top + horn, 0.07, 0), 0.48 * block, "main", 0.05)
    return [
        box((0, foot / 2, 0), (2 * base, foot, depth + 0.3), "main"),
        extrude([*side, *(side[::-1] * (-1.0, 1.0))], depth, "main"),
        box((-0.08, foot + height + block / 2, 0), (2 * top + 0.1, block, depth + 0.06), "main"),
        cone.scaled((1.0, 1.0, 1.4)).moved((0, face - 0.52 * block, 0)),
        box((-0.08, face, 0), (2 * top + 0.06, 0.06, depth), "metal"),
    ]


KINDS: tuple[Kind, ...] = (
    Kind("hammer", hammer),
    Kind("axe", axe, synonyms=("hatchet",)),
    Kind("umbrella", umbrella, synonyms=("parasol",)),
    Kind("guitar", guitar, front=True),
    Kind("bucket", bucket, synonyms=("pail",), accessories=("stripe",)),
    Kind("anvil", anvil),
)
