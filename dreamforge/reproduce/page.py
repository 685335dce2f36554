"""``report.html`` of the claims: one page with everything in it, to be read without the rest of the folder."""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamforge.report import STYLE
from dreamforge.reproduce import plots
from dreamforge.reproduce.claims import METRICS
from dreamforge.reproduce.lab import TRUE
from dreamforge.reproduce.methods import DRAWS, KAPPAS, METHODS, Method
from dreamforge.reproduce.plots import Point

OWN_STYLE = """
table { border-collapse: collapse; font-size: .85rem } td, th { text-align: left; padding: .2rem .6rem .2rem 0 }
td { border-top: 1px solid #ddd; vertical-align: top } .reproduced { color: #147832 } .reversed { color: #be1e1e }
.warning { background: #ffe9c7; padding: .6rem 1rem } nav a { margin-right: 1rem }
"""
QUALITY = 85  # of the sheets' WebP; the folder has them without loss
KAPPA_METRICS = ("saturation excess", "saturation error", "detail", "right")
DRAW_METRICS = ("variance", "variance per evaluation", "variance per second")
RULE = """
For every prompt d is the mean over its seeds of (first - second); the row gives the mean of d over prompts and its
standard error over prompts. <b>Reproduced</b>: it exceeds two standard errors in the claimed direction.
<b>Reversed</b>: it does so in the other. A claim that something is kept has a margin: it is reproduced where a loss as
large as the margin is excluded by two standard errors. Claims, metrics, rule, and the criterion of tuning were written
before the first picture that counts. Whiskers are two standard errors.
"""
Result = Mapping[str, Any]


def page(folder: Path, results: Sequence[Result]) -> str:
    """The page of every prior in ``results``, the contents of ``result.json``; sheets are read from ``folder``."""
    sections = ["<h1>Claims about guidances, on a flat canvas</h1>", f"<p>{RULE}</p>"]
    for result in results:
        sections += _prior(folder / result["prior"], result)
    head = f'<meta charset="utf-8"><title>Canvas claims</title><style>{STYLE}{OWN_STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"


def _prior(folder: Path, result: Result) -> list[str]:
    scale = result["scale"]
    facts = (
        f"{scale['prompts']} prompts x 4 seeds, {scale['steps']} steps; every method tuned over the same number of "
        f"settings on {scale['tuning_prompts']} other prompts."
    )
    return [
        f"<h2>{html.escape(result['title'])} ({html.escape(result['prior'])})</h2>",
        _warning(result),
        f"<p>{facts}</p>",
        _claims(result["claims"]),
        "<h2>Every method</h2>",
        *(_metric(metric, result["summary"]) for metric in METRICS if metric not in DRAW_METRICS),
        "<h2>Kappa of Balanced</h2>",
        *(_kappa(metric, result["summary"]) for metric in KAPPA_METRICS),
        "<h2>Draws per render</h2>",
        *(_draws(metric, result["summary"]) for metric in DRAW_METRICS),
        "<h2>What was tuned</h2>",
        _tuning(result["tuning"], result["methods"]),
        "<h2>All pictures, none left out</h2>",
        *(_sheet(folder, method) for method in [*METHODS, Method(TRUE, "True renders", "")]),
        "<h2>Made with</h2>",
        *(
            _facts(result, names)
            for names in (("command", "seed", "suites", "made with"), ("common", "methods", "own"))
        ),
    ]


def _facts(result: Result, names: Sequence[str]) -> str:
    return f"<pre>{html.escape(json.dumps({name: result[name] for name in names}, indent=1))}</pre>"


def _warning(result: Result) -> str:
    texts = []
    if result["quick"]:
        texts.append("This was made with --quick: it shows that the suite works and is not a result.")
    if result["failed"]:
        texts.append(f"Runs whose numbers exploded, counted as wrong: {', '.join(result['failed'])}.")
    return "".join(f'<p class="warning">{html.escape(text)}</p>' for text in texts)


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    heads = ("claim", "source", "metric", "first - second", "mean", "standard error", "n", "verdict")
    rows = []
    for claim in claims:
        margin = f" (margin {claim['margin']:g})" if claim["margin"] else ""
        pair = f"{claim['first']} - {claim['second'] or TRUE}"
        numbers = (_number(claim["difference"], "+"), _number(claim["error"]), str(claim["n"]))
        cells = (claim["sentence"], claim["source"], claim["metric"] + margin, pair, *numbers)
        plain = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        verdict = claim["verdict"]
        rows.append(f'<tr>{plain}<td class="{verdict.replace(" ", "-")}">{verdict}</td></tr>')
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>"


def _metric(metric: str, summary: Mapping[str, Any]) -> str:
    named = {**{method.name: method.title for method in METHODS}, TRUE: "true renders"}
    points = [_point(summary[name][metric], title) for name, title in named.items() if metric in summary.get(name, {})]
    return _figure(plots.rows(points), f"{metric}: {METRICS[metric]}")


def _kappa(metric: str, summary: Mapping[str, Any]) -> str:
    found = {kappa: summary.get(f"balanced-{kappa:g}", {}).get(metric) for kappa in KAPPAS}
    points = [_point(value, "", kappa) for kappa, value in found.items() if value is not None]
    return _figure(plots.curve(points, "kappa"), metric)


def _draws(metric: str, summary: Mapping[str, Any]) -> str:
    points = [_point(summary[name][metric], name) for name in DRAWS if metric in summary.get(name, {})]
    return _figure(plots.rows(points), f"{metric}: {METRICS[metric]}")


def _tuning(tried: Mapping[str, Sequence[Mapping[str, Any]]], methods: Sequence[Mapping[str, Any]]) -> str:
    chosen = {method["family"]: method["tuned"] for method in methods}
    rows = []
    for family, settings in tried.items():
        for one in settings:
            text = html.escape(json.dumps(one["setting"]))
            mark = "chosen" if one["setting"] == chosen[family] else ""
            figures = f"<td>{one['right']}</td><td>{one['sharpness error']}</td><td>{mark}</td>"
            rows.append(f"<tr><td>{html.escape(family)}</td><td><code>{text}</code></td>{figures}</tr>")
    heads = "<th>family</th><th>setting</th><th>right</th><th>sharpness error</th><th></th>"
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _sheet(folder: Path, method: Method) -> str:
    from PIL import Image

    path = folder / sheet_name(method.name)
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, format="WEBP", quality=QUALITY, method=4)
    text = base64.b64encode(buffer.getvalue()).decode()
    return _figure(f'<img src="data:image/webp;base64,{text}" alt="">', method.title)


def sheet_name(method: str) -> str:
    """The file of a method's pictures in its prior's folder."""
    return f"{method.replace(' ', '-')}.png"


def _point(value: Mapping[str, float | None], label: str, x: float = 0.0) -> Point:
    mean, error = (math.nan if number is None else number for number in (value["mean"], value["error"]))
    return Point(mean, error, label, x)


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3g}"
