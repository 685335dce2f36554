"""``report.html``: one page with everything in it, so that it can be sent to somebody."""

import base64
import html
import json
from pathlib import Path
from typing import Any

from dreamforge.config import Recipe

POINTS = 240  # of a curve
PREVIEWS = 8
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin-top: 2rem } img { max-width: 100%; image-rendering: auto }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figcaption { color: #666; font-size: .85rem }
svg { background: #f6f6f6 } polyline { fill: none; stroke: #2463a8; stroke-width: 1.2 }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem }
"""


def report(folder: Path, recipe: Recipe, facts: dict[str, Any]) -> str:
    """The page of a run: ``facts`` are those of ``result.json``; pictures and log are read from the folder."""
    prompt = html.escape(recipe.prompt)
    shown = [folder / name for name in ("turntable.webp", "asset.png") if (folder / name).is_file()]
    previews = _spread(sorted((folder / "previews").glob("*.png")))
    sections = [
        f"<h1>{prompt}</h1>",
        f"<p>Recipe {html.escape(recipe.name)}, seed {recipe.seed}, {recipe.steps} steps. {_size(facts)}</p>",
        "".join(_picture(path, "") for path in shown),
        "<h2>On the way</h2>",
        "".join(_picture(path, path.stem.replace("_", " ")) for path in previews),
        "<h2>Measured at every step</h2>",
        curves(folder / "metrics.jsonl"),
        "<h2>The recipe, every default spelled out</h2>",
        f"<pre>{html.escape((folder / 'recipe.yaml').read_text('utf-8'))}</pre>",
        "<h2>Made with</h2>",
        f"<pre>{html.escape((folder / 'manifest.json').read_text('utf-8'))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{prompt}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"


def curves(log: Path) -> str:
    """A small SVG for each number of ``metrics.jsonl``."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "stage"))
    drawn = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        drawn.append(f"<figure>{_curve(points)}<figcaption>{html.escape(name)}: {_range(points)}</figcaption></figure>")
    return "".join(drawn)


def _curve(points: list[tuple[float, float]]) -> str:
    """A polyline through the means of at most ``POINTS`` groups of neighbours."""
    width, height, size = 280, 90, -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    low, high = min(y for _, y in means), max(y for _, y in means)
    first, last = means[0][0], means[-1][0]
    place = [
        (
            4 + (width - 8) * (x - first) / ((last - first) or 1),
            height - 4 - (height - 8) * (y - low) / ((high - low) or 1),
        )
        for x, y in means
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    return f'<svg width="{width}" height="{height}"><polyline points="{line}"/></svg>'


def _range(points: list[tuple[float, float]]) -> str:
    values = [y for _, y in points]
    return f"{min(values):.4g} to {max(values):.4g}, at last {values[-1]:.4g}"


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    kind = path.suffix.removeprefix(".")
    return f'<figure><img src="data:image/{kind};base64,{data}" alt=""><figcaption>{caption}</figcaption></figure>'


def _spread(paths: list[Path]) -> list[Path]:
    """At most ``PREVIEWS`` of the paths, evenly, the last one among them."""
    count = min(len(paths), PREVIEWS)
    return [paths[(i + 1) * len(paths) // count - 1] for i in range(count)]


def _size(facts: dict[str, Any]) -> str:
    counts = f": {facts['triangles']} triangles, {facts['vertices']} vertices" if "triangles" in facts else ""
    return f"{facts['asset']}{counts}, {facts['bytes'] / 1e6:.2f} MB."
