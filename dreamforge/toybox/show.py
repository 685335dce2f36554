"""A sheet of everything the toybox holds: one toy of each kind, its name below it."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dreamforge.cameras import orbit
from dreamforge.files import atomic_write
from dreamforge.render.raster import render_mesh
from dreamforge.rng import derive
from dreamforge.toybox.catalog import KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import make
from dreamforge.toybox.pictures import FOV

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, LINE = 6, 13  # pixels around a picture, and of a line of text
PAPER = (240, 240, 240)  # sRGB bytes
INK, PALE_INK = (40, 40, 40), (120, 120, 120)


def show(path: Path) -> None:
    """Write the sheet as a PNG file. Raises DreamforgeError where it cannot be written."""
    buffer = io.BytesIO()
    sheet(size=80).save(buffer, format="PNG", optimize=True)
    atomic_write(path, buffer.getvalue())


def sheet(size: int = 64, columns: int = 12, seed: int = 0) -> "Image":
    """One toy of every kind in pictures of ``size`` pixels, ``columns`` in a row; the same seed, the same sheet.

    Colours are drawn at random; a toy whose kind has accessories wears one of them, named in a second line.
    """
    from PIL import Image, ImageDraw

    wide, high = size + GAP, size + GAP + 2 * LINE
    rows = -(-len(KINDS) // columns)
    paper = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng(derive(seed, "sheet", kind))
        options = KINDS[kind].accessories
        accessory = options[rng.integers(len(options))] if options else None
        x, y = GAP + number % columns * wide, GAP + number // columns * high
        paper.paste(Image.fromarray(_picture(kind, accessory, size, rng)), (x, y))
        middle = x + size / 2
        pen.text((middle, y + size + 1), kind, INK, anchor="ma")
        if accessory is not None:
            pen.text((middle, y + size + LINE), accessory, PALE_INK, anchor="ma")
    return paper


def _picture(kind: str, accessory: str | None, size: int, rng: np.random.Generator) -> np.ndarray:
    """``[size,size,3]`` uint8: a toy in two random colours, from a little above and beside its front."""
    main, second = rng.choice(list(COLORS), 2, replace=False)
    mesh = make(kind, accessory, int(rng.integers(2**31))).mesh(COLORS[main], COLORS[second])
    azimuth, elevation = torch.deg2rad(torch.tensor([[28.0], [18.0]]))
    cameras = orbit(azimuth, elevation, torch.tensor([3.0]), FOV, size, size)
    rgb = render_mesh(mesh, cameras, torch.tensor(PAPER) / 255).rgb[0]
    return (rgb * 255).round().to(torch.uint8).numpy()
