"""Toybox kinds that drive, swim and fly. All of them move towards +Z."""

from collections.abc import Sequence
from dataclasses import replace

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
)


def car(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, width = rng.uniform(2.5, 3.1), rng.uniform(1.35, 1.6)
    deck, roof = rng.uniform(0.85, 1.0), rng.uniform(1.45, 1.7)
    back, windshield = -rng.uniform(0.3, 0.46) * length, rng.uniform(0.14, 0.24) * length
    nose, radius = length / 2, rng.uniform(0.33, 0.4)
    parts = [rounded_box((0, (0.25 + deck) / 2, 0), (length, deck - 0.25, width), 0.2, "main").turned("y", 90)]
    parts += _cabin(back, windshield, deck, roof, (rng.uniform(0.1, 0.35), rng.uniform(0.3, 0.5)), 0.9 * width)
    parts += _wheels([-0.3 * length, 0.3 * length], radius, width / 2, "metal")
    parts += mirrored(ball((0.34 * width, deck - 0.3, nose), (0.17, 0.15, 0.1), "light", 12))
    parts += mirrored(box((0.38 * width, deck - 0.3, -nose), (0.24, 0.16, 0.08), "nose"))
    parts += [
        box((0, deck - 0.3, nose), (0.36 * width, 0.18, 0.08), "ink"),
        box((0, 0.4, nose), (0.5, 0.15, 0.1), "paper"),
    ]
    if accessory == "stripe":
        parts += [box((0, deck - 0.1, 0), (width + 0.07, 0.17, length + 0.05), "second")]
    if accessory == "surfboard":
        parts += [ball((0, roof + 0.22, 0), (0.42, 0.16, 0.52 * length), "second")]
        parts += [box((0, roof + 0.07, z), (0.8 * width, 0.1, 0.12), "steel") for z in (back / 2, windshield / 3)]
    return parts


def bus(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, width, height = rng.uniform(2.9, 3.6), rng.uniform(1.35, 1.55), rng.uniform(1.5, 1.85)
    windows, low, top, nose = int(rng.integers(3, 6)), 0.3, 0.3 + height, length / 2
    sill, pane = low + 0.5 * height, 0.33 * height
    parts = [rounded_box((0, low + height / 2, 0), (width, height, length), 0.2, "main")]
    step = (length - 0.3) / windows
    parts += [
        box((0, sill + pane / 2, -length / 2 + 0.15 + step * (i + 0.5)), (width + 0.05, pane, 0.72 * step), "glass")
        for i in range(windows)
    ]
    parts += [
        box((0, sill + 0.5 * pane - 0.03, nose), (0.8 * width, pane, 0.06), "glass"),
        box((0, top - 0.1, nose), (0.6 * width, 0.17, 0.12), "light"),
        box((0, low + 0.1, nose), (width, 0.14, 0.14), "steel"),
        box((0, sill + pane / 2, -nose), (0.6 * width, 0.8 * pane, 0.06), "glass"),
    ]
    parts += mirrored(box((0.36 * width, low + 0.3, -nose), (0.2, 0.22, 0.08), "nose"))
    parts += mirrored(ball((0.34 * width, low + 0.33, nose), (0.15, 0.15, 0.1), "light", 12))
    parts += _wheels([-0.29 * length, 0.31 * length], rng.uniform(0.32, 0.38), width / 2, "metal")
    if accessory == "stripe":
        parts += [box((0, sill - 0.17, 0), (width + 0.06, 0.24, length + 0.08), "second")]
    return parts


def train(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, radius = rng.uniform(1.7, 2.1), rng.uniform(0.48, 0.58)
    cab, roof, axis = rng.uniform(0.75, 0.95), rng.uniform(1.95, 2.2), rng.uniform(0.95, 1.05)
    nose, funnel, flare = length / 2 + 0.3, rng.uniform(0.45, 0.6), rng.uniform(0.2, 0.3)
    rear, z = -length / 2, nose - 0.32
    parts = [
        cylinder((0, axis, rear), (0, axis, nose), radius, "main"),
        cylinder((0, axis, nose - 0.06), (0, axis, nose + 0.08), 0.7 * radius, "steel"),
        ball((0, axis, nose + 0.12), (0.2, 0.2, 0.12), "light", 12),
        box((0, 0.5, 0), (1.1, 0.3, length + cab), "main"),
        *_cabin(rear - cab + 0.3, rear + 0.3, axis - 0.5, roof, (0, 0), 1.3, 0.52),
        rounded_box((0, roof, rear + 0.3 - cab / 2), (1.5, 0.18, cab + 0.25), 0.07, "main"),
        lathe(
            [(0, 0), (0.17, 0), (0.17, funnel), (flare, funnel + 0.2), (0, funnel + 0.2)],
            "ink",
            (0, axis + radius - 0.08, z),
        ),
        dome((0, axis + radius - 0.06, -0.1), (0.22, 0.34, 0.22), "gold"),
        _side([(nose - 0.1, 0.1), (nose + 0.45, 0.1), (nose - 0.1, 0.55)], 1.0, "metal"),
    ]
    return parts + _wheels([rear - 0.15, rear + 0.55, nose - 0.35], rng.uniform(0.28, 0.34), 0.62, "main")


def airplane(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, radius, span = rng.uniform(2.6, 3.2), rng.uniform(0.42, 0.52), rng.uniform(1.25, 1.55)
    chord, sweep, tail = rng.uniform(0.7, 0.85), rng.uniform(0.2, 0.6), rng.uniform(0.7, 0.9)
    back, nose = -length / 2, length / 2
    profile = [(0, back), (0.12, back), (0.75 * radius, back / 3), (radius, 0), (radius, nose - 0.6)]
    profile += [(radius * np.cos(a), nose - 0.6 + 0.6 * np.sin(a)) for a in np.radians([15, 30, 45, 60, 75, 90])]
    wing = [(0, -chord), (span, -chord - sweep + 0.3), (span, -sweep + 0.15), (0, 0.15)]
    small = [(0, 0), (0.36 * span, -0.2), (0.36 * span, 0.12), (0, 0.42)]
    fin = [(back - 0.1, 0.1), (back + 0.55, 0.1), (back + 0.15, tail + 0.1), (back - 0.2, tail + 0.1)]
    parts = [lathe(profile, "main").turned("x", 90), _side(fin, 0.16, "main")]
    parts += mirrored(extrude(wing, 0.16, "main").turned("x", 90).moved((0, -0.12, 0.45)))
    parts += mirrored(extrude(small, 0.15, "main").turned("x", 90).moved((0, 0.12, back)))
    parts += [ball((0, 0.6 * radius, nose - 0.5), (0.62 * radius, 0.42 * radius, 0.32), "glass", 16)]
    engine = (0.5 * span, -0.36, 0.25 - sweep / 2)
    parts += mirrored(capsule(engine, (engine[0], engine[1], engine[2] + 0.35), 0.19, "steel"))
    for i in range(4):
        parts += mirrored(ball((radius - 0.02, 0.1, nose - 0.85 - 0.28 * i), (0.05, 0.09, 0.09), "ink", 8))
    if accessory == "stripe":
        edge = (0.6 * span, 0.85 * span)  # a band of the wing: front and back edge at these x
        front, rear = [0.15 - sweep * x / span for x in edge], [-chord + (0.3 - sweep) * x / span for x in edge]
        band = [(edge[0], rear[0]), (edge[1], rear[1]), (edge[1], front[1]), (edge[0], front[0])]
        parts += mirrored(extrude(band, 0.22, "second").turned("x", 90).moved((0, -0.12, 0.45)))
        parts += [cylinder((0, 0, nose - 1.05), (0, 0, nose - 0.7), 1.05 * radius, "second")]
        low, high = [(back - 0.13 - 0.1 * t, back + 0.58 - 0.4 * t, 0.1 + tail * t) for t in (0.5, 0.85)]
        corners = [(low[0], low[2]), (low[1], low[2]), (high[1], high[2]), (high[0], high[2])]
        parts += [_side(corners, 0.22, "second")]
    return parts


def boat(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    length, width, height = rng.uniform(2.4, 2.9), rng.uniform(1.15, 1.4), rng.uniform(0.75, 0.9)
    mast, boom, turn = rng.uniform(1.4, 1.7), rng.uniform(1.1, 1.35), rng.choice([-1, 1]) * rng.uniform(20, 40)
    sides = [(width / 2 * (1 - t**2.2), length * (t - 0.35)) for t in np.linspace(0, 1, 9)]
    plan = [
        (0.36 * width, -0.55 * length),
        *sides,
        *[(-x, z) for x, z in sides[-2::-1]],
        (-0.36 * width, -0.55 * length),
    ]
    hull = extrude([(x, -z) for x, z in plan[::-1]], height, "main").turned("x", -90)
    cloth = "second" if accessory == "sail" else "paper"
    sail = cylinder((0, 0.25, -boom / 2), (0, mast, -0.02), boom / 2, cloth, 0.0).scaled((0.5, 1, 1)).turned("y", turn)
    jib = cylinder((0, 0.25, 0.4), (0, 0.8 * mast, 0.06), 0.36, cloth, 0.0).scaled((0.5, 1, 1)).turned("y", turn)
    step = (0.0, height / 2, 0.12 * length)
    return [
        _tapered(hull, height / 2, rng.uniform(0.25, 0.4)),
        sail.moved(step),
        jib.moved(step),
        cylinder(step, (0, height / 2 + mast + 0.1, step[2]), 0.07, "wood", segments=10),
        box((0, height / 2, -0.3 * length), (0.55 * width, 0.2, 0.3 * length), "wood"),
    ]


def rocket(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    height, radius, fins = rng.uniform(2.3, 2.8), rng.uniform(0.46, 0.58), int(rng.integers(3, 5))
    belly, span = rng.uniform(0.35, 0.45), rng.uniform(0.45, 0.6)
    t = np.linspace(0, 1, 14)
    bulge = np.where(
        t < belly, 0.72 + 0.28 * np.sin(t / belly * np.pi / 2), np.cos((t - belly) / (1 - belly) * np.pi / 2) ** 0.8
    )
    parts = [lathe([(0, 0), *zip(radius * bulge, height * t, strict=True)], "main")]
    parts += [cylinder((0, -0.25, 0), (0, 0.02, 0), 0.62 * radius, "ink", 0.45 * radius)]
    fin = [(0.55 * radius, 0.05), (radius + span, -0.4), (radius + span, 0.1), (0.85 * radius, 0.95)]
    paint = "second" if accessory == "fins" else "steel"
    parts += [extrude(fin, 0.14, paint).turned("y", 360 * i / fins + 45) for i in range(fins)]
    for turn in (0, 180):
        y, z = belly * height + 0.12, radius - 0.05
        parts += [ring((0, y, z), 0.22, 0.07, "metal", "z", 16).turned("y", turn)]
        parts += [ball((0, y, z), (0.2, 0.2, 0.08), "glass", 12).turned("y", turn)]
    return parts


def _side(outline: Sequence[Point], width: float, color: str) -> Part:
    """A side view of (z, y) points, counter-clockwise with z to the right, made ``width`` wide along x."""
    return extrude(outline, width, color).turned("y", -90)


def _cabin(
    back: float, front: float, low: float, high: float, lean: Point, width: float, sill: float = 0.15
) -> list[Part]:
    """A body from z = back to front with windows on all sides, from the height fraction ``sill`` upwards.

    ``lean``: how far its back and front lean inwards.
    """

    def wall(start: float, end: float, grow: float) -> list[tuple[float, float]]:
        a, b = [(back + lean[0] * t - grow, front - lean[1] * t + grow, low + t * (high - low)) for t in (start, end)]
        return [(a[0], a[2]), (a[1], a[2]), (b[1], b[2]), (b[0], b[2])]

    return [
        _side(wall(0.0, 1.0, 0.0), width, "main"),
        _side(wall(sill, 0.85, 0.03), 0.82 * width, "glass"),
        _side(wall(sill, 0.85, -0.13), width + 0.06, "glass"),
    ]


def _wheels(places: Sequence[float], radius: float, track: float, hub: str, width: float = 0.24) -> list[Part]:
    """Pairs of wheels on the ground at these z, with their outer sides a little outside of x = ``track``."""
    parts = []
    for z in places:
        x = track + 0.06
        parts += mirrored(cylinder((x - width, radius, z), (x, radius, z), radius, "rubber", segments=18))
        parts += mirrored(cylinder((x - 0.1, radius, z), (x + 0.04, radius, z), 0.55 * radius, hub, segments=12))
    return parts


def _tapered(part: Part, top: float, amount: float) -> Part:
    """An upright prism narrowed towards its bottom: at one unit under ``top`` it is ``1 - amount`` times as wide."""
    scale = 1 - amount * (top - part.vertices[:, 1:2])
    plan = part.vertices * [1, 0, 1]
    slope = -amount * (part.normals * plan).sum(-1, keepdims=True)
    normals = part.normals + slope * [0, 1, 0]
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return replace(part, vertices=plan * scale + part.vertices * [0, 1, 0], normals=normals)


KINDS: tuple[Kind, ...] = (
    Kind("car", car, ("automobile",), ("stripe", "surfboard"), front=True),
    Kind("bus", bus, ("coach",), ("stripe",), front=True),
    Kind("train", train, ("locomotive",), (), front=True),
    Kind("airplane", airplane, ("plane", "jet"), ("stripe",)),
    Kind("boat", boat, ("sailboat",), ("sail",)),
    Kind("rocket", rocket, ("spaceship",), ("fins",)),
)
