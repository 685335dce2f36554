"""Splatting against gsplat 1.5.3 (Apache-2.0): its functions in torch run on a CPU, where it is installed.

Its rasteriser asks CUDA for the pairs of pixels and splats, and nerfacc for weights along rays; ``bench_gsplat`` gives
it both.
"""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge import bench_gsplat
from dreamforge.ops import splat_native
from dreamforge.ops.splat import Rules, rasterization
from dreamforge.ops.splat_reference import View
from tests.splats import NAMES, scene
from tests.tools import require_tool

pytestmark = pytest.mark.usefixtures("core")
FIXED = Rules(opacity_extent=False)  # its torch function has no bounds by opacity


@pytest.fixture
def theirs() -> Any:
    require_tool(importlib.util.find_spec("gsplat"), "gsplat is not installed")
    return bench_gsplat.functions()


def leaves(given: dict[str, Any]) -> list[Tensor]:
    return [given[name].clone().requires_grad_() for name in NAMES]


def projected(given: dict[str, Any], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return bench_gsplat.project(given | dict(zip(NAMES, tensors, strict=True)))


def test_projection_and_its_gradient_are_gsplats(theirs: Any) -> None:
    given = scene(400, 90, 70, views=3)
    given["scales"] += 0.02  # its determinant is a difference of large numbers
    view = View(90, 70, 0.01, 1e10, 0.0, 0.3, True, FIXED)
    found = []
    for ours in (True, False):
        tensors = leaves(given)
        if ours:
            out = splat_native.project_native(*tensors[:4], tensors[5], given["Ks"], view)
        else:
            out = projected(given, tensors)
        seen = (out[0] > 0).all(2)
        if ours:
            kept = seen
        draws = torch.Generator().manual_seed(1)
        parts = [torch.where(seen.view(*seen.shape, *[1] * (one.ndim - 2)), one, 0) for one in out[1:]]
        pulls = [torch.randn(one.shape, generator=draws) for one in parts]
        wanted = [tensors[place] for place in (0, 1, 2, 5)]
        found.append([out[0], seen, *(part.detach() for part in parts), *torch.autograd.grad(parts, wanted, pulls)])
    assert torch.equal(found[0][1], found[1][1]) and 300 < kept.sum() < 1200, "the same are seen"
    assert (found[0][0] - found[1][0]).abs().max() <= 1
    for ours, other in zip(found[0][2:], found[1][2:], strict=True):
        torch.testing.assert_close(ours, other, rtol=2e-3, atol=2e-4 * float(other.abs().max()))


def test_tiles_are_gsplats(theirs: Any) -> None:
    given = scene(150, 70, 50, views=2)
    _, _, meta = rasterization(**given, backend="native")
    tiles, keys, ids = theirs._isect_tiles(meta["means2d"], meta["radii"], meta["depths"], 16, 5, 4)
    offsets = theirs._isect_offset_encode(keys, 2, 5, 4)
    for name, other in (
        ("tiles_per_gauss", tiles),
        ("isect_ids", keys),
        ("flatten_ids", ids),
        ("isect_offsets", offsets),
    ):
        assert torch.equal(meta[name], other), name


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_are_gsplats(degree: int, theirs: Any) -> None:
    given = scene(60, 40, 30, views=2, bases=16)
    draws = torch.Generator().manual_seed(2)
    eyes = torch.randn(2, 3, generator=draws).requires_grad_()
    means, coefficients = (given[name].requires_grad_() for name in ("means", "colors"))
    radii, pull = torch.ones(2, 60, 2, dtype=torch.int32), torch.randn(2, 60, 3, generator=draws)
    ours = splat_native.harmonics_native(degree, means, eyes, coefficients, radii)
    directions = means - eyes[:, None]
    other = theirs._spherical_harmonics(degree, directions, coefficients.expand(2, 60, 16, 3)).add(0.5).clamp(min=0)
    torch.testing.assert_close(ours, other)
    wanted = [means, eyes, coefficients]
    for one, two in zip(
        torch.autograd.grad(ours, wanted, pull),
        torch.autograd.grad(other, wanted, pull, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, torch.zeros_like(one) if two is None else two, rtol=1e-4, atol=1e-5)


def test_pictures_and_gradients_are_gsplats(theirs: Any) -> None:
    """From the Gaussians to the picture, by its projection, its accumulation and torch's autograd."""
    given = scene(60, 34, 21, views=2)
    given["scales"] += 0.03
    given["opacities"] = 0.5 + 0.5 * given["opacities"]
    tensors = leaves(given)
    options = {name: given[name] for name in ("Ks", "width", "height", "backgrounds")}
    rendered, alphas, meta = rasterization(
        **dict(zip(NAMES, tensors, strict=True)), **options, rules=FIXED, rasterize_mode="antialiased", backend="native"
    )
    radii, means2d, _, conics, compensations = projected(given, tensors)
    assert (radii > 0).all(2).sum() > 60 and alphas.max() > 0.99
    with bench_gsplat.made_runnable():
        own = theirs._rasterize_to_pixels(
            means2d, conics, tensors[4].expand(2, 60, 3), tensors[3] * compensations, 34, 21, 16, meta["isect_offsets"],
            meta["flatten_ids"], backgrounds=given["backgrounds"],
        )  # fmt: skip
    torch.testing.assert_close(rendered, own[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alphas, own[1], rtol=1e-4, atol=1e-5)
    pulls = [torch.randn(one.shape, generator=torch.Generator().manual_seed(3)) for one in own]
    for name, one, two in zip(
        NAMES,
        torch.autograd.grad([rendered, alphas], tensors, pulls),
        torch.autograd.grad(own, tensors, pulls),
        strict=True,
    ):
        torch.testing.assert_close(
            one, two, rtol=2e-3, atol=2e-4 * float(two.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
        )


def test_its_pictures_may_be_summed_in_batches(theirs: Any) -> None:
    """Splats 1 to 256 of a tile, then the rest with the light that is left; a tile at the border is smaller."""
    given = scene(900, 20, 18, views=1)
    given["opacities"] *= 0.05  # so that light is left
    found = bench_gsplat.tiles(given)
    assert found[0].flatten()[1] > 256
    whole = bench_gsplat.draw(given, found)
    _, means2d, _, conics, _ = bench_gsplat.project(given)
    with bench_gsplat.made_runnable():
        parts, _ = theirs._rasterize_to_pixels(
            means2d, conics, given["colors"][None], given["opacities"][None], 20, 18, 16, *found,
            backgrounds=given["backgrounds"], batch_per_iter=1,
        )  # fmt: skip
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole, rasterization(**given, rules=FIXED, backend="native")[0], rtol=1e-4, atol=1e-5)
