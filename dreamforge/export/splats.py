"""Writes 3D Gaussians as the PLY that viewers and game engines know (3DGS, Kerbl et al. 2023)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamforge.files import atomic_write
from dreamforge.geometry.splats import NAMES, REST, TURNED, turned, turned_rotation
from dreamforge.types import DreamforgeError, Splats


def write_splats(
    splats: Splats, path: str | os.PathLike[str], antialiased: bool = False, extras: Mapping[str, Any] | None = None
) -> None:
    """Raw parameters, harmonics filled up to degree 3, channel after channel; ``extras`` become comments.

    ``antialiased`` scenes say so, as viewers that know the difference ask for. Raises DreamforgeError for numbers that
    are not finite and for a path that cannot be written.
    """
    count, known = len(splats.means), splats.sh.shape[1]
    sh = torch.zeros(count, REST + 1, 3)
    sh[:, :known] = splats.sh.detach().cpu()
    sh = sh * TURNED[:, None]
    columns = [
        turned(splats.means.detach().cpu()),
        torch.zeros(count, 3),
        sh[:, 0],
        sh[:, 1:].transpose(1, 2).reshape(count, 3 * REST),
        splats.logit_opacities.detach().cpu()[:, None],
        splats.log_scales.detach().cpu(),
        turned_rotation(splats.quaternions.detach().cpu()),
    ]
    table = torch.cat(columns, 1).numpy().astype("<f4")
    if not np.isfinite(table).all():
        wrong = int((~np.isfinite(table)).any(1).sum())
        raise DreamforgeError(f"{wrong} of {count} Gaussians have numbers that are not finite; train again.")
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(["comment SplatRenderMode: mip"] if antialiased else []),
        *(f"comment {json.dumps(key)} {json.dumps(value)}" for key, value in sorted((extras or {}).items())),
        f"element vertex {count}",
        *(f"property float {name}" for name in NAMES),
        "end_header\n",
    ]
    atomic_write(Path(path), "\n".join(header).encode("ascii") + table.tobytes())
