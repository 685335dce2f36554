"""How alike scenes of other kinds look to a finished run's: PSNR over unseen views, and seconds.

    python -m tests.conversions RUN [RUN ...] [--views 100] [--resolution 256] [--out conversions.json]

RUN is a finished run of a radiance field, as of the default recipe; of several the means count. It becomes a mesh and
Gaussians, each of these the other, and each is compared with what it was made of (see ``scenes.convert.agreement``).
Beside it stands what hard edges allow: the figure of a target that covers exactly what the source covers by more than
half, in the source's own colours. A mesh, whose edges are one pixel wide, has little more, however it is made: where
the source is soft, the figure says so.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
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
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--views", type=int, default=100)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--only", default="", help="one of them, as 'hash_nerf to mesh'")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    asked = {name: db for name, db in ASKED.items() if options.only in ("", name)}
    found = [row for run in options.runs for row in of_run(run, asked, options.views, options.resolution)]
    short = False
    for name, least in asked.items():
        rows = [row for row in found if row["conversion"] == name]
        db, seconds = (sum(row[key] for row in rows) / len(rows) for key in ("db", "seconds"))
        short |= db < least
        print(f"{name}: {db:.2f} dB in the mean of {len(rows)} (asked {least:g}), {seconds:.0f} s")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(short)


def of_run(run: Path, asked: dict[str, float], views: int, resolution: int) -> Iterator[dict[str, Any]]:
    """A row for each conversion; prints them as they come."""
    scenes: dict[str, Scene] = {"hash_nerf": runs.load(run).scene("cpu")}
    for name, least in asked.items():
        source, _, target = name.partition(" to ")
        load, began = os.getloadavg()[0], time.perf_counter()
        made = convert(scenes[source], make("scene", TARGETS[target]), 0, torch.device("cpu"))
        seconds = time.perf_counter() - began
        scenes.setdefault(target, made)
        psnr, solid = agreement(scenes[source], made, views, resolution, 0, torch.device("cpu"))
        hard = hard_edged(scenes[source], views, resolution)
        print(
            f"{run.name}, {name}: {psnr:.2f} dB (asked {least:g}), {solid:.2f} where both are opaque, hard edges allow "
            f"{hard:.2f}, {seconds:.1f} s, load {load:.1f} before it",
            flush=True,
        )
        row = {
            "run": run.name,
            "conversion": name,
            "asked_db": least,
            "db": round(psnr, 2),
            "solid_db": round(solid, 2),
        }
        yield {**row, "hard_edges_db": round(hard, 2), "seconds": round(seconds, 1)}


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
