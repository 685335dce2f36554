"""Texels at texture coordinates: identities, torch's own sampler, the core against the reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.ops import native
from dreamforge.ops import texture as op
from dreamforge.ops.raster import interpolate, mip_level, pyramid, rasterize, texture
from dreamforge.ops.texture import agrees, texture_native, texture_reference
from dreamforge.types import DreamforgeError
from tests.agreement import assert_agrees, assert_same_bits
from tests.tools import levels

pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", levels(), ids=lambda level: native.LEVELS[level])
BOTH = pytest.mark.parametrize("backend", ["torch", "native"])
FILTERS = pytest.mark.parametrize("filter", ["nearest", "linear", "trilinear"])
BOUNDARIES = pytest.mark.parametrize("boundary", ["wrap", "clamp"])


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(count: int, seed: int) -> Tensor:
    """Coordinates far outside of [0, 1] too, and exactly on texels' centres and borders."""
    uv = 4 * torch.rand(count, 2, generator=drawn(seed)) - 1.5
    uv[:8] = torch.tensor([[0.0, 0], [1, 1], [0.5, 0.5], [1, 0], [-1, 2], [0.25, 0.75], [-1e-9, 1e-9], [7.0, -9.0]])
    return uv


@BOTH
def test_texel_centres_give_the_texels_and_the_first_is_top_left(backend: Any) -> None:
    texels = torch.rand(3, 5, 2, generator=drawn(0))
    row, column = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    uv = torch.stack([(column + 0.5) / 5, (row + 0.5) / 3], -1)
    for filter in ("nearest", "linear"):
        torch.testing.assert_close(texture(texels, uv, filter=filter, backend=backend), texels, atol=1e-6, rtol=0)  # type: ignore[arg-type]
    assert torch.equal(texture(texels, torch.tensor([0.01, 0.01]), filter="nearest", backend=backend), texels[0, 0])


@BOTH
@BOUNDARIES
def test_bilinear_is_torchs_own_sampler(boundary: Any, backend: Any) -> None:
    """Clamped as grid_sample's border; repeated as that of a picture tiled three times each way."""
    texels, uv = torch.rand(6, 4, 3, generator=drawn(0)), places(300, 1).clamp(-0.85, 1.85)
    tiled, at = (texels, uv) if boundary == "clamp" else (texels.repeat(3, 3, 1), (uv + 1) / 3)
    wanted = torch.nn.functional.grid_sample(
        tiled.movedim(-1, 0)[None], 2 * at[None, None] - 1, "bilinear", "border", align_corners=False
    )[0, :, 0].t()
    torch.testing.assert_close(texture(texels, uv, None, "linear", boundary, backend), wanted, atol=1e-5, rtol=0)


@BOTH
@BOUNDARIES
@FILTERS
def test_a_flat_picture_is_flat_everywhere_and_gradients_of_texels_sum_to_what_came(
    filter: Any, boundary: Any, backend: Any
) -> None:
    uv = places(200, 2)
    level = 5 * torch.rand(200, generator=drawn(3)) - 1 if filter == "trilinear" else None
    texels = torch.full((8, 4, 2), 0.7, requires_grad=True)
    leaf = uv.clone().requires_grad_(filter != "nearest")
    out = texture(texels, leaf, level, filter, boundary, backend)
    torch.testing.assert_close(out, torch.full((200, 2), 0.7))
    pull = torch.rand(200, 2, generator=drawn(4))
    out.backward(pull)
    assert texels.grad is not None
    torch.testing.assert_close(texels.grad.sum((0, 1)), pull.sum(0), rtol=1e-5, atol=0)
    if filter != "nearest":
        assert leaf.grad is not None and leaf.grad.abs().max() < 1e-4


@BOTH
def test_levels_are_means_and_whole_levels_are_themselves(backend: Any) -> None:
    texels = torch.rand(8, 16, 3, generator=drawn(0))
    chain = pyramid(texels[None])
    assert [tuple(one.shape[1:3]) for one in chain] == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert chain[1][0, 1, 2].tolist() == pytest.approx(texels[2:4, 4:6].mean((0, 1)).tolist(), abs=1e-6)
    torch.testing.assert_close(chain[-1][0, 0, 0], texels.mean((0, 1)))
    uv = places(100, 1)
    for number, one in enumerate(chain):
        level = torch.full((100,), float(number))
        torch.testing.assert_close(
            texture(texels, uv, level, "trilinear", backend=backend), texture(one[0], uv, backend=backend)
        )
    beyond = texture(texels, uv, torch.full((100,), 9.0), "trilinear", backend=backend)
    torch.testing.assert_close(beyond, texels.mean((0, 1)).expand(100, 3))
    half = texture(texels, uv, torch.full((100,), 0.25), "trilinear", backend=backend)
    mixed = 0.75 * texture(texels, uv, backend=backend) + 0.25 * texture(chain[1][0], uv, backend=backend)
    torch.testing.assert_close(half, mixed)


