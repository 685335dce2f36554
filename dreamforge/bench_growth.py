"""``dreamforge bench --growth``: how splatting's time grows with Gaussians and with pixels, ours beside others.

The scene is that of ``bench_splat``: more Gaussians are as large as few, so their tiles grow with their number; more
pixels show the same scene finer. gsplat itself runs on CUDA alone; on a CPU its functions in torch take its place, as
``bench_gsplat`` makes them runnable. ``growth.json`` has what was measured, ``growth.png`` draws it.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dreamforge import bench_gsplat, bench_splat
from dreamforge.bench_plot import Line, Panel, chart
from dreamforge.files import atomic_write_all
from dreamforge.manifest import describe
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.splat import rasterization
from dreamforge.stopwatch import wait
from dreamforge.types import DreamforgeError

OURS, REFERENCE, GSPLAT, GSPLAT_TORCH = "ours", "torch reference", "gsplat", "gsplat's functions in torch"
MOST = 400_000  # Gaussians in tiles, for what loops in Python: about 20 s and 5 GB on a CPU
BUSY = 0.5  # processors that others use: above it a point is measured again
AGAIN = 60.0  # seconds for all such repeats together
LEAVES = ("means", "quats", "scales", "opacities", "colors")
Draw = Callable[[bench_splat.Scene], Tensor]


@dataclass(frozen=True)
class Plan:
    """``counts`` of Gaussians at ``size`` pixels a side, ``sizes`` of ``count``; each time within about ``seconds``."""

    counts: tuple[int, ...] = (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    count: int = 100_000
    size: int = 512
    seconds: float = 1.5
    calls: int = 13

    def points(self) -> list[tuple[int, int]]:
        """Gaussians and pixels of every point, once each."""
        return list(dict.fromkeys([(n, self.size) for n in self.counts] + [(self.count, size) for size in self.sizes]))


WHOLE = Plan()
QUICK = Plan((30, 100), (16, 32), 100, 32, 0.05, 2)  # shows that it works; no result


@dataclass(frozen=True)
class Point:
    """Median milliseconds of one way, after a first call where one takes less than half of the plan's seconds.

    ``intersections``: pairs of a Gaussian and a tile of ours; ``others``: processors that other work used meanwhile
    (None where the system does not say), ``tries``: 2 where the first had too much of it; ``apart``: the greatest
    difference from our picture. ``missing``: why there are no times.
    """

    way: str
    gaussians: int
    pixels: int
    intersections: int
    forward_ms: float | None = None
    backward_ms: float | None = None
    others: float | None = None
    tries: int = 0
    apart: float | None = None
    missing: str = ""


def measure(device: torch.device, plan: Plan | None = None) -> Iterator[Point]:
    """Every point by every way of the device, as they are measured. Raises DreamforgeError where ours does not run."""
    plan, spare = plan or WHOLE, AGAIN
    for count, size in plan.points():
        given = scene(count, size, device)
        ours, _, meta = rasterization(**given, backend="native")
        pairs = len(meta["flatten_ids"])
        for name, draw in ways(device).items():
            if name not in (OURS, GSPLAT) and pairs > MOST:
                yield Point(name, count, size, pairs, missing=f"more than {MOST} Gaussians in tiles take it too long")
                continue
            facts: dict[str, Any] = {"way": name, "gaussians": count, "pixels": size, "intersections": pairs}
            try:
                found = [_times(draw, given, ours, plan)]
                if (found[0]["others"] or 0.0) > BUSY and spare > 0:
                    began = time.perf_counter()
                    found.append(_times(draw, given, ours, plan))
                    spare -= time.perf_counter() - began
                quietest = min(found, key=lambda one: one["others"] or 0.0)
                yield Point(**facts, **quietest, tries=len(found))
            except (DreamforgeError, RuntimeError) as error:  # not installed, or it does not compile here
                if name == OURS:
                    raise
                yield Point(**facts, missing=str(error).strip().partition("\n")[0])


def scene(count: int, size: int, device: torch.device) -> bench_splat.Scene:
    """That of ``bench_splat`` seen with another number of pixels."""
    given = bench_splat.scene(count)
    finer = torch.tensor([size / bench_splat.SIZE, size / bench_splat.SIZE, 1])
    given |= {"Ks": given["Ks"] * finer[:, None], "width": size, "height": size}
    return {name: one.to(device) if isinstance(one, Tensor) else one for name, one in given.items()}


def ways(device: torch.device) -> dict[str, Draw]:
    """What can be compared on a device, ours first."""

    def by(backend: Backend) -> Draw:
        return lambda given: rasterization(**given, backend=backend)[0]

    theirs = {GSPLAT: by("gsplat")} if device.type == "cuda" else {GSPLAT_TORCH: _gsplat_torch()}
    return {OURS: by("native"), REFERENCE: by("torch"), **theirs}


def _gsplat_torch() -> Draw:
    """The picture that a gradient goes through has the tiles of the last one: their loop in Python has no gradient."""
    last: list[bench_gsplat.Tiles] = []

    def draw(given: bench_splat.Scene) -> Tensor:
        if not given["means"].requires_grad:
            last[:] = [bench_gsplat.tiles(given)]
        return bench_gsplat.draw(given, last[0])

    return draw


def _times(draw: Draw, given: bench_splat.Scene, ours: Tensor, plan: Plan) -> dict[str, Any]:
    """The fields of a ``Point`` that are measured."""
    began, busy, own = time.perf_counter(), _busy(), time.process_time()
    picture, forward = _timed(lambda: draw(given), ours.device, plan)
    apart = float((picture - ours).abs().max())
    leaves = {key: given[key].detach().clone().requires_grad_() for key in LEAVES}
    picture = draw(given | leaves)
    pull = torch.rand(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours) - 0.5
    _, backward = _timed(
        lambda: torch.autograd.grad(picture, list(leaves.values()), pull, retain_graph=True), ours.device, plan
    )
    others = None
    if busy is not None and (now := _busy()) is not None:
        others = max(0.0, now - busy - (time.process_time() - own)) / (time.perf_counter() - began)
        others = round(others, 2)
    return {"forward_ms": forward, "backward_ms": backward, "others": others, "apart": apart}


def _timed(call: Callable[[], Any], device: torch.device, plan: Plan) -> tuple[Any, float]:
    """What a call answers, and its median milliseconds; the first does not count where there is another."""
    if device.type == "cuda":
        call()  # it may compile, which must not use up the seconds
    taken: list[float] = []
    while not taken or (len(taken) < plan.calls and sum(taken) < plan.seconds):
        wait(device)
        began = time.perf_counter()
        answer = call()
        wait(device)
        taken.append(time.perf_counter() - began)
    return answer, round(1e3 * median(taken[1:] or taken), 4)


def _busy(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that all processors have worked since the start, for whoever; None where the system does not say."""
    if not stat.is_file():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text("ascii").split(None, 9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def facts(
    points: Sequence[Point], device: torch.device, before: float | None, plan: Plan | None = None
) -> dict[str, Any]:
    """What ``growth.json`` has. ``before``: the load before the first point."""
    head = {"device": describe(device), "threads": torch.get_num_threads(), "torch": torch.__version__, "load": before}
    return head | {"plan": asdict(plan or WHOLE), "points": [asdict(point) for point in points]}


def row(point: Point) -> str:
    """A line for people."""
    what = f"{point.gaussians} Gaussians, {point.intersections} in tiles, {point.pixels}x{point.pixels}: {point.way}"
    if point.missing:
        return f"{what} not measured: {point.missing}"
    times = f"{what} {point.forward_ms:g} ms forward, {point.backward_ms:g} ms backward"
    other = "" if point.others is None else f", others used {point.others:g} processors"
    return times + other + (" at the second try" if point.tries > 1 else "")


def picture(found: Mapping[str, Any]) -> bytes:
    """``growth.json`` -> a PNG file: forward and backward over Gaussians and over pixels. Needs Pillow."""
    plan, points = found["plan"], [point for point in found["points"] if not point["missing"]]
    columns = [
        ("Gaussians", "gaussians", f"at {plan['size']}x{plan['size']} pixels", ("pixels", plan["size"])),
        ("pixels a side", "pixels", f"of {short(plan['count'])} Gaussians", ("gaussians", plan["count"])),
    ]
    panels = []
    for time_of in ("forward", "backward"):
        for label, over, title, (fixed, value) in columns:
            here = [point for point in points if point[fixed] == value]
            lines = [
                Line(way, sorted((p[over], p[f"{time_of}_ms"]) for p in here if p["way"] == way))
                for way in (OURS, REFERENCE, GSPLAT, GSPLAT_TORCH)
            ]
            below = {p[over]: f"{short(p['intersections'])}" for p in here}
            panels.append(Panel(f"{time_of}, {title}", label, [line for line in lines if line.points], below))
    load = f", load {found['load']:g} before" if found["load"] is not None else ""
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    head = f"Splatting on {found['device']}, {threads}, torch {found['torch']}{load}"
    return chart(head, panels, "ms", "in tiles")


def short(number: int) -> str:
    """1234567 -> 1.2 M"""
    for unit, name in ((1_000_000, " M"), (1000, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def made(folder: Path) -> Path:
    """The folder, made where it is not there. Raises DreamforgeError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DreamforgeError(f"cannot make the folder {str(folder)!r} ({error.strerror}): choose another.") from error
    return folder


def save(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``growth.json`` and, where Pillow is installed, ``growth.png``; answers what was written."""
    files = {folder / "growth.json": (json.dumps(found, indent=1) + "\n").encode()}
    if importlib.util.find_spec("PIL") is not None:
        files[folder / "growth.png"] = picture(found)
    atomic_write_all(files)
    return list(files)


if __name__ == "__main__":  # draws a growth.json that came from a machine without Pillow
    source = Path(sys.argv[1])
    print(*save(json.loads(source.read_text("utf-8")), source.parent))
