"""``isosurface`` by the compiled core: count, sum up, fill. What each thread writes is its own, backward too."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamforge.ops import cuda, native
from dreamforge.ops.dispatch import call
from dreamforge.ops.isosurface_reference import Size, Weights
from dreamforge.ops.isosurface_tables import loop_table, tetra_table

SIZES = ctypes.c_int32 * 3


class TetraArgs(ctypes.Structure):
    """``TetraArgs`` of extensions/include/isosurface.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "s", "table", "crossed", "first", "vertices", "faces", "grad")],
        *[(name, ctypes.c_void_p) for name in ("grad_x", "grad_s")],
        ("size", SIZES),
    ]


class FlexiArgs(ctypes.Structure):
    """``FlexiArgs`` of extensions/include/flexicubes.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "s", "alpha", "beta", "gamma", "table", "cases", "active", "rows")],
        *[
            (name, ctypes.c_void_p)
            for name in ("lean", "bend", "even", "rank", "first", "vertices", "deviation", "faces", "grad_vertices")
        ],
        *[(name, ctypes.c_void_p) for name in ("grad_deviation", "share", "slots", "grad_x", "grad_s", "grad_alpha")],
        *[(name, ctypes.c_void_p) for name in ("grad_beta", "grad_gamma")],
        ("count", ctypes.c_int64),
        ("size", SIZES),
        ("training", ctypes.c_int32),
        ("scale", ctypes.c_float),
    ]


def flexicubes_native(
    x: Tensor, s: Tensor, size: Size, weights: Weights, level: native.Level = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``isosurface.flexicubes`` at a ``level``, see ``native.Level``."""
    facts = {"size": SIZES(*size), "training": weights.training, "scale": weights.scale}
    given = (weights.alpha, weights.beta, weights.gamma)
    vertices, faces, deviation = _FlexiCubes.apply(x, s, *given, facts, level)
    return vertices, faces, deviation


def tetrahedra_native(x: Tensor, s: Tensor, size: Size, level: native.Level = None) -> tuple[Tensor, Tensor]:
    """``isosurface.marching_tetrahedra`` at a ``level``, see ``native.Level``."""
    vertices, faces = _Tetrahedra.apply(x, s, size, level)
    return vertices, faces


