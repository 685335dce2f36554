"""Our CUDA kernels on one GPU: right, clean, and how fast, in minutes, without network.

    python -m tests.gpu.kernels --out results [--device cuda]

Needs one GPU, a checkout, and torch with CUDA, whose NVRTC compiles the kernels; nvcc's compute-sanitizer, nerfacc,
tiny-cuda-nn and gsplat are used where they are there. Every case is compared with the float64 reference on the CPU; its
inputs, outputs and gradients, and the libraries', are written to ``golden.safetensors`` (at most 1 MB), how splatting
grows with its sizes to ``growth.json`` and ``growth.png`` (with Pillow; later, ``python -m dreamforge.bench_growth
growth.json`` draws it), all else to ``kernels.json``. Exit code 1 where something is wrong or slower than a library
that is there.
"""

import argparse
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dreamforge import bench_growth, bench_splat
from dreamforge.ops import (
    hashgrid,
    march,
    mlp,
    peers,
)
from dreamforge.ops.dispatch import backends
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.splat import rasterization
from dreamforge.stopwatch import load
from dreamforge.types import DreamforgeError
from tests import splats
from tests.gpu.kernel_cases import CASES, Answer, draws, grid_case, packed, render_case

GOLDEN = 2**20  # bytes at most
SAMPLES, RAYS = 2**18, 2**14
GRID = HashGrid(16, 2, 19, 16, 256 ** (1 / 15))
WIDTHS = (32, 64, 64, 16)


def compared(device: torch.device, golden: Answer) -> list[dict[str, Any]]:
    """Every case: its greatest error, relative to the greatest number of each tensor; numbers go to ``golden``."""
    found = []
    for name, case in CASES.items():
        ours, exact = case(device, False), case(device, True)
        errors = {key: _error(ours[key], exact[key]) for key in ours if key.startswith(("out", "grad."))}
        golden |= {f"{name}/{key}": tensor.detach().float().cpu() for key, tensor in ours.items()}
        found.append(
            {"case": name, "error": max(errors.values()), "right": max(errors.values()) < 1e-4, "errors": errors}
        )
    return found


def _error(one: Tensor, exact: Tensor) -> float:
    scale = exact.abs().max().clamp_min(1e-12)
    return float((one.detach().double().cpu() - exact.cpu()).abs().max() / scale)


def libraries(device: torch.device, golden: Answer) -> list[dict[str, Any]]:
    """tiny-cuda-nn's encoding and nerfacc's compositing of our cases, where they run."""
    found: list[dict[str, Any]] = []
    grid, case = HashGrid(4, 2, 9, 4, 1.7), grid_case(HashGrid(4, 2, 9, 4, 1.7), 300)(device, False)
    calls: dict[str, Callable[[], Tensor]] = {
        "tinycudann": lambda: peers.encode_tinycudann(case["x"].to(device), case["table"].to(device), grid),
        "nerfacc": lambda: peers.render_nerfacc(packed(60, 12, device, torch.float32), *_rendered(device), 0.03)[0],
        "gsplat": lambda: rasterization(**_splats(device), backend="gsplat")[0],
    }
    wanted = {"tinycudann": case["out0"], "nerfacc": render_case(60, 12, 3)(device, False)["out0"]}
    wanted["gsplat"] = rasterization(**_splats(device), backend="native")[0]
    for name, call in calls.items():
        try:
            out = call().detach()
        except (DreamforgeError, RuntimeError) as error:
            found.append({"library": name, "missing": str(error)})
            continue
        golden[f"{name}/out0"] = out.float().cpu()
        error = _error(out, wanted[name])
        found.append({"library": name, "error": error, "right": error < 1e-3})
    return found


def _splats(device: torch.device, scene: dict[str, Any] | None = None) -> dict[str, Any]:
    given = scene or splats.scene(300, 60, 40)
    return {name: one.to(device) if isinstance(one, Tensor) else one for name, one in given.items()}


def _rendered(device: torch.device) -> tuple[Tensor, Tensor]:
    case = render_case(60, 12, 3)(device, False)
    return case["density"].to(device), case["values"].to(device)


