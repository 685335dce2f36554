"""The measurement behind ``python -m tests.gpu.priors``: its cases, its limits, its table.

The networks have their full size and random weights, see ``random_prior``. Every case runs in a process of its own, so
one that fails hides no other. Prints asked and measured, writes ``OUT/CASE.json`` and ``OUT/priors.json``, and exits
with 1 where a figure falls short. ``--tiny``: thin networks, here and at once, which shows that the command works and
says nothing about speed or memory.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreamforge import config, devices
from dreamforge.bench import LEAST, split
from dreamforge.config import Recipe
from dreamforge.files import atomic_write
from dreamforge.manifest import describe, installed
from dreamforge.priors.estimate import OVERHEAD
from dreamforge.priors.memory import total_memory
from dreamforge.stopwatch import PARTS, load
from dreamforge.types import DreamforgeError

OUTSIDE = 0.10  # of an SDS step's time, at most, outside network and encoder
VSD = 2.2  # times an SDS step, at most
STEPS, WARMUP = 24, 6
SECONDS = 55  # for one case, loading included: all of them within 8 minutes
PRIOR = "tests.gpu.random_prior.RandomPrior"

THIN_SCENE = {"levels": 4, "log2_entries": 10, "occupancy_cells": 16, "samples": 16}


@dataclass(frozen=True)
class Case:
    """``recipe`` with a random ``network``; ``limit``: GB of the card that it must do with, 0 for no limit.

    ``against``: the SDS case whose step a VSD step is compared with; "" asks for the share of an SDS step instead.
    """

    name: str
    network: str
    recipe: str = "canvas"
    guidance: str = "sds.SDS"
    against: str = ""
    vram: int = 0
    limit: float = 0.0
    timed: bool = True

    def built(self, tiny: bool) -> Recipe:
        small: dict[str, object] = {"resolution": 16, "prior.size": 64} if tiny else {}
        if tiny and self.recipe != "canvas":
            small |= {f"scene.{name}": value for name, value in THIN_SCENE.items()}
        values = {
            "prior": {"use": PRIOR, "network": self.network, "vram": self.vram, "thin": tiny},
            "views": 1,
            **({"guidance": {"use": self.guidance}} if self.recipe == "canvas" else {}),
            **small,
        }
        return config.load(self.recipe, values=values)


CASES = (
    Case("sd15-sds", "sd15"),
    Case("sd15-vsd", "sd15", guidance="vsd.VSD", against="sd15-sds"),
    Case("sd15-sds-3d", "sd15", recipe="dreamfusion-sd", vram=6, limit=6.0),
    Case("sd15-vsd-3d", "sd15", recipe="prolificdreamer", vram=8, limit=10.0, timed=False),
    Case("sdxl-sds", "sdxl"),
    Case("sdxl-vsd", "sdxl", guidance="vsd.VSD", against="sdxl-sds"),
    Case("sd3-sds", "sd3-medium"),
    Case("sd3-vsd", "sd3-medium", guidance="vsd.VSD", against="sd3-sds"),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. ``short``: it was measured, and is not what was asked, or it could not be measured."""

    what: str
    asked: str
    measured: str
    short: bool


def measure(case: Case, device: str, tiny: bool) -> dict[str, Any]:
    """Milliseconds of a step by part, and the most memory that torch held, in bytes (0 where it does not say)."""
    recipe, where = replace(case.built(tiny), device=device), devices.pick(device)
    on_cuda = where.type == "cuda"
    if on_cuda and case.limit:  # what the card would have left for torch
        left = case.limit * 1e9 - OVERHEAD["cuda"]
        torch.cuda.set_per_process_memory_fraction(min(left / (total_memory(where) or left), 1.0))
    before = load()
    steps, warmup = (LEAST + 1, 1) if tiny else (STEPS, WARMUP)
    (found,) = split(recipe, steps, warmup)
    return {
        "case": asdict(case),
        "ms": found.ms,
        "step_ms": found.total,
        "asked": found.asked,
        "learnt": found.learnt,
        "allocated": torch.cuda.max_memory_allocated() if on_cuda else 0,
        "reserved": torch.cuda.max_memory_reserved() if on_cuda else 0,
        "device": describe(where),
        "torch": installed("torch"),
        "diffusers": installed("diffusers"),
        "load": before,
        "tiny": tiny,
    }


