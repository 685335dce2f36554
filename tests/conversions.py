"""How alike scenes of other kinds look to a finished run's: PSNR over unseen views, and seconds.

    python -m tests.conversions RUN [--views 100] [--resolution 256] [--out conversions.json]

RUN is a finished run of a radiance field, as of the default recipe. It becomes a mesh and Gaussians, each of these the
other, and each is compared with what it was made of (see ``scenes.convert.agreement``). Beside it stands what hard
edges allow: the figure of a target that covers exactly what the source covers by more than half, in the source's own
colours. A mesh cannot have more, however it is made: where the source is soft, the figure says so.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamforge import runs
from dreamforge.conversion import TARGETS
from dreamforge.rng import derive
from dreamforge.scenes.convert import AROUND, agreement, convert
from dreamforge.slots import make
from dreamforge.types import Scene

ASKED = {
    "hash_nerf to mesh": 30.0,
    "hash_nerf to gaussians": 28.0,
    "gaussians to mesh": 28.0,
    "mesh to gaussians": 28.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conversions", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--only", default="", help="one of them, as 'hash_nerf to mesh'")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    scenes: dict[str, Scene] = {"hash_nerf": runs.load(options.run).scene("cpu")}
    found: list[dict[str, Any]] = []
    for name, asked in ASKED.items():
        source, _, target = name.partition(" to ")
        if options.only and name != options.only:
            continue
        load, began = os.getloadavg()[0], time.perf_counter()
        made = convert(scenes[source], make("scene", TARGETS[target]), 0, torch.device("cpu"))
        seconds = time.perf_counter() - began
        scenes.setdefault(target, made)
        compared = (scenes[source], made, options.views, options.resolution, 0, torch.device("cpu"))
        psnr, solid = agreement(*compared)
        hard = hard_edged(scenes[source], options.views, options.resolution)
        row = {"conversion": name, "asked_db": asked, "db": round(psnr, 2), "solid_db": round(solid, 2)}
        row["hard_edges_db"] = round(hard, 2)
        found.append({**row, "seconds": round(seconds, 1)})
        print(
            f"{name}: {psnr:.2f} dB (asked {asked:g}), {solid:.2f} where both are opaque, hard edges allow {hard:.2f}, "
            f"{seconds:.1f} s, load {load:.1f} before it",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0 if all(one["db"] >= one["asked_db"] for one in found) else 1


@torch.no_grad()
def hard_edged(source: Scene, views: int, resolution: int) -> float:
    """PSNR in dB over the views of ``agreement`` of pictures that show the source's colours where its alpha is above
    1/2 as if they were opaque, and nothing elsewhere."""
    error, pixels = 0.0, 0
    for view in range(views):
        seed = derive(0, "unseen", view)
        picture = source.render(AROUND.sample(1, resolution, 0.0, seed), torch.ones(1, 3), seed)
        own = (picture.rgb - (1 - picture.alpha)) / picture.alpha.clamp_min(0.5)  # without the white behind it
        seen = picture.alpha[..., 0] > 0.5
        error += float((own - picture.rgb)[seen].double().square().sum())
        pixels += 3 * int(seen.sum())
    return -10 * math.log10(max(error / max(pixels, 1), 1e-10))


if __name__ == "__main__":
    sys.exit(main())
