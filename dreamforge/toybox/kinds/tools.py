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


KINDS: tuple[Kind, ...] = (
    Kind("umbrella", umbrella, synonyms=("parasol",)),
    Kind("guitar", guitar, front=True),
    Kind("bucket", bucket, synonyms=("pail",), accessories=("stripe",)),
)