def apart(case: Case, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """``measure`` in a process of its own; ``{"error": ...}`` where it fails or takes too long."""
    given = ["--out", str(out), "--only", case.name, "--device", options.device, *(["--tiny"] * options.tiny)]
    (out / f"{case.name}.json").unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.gpu.priors", *given], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {SECONDS} s"}
    if not (out / f"{case.name}.json").is_file():
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads((out / f"{case.name}.json").read_text("utf-8"))
    return found


def here(case: Case, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """``measure`` in this process; an error is an answer too."""
    try:
        return measure(case, options.device, options.tiny)
    except Exception as error:  # whatever torch and the libraries raise
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def rows(case: Case, found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """What was asked of a case and what was measured; ``found`` holds the cases so far."""
    one = found[case.name]
    if "error" in one:
        return [Row(case.name, "it runs", one["error"], True)]
    result = []
    if case.timed and not case.against:
        share = 1 - (one["ms"]["network"] + one["ms"]["encode"]) / one["step_ms"]
        text = f"outside network and encoder, of {one['step_ms']:.0f} ms"
        result.append(Row(f"{case.name}: {text}", f"<= {OUTSIDE:.0%}", f"{share:.1%}", share > OUTSIDE))
    if case.timed and case.against:
        base = found.get(case.against, {"error": "not run"})
        if "error" in base:
            result.append(Row(f"{case.name}: time of an SDS step", f"<= {VSD}", f"no {case.against}", True))
        else:
            times = one["step_ms"] / base["step_ms"]
            text = f"times an SDS step, {one['step_ms']:.0f} ms"
            result.append(Row(f"{case.name}: {text}", f"<= {VSD}", f"{times:.2f}", times > VSD))
    gb = (one["reserved"] + OVERHEAD["cuda"]) / 1e9
    held = f"{gb:.1f} GB ({one['allocated'] / 1e9:.1f} in use)" if one["reserved"] else "not on this device"
    if case.limit:
        short = bool(one["reserved"]) and gb > case.limit
        result.append(Row(f"{case.name}: memory", f"<= {case.limit:g} GB", held, short))
    else:
        result.append(Row(f"{case.name}: memory", "reported", held, False))
    return result


def show(row: Row) -> None:
    print(f"{row.what:<64}{row.asked:>12}  {row.measured}{'  SHORT' if row.short else ''}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    about = "Measure what a step with the large priors costs on one GPU."
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.priors", description=about)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one case, in this process")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="thin networks, in this process: only a rehearsal")
    options = parser.parse_args(arguments)
    try:
        devices.pick(options.device)
    except DreamforgeError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    table: list[Row] = []
    for case in CASES:
        if options.only in (None, case.name):
            found[case.name] = (here if options.only or options.tiny else apart)(case, options.out, options)
            atomic_write(options.out / f"{case.name}.json", json.dumps(found[case.name], indent=1).encode())
            lines = rows(case, found) if options.only is None else []
            table += lines
            for line in lines:
                show(line)
    if options.only:
        one = found[options.only]
        print(one.get("error") or " ".join(f"{part} {one['ms'][part]:.1f} ms" for part in PARTS))
        return int("error" in one)
    short = [row for row in table if row.short]
    everything = {"rows": [asdict(row) for row in table], "cases": found}
    atomic_write(options.out / "priors.json", json.dumps(everything, indent=1).encode())
    print(f"{len(short)} of {len(table)} short" if short else "nothing is short")
    wrong = short if not options.tiny else [one for one in found.values() if "error" in one]
    return int(bool(wrong))
