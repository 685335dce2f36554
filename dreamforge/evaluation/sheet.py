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
    cell = width + MARGIN, height + 2 * LETTER + 3 * MARGIN
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(LETTER)
    for number, (picture, words, good) in enumerate(zip(pictures, lines, right, strict=True)):
        x, y = MARGIN + number % columns * cell[0], MARGIN + number // columns * cell[1]
        bytes_ = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        page.paste(Image.fromarray(bytes_), (x, y))
        for line, (text, ink) in enumerate(zip(words, (INK, GOOD if good else BAD), strict=True)):
            place = (x, y + height + MARGIN // 2 + line * (LETTER + MARGIN // 2))
            pen.text(place, _fitting(text, font, width), ink, font)
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def _fitting(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