def speed(device: torch.device) -> dict[str, float]:
    """Milliseconds of hash grid, perceptron and compositing of 2^18 samples, forward and backward."""
    x = torch.rand(SAMPLES, 3, generator=draws(0)).to(device)
    table = GRID.table(draws(1)).to(device).requires_grad_()
    weights = [weight.to(device).requires_grad_() for weight in mlp.init(WIDTHS, draws(2))]
    samples = packed(RAYS, SAMPLES // RAYS, device, torch.float32)

    def field(
        encode: Callable[..., Tensor], network: Callable[..., Tensor], render: Callable[..., Any]
    ) -> Callable[[], object]:
        def both_ways() -> object:
            raw = network(encode(x, table, GRID), weights)
            density, color = torch.nn.functional.softplus(raw[:, 0]), torch.sigmoid(raw[:, 1:4])
            return torch.autograd.grad(render(samples, density, color, 0.03)[0].sum(), [table, *weights])

        return both_ways

    def all_theirs() -> object:
        theirs = _whole_tinycudann(device)
        raw = theirs(x).float()
        density, color = torch.nn.functional.softplus(raw[:, 0]), torch.sigmoid(raw[:, 1:4])
        return torch.autograd.grad(
            peers.render_nerfacc(samples, density, color, 0.03)[0].sum(), list(theirs.parameters())
        )

    ways = {
        "ours": field(hashgrid.encode, lambda x, weights: mlp.fused_mlp(x, weights)[0], march.render),
        "torch": field(hashgrid.encode_reference, mlp.mlp_reference, march.render_reference),
        "tiny-cuda-nn, torch, nerfacc": field(peers.encode_tinycudann, mlp.mlp_reference, peers.render_nerfacc),
        "tiny-cuda-nn in half precision, nerfacc": all_theirs,
    }
    found = {}
    for name, call in ways.items():
        try:
            found[name] = _timed(call, device)
        except (DreamforgeError, RuntimeError):
            continue
    return found


@cache
def _whole_tinycudann(device: torch.device) -> torch.nn.Module:
    """tiny-cuda-nn's own encoding and network as its users take them, with weights of its own."""
    library, sizes = peers.module("tinycudann", device), {"n_neurons": WIDTHS[1], "n_hidden_layers": len(WIDTHS) - 2}
    network = {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None", **sizes}
    module: torch.nn.Module = library.NetworkWithInputEncoding(3, WIDTHS[-1], peers.tinycudann_config(GRID), network)
    return module.to(device)


def splat_speed(device: torch.device) -> dict[str, float]:
    """Milliseconds of 100 000 and 200 000 Gaussians at 512 x 512, forward and backward, by ours and by gsplat."""
    found = {}
    for count in (100_000, 200_000) if device.type == "cuda" else (1000,):
        for name, backend in (("ours", "native"), ("gsplat", "gsplat")):
            given = _splats(device, bench_splat.scene(count))
            leaves = [given[key].requires_grad_() for key in ("means", "quats", "scales", "opacities", "colors")]

            def both_ways(given: Any = given, leaves: Any = leaves, backend: Any = backend) -> object:
                return torch.autograd.grad(rasterization(**given, backend=backend)[0].sum(), leaves)

            try:
                found[f"{name}, {count}"] = _timed(both_ways, device)
            except (DreamforgeError, RuntimeError):
                continue
    return found


def grown(device: torch.device, out: Path) -> list[str]:
    """Splatting over sizes: lines for people; ``growth.json`` and, with Pillow, ``growth.png`` go to ``out``."""
    plan = bench_growth.WHOLE if device.type == "cuda" else bench_growth.QUICK
    points = list(bench_growth.measure(device, plan))
    bench_growth.save(bench_growth.facts(points, device, load(), plan), out)
    return [bench_growth.row(point) for point in points]


def _timed(call: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = []
    for _ in range(60 if device.type == "cuda" else 2):
        wait()
        began = time.perf_counter()
        call()
        wait()
        taken.append(1e3 * (time.perf_counter() - began))
    return round(median(taken[-50:]), 3)


def sanitized(device: torch.device) -> dict[str, str]:
    """What compute-sanitizer's tools say of all cases."""
    tool = shutil.which("compute-sanitizer")
    if device.type != "cuda" or tool is None or importlib.util.find_spec("torch") is None:
        return {"compute-sanitizer": "not on this machine"}
    found = {}
    for name in ("memcheck", "racecheck"):
        command = [
            tool,
            "--tool",
            name,
            "--error-exitcode",
            "9",
            sys.executable,
            "-m",
            "tests.gpu.kernels",
            "--cases-only",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        found[name] = "clean" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.kernels", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda", help="cpu rehearses it with the CPU's kernels")
    parser.add_argument("--cases-only", action="store_true", help="run the cases, as under compute-sanitizer")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device: --device cpu rehearses.", file=sys.stderr)
        return 2
    golden: Answer = {}
    cases = compared(device, golden)
    if options.cases_only:
        return 0 if all(case["right"] for case in cases) else 1
    found = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "backends": [vars(one) for one in backends()],
        "cases": cases,
        "libraries": libraries(device, golden),
        "compute-sanitizer": sanitized(device),
        "ms": speed(device),
        "splat ms": splat_speed(device),
    }
    found["growth"] = grown(device, bench_growth.made(options.out))
    others = [ms for name, ms in found["ms"].items() if name not in ("ours", "torch")]
    wrong = [case["case"] for case in cases if not case["right"]]
    wrong += [one["library"] for one in found["libraries"] if one.get("right") is False]
    wrong += [name for name, said in found["compute-sanitizer"].items() if said not in ("clean", "not on this machine")]
    wrong += ["slower than another library"] * any(ms < found["ms"]["ours"] for ms in others)
    splat_ms = found["splat ms"]
    wrong += [name for name, ms in splat_ms.items() if ms < splat_ms.get(name.replace("gsplat", "ours"), ms)]
    (options.out / "kernels.json").write_text(json.dumps(found | {"wrong": wrong}, indent=1) + "\n", "utf-8")
    save(golden, options.out / "golden.safetensors")
    for case in cases:
        print(f"{case['case']:<16} error {case['error']:.1e}  {'right' if case['right'] else 'WRONG'}")
    print(
        json.dumps(
            {key: found[key] for key in ("device", "libraries", "compute-sanitizer", "ms", "splat ms", "growth")},
            indent=1,
        )
    )
    print(f"wrong: {', '.join(wrong)}" if wrong else "all is right")
    return 1 if wrong else 0


def save(tensors: Answer, path: Path) -> None:
    """A safetensors file, written by hand: a bare machine has torch alone. Raises where it is above 1 MB."""
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).tolist())  # numpy may not be there
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    assert len(body) + len(text) < GOLDEN, f"{len(body)} bytes of golden data"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


if __name__ == "__main__":
    sys.exit(main())
