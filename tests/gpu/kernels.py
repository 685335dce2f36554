"""Our CUDA kernels on one GPU: right, clean, and how fast, in minutes, without network.

    python -m tests.gpu.kernels --out results [--device cuda]

Needs one GPU, a checkout, and torch with CUDA, whose NVRTC compiles the kernels; nvcc's compute-sanitizer, nerfacc and
tiny-cuda-nn are used where they are there. Every case is compared with the float64 reference on the CPU; its inputs,
outputs and gradients, and nerfacc's and tiny-cuda-nn's, are written to ``golden.safetensors`` (at most 1 MB), what was
measured to ``kernels.json``. Exit code 1 where something is wrong or slower than a library that is there.
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

from dreamforge import bench_splat
from dreamforge.ops import (
    adam,
    antialias,
    hashgrid,
    isosurface,
    isosurface_native,
    isosurface_reference,
    march,
    mlp,
    peers,
    raster,
    texture,
)
from dreamforge.ops.dispatch import Backend, backends
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.splat import rasterization
from dreamforge.types import DreamforgeError
from tests import splats

GOLDEN = 2**20  # bytes at most
SAMPLES, RAYS = 2**18, 2**14
GRID = HashGrid(16, 2, 19, 16, 256 ** (1 / 15))
WIDTHS = (32, 64, 64, 16)
Answer = dict[str, Tensor]
Case = Callable[[torch.device, bool], Answer]  # device, whether the reference answers (in float64)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(out: Sequence[Tensor], of: dict[str, Tensor]) -> Answer:
    """Outputs, and gradients of a sum that weighs each number differently."""
    loss = sum(
        ((one * torch.linspace(0.5, 1.5, one.numel()).to(one).view(one.shape)).sum() for one in out), out[0].sum() * 0
    )
    grads = torch.autograd.grad(loss, list(of.values()))
    return {f"out{n}": one.detach() for n, one in enumerate(out)} | {
        f"grad.{name}": grad for name, grad in zip(of, grads, strict=True)
    }


def placed(tensors: dict[str, Tensor], device: torch.device, exact: bool) -> dict[str, Tensor]:
    target = {"device": "cpu", "dtype": torch.float64} if exact else {"device": device}
    return {name: tensor.detach().to(**target).requires_grad_() for name, tensor in tensors.items()}


def grid_case(grid: HashGrid, points: int, half: bool = False) -> Case:
    def run(device: torch.device, exact: bool) -> Answer:
        given = {
            "x": torch.rand(points, 3, generator=draws(0)),
            "table": torch.randn(grid.rows, grid.features, generator=draws(1)),
        }
        at = placed(given, device, exact)
        read = given["table"].half().to(at["table"].device) if half else None
        compute = hashgrid.encode_reference if exact else hashgrid.encode_native
        return {**given} | gradients([compute(at["x"], at["table"], grid, read)], at)

    return run


def mlp_case(widths: Sequence[int], rows: int) -> Case:
    def run(device: torch.device, exact: bool) -> Answer:
        weights = {f"w{n}": weight for n, weight in enumerate(mlp.init(widths, draws(0)))}
        given = {"x": torch.randn(rows, widths[0], generator=draws(1)), **weights}
        at = placed(given, device, exact)
        compute = mlp.mlp_reference if exact else mlp.mlp_native
        return {**given} | gradients([compute(at["x"], list(at.values())[1:])], at)

    return run


def packed(rays: int, each: int, device: torch.device | str, dtype: torch.dtype) -> march.Packed:
    ray = torch.arange(rays).repeat_interleave(each)
    t = (torch.arange(each) * 0.03 + torch.rand(rays, 1, generator=draws(0))).flatten().to(device, dtype)
    first = march.offsets(torch.full((rays,), each))
    return march.Packed(ray.to(device), t, torch.zeros(rays * each, 3, device=device, dtype=dtype), first.to(device))


def render_case(rays: int, each: int, channels: int) -> Case:
    def run(device: torch.device, exact: bool) -> Answer:
        given = {
            "density": torch.exp(3 * torch.randn(rays * each, generator=draws(1))),
            "values": torch.rand(rays * each, channels, generator=draws(2)),
        }
        at = placed(given, device, exact)
        samples = packed(rays, each, at["density"].device, at["density"].dtype)
        compute = march.render_reference if exact else march.render_native
        return {**given} | gradients(compute(samples, at["density"], at["values"], 0.03), at)

    return run


def adam_case(rows: int, features: int) -> Case:
    def run(device: torch.device, exact: bool) -> Answer:
        given = {
            name: torch.randn(rows, features, generator=draws(n))
            for n, name in enumerate(("table", "grad", "mean", "square"))
        }
        given["grad"][::3] = 0.0
        at = {name: tensor.detach().clone() for name, tensor in placed(given, device, exact).items()}
        step = adam.sparse_step_reference if exact else adam.sparse_step_native
        step(at["table"], at["grad"], at["mean"], at["square"].abs_(), 0.01, (0.9, 0.99), 1e-15)
        return {**given} | {f"out.{name}": tensor for name, tensor in at.items()}

    return run


def mesh_case(size: int) -> Case:
    """Rasterise, interpolate, smooth: the faces that the core finds are those of the reference, in any precision."""

    def run(device: torch.device, exact: bool) -> Answer:
        given = {
            "pixels": 1.2 * size * torch.rand(2, 40, 2, generator=draws(0)) - 0.1 * size,
            "depth": torch.rand(2, 40, generator=draws(1)) + 0.5,
            "values": torch.rand(40, 2, generator=draws(2)),
        }
        faces = torch.randint(0, 40, (30, 3), generator=draws(3))
        at = placed(given, device, exact)
        faces, across = faces.to(at["depth"].device), antialias.neighbours(faces).to(at["depth"].device)
        single = raster.rasterize_reference(given["pixels"], given["depth"], faces.cpu(), size, size).face
        draw = raster.rasterize_reference if exact else raster.rasterize_native
        mix = raster.interpolate_reference if exact else raster.interpolate_native
        smooth = antialias.antialias_reference if exact else antialias.antialias_native
        found = draw(at["pixels"], at["depth"], faces, size, size)
        color = mix(at["values"], faces, found.face, found.bary)
        out = smooth(color, found, at["pixels"], at["depth"], faces, across)
        wrong = (found.face.cpu() != single).sum().to(out)[None]  # of float32's faces: none
        return {**given} | gradients([out, found.depth], at) | {"out.wrong_faces": wrong * (not exact)}

    return run


def texture_case(points: int) -> Case:
    def run(device: torch.device, exact: bool) -> Answer:
        given = {
            "texels": torch.rand(1, 8, 16, 3, generator=draws(0)),
            "uv": 3 * torch.rand(1, points, 2, generator=draws(1)) - 1,
        }
        at = placed(given, device, exact)
        mix = 4 * torch.rand(1, points, generator=draws(2)).to(at["uv"])
        compute = texture.texture_reference if exact else texture.texture_native
        return {**given} | gradients([compute(texture.pyramid(at["texels"]), at["uv"], mix, "trilinear", "wrap")], at)

    return run


def surface_case(size: tuple[int, int, int], training: bool) -> Case:
    """Random signs. What a number belongs to hangs on the faces, which must be the same."""

    def run(device: torch.device, exact: bool) -> Answer:
        x, cubes = isosurface.grid(size)
        given = {"x": x + 0.02 * torch.randn(x.shape, generator=draws(0)), "s": torch.randn(len(x), generator=draws(1))}
        for n, name in enumerate(("alpha", "beta", "gamma")):
            shape = [(len(cubes), 8), (len(cubes), 12), (len(cubes),)][n]
            given[name] = torch.randn(shape, generator=draws(2 + n))
        at = placed(given, device, exact)
        weights = isosurface_reference.Weights(at["alpha"], at["beta"], at["gamma"], training)
        module = isosurface_reference if exact else isosurface_native
        name = "reference" if exact else "native"
        vertices, faces, deviation = getattr(module, f"flexicubes_{name}")(at["x"], at["s"], size, weights)
        corners, triangles = getattr(module, f"tetrahedra_{name}")(at["x"], at["s"], size)
        leaves = at if training else {key: one for key, one in at.items() if key != "gamma"}
        answer = {**given} | gradients([vertices, deviation, corners], leaves)
        return answer | {"out.faces": faces.to(vertices.dtype), "out.triangles": triangles.to(vertices.dtype)}

    return run


def splat_case(count: int, bases: int, **options: Any) -> Case:
    """Gaussians at 60 x 40 pixels from two cameras; ``options`` of the rasterisation."""

    def run(device: torch.device, exact: bool) -> Answer:
        given = splats.scene(count, 60, 40, bases=bases)
        sizes = {name: given.pop(name) for name in ("width", "height")}
        at = placed(given, device, exact)
        fixed = {"Ks": at.pop("Ks").detach()}
        backend: Backend = "torch" if exact else "native"
        rendered, alphas, _ = rasterization(**at, **fixed, **sizes, backend=backend, **options)
        return {**given} | gradients([rendered, alphas], at)

    return run


CASES: dict[str, Case] = {
    "hashgrid": grid_case(HashGrid(4, 2, 9, 4, 1.7), 300),
    "hashgrid-4": grid_case(HashGrid(3, 4, 8, 3, 2.0), 150),
    "hashgrid-8": grid_case(HashGrid(2, 8, 7, 3, 2.0), 100),
    "hashgrid-half": grid_case(HashGrid(4, 2, 9, 4, 1.7), 300, half=True),
    "mlp": mlp_case((32, 64, 64, 16), 150),
    "mlp-odd": mlp_case((5, 17, 33, 3), 100),
    "mlp-wide": mlp_case((64, 128, 4), 70),
    "render": render_case(60, 12, 3),
    "render-normals": render_case(40, 9, 6),
    "adam": adam_case(500, 2),
    "mesh": mesh_case(24),
    "texture": texture_case(200),
    "surface": surface_case((5, 4, 6), training=False),
    "surface-training": surface_case((4, 6, 5), training=True),
    "splat": splat_case(300, 0),
    "splat-harmonics": splat_case(200, 9, sh_degree=2, rasterize_mode="antialiased", render_mode="RGB+D"),
}


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
        "ours": field(hashgrid.encode_native, mlp.mlp_native, march.render_native),
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


def _timed(call: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = []
    for _ in range(13 if device.type == "cuda" else 2):
        wait()
        began = time.perf_counter()
        call()
        wait()
        taken.append(1e3 * (time.perf_counter() - began))
    return round(median(taken[-10:]), 3)


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
    others = [ms for name, ms in found["ms"].items() if name not in ("ours", "torch")]
    wrong = [case["case"] for case in cases if not case["right"]]
    wrong += [one["library"] for one in found["libraries"] if one.get("right") is False]
    wrong += [name for name, said in found["compute-sanitizer"].items() if said not in ("clean", "not on this machine")]
    wrong += ["slower than another library"] * any(ms < found["ms"]["ours"] for ms in others)
    splat_ms = found["splat ms"]
    wrong += [name for name, ms in splat_ms.items() if ms < splat_ms.get(name.replace("gsplat", "ours"), ms)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kernels.json").write_text(json.dumps(found | {"wrong": wrong}, indent=1) + "\n", "utf-8")
    save(golden, options.out / "golden.safetensors")
    for case in cases:
        print(f"{case['case']:<16} error {case['error']:.1e}  {'right' if case['right'] else 'WRONG'}")
    print(
        json.dumps(
            {key: found[key] for key in ("device", "libraries", "compute-sanitizer", "ms", "splat ms")}, indent=1
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
