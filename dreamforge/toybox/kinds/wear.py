"""Shapes that several kinds share: eyes, smiles, and the accessories, always painted "second"."""

from collections.abc import Callable, Sequence

import numpy as np

from dreamforge.toybox.shapes import Part, Point, ball, box, cylinder, lathe, mirrored, ring, rounded_box, tube


def worn(accessory: str | None, **places: tuple[Point, *tuple[float, ...]]) -> list[Part]:
    """The accessory at the (position, size) given under its name: ``worn("hat", hat=((0, 1, 0), 0.3))``."""
    makers: dict[str, Callable[..., list[Part]]] = {
        "hat": hat,
        "crown": crown,
        "bow": bow,
        "scarf": scarf,
        "collar": collar,
        "belt": belt,
    }
    return [] if accessory is None else makers[accessory](*places[accessory])


def hat(at: Point, size: float) -> list[Part]:
    """A top hat standing on ``at``; ``size`` is the radius of its brim."""
    profile = [(0.0, -0.06), (1.0, -0.06), (1.0, 0.12), (0.66, 0.14), (0.7, 1.1), (0.0, 1.1)]
    return [lathe(profile, "second").scaled(size).moved(at)]


def crown(at: Point, size: float) -> list[Part]:
    """A crown of six points standing on ``at``, of radius ``size``; one point is in front."""
    angles = np.radians(np.arange(6) * 60.0)
    band = lathe([(0.0, 0.0), (0.9, 0.0), (1.05, 0.55), (0.75, 0.5), (0.7, 0.2), (0.0, 0.2)], "second")
    points = [
        cylinder(
            (0.85 * np.sin(a), 0.3, 0.85 * np.cos(a)), (1.1 * np.sin(a), 1.15, 1.1 * np.cos(a)), 0.36, "second", 0.0
        )
        for a in angles
    ]
    return [part.scaled(size).moved(at) for part in [band, *points]]


def bow(at: Point, size: float, girth: float = 0.0) -> list[Part]:
    """A bow facing the front, ``size`` is half its width; with a ribbon around a neck of radius ``girth`` behind it."""
    wing = cylinder((0.1, 0.0, 0.0), (1.0, 0.0, 0.0), 0.18, "second", 0.6, 16)
    knot = ball((0.0, 0.0, 0.1), 0.32, "second", 14)
    ribbon = [ring((at[0], at[1], at[2] - girth - 0.05), girth, 0.07, "second", segments=20)] if girth > 0 else []
    return ribbon + [part.scaled((size, size, 0.7 * size)).moved(at) for part in [*mirrored(wing), knot]]


def scarf(at: Point, size: float) -> list[Part]:
    """A scarf around a neck of radius ``size`` at ``at``, with one end hanging in front."""
    wrap = ring((0.0, 0.0, 0.0), 1.0, 0.3, "second", segments=20).scaled((1.0, 1.25, 1.0))
    end = rounded_box((0.0, -0.65, 0.0), (0.5, 1.2, 0.24), 0.1, "second").turned("x", -16.0)
    knot = ball((0.42, -0.05, 1.15), (0.34, 0.38, 0.3), "second", 12)
    return [part.scaled(size).moved(at) for part in [wrap, end.turned("z", 10.0).moved((0.45, 0.0, 1.2)), knot]]


def collar(at: Point, size: float) -> list[Part]:
    """A thick collar with a golden tag in front, around a neck of radius ``size`` at ``at``."""
    band = ring((0.0, 0.0, 0.0), 1.0, 0.24, "second", segments=20).scaled((1.0, 1.3, 1.0))
    return [part.scaled(size).moved(at) for part in [band, ball((0.0, -0.25, 1.25), 0.28, "gold", 12)]]


def belt(at: Point, size: float) -> list[Part]:
    """A broad belt with a golden buckle, around a waist of radius ``size`` at ``at``."""
    band = ring((0.0, 0.0, 0.0), 1.0, 0.14, "second", segments=20).scaled((1.0, 1.5, 1.0))
    return [part.scaled(size).moved(at) for part in [band, box((0.0, 0.0, 1.14), (0.4, 0.36, 0.1), "gold")]]


def pot(radius: float, height: float, color: str) -> list[Part]:
    """A flower pot on the ground with a rim of the given radius, filled with soil."""
    rim = height * 0.68
    wall = [(0.0, 0.0), (0.7, 0.0), (0.84, rim), (1.0, rim), (1.0, height), (0.84, height), (0.8, height * 0.88)]
    part = lathe([(r * radius, y) for r, y in wall], color)
    return [part, cylinder((0, height * 0.8, 0), (0, height * 0.9, 0), radius * 0.83, "soil")]


def eyes(at: Point, radius: float, look: Point = (0.0, 0.0, 1.0)) -> list[Part]:
    """Two eyeballs with pupils, the left one of the toy (x > 0) at ``at`` and looking along ``look``."""
    reach = 0.56 * radius / float(np.linalg.norm(look))
    pupil = ball(at, 0.64 * radius, "ink", 12).moved([reach * c for c in look])
    return [*mirrored(ball(at, radius, "paper", 12)), *mirrored(pupil)]


def smile(at: Point, width: float, thickness: float, bulge: float) -> Part:
    """A smiling mouth with its lowest point at ``at``; its corners lie ``bulge`` further back."""
    x = np.linspace(-1.0, 1.0, 9)
    path = np.stack([x * width / 2, 0.35 * width * x**2, -bulge * x**2], -1)
    return tube(path.tolist(), thickness / 2, "ink", segments=8).moved(at)


def soft(profile: Sequence[Point]) -> list[Point]:
    """The profile with its inner corners cut twice (Chaikin), for smooth bodies; the ends stay."""
    line = np.asarray(profile, float)
    for _ in range(2):
        a, b = line[:-1], line[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        line = np.concatenate([line[:1], cut[1:-1], line[-1:]])
    return [tuple(point) for point in line.tolist()]


def on_ball(center: Point, radius: Point | float, azimuth: float, elevation: float) -> Point:
    """The point of a ball or ellipsoid in the given direction (degrees; azimuth 0 is +Z, 90 is +X)."""
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
    return tuple((np.asarray(center, float) + np.asarray(radius, float) * direction).tolist())


def turned(parts: Sequence[Part], axis: str, degrees: float, about: Point) -> list[Part]:
    """All parts turned together, as a head on its neck."""
    return [part.turned(axis, degrees, about) for part in parts]