def test_the_chain_ends_where_a_side_is_odd() -> None:
    assert [tuple(one.shape[1:3]) for one in pyramid(torch.zeros(1, 12, 4, 1))] == [(12, 4), (6, 2), (3, 1)]
    assert len(pyramid(torch.zeros(2, 5, 8, 1))) == 1


def test_the_level_of_a_pixel_is_that_of_its_longer_side() -> None:
    right, down = (
        torch.tensor([[4 / 64, 0.0], [0, 8 / 32], [0.1 / 64, 0]]),
        torch.tensor([[0.0, 1 / 32], [2 / 64, 0], [0, 0]]),
    )
    assert mip_level(right, down, 32, 64).tolist() == pytest.approx([2.0, 3.0, 0.0], abs=1e-5)
    turn = 0.7  # a turned pixel has the same sides
    a, b = torch.tensor([8.0, 0.0]), torch.tensor([0.0, 2.0])
    c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
    assert mip_level((c * a + s * b) / 64, (c * b - s * a) / 64, 64, 64).item() == pytest.approx(3.0, abs=1e-5)
    assert mip_level(torch.zeros(2), torch.zeros(2), 4, 4) == 0.0


def test_a_far_wall_takes_a_coarse_level_by_the_rasterisers_derivatives() -> None:
    """A wall whose texture of 64 texels is seen on 16 pixels: level 2, and the checks of its texels are grey."""
    pixels, depth = torch.tensor([[[0.0, 0], [16, 0], [16, 16], [0, 16]]]), torch.full((1, 4), 3.0)
    faces, uv = torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    found = rasterize(pixels, depth, faces, 16, 16, derivatives=True)
    assert found.dx is not None and found.dy is not None
    at, right, down = (interpolate(uv, faces, found.face, by) for by in (found.bary, found.dx, found.dy))
    level = mip_level(right, down, 64, 64)
    torch.testing.assert_close(level, torch.full((1, 16, 16), 2.0))
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()[..., None]
    torch.testing.assert_close(texture(checks, at, level, "trilinear"), torch.full((1, 16, 16, 1), 0.5))


@pytest.mark.parametrize("channels", [1, 3, 7])
@at_every_level
@BOUNDARIES
@FILTERS
def test_values_and_gradients_are_those_of_the_reference(filter: Any, boundary: Any, level: int, channels: int) -> None:
    """At a texel's centre the slope jumps, at its border the nearest: there rounding chooses the side."""
    draws, uv = drawn(channels), torch.stack([places(158, 5), places(158, 6)])[:, 8:]
    texels, pull = torch.rand(2, 8, 12, channels, generator=draws), torch.randn(2, 150, channels, generator=draws)
    mix = 5 * torch.rand(2, 150, generator=draws) - 1 if filter == "trilinear" else None
    found = []
    for exact in (False, True):
        kind = torch.float64 if exact else torch.float32
        given = [one.to(kind).requires_grad_() for one in (texels, uv)]
        chain = pyramid(given[0]) if mix is not None else [given[0]]
        by = None if mix is None else mix.to(kind)
        if exact:
            out = texture_reference(chain, given[1], by, filter, boundary)
        else:
            out = texture_native(chain, given[1], by, filter, boundary, level)
        wanted = given if filter != "nearest" else given[:1]
        found.append([out.detach(), *torch.autograd.grad((out * pull.to(kind)).sum(), wanted)])
    for one, other in zip(*found, strict=True):
        assert_agrees(one, other, rtol=1e-4, atol=5e-5)


@at_every_level
@BOUNDARIES
@FILTERS
def test_values_at_borders_and_centres_are_those_of_the_reference(filter: Any, boundary: Any, level: int) -> None:
    texels, uv = torch.rand(1, 8, 12, 3, generator=drawn(0)), places(8, 0)[None]
    mix = torch.tensor([[0.0, 1, 2, -1, 7, 0.5, 1.5, 1]]) if filter == "trilinear" else None
    given = (pyramid(texels) if mix is not None else [texels], uv, mix, filter, boundary)
    torch.testing.assert_close(texture_native(*given, level), texture_reference(*given), rtol=1e-5, atol=1e-5)


