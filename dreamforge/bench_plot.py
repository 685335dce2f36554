"""Line charts with two logarithmic axes as a PNG file, drawn with Pillow. Numbers in, bytes out."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
COLORS = ("#2463a8", "#888888", "#c2571a", "#147832")
FINE = 2  # drawn so many times larger, then shrunk: Pillow draws lines without smoothing
WIDTH, HEIGHT = 640, 400  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 34, 66  # of these around its axes
HEAD, LEGEND, LETTER = 36, 30, 15


@dataclass(frozen=True)
class Line:
    """Points (x, y), both above 0, in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """``below``: a second line of words under the number of an x."""

    title: str
    label: str
    lines: Sequence[Line]
    below: Mapping[float, str]


@dataclass(frozen=True)
class _Pen:
    """A pen for one panel: places in its pixels, drawn ``FINE`` times larger at its corner."""

    draw: Any
    font: Any
    corner: tuple[float, float]

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1.0) -> None:
        self.draw.line([self._at(point) for point in points], color, round(FINE * width), "curve")

    def dot(self, x: float, y: float, color: str) -> None:
        self.draw.circle(self._at((x, y)), 4 * FINE, color)

    def text(self, x: float, y: float, words: str, anchor: str = "mm", color: str = INK) -> None:
        self.draw.text(self._at((x, y)), words, color, self.font, anchor)

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        return FINE * (self.corner[0] + point[0]), FINE * (self.corner[1] + point[1])


def chart(title: str, panels: Sequence[Panel], unit: str, below: str) -> bytes:
    """Panels in two columns, all with one axis for y, whose numbers have ``unit``; colours go by a line's name.

    ``below`` says what the second words under an x are.
    """
    from PIL import Image, ImageDraw, ImageFont

    size = 2 * WIDTH, HEAD + LEGEND + -(-len(panels) // 2) * HEIGHT
    page = Image.new("RGB", (FINE * size[0], FINE * size[1]), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FINE * LETTER)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colors = dict(zip(names, COLORS, strict=False))
    head = _Pen(draw, font, (0, 0))
    head.text(size[0] / 2, HEAD / 2, title)
    for number, (name, color) in enumerate(colors.items()):
        x = size[0] * (number + 0.5) / len(colors) - 90
        head.line([(x, HEAD + LEGEND / 2), (x + 34, HEAD + LEGEND / 2)], color, 3)
        head.dot(x + 17, HEAD + LEGEND / 2, color)
        head.text(x + 44, HEAD + LEGEND / 2, name, "lm")
    values = [y for panel in panels for line in panel.lines for _, y in line.points]
    limits = 10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values)))
    for number, panel in enumerate(panels):
        corner = number % 2 * WIDTH, HEAD + LEGEND + number // 2 * HEIGHT
        _panel(_Pen(draw, font, corner), panel, limits, colors, unit, below)
    buffer = io.BytesIO()
    page.resize(size, Image.Resampling.BOX).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _panel(
    pen: _Pen, panel: Panel, limits: tuple[float, float], colors: Mapping[str, str], unit: str, below: str
) -> None:
    every = sorted(panel.below)
    across = _logarithmic(every[0], every[-1], LEFT + 24, WIDTH - RIGHT - 24)
    down = _logarithmic(*limits, HEIGHT - BOTTOM, TOP)
    pen.text((LEFT + WIDTH - RIGHT) / 2, TOP / 2, panel.title)
    for power in range(round(math.log10(limits[0])), round(math.log10(limits[1])) + 1):
        y = down(10.0**power)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], FAINT)
        pen.text(LEFT - 8, y, f"{10.0**power:g} {unit}" if power < 3 else f"{10 ** (power - 3):g} s", "rm")
    for x in every:
        pen.line([(across(x), TOP), (across(x), HEIGHT - BOTTOM)], FAINT)
        pen.text(across(x), HEIGHT - BOTTOM + 13, _number(x))
        pen.text(across(x), HEIGHT - BOTTOM + 31, panel.below[x], color="#777777")
    pen.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 52, f"{panel.label} (below: {below})")
    for line in panel.lines:
        points = [(across(x), down(y)) for x, y in line.points]
        pen.line(points, colors[line.name], 2)
        for point in points:
            pen.dot(*point, colors[line.name])


def _logarithmic(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """``low`` -> ``start``, ``high`` -> ``end``."""
    span = math.log(high / low) or 1.0
    return lambda value: start + (end - start) * math.log(value / low) / span


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")
