"""Gaussians and cameras for tests of splatting."""

import math
from typing import Any

import torch
from torch import Tensor

from dreamforge.ops import splat
from dreamforge.types import Splats
from tests.agreement import assert_agrees

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def one(
    x: float = 0.0, y: float = 0.0, z: float = 2.0, scale: float = 0.1, opacity: float = 0.8, **more: Any
) -> dict[str, Any]:
    """A round red Gaussian before a camera of 20 x 12 pixels and a focal length of 40."""
    K = torch.tensor([[[40.0, 0, 10], [0, 40, 6], [0, 0, 1]]])
    return {
        "means": torch.tensor([[x, y, z]]),
        "quats": torch.tensor([[2.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), scale),
        "opacities": torch.tensor([opacity]),
        "colors": torch.tensor([[1.0, 0.25, 0]]),
        "viewmats": torch.eye(4)[None],
        "Ks": K,
        "width": 20,
        "height": 12,
    } | more


def cameras(count: int, width: int, height: int, distance: float = 3.0) -> tuple[Tensor, Tensor]:
    """``viewmats [count,4,4]`` around the origin that look at it, slightly from above, and ``Ks`` off the centre."""
    views = []
    for number in range(count):
        a, b = 0.9 * number + 0.2, 0.3
        around = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
        above = torch.tensor([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
        view = torch.eye(4)
        view[:3, :3] = above @ around
        view[:3, 3] = torch.tensor([0.05, -0.1, distance + 0.3 * number])
        views.append(view)
    focal = 1.2 * max(width, height)
    K = torch.tensor([[focal, 0, 0.45 * width], [0, 1.1 * focal, 0.55 * height], [0, 0, 1]])
    return torch.stack(views), K.expand(count, 3, 3).clone()


def scene(
    count: int, width: int, height: int, views: int = 2, channels: int | None = 3, bases: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Arguments of ``rasterization``, of float32. ``bases``: of the harmonics, in the place of ``channels``."""
    draws = torch.Generator().manual_seed(seed)
    viewmats, Ks = cameras(views, width, height)
    colors = torch.rand(count, channels or 3, generator=draws)
    if bases:
        colors = 0.5 * torch.randn(count, bases, 3, generator=draws)
    return {
        "means": 2 * torch.rand(count, 3, generator=draws) - 1,
        "quats": torch.randn(count, 4, generator=draws),
        "scales": torch.exp(torch.randn(count, 3, generator=draws) - 2.5),
        "opacities": torch.rand(count, generator=draws),
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
        "width": width,
        "height": height,
        "backgrounds": torch.rand(views, 3 if bases else channels or 3, generator=draws),
    }


def answers(given: dict[str, Any], dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """Pictures, alpha, what is between, and gradients of a random sum of pictures and alphas."""
    tensors = {key: one.detach().to(dtype) if isinstance(one, Tensor) else one for key, one in given.items()}
    names = [*NAMES, *(["backgrounds"] if tensors.get("backgrounds") is not None else [])]
    for name in names:
        tensors[name].requires_grad_()
    rendered, alphas, meta = splat.rasterization(**tensors, absgrad=True, **options)
    meta["means2d"].retain_grad()
    draws = torch.Generator().manual_seed(9)
    pulls = [torch.randn(one.shape, generator=draws).to(one) for one in (rendered, alphas)]
    wanted = [*(tensors[name] for name in names), meta["means2d"]]
    grads = torch.autograd.grad([rendered, alphas], wanted, pulls, allow_unused=True, materialize_grads=True)
    between = {name: meta[name].detach() for name in ("means2d", "depths", "conics", "opacities")}
    found = {"rendered": rendered.detach(), "alphas": alphas.detach(), "absgrad": meta["means2d"].absgrad, **between}
    return found | {f"grad {name}": grad for name, grad in zip([*names, "means2d"], grads, strict=True)}


def lone_gradients(given: dict[str, Any], dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """By the means, where one answer alone is used: nothing pulls at the others. Places are pulled at in rows that
    lie apart, by one number for all, and with other axes first."""
    tensors = {key: one.to(dtype) if isinstance(one, Tensor) else one for key, one in given.items()}
    means = tensors["means"].clone().requires_grad_()
    rendered, alphas, meta = splat.rasterization(**tensors | {"means": means}, **options)
    draws = torch.Generator().manual_seed(3)
    apart = torch.randn(*meta["means2d"].shape[:2], 7, generator=draws)[..., 2:4]
    turned = torch.randn(*meta["means2d"].shape[1::-1], 2, generator=draws).transpose(0, 1)
    used = {"rendered": (rendered, None), "alphas": (alphas, None), "depths": (meta["depths"], None)}
    used |= {"conics": (meta["conics"], None), "all": (meta["means2d"], None)}
    used |= {"apart": (meta["means2d"], apart), "turned": (meta["means2d"], turned)}
    found = {}
    for name, (answer, pull) in used.items():
        pull = torch.ones(()).expand(answer.shape) if pull is None else pull
        (found[name],) = torch.autograd.grad(answer, means, pull.to(dtype), retain_graph=True)
    return found


def assert_close(ours: dict[str, Tensor], exact: dict[str, Tensor], rtol: float = 3e-4, whole: float = 3e-5) -> None:
    """Every number within ``rtol`` of itself or of a tenth of the tensor's greatest, the whole within ``whole``."""
    for name, wanted in exact.items():
        try:
            atol = max(1e-6, rtol * 1e-1 * float(wanted.abs().max()))
            assert_agrees(ours[name], wanted, rtol=rtol, atol=atol, whole=whole)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def some(count: int = 20, degree: int = 3) -> Splats:
    """Gaussians of random numbers."""
    draws = torch.Generator().manual_seed(0)
    sizes = ((count, 3), (count, 3), (count, 4), (count,), (count, (degree + 1) ** 2, 3))
    return Splats(*(torch.randn(size, generator=draws) for size in sizes))
