"""Small seeded cases of every operation: inputs, outputs, gradients, by the core's kernels or by the reference."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamforge.ops import (
    adam,
    antialias,
    hashgrid,
    isosurface,
    isosurface_native,
    isosurface_reference,
    march,
    mlp,
    raster,
    texture,
)
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.splat import rasterization
from tests import splats

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
