"""Contact sheets: every picture with words under it."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PAPER, INK, GOOD, BAD = (255, 255, 255), (40, 40, 40), (20, 120, 50), (190, 30, 30)
LETTER = 11  # height in pixels
MARGIN = 6


def sheet(pictures: Sequence[Tensor], lines: Sequence[tuple[str, str]], right: Sequence[bool], columns: int) -> bytes:
    """Pictures ``[H,W,3]`` in [0, 1], all of one size, in rows; a PNG file.

    Under each its two ``lines``, the second green where ``right`` and red where not.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    page = Image.new("RGB", _place(-(-len(pictures) // columns) * columns - 1, height, width, columns)[1], PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(LETTER)
    for number, (picture, words, good) in enumerate(zip(pictures, lines, right, strict=True)):
        x, y = _place(number, height, width, columns)[0]
        bytes_ = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        page.paste(Image.fromarray(bytes_), (x, y))
        for line, (text, ink) in enumerate(zip(words, (INK, GOOD if good else BAD), strict=True)):
            place = (x, y + height + MARGIN // 2 + line * (LETTER + MARGIN // 2))
            pen.text(place, _fitting(text, font, width), ink, font)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def cut(content: bytes, count: int, height: int, width: int, columns: int) -> list[Tensor]:
    """The pictures of a sheet, as 8 bits hold them: the other way round."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        page = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
    places = [_place(number, height, width, min(columns, count))[0] for number in range(count)]
    return [page[y : y + height, x : x + width] for x, y in places]


def _place(number: int, height: int, width: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The upper left corner of a picture, and the size of a page that ends with it."""
    cell = width + MARGIN, height + 2 * LETTER + 3 * MARGIN
    column, row = number % columns, number // columns
    corner = MARGIN + column * cell[0], MARGIN + row * cell[1]
    return corner, (corner[0] + cell[0], corner[1] + cell[1])


def _fitting(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
