"""Things that stand about the house."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.shapes import (
    Part,
    Point,
    ball,
    box,
    capsule,
    cylinder,
    dome,
    extrude,
    lathe,
    mirrored,
    ring,
    rounded_box,
    tube,
)


def _eased(heights: list[float], radii: list[float], steps: int = 6) -> list[Point]:
    """A lathe profile through the given points, with a vertical tangent at each of them."""
    t = np.linspace(0.0, 1.0, steps, endpoint=False)
    points = [
        np.column_stack([r0 + (r1 - r0) * t * t * (3 - 2 * t), y0 + (y1 - y0) * t])
        for y0, y1, r0, r1 in zip(heights[:-1], heights[1:], radii[:-1], radii[1:], strict=True)
    ]
    return [*np.concatenate([*points, [[radii[-1], heights[-1]]]])]


def _dial(rng: np.random.Generator, radius: float, z: float) -> list[Part]:
    """A clock face looking to +Z: disc, twelve marks and two hands."""
    parts = [cylinder((0, 0, z - 0.1), (0, 0, z + 0.02), radius, "cream", segments=32)]
    for hour in range(12):
        size = (0.11, 0.2) if hour % 3 == 0 else (0.055, 0.11)
        mark = box((0, (0.95 - size[1] / 2) * radius, z + 0.025), (size[0] * radius, size[1] * radius, 0.03), "ink")
        parts.append(mark.turned("z", -30 * hour))
    minute = float(rng.integers(12)) * 30
    hour_angle = float(rng.integers(12)) * 30 + minute / 12
    for angle, length, width in ((hour_angle, 0.46, 0.15), (minute, 0.68, 0.11)):
        hand = box((0, 0.42 * length * radius, z + 0.045), (width * radius, length * radius, 0.05), "ink")
        parts.append(hand.turned("z", -angle))
    return parts


def clock(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    depth, dial, shape = rng.uniform(0.6, 0.85), rng.uniform(0.68, 0.74), rng.random()
    face = _dial(rng, dial, depth / 2)
    frame = ring((0, 0, depth / 2), dial + 0.09, 0.1, "main", "z", 24)
    if shape < 0.6:  # alarm clock
        feet = mirrored(capsule((0.55, -0.75, 0), (0.74, -1.08, 0), 0.12, "main", 12))
        bells = mirrored(dome((0, 0.98, 0), (0.36, 0.32, 0.36), "main").turned("z", -36))
        handle = tube([(-0.34, 1.2, 0), (-0.2, 1.42, 0), (0.2, 1.42, 0), (0.34, 1.2, 0)], 0.06, "metal")
        body = cylinder((0, 0, -depth / 2), (0, 0, depth / 2), 1.0, "main", segments=32)
        return [body, frame, *feet, *bells, handle, *face]
    width, base = rng.uniform(1.0, 1.2), rng.uniform(1.15, 1.4)
    arc = [(width * np.cos(a), np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    plinth = box((0, -base, 0), (2 * width + 0.35, 0.26, depth + 0.25), "wood")
    return [extrude([(-width, -base), (width, -base), *arc], depth, "main"), plinth, frame, *face]


def television(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, height, depth = rng.uniform(1.7, 2.0), rng.uniform(1.2, 1.4), rng.uniform(0.7, 0.95)
    spread, tall, panel = rng.uniform(0.35, 0.6), rng.uniform(0.5, 0.7), rng.uniform(0.36, 0.46)
    front, top = depth / 2, height / 2
    screen = (width - panel - 0.28, height - 0.34, 0.08)
    parts = [
        rounded_box((0, 0, 0), (width, height, depth), 0.16, "main"),
        rounded_box((0, -0.05, -0.6 * depth), (0.7 * width, 0.65 * height, 0.4 * depth), 0.14, "main"),
        rounded_box(((0.16 - panel) / 2 + 0.02, 0, front), screen, 0.2, "screen"),
        dome((0, top - 0.04, 0), (0.26, 0.14, 0.2), "main"),
    ]
    for y in (0.24, -0.06):
        middle = (width - panel) / 2
        parts.append(cylinder((middle, y, front), (middle, y, front + 0.09), 0.1, "cream", segments=14))
    parts += mirrored(capsule((0.05, top, 0), (spread, top + tall, 0), 0.05, "metal", 10))
    parts += mirrored(ball((spread, top + tall, 0), 0.1, "metal", 12))
    for z in (-0.3 * depth, 0.3 * depth):
        parts += mirrored(
            cylinder((0.34 * width, -top - 0.2, z), (0.3 * width, -top + 0.05, z), 0.07, "wood", 0.09, 12)
        )
    return parts


def mug(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, foot, lip = rng.uniform(0.95, 1.25), rng.uniform(0.4, 0.5), rng.uniform(0.46, 0.54)
    thick, reach, wall = rng.uniform(0.08, 0.11), rng.uniform(0.34, 0.44), 0.07
    side = _eased([0.0, height], [foot, lip]) if rng.random() < 0.5 else [(foot, 0.0), (lip, height)]
    body = [(0.0, 0.0), *side, (lip - wall, height), (min(foot, lip) - wall, 0.5 * height), (0.0, 0.5 * height)]
    angle = np.linspace(-0.55 * np.pi, 0.55 * np.pi, 13)
    x, y = min(foot, lip) + reach * np.cos(angle), height * (0.52 + 0.31 * np.sin(angle))
    handle = tube([*np.column_stack([x, y, 0 * angle])], thick, "main")
    level = 0.85 * height
    coffee = cylinder((0, level - 0.1, 0), (0, level, 0), min(foot, lip) - 0.5 * wall, "darkwood")
    return [lathe(body, "main", segments=28), handle, coffee]


def teapot(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, height, lift = rng.uniform(0.72, 0.85), rng.uniform(0.55, 0.72), rng.uniform(0.3, 0.5)
    body = ball((0, 0, 0), (radius, height, radius), "main", 28)
    foot = cylinder((0, -height - 0.02, 0), (0, -0.8 * height, 0), 0.55 * radius, "main", 0.6 * radius)
    lid = dome((0, 0.86 * height, 0), (0.5 * radius, 0.2, 0.5 * radius), "main")
    knob = ball((0, 0.86 * height + 0.27, 0), 0.12, "gold", 14)
    out = radius + rng.uniform(0.36, 0.5)
    spout_path = [
        (0.7 * radius, -0.28, 0),
        (radius + 0.1, -0.12, 0),
        (0.5 * (radius + out), 0.2, 0),
        (out, 0.2 + lift, 0),
    ]
    spout = tube(spout_path, [0.22, 0.18, 0.12, 0.09], "main", 14)
    angle = np.linspace(0.42 * np.pi, 1.58 * np.pi, 13)
    x, y = 0.42 * np.cos(angle) - 0.92 * radius, 0.06 + 0.42 * np.sin(angle)
    parts = [body, foot, lid, knob, spout, tube([*np.column_stack([x, y, 0 * angle])], 0.09, "main")]
    if accessory == "stripe":
        belt = np.radians([-16, -16, -8, 0, 8, 16, 16])
        swell = np.array([0.9, 1.04, 1.04, 1.04, 1.04, 1.04, 0.9])
        profile = np.column_stack([radius * np.cos(belt), height * np.sin(belt)]) * swell[:, None]
        parts.append(lathe(profile, "second", segments=28))
    return parts


def bottle(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    radius, body, neck = rng.uniform(0.36, 0.46), rng.uniform(0.85, 1.15), rng.uniform(0.13, 0.16)
    shoulder, top = body + rng.uniform(0.2, 0.5), body + rng.uniform(0.72, 0.9)
    profile = [(0.0, 0.0), (0.85 * radius, 0.0), (0.96 * radius, 0.04), (radius, 0.12)]
    curve = _eased([body, shoulder, top], [radius, neck, neck], 8)
    parts = [
        lathe([*profile, *curve, (0.0, top)], "main"),
        cylinder((0, top - 0.14, 0), (0, top - 0.02, 0), neck + 0.045, "main"),
        cylinder((0, top - 0.02, 0), (0, top + 0.16, 0), 0.8 * neck, "wood", 0.95 * neck),
    ]
    if accessory == "label":
        low, high, out = 0.22 * body, 0.8 * body, radius + 0.02
        band = [(radius - 0.02, low), (out, low), (out, high), (radius - 0.02, high)]
        parts.append(lathe(band, "second"))
    return parts


def vase(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, foot, belly = rng.uniform(1.3, 1.7), rng.uniform(0.26, 0.36), rng.uniform(0.52, 0.68)
    neck, lip, middle = rng.uniform(0.2, 0.28), rng.uniform(0.36, 0.46), rng.uniform(0.35, 0.55)
    knots = [0.06, (middle - 0.09) * height, (middle + 0.05) * height, 0.85 * height, height]
    curve = _eased(knots, [foot, belly, belly, neck, lip], 6)
    inner = [(lip - 0.07, height), (neck - 0.05, 0.86 * height), (0.0, 0.8 * height)]
    parts = [
        lathe([(0.0, 0.06), *curve, *inner], "main"),
        cylinder((0, 0, 0), (0, 0.1, 0), foot + 0.06, "main"),
        cylinder((0, 0.8 * height, 0), (0, 0.9 * height, 0), neck, "soil", segments=16),
    ]
    if accessory == "tulip":
        for turn, lean in ((0, 0.34), (120, 0.3), (240, 0.3)):
            top = height + 0.42
            stem = tube([(0, 0.8 * height, 0), (0, height, 0.1), (0, top, lean)], 0.05, "leaf", 8)
            petals = _eased([0.0, 0.18, 0.5], [0.06, 0.25, 0.12], 5)
            head = lathe([(0.0, 0.0), *petals, (0.0, 0.42)], "second", segments=14).turned("x", 20)
            parts += [stem.turned("y", turn), head.moved((0, top - 0.05, lean)).turned("y", turn)]
    return parts


def camera(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, height, depth = rng.uniform(1.5, 1.8), rng.uniform(0.95, 1.1), rng.uniform(0.45, 0.6)
    lens, reach, front, top = rng.uniform(0.34, 0.39), rng.uniform(0.28, 0.5), depth / 2, height / 2
    hump = [(-0.36, 0), (0.36, 0), (0.24, 0.24), (-0.24, 0.24)]
    return [
        rounded_box((0, 0, 0), (width, height, depth), 0.14, "main"),
        extrude(hump, 0.85 * depth, "main", (0, top - 0.02, 0)),
        cylinder((0, -0.04, front), (0, -0.04, front + 0.5 * reach), lens + 0.04, "metal", segments=28),
        cylinder((0, -0.04, front), (0, -0.04, front + reach), lens - 0.03, "ink", segments=28),
        ball((0, -0.04, front + reach), (lens - 0.12, lens - 0.12, 0.06), "glass"),
        rounded_box((0.36 * width, 0.3 * height, front), (0.24, 0.17, 0.08), 0.04, "paper"),
        cylinder((-0.34 * width, top - 0.02, 0), (-0.34 * width, top + 0.12, 0), 0.13, "metal"),
        cylinder((0.34 * width, top - 0.02, 0), (0.34 * width, top + 0.08, 0), 0.16, "metal"),
    ]


def gift(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, height, depth = rng.uniform(0.9, 1.4), rng.uniform(0.75, 1.15), rng.uniform(0.9, 1.2)
    lid, band, loop = rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.25), rng.uniform(0.17, 0.21)
    paint, top = "second" if accessory == "ribbon" else "gold", height + lid
    bow = ring((0, 0, 0), loop, 0.08, paint, "z", 20).scaled((1.2, 0.85, 1.6)).moved((1.2 * loop + 0.06, 0, 0))
    return [
        box((0, height / 2, 0), (width, height, depth), "main"),
        box((0, height + lid / 2, 0), (width + 0.12, lid, depth + 0.12), "main"),
        box((0, height / 2, 0), (band, height - 0.01, depth + 0.05), paint),
        box((0, height / 2, 0), (width + 0.05, height - 0.01, band), paint),
        box((0, height + lid / 2, 0), (band, lid + 0.05, depth + 0.17), paint),
        box((0, height + lid / 2, 0), (width + 0.17, lid + 0.05, band), paint),
        *mirrored(bow.turned("z", 25).moved((0, top + 0.08, 0))),
        ball((0, top + 0.1, 0), 0.13, paint, 14),
    ]


KINDS: tuple[Kind, ...] = (
    Kind("clock", clock, front=True),
    Kind("television", television, synonyms=("tv",), front=True),
    Kind("mug", mug, synonyms=("cup",)),
    Kind("teapot", teapot, accessories=("stripe",)),
    Kind("bottle", bottle, synonyms=("flask",), accessories=("label",)),
    Kind("vase", vase, accessories=("tulip",)),
    Kind("camera", camera, front=True),
    Kind("gift", gift, synonyms=("present",), accessories=("ribbon",)),
)
