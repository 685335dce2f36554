"""Points of .ply files, and which of three things a .ply file holds: triangles, points or Gaussians."""

import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dreamforge.geometry.read import MOST_VERTICES
from dreamforge.types import DreamforgeError


@dataclass(frozen=True)
class Cloud:
    """``points [N,3]`` float32; ``colors [N,3]`` sRGB in [0, 1], or None."""

    points: Tensor
    colors: Tensor | None = None


def ply_kind(content: bytes) -> Literal["mesh", "points", "splats"]:
    """What the header of a .ply promises; "mesh" for one that promises nothing, whose reader says what is wrong."""
    head = content[: 1 << 16].partition(b"end_header")[0].decode("ascii", errors="replace")
    if re.search(r"^\s*property\s+\S+\s+(f_dc_0|scale_0|rot_0)\s*$", head, re.MULTILINE):
        return "splats"
    lists = re.search(r"^\s*property\s+list\s", head, re.MULTILINE)
    empty = re.search(r"^\s*element\s+face\s+0+\s*$", head, re.MULTILINE)
    has_points = re.search(r"^\s*element\s+vertex\s", head, re.MULTILINE)
    return "points" if has_points and (empty or not lists) else "mesh"


def cloud_of(content: bytes, name: str) -> tuple[Cloud, list[str]]:
    """The points of the bytes of a .ply file, and what was left out; ``name`` is for the sentences.

    Raises DreamforgeError for what is damaged, too large, or has fewer than 4 points.
    """
    import trimesh

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(BytesIO(content), file_type="ply", process=False)
        clouds = [one for one in scene.geometry.values() if isinstance(one, trimesh.PointCloud)]
        points = torch.from_numpy(np.concatenate([np.asarray(one.vertices, np.float32) for one in clouds]))
        levels = np.concatenate([np.asarray(one.colors).reshape(-1, 4) for one in clouds])
        colors = torch.from_numpy(levels[:, :3].astype(np.float32) / 255)
    except Exception as error:  # as of geometry.read.pieces
        raise DreamforgeError(f"{name!r} is damaged, or holds no points: export it again") from error
    right = torch.isfinite(points).all(1)
    lost = int((~right).sum())
    said = [f"{name}: {lost} of {len(points)} points are not finite and left out"] if lost else []
    points = points[right]
    if not 4 <= len(points) <= MOST_VERTICES:
        raise DreamforgeError(f"{name!r} has {len(points)} points, expected 4 to {MOST_VERTICES}: take another file")
    return Cloud(points, colors[right] if len(colors) == len(right) else None), said
