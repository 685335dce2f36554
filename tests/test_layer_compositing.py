"""Layers composited by depth: closed forms, a loop from front to back in float64, finite differences."""

import pytest
import torch
from torch import Tensor

from dreamforge.render.layers import composited
from dreamforge.types import RenderOutput

BLACK, GREY = torch.zeros(3), torch.tensor([0.4, 0.5, 0.6])


def test_two_discs_the_near_one_in_front() -> None:
    """Coverage, colours and shares of both, where they overlap and where not, whichever is named first."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    near, far = ((x - at) ** 2 + (y - 8) ** 2 < 25 for at in (6, 10))
    a, b = 0.7, 0.4
    red, blue = torch.tensor([0.9, 0.1, 0.2]), torch.tensor([0.1, 0.3, 0.8])
    one, two = (
        RenderOutput(strength * there[None, ..., None] * color, strength * there[None, ..., None], far_away)
        for strength, there, color, far_away in (
            (a, near, red, torch.full((1, 16, 16, 1), 2.0)),
            (b, far, blue, torch.full((1, 16, 16, 1), 3.0)),
        )
    )
    for layers in ((one, two), (two, one)):
        seen = composited(layers, GREY)
        inside = {"both": near & far, "near": near & ~far, "far": far & ~near, "none": ~near & ~far}
        assert all(region.any() for region in inside.values())
        expected = {
            "both": (1 - (1 - a) * (1 - b), a * red + (1 - a) * b * blue + (1 - a) * (1 - b) * GREY),
            "near": (a, a * red + (1 - a) * GREY),
            "far": (b, b * blue + (1 - b) * GREY),
            "none": (0.0, GREY),
        }
        for name, (alpha, rgb) in expected.items():
            there = inside[name]
            torch.testing.assert_close(seen.alpha[0, ..., 0][there], torch.full((int(there.sum()),), alpha))
            torch.testing.assert_close(seen.rgb[0][there], rgb.expand(int(there.sum()), 3))
        assert seen.semantic is not None
        share = seen.semantic[0, 8, 8]
        assert share[int(layers[1] is one)].item() == pytest.approx(a)
        assert share[int(layers[1] is two)].item() == pytest.approx((1 - a) * b)
        mean = (a * 2.0 + (1 - a) * b * 3.0) / (1 - (1 - a) * (1 - b))
        assert seen.depth[0, 8, 8, 0].item() == pytest.approx(mean)
        assert seen.depth[0, 0, 0, 0] == 0


def test_any_number_of_layers_is_sorted_in_each_pixel() -> None:
    """Against a loop from front to back, in float64; equal depths: the first is in front."""
    draws = torch.Generator().manual_seed(0)
    count, pixels = 4, 50
    alpha, depth, color = (torch.rand(count, pixels, n, generator=draws, dtype=torch.float64) for n in (1, 1, 3))
    depth[2, :10] = depth[0, :10]
    normal = torch.nn.functional.normalize(torch.randn(count, pixels, 3, generator=draws, dtype=torch.float64), dim=-1)
    shape = (1, 5, 10)
    layers = [
        RenderOutput(*(one.view(*shape, -1) for one in (alpha[k] * color[k], alpha[k], depth[k], normal[k])))
        for k in range(count)
    ]
    seen = composited(layers, GREY.double())
    assert seen.semantic is not None and seen.normal is not None
    for p in range(pixels):
        light, rgb, mean, share = 1.0, torch.zeros(3).double(), torch.zeros(3).double(), torch.zeros(count).double()
        for k in sorted(range(count), key=lambda k, p=p: (float(depth[k, p]), k)):
            share[k] = light * float(alpha[k, p])
            rgb, mean = rgb + share[k] * color[k, p], mean + share[k] * normal[k, p]
            light *= 1 - float(alpha[k, p])
        at = (0, p // 10, p % 10)
        torch.testing.assert_close(seen.rgb[at], rgb + light * GREY.double())
        torch.testing.assert_close(seen.semantic[at], share)
        torch.testing.assert_close(seen.alpha[at], share.sum()[None])
        torch.testing.assert_close(seen.depth[at], ((share * depth[:, p, 0]).sum() / share.sum())[None])
        torch.testing.assert_close(seen.normal[at], mean / mean.norm())


def test_gradients_of_layers_are_those_of_differences() -> None:
    draws = torch.Generator().manual_seed(3)
    depth = torch.rand(3, 1, 2, 3, 1, generator=draws, dtype=torch.float64)

    def picture(rgb: Tensor, alpha: Tensor, apart: Tensor, normal: Tensor, background: Tensor) -> tuple[Tensor, ...]:
        layers = [RenderOutput(rgb[k] * alpha[k], alpha[k], depth[k] + apart[k], normal[k]) for k in range(3)]
        seen = composited(layers, background)
        assert seen.semantic is not None and seen.normal is not None
        return seen.rgb, seen.alpha, seen.depth, seen.semantic, seen.normal

    given = [0.1 + 0.8 * torch.rand(3, 1, 2, 3, n, generator=draws, dtype=torch.float64) for n in (3, 1)]
    given.append(torch.zeros(3, 1, 2, 3, 1, dtype=torch.float64))
    given += [torch.randn(3, 1, 2, 3, 3, generator=draws, dtype=torch.float64), GREY.double()]
    for solid in (False, True):  # behind an opaque layer, too
        if solid:
            given[1][1, 0, 0] = 1.0
        assert torch.autograd.gradcheck(picture, [one.clone().requires_grad_() for one in given])