@FILTERS
def test_the_references_gradients_by_finite_differences(filter: Any) -> None:
    draws = drawn(0)
    texels = torch.rand(1, 4, 6, 2, generator=draws, dtype=torch.float64).requires_grad_()
    uv = (3 * torch.rand(1, 20, 2, generator=draws, dtype=torch.float64) - 1).requires_grad_()
    level = 3 * torch.rand(1, 20, generator=draws, dtype=torch.float64)

    def compute(texels: Tensor, uv: Tensor) -> Tensor:
        chain = pyramid(texels) if filter == "trilinear" else [texels]
        return texture_reference(chain, uv, level if filter == "trilinear" else None, filter, "wrap")

    leaves = (texels, uv if filter != "nearest" else uv.detach())
    assert torch.autograd.gradcheck(compute, leaves, eps=1e-7, atol=1e-6)


def test_the_cores_bits_do_not_depend_on_the_number_of_threads() -> None:
    """Many points on few texels: owners of texels take them in the same order."""
    texels, uv = torch.rand(2, 5, 4, 3, generator=drawn(0)), torch.rand(2, 9000, 2, generator=drawn(1))

    def compute() -> list[Tensor]:
        given = [texels.clone().requires_grad_(), uv.clone().requires_grad_()]
        out = texture(*given, backend="native")
        return [out.detach(), *torch.autograd.grad(out.square().sum(), given)]

    assert_same_bits(compute)


@BOTH
@BOUNDARIES
def test_places_that_are_no_numbers_harm_nobody_else(boundary: Any, backend: Any) -> None:
    texels = torch.rand(5, 4, 3, generator=drawn(0)).requires_grad_()
    uv = torch.rand(6, 2, generator=drawn(1))
    good = texture(texels, uv, None, "linear", boundary, backend)
    for bad in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30):
        broken = uv.clone()
        broken[2, 1] = bad
        out = texture(texels, broken, None, "linear", boundary, backend)
        others = torch.arange(6) != 2
        assert torch.equal(out[others], good[others])


@BOTH
def test_clamped_pictures_go_on_for_ever(backend: Any) -> None:
    texels = torch.rand(5, 4, 3, generator=drawn(0))
    for far in (3.0, 1e9, 1e30, float("inf")):
        uv = torch.tensor([[far, 0.5], [-far, 0.5], [0.375, far], [far, -far]])
        wanted = torch.stack([texels[2, 3], texels[2, 0], texels[4, 1], texels[0, 3]])
        for filter in ("nearest", "linear"):
            torch.testing.assert_close(texture(texels, uv, None, filter, "clamp", backend), wanted)  # type: ignore[arg-type]


@BOTH
def test_nothing_to_look_up_and_one_texel(backend: Any) -> None:
    texels = torch.rand(1, 1, 3).requires_grad_()
    assert texture(texels, torch.zeros(0, 2), backend=backend).shape == (0, 3)
    uv, level = places(50, 0), torch.zeros(50)
    for filter, by in (("nearest", None), ("linear", None), ("trilinear", level)):
        torch.testing.assert_close(texture(texels, uv, by, filter, backend=backend), texels[0, 0].expand(50, 3))  # type: ignore[arg-type]


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    right = texture_native
    monkeypatch.setattr(op, "texture_native", lambda *given: 1.01 * right(*given))
    assert not agrees(torch.device("cpu"))


def test_what_does_not_fit_is_told() -> None:
    texels, uv = torch.rand(4, 4, 3), torch.rand(5, 2)
    with pytest.raises(DreamforgeError, match=r"texels \[4, 4\] and uv \[5, 2\]"):
        texture(texels[..., 0], uv)
    with pytest.raises(DreamforgeError, match=r"texels \[2, 4, 4, 3\] and uv \[5, 2\]"):
        texture(texels.expand(2, 4, 4, 3), uv)
    with pytest.raises(DreamforgeError, match="with texels"):
        texture(texels[:0], uv)
    with pytest.raises(DreamforgeError, match="filter 'cubic' and boundary 'wrap'"):
        texture(texels, uv, filter="cubic")  # type: ignore[arg-type]
    with pytest.raises(DreamforgeError, match="boundary 'mirror'"):
        texture(texels, uv, boundary="mirror")  # type: ignore[arg-type]
    with pytest.raises(DreamforgeError, match=r"trilinear and level None .* asks for a level \[5\]"):
        texture(texels, uv, filter="trilinear")
    with pytest.raises(DreamforgeError, match=r"level \[4\] were given"):
        texture(texels, uv, torch.zeros(4), "trilinear")
    with pytest.raises(DreamforgeError, match="linear and level"):
        texture(texels, uv, torch.zeros(5))
