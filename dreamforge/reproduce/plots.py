"""Small plots as SVG, by hand: means with intervals of two standard errors. Numbers in, text out."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LABEL, WIDTH, LINE, MARGIN = 200, 520, 18, 8  # pixels: names at the left, the whole, a row, around
TICKS = 24  # pixels for the numbers below
INK, FAINT, ACCENT = "#222", "#bbb", "#2463a8"
WHISKER = 2.0  # standard errors


@dataclass(frozen=True)
class Point:
    """A mean with its standard error (NaN: no whisker), at ``x`` or in the row ``label``."""

    mean: float
    error: float
    label: str = ""
    x: float = 0.0


def rows(points: Sequence[Point]) -> str:
    """One row a point, values to the right; a line where 0 is."""
    points = [point for point in points if math.isfinite(point.mean)]
    if not points:
        return "<p>nothing was measured</p>"
    low, high = _range(points, zero=True)
    right = WIDTH - TICKS  # half of the last number reaches beyond it

    def place(value: float) -> float:
        return LABEL + (right - LABEL) * (value - low) / (high - low)

    height = len(points) * LINE + TICKS
    drawn = [_line(place(0.0), 0, place(0.0), height - TICKS, FAINT)]
    for number, point in enumerate(points):
        y = (number + 0.5) * LINE
        drawn += [_text(LABEL - MARGIN, y + 4, point.label, "end"), *_horizontal(point, place, y)]
    drawn += [_text(place(value), height - 6, f"{value:.3g}", "middle") for value in _ticks(low, high)]
    return _svg(WIDTH, height, drawn)


def curve(points: Sequence[Point], x_label: str) -> str:
    """A line through points over a logarithmic x > 0."""
    points = sorted((point for point in points if math.isfinite(point.mean)), key=lambda point: point.x)
    if not points:
        return "<p>nothing was measured</p>"
    low, high = _range(points, zero=False)
    width, height, left = 280, 160, 56
    first, last = math.log(points[0].x), math.log(points[-1].x)

    def across(x: float) -> float:
        return left + (width - left - 2 * MARGIN) * (math.log(x) - first) / ((last - first) or 1)

    def down(value: float) -> float:
        return MARGIN + (height - 2 * TICKS - MARGIN) * (high - value) / (high - low)

    drawn = [_text(left - MARGIN, down(value) + 4, f"{value:.3g}", "end") for value in _ticks(low, high)]
    places = " ".join(f"{across(point.x):.1f},{down(point.mean):.1f}" for point in points)
    drawn.append(f'<polyline points="{places}" fill="none" stroke="{ACCENT}"/>')
    for point in points:
        x, reach = across(point.x), _reach(point)
        drawn += [
            _line(x, down(point.mean - reach), x, down(point.mean + reach), ACCENT),
            f'<circle cx="{x:.1f}" cy="{down(point.mean):.1f}" r="3" fill="{ACCENT}"/>',
            _text(x, height - TICKS, f"{point.x:g}", "middle"),
        ]
    drawn.append(_text((left + width) / 2, height - 6, x_label, "middle"))
    return _svg(width, height, drawn)


def _horizontal(point: Point, place: Callable[[float], float], y: float) -> list[str]:
    reach = _reach(point)
    return [
        _line(place(point.mean - reach), y, place(point.mean + reach), y, ACCENT),
        f'<circle cx="{place(point.mean):.1f}" cy="{y:.1f}" r="3" fill="{ACCENT}"/>',
    ]


def _reach(point: Point) -> float:
    return WHISKER * point.error if math.isfinite(point.error) else 0.0


def _range(points: Sequence[Point], zero: bool) -> tuple[float, float]:
    """From the lowest whisker to the highest, never empty."""
    low = min(point.mean - _reach(point) for point in points)
    high = max(point.mean + _reach(point) for point in points)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers of the range: 1, 2 or 5 times a power of ten apart, three of them or more."""
    power = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(power * k for k in (5, 2, 1, 0.5) if (high - low) / (power * k) >= 3)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, ink: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{html.escape(text)}</text>'


def _svg(width: float, height: float, drawn: Sequence[str]) -> str:
    return f'<svg width="{width}" height="{height}" font-size="12">{"".join(drawn)}</svg>'
