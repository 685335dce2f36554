"""Judging a 3D asset by what the exported file shows when it is read back.

24 views of 64x64 pixels: 8 azimuths from the front on at elevations 0, 15 and 35 degrees, within what the prior's
pictures and the recipes' cameras cover; each view before its own muted background, the same for every asset. At 15
degrees 16 more azimuths complete the orbit that counts faces.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamforge import data
from dreamforge.cameras import orbit
from dreamforge.evaluation import network
from dreamforge.evaluation.network import SIZE, Judge
from dreamforge.evaluation.verdict import Verdict, count_faces, decide, judge_pictures
from dreamforge.evaluation.wanted import right, second_right, wanted
from dreamforge.render.background import muted
from dreamforge.render.raster import render_mesh
from dreamforge.rng import generator
from dreamforge.toybox.catalog import KINDS
from dreamforge.types import DreamforgeError, Mesh

ORBIT, AZIMUTHS = 24, 8
ELEVATIONS_DEG = (0.0, 15.0, 35.0)  # the middle one is the orbit's
DISTANCE, FOV = 3.2, math.radians(40.0)


def shipped() -> Judge:
    """The evaluator that comes with the package."""
    return network.load(data.asset("judge"))


def judge_mesh(mesh: Mesh, judge: Judge) -> Verdict:
    """The verdict on a mesh as it stands in the world, its front towards +Z."""
    orbited, others = renders(mesh)
    around = judge_pictures(judge, orbited)
    views = judge_pictures(judge, torch.cat([orbited[:: ORBIT // AZIMUTHS], others]))
    verdict = decide(judge.labels, views)
    faced = verdict.kind in KINDS and KINDS[verdict.kind].front
    return replace(verdict, faces=count_faces(around.front)) if faced else verdict


def judge_asset(
    path: str | Path,
    prompt: str = "",
    judge: Judge | None = None,
    stand: Callable[[Mesh], Mesh] | None = None,
) -> dict[str, Any]:
    """The verdict on an exported file (a mesh, or the PNG of a flat scene), flat and ready for JSON.

    ``stand`` brings a mesh into the unit volume, where it stands elsewhere.
    Beside the fields of ``Verdict``: ``right`` as ``wanted.right`` defines it, None where the prompt names no kind of
    the toybox; ``second_right``. Raises DreamforgeError for a file that cannot be read.
    """
    judge = shipped() if judge is None else judge
    path = Path(path)
    if path.suffix.lower() == ".png":
        verdict = decide(judge.labels, judge_pictures(judge, read_picture(path)))
    else:
        from dreamforge.export.read import load_mesh

        mesh = load_mesh(path)
        verdict = judge_mesh(mesh if stand is None else stand(mesh), judge)
    asked = wanted(prompt)
    if asked is None:
        return {**asdict(verdict), "right": None, "second_right": None}
    return {**asdict(verdict), "right": right(verdict, asked), "second_right": second_right(verdict, asked)}


def renders(mesh: Mesh, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """The orbit ``[24,size,size,3]`` at 15 degrees from the front on, and the 16 views at the other elevations."""
    low, middle, high = (math.radians(angle) for angle in ELEVATIONS_DEG)
    turn = 2 * math.pi * torch.arange(ORBIT) / ORBIT
    coarse = turn[:: ORBIT // AZIMUTHS]
    azimuth = torch.cat([turn, coarse, coarse])
    counts = torch.tensor([ORBIT, AZIMUTHS, AZIMUTHS])
    elevation = torch.tensor([middle, low, high]).repeat_interleave(counts)
    behind = muted(len(azimuth), generator(0, "judge"))
    pictures = render_mesh(mesh, orbit(azimuth, elevation, DISTANCE, FOV, size, size), behind).rgb
    return pictures[:ORBIT], pictures[ORBIT:]


def read_picture(path: Path) -> Tensor:
    """``[1,H,W,3]`` in [0, 1]. Raises DreamforgeError for a file that is no picture."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]
    except (OSError, UnidentifiedImageError) as error:
        raise DreamforgeError(f"cannot read {str(path)!r}: it is missing or not a picture; export it again") from error
