"""Which kinds the judge takes for which others, as counts and as a picture."""

import io

from torch import Tensor

from dreamforge.evaluation.network import Labels
from dreamforge.evaluation.verdict import NOTHING

CELL, MARGIN = 12, 88  # pixels

Confusion = dict[str, dict[str, int]]  # true kind -> said -> how often


def confusion(labels: Labels, said: Tensor, true: Tensor) -> Confusion:
    """How often ``said [N]`` for ``true [N]`` (class numbers), most frequent first; what was never said is left out."""
    names = [*labels.kinds, NOTHING]
    found: Confusion = {name: {} for name in labels.kinds}
    for a, b in zip(true.tolist(), said.tolist(), strict=True):
        found[names[a]][names[b]] = found[names[a]].get(names[b], 0) + 1
    return {name: dict(sorted(row.items(), key=lambda item: -item[1])) for name, row in found.items()}


def picture_of(matrix: Confusion) -> bytes:
    """A PNG: a row for each true kind, a column for each answer; green is right, red is wrong, darker is more often."""
    from PIL import Image, ImageDraw, ImageFont

    names, font = [*matrix, NOTHING], ImageFont.load_default(CELL - 2)
    page = Image.new("RGB", (MARGIN + CELL * len(names), MARGIN + CELL * len(matrix)), "white")
    titles = Image.new("RGB", (MARGIN, CELL * len(names)), "white")
    pen, title_pen = ImageDraw.Draw(page), ImageDraw.Draw(titles)
    for i, name in enumerate(names):
        title_pen.text((2, i * CELL), name, "black", font)
        if name in matrix:
            pen.text((2, MARGIN + i * CELL), name, "black", font)
    page.paste(titles.rotate(90, expand=True), (MARGIN, 0))
    for i, (true, row) in enumerate(matrix.items()):
        for said, count in row.items():
            x, y = MARGIN + names.index(said) * CELL, MARGIN + i * CELL
            depth = round(255 * (count / sum(row.values())) ** 0.5)  # the root makes a single slip visible
            ink = (255 - depth, 255 - depth // 3, 255 - depth) if said == true else (255, 255 - depth, 255 - depth)
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), ink)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()
