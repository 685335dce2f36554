"""Furniture."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.shapes import Part, ball, box, cylinder, extrude, lathe, mirrored, rounded_box


def _legs(width: float, depth: float, height: float, thick: float, color: str) -> list[Part]:
    """Four square legs under the corners of a rectangle around the origin."""
    x, z = (width - thick) / 2, (depth - thick) / 2
    size = (thick, height, thick)
    return [box((sx * x, height / 2, sz * z), size, color) for sx in (-1, 1) for sz in (-1, 1)]


def _arched(bottom: tuple[float, float, float], width: float, height: float, rise: float, depth: float) -> Part:
    """An upright board whose upper edge is half an ellipse, ``rise`` high."""
    arc = [(width / 2 * np.cos(a), height - rise + rise * np.sin(a)) for a in np.linspace(0, np.pi, 17)]
    return extrude([(-width / 2, 0.0), (width / 2, 0.0), *arc], depth, "main", bottom)


def chair(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, depth, thick = rng.uniform(0.95, 1.2), rng.uniform(0.95, 1.15), rng.uniform(0.14, 0.19)
    seat, back = rng.uniform(0.8, 1.05), rng.uniform(0.95, 1.3)
    z, slats = (thick - depth) / 2, int(rng.integers(2, 4))
    parts = [*_legs(width, depth, seat, thick, "main"), box((0, seat, 0), (width, thick, depth), "main")]
    if rng.random() < 0.5:
        parts.append(_arched((0, seat, z), width, back, rng.uniform(0.1, 0.4), thick))
    else:
        parts += mirrored(box(((width - thick) / 2, seat + back / 2, z), (thick, back, thick), "main"))
        for i in range(1, slats + 1):
            parts.append(box((0, seat + back * (i / slats - 0.12), z), (width, 0.27, 0.8 * thick), "main"))
    if accessory == "cushion":
        height = 0.24
        middle, size = (0, seat + (thick + height) / 2, thick / 2), (1.02 * width, height, depth - 0.9 * thick)
        parts.append(rounded_box(middle, size, 0.45 * height, "second"))
    return parts


def table(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, height, thick = rng.uniform(1.7, 2.2), rng.uniform(0.95, 1.25), rng.uniform(0.13, 0.18)
    depth, leg, kind = width * rng.uniform(0.6, 0.95), rng.uniform(0.16, 0.22), rng.random()
    if kind < 0.5:
        rail = box((0, height - 0.12, 0), (0.86 * width, 0.2, 0.82 * depth), "main")
        top = box((0, height, 0), (width, thick, depth), "main")
        return [*_legs(0.92 * width, 0.9 * depth, height, leg, "main"), rail, top]
    top = cylinder((0, height - thick / 2, 0), (0, height + thick / 2, 0), width / 2, "main", segments=32)
    if kind < 0.75:
        return [*_legs(0.68 * width, 0.68 * width, height, leg, "main"), top]
    foot = [(0, 0), (0.32 * width, 0), (0.31 * width, 0.08), (0.12 * width, 0.17), (0.75 * leg, 0.35)]
    stem = [(0.7 * leg, 0.7 * height), (leg, 0.9 * height), (1.4 * leg, height)]
    return [lathe([*foot, *stem], "main"), top]


def sofa(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    width, depth, seat = rng.uniform(2.0, 2.6), rng.uniform(0.95, 1.15), rng.uniform(0.34, 0.44)
    arm, back, rise = rng.uniform(0.26, 0.36), rng.uniform(0.75, 1.0), rng.uniform(0.28, 0.4)
    cushions, gap = int(rng.integers(2, 4)), 0.035
    each = (width - 2 * arm) / cushions
    parts = [box((0, 0.12 + seat / 2, 0), (width - 0.1, seat, depth - 0.06), "main")]
    parts.append(
        rounded_box((0, 0.14 + (seat + back) / 2, 0.14 - depth / 2), (width - arm, seat + back, 0.3), 0.15, "main")
    )
    arms = rounded_box(((width - arm) / 2, 0.12 + (seat + rise) / 2, 0), (arm, seat + rise, depth), 0.45 * arm, "main")
    parts += mirrored(arms)
    for i in range(cushions):
        x = (i + 0.5) * each - width / 2 + arm
        parts.append(rounded_box((x, 0.2 + seat, 0.15), (each - gap, 0.2, depth - 0.3), 0.06, "main"))
        parts.append(rounded_box((x, 0.5 + seat, 0.36 - depth / 2), (each - gap, 0.44, 0.2), 0.08, "main"))
    for z in (-0.4 * depth, 0.4 * depth):
        parts += mirrored(cylinder((0.42 * width, 0, z), (0.42 * width, 0.14, z), 0.07, "wood", 0.09))
    if accessory == "cushion":
        pillow = rounded_box((0, 0, 0), (0.66, 0.66, 0.26), 0.12, "second")
        parts.append(pillow.turned("x", -18).moved((0, seat + 0.62, 0.66 - depth / 2)))
    return parts


def lamp(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    floor = rng.random() < 0.5
    low, up = rng.uniform(0.5, 0.62), rng.uniform(0.26, 0.4)
    tall, stem = rng.uniform(0.5, 0.65), rng.uniform(1.2, 1.5) if floor else rng.uniform(0.75, 0.95)
    wall, foot = 0.06, rng.uniform(0.34, 0.42)
    shade = [(low, 0), (up, tall), (up - wall, tall), (low - wall, 0), (low, 0)]
    parts = [lathe(shade, "main").moved((0, stem, 0)), ball((0, stem + 0.3 * tall, 0), 0.2, "light", 12)]
    if floor:
        plate = [(0, 0), (foot, 0), (foot, 0.1), (0.14, 0.17), (0, 0.2)]
        return [*parts, lathe(plate, "main"), cylinder((0, 0.1, 0), (0, stem + 0.2 * tall, 0), 0.075, "metal")]
    y = np.linspace(-1.0, 0.86, 14)
    body = np.column_stack([0.8 * foot * np.sqrt(1 - y**2), 0.1 + 0.36 * stem * (y + 1)])
    parts += [lathe([*body], "main"), cylinder((0, 0, 0), (0, 0.12, 0), 0.8 * foot, "wood")]
    return [*parts, cylinder((0, 0.6 * stem, 0), (0, stem + 0.2 * tall, 0), 0.08, "metal")]


KINDS: tuple[Kind, ...] = (
    Kind("chair", chair, accessories=("cushion",)),
    Kind("table", table),
    Kind("sofa", sofa, synonyms=("couch",), accessories=("cushion",)),
    Kind("lamp", lamp),
)