class _FlexiCubes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        s: Tensor,
        alpha: Tensor | None,
        beta: Tensor | None,
        gamma: Tensor | None,
        facts: dict[str, Any],
        level: native.Level,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = {"x": x, "s": s, "alpha": alpha, "beta": beta, "gamma": gamma}
        known = {name: one.contiguous() for name, one in given.items() if one is not None}
        known["table"] = _on(x.device, "loops")
        cubes = facts["size"][0] * facts["size"][1] * facts["size"][2]
        known["cases"] = torch.empty(cubes, dtype=torch.uint8, device=x.device)
        _run("flexicubes_cases", cubes, _flexi_args(facts, **known), x, level)
        known["active"] = (known["cases"] + 1 > 1).nonzero().squeeze(1)  # neither 0 nor 255, which becomes 0
        facts = {**facts, "count": len(known["active"])}
        known["rows"] = torch.empty_like(known["active"], dtype=torch.uint8)
        known["even"] = x.new_empty(facts["count"])
        known |= {name: x.new_empty(facts["count"], width) for name, width in (("lean", 8), ("bend", 12))}
        known["rank"] = torch.empty(cubes, dtype=torch.int32, device=x.device)
        known["first"] = torch.zeros(3, facts["count"] + 1, dtype=torch.int64, device=x.device)
        _run("flexicubes_count", facts["count"], _flexi_args(facts, **known), x, level)
        known["first"] = known["first"].cumsum(1)
        duals, quads, edges = known["first"][:, -1].tolist()
        known["vertices"] = x.new_empty(duals + quads if facts["training"] else duals, 3)
        deviation = x.new_empty(edges)
        faces = torch.empty(quads * (4 if facts["training"] else 2), 3, dtype=torch.int64, device=x.device)
        args = _flexi_args(facts, deviation=deviation, faces=faces, **known)
        _run("flexicubes_vertices", facts["count"], args, x, level)
        _run("flexicubes_faces", facts["count"], args, x, level)
        ctx.mark_non_differentiable(faces)
        ctx.save_for_backward(*known.values())
        ctx.names, ctx.facts, ctx.quads, ctx.level = list(known), facts, quads, level
        ctx.set_materialize_grads(False)
        return known["vertices"], faces, deviation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        known = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        facts, x, (to_vertices, _, to_deviation) = ctx.facts, known["x"], grads
        known["grad_vertices"] = (
            torch.zeros_like(known["vertices"]) if to_vertices is None else to_vertices.contiguous()
        )
        if to_deviation is not None:
            known["grad_deviation"] = to_deviation.contiguous()
        found: dict[str, Tensor] = {}
        for name, wanted in zip(("x", "s", "alpha", "beta", "gamma"), ctx.needs_input_grad, strict=False):
            if wanted:  # every vertex of the grid is written, but only the cubes that the surface crosses
                fresh = torch.empty_like if name in ("x", "s") else torch.zeros_like
                found[f"grad_{name}"] = fresh(known[name])
        if "grad_x" in found or "grad_s" in found:
            known["slots"] = x.new_empty(facts["count"], 8, 4)
        if facts["training"]:
            known["share"] = x.new_empty(ctx.quads, 4, 2)
        args = _flexi_args(facts, **known, **found)
        if facts["training"]:
            _run("flexicubes_share", facts["count"], args, x, ctx.level)
        _run("flexicubes_pull", facts["count"], args, x, ctx.level)
        if "slots" in known:
            _run("flexicubes_gather", len(x), args, x, ctx.level)
        return *(found.get(f"grad_{name}") for name in ("x", "s", "alpha", "beta", "gamma")), None, None


class _Tetrahedra(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, size: Size, level: native.Level) -> tuple[Tensor, Tensor]:
        known = {"x": x.contiguous(), "s": s.contiguous(), "table": _on(x.device, "tetrahedra")}
        known["crossed"] = torch.empty(len(s), dtype=torch.uint8, device=x.device)
        known["first"] = torch.zeros(2, len(s) + 1, dtype=torch.int64, device=x.device)
        _run("tetrahedra_count", len(s), _tetra_args(size, **known), x, level)
        known["first"] = known["first"].cumsum(1)
        vertices, triangles = known["first"][:, -1].tolist()
        points = x.new_empty(vertices, 3)
        faces = torch.empty(triangles, 3, dtype=torch.int64, device=x.device)
        _run("tetrahedra_fill", len(s), _tetra_args(size, vertices=points, faces=faces, **known), x, level)
        ctx.mark_non_differentiable(faces)
        ctx.save_for_backward(*known.values())
        ctx.names, ctx.size, ctx.level = list(known), size, level
        return points, faces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        known = dict(zip(ctx.names, ctx.saved_tensors, strict=True)) | {"grad": grad.contiguous()}
        wanted = zip(("x", "s"), ctx.needs_input_grad, strict=False)
        found = {f"grad_{name}": torch.empty_like(known[name]) for name, asked in wanted if asked}
        args = _tetra_args(ctx.size, **known, **found)
        _run("tetrahedra_backward", len(known["s"]), args, known["x"], ctx.level)
        return found.get("grad_x"), found.get("grad_s"), None, None


def _flexi_args(facts: dict[str, Any], **tensors: Tensor) -> FlexiArgs:
    return FlexiArgs(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, **facts)


def _tetra_args(size: Size, **tensors: Tensor) -> TetraArgs:
    return TetraArgs(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, size=SIZES(*size))


def _run(name: str, items: int, args: ctypes.Structure, like: Tensor, level: native.Level) -> None:
    call("isosurface", name, like, args, (cuda.blocks(items), 1), level)


@cache
def _on(device: torch.device, table: str) -> Tensor:
    return (loop_table() if table == "loops" else tetra_table()).to(device)
