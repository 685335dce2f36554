"""Splatting: by hand, by finite differences, the compiled core against the reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.ops import dispatch, native, splat, splat_native, splat_reference
from dreamforge.ops.splat import GSPLAT_1_5, GSPLAT_1_6, Rules, agrees, rasterization
from dreamforge.ops.splat_reference import View, harmonic_bases
from dreamforge.types import DreamforgeError
from tests.agreement import assert_same_bits
from tests.splats import NAMES, answers, assert_close, lone_gradients, one, scene
from tests.tools import levels

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])
both = pytest.mark.parametrize("backend", ["torch", "native"])


@both
def test_a_round_gaussian_by_hand(backend: dispatch.Backend) -> None:
    """Standard deviation 40 * 0.1 / 2 = 2 pixels, variance 4 and the blur of 0.3; its middle is a pixel's corner."""
    rendered, alphas, meta = rasterization(**one(0.1, 0.05), backend=backend)
    assert meta["means2d"].tolist() == [[[12.0, 7.0]]] and meta["depths"].tolist() == [[2.0]]
    slope = torch.tensor([[40 / 2, 0, -40 * 0.1 / 4], [0, 40 / 2, -40 * 0.05 / 4]])
    covariance = 0.01 * slope @ slope.t() + 0.3 * torch.eye(2)
    inverse = covariance.inverse()
    torch.testing.assert_close(meta["conics"][0, 0], torch.tensor([inverse[0, 0], inverse[0, 1], inverse[1, 1]]))
    extent = math.sqrt(2 * math.log(255 * 0.8))
    wanted = [math.ceil(extent * math.sqrt(float(covariance[axis, axis]))) for axis in range(2)]
    assert meta["radii"].tolist() == [[wanted]] and extent < 3.33
    apart = torch.tensor([15 + 0.5 - 12, 8 + 0.5 - 7])
    alpha = 0.8 * torch.exp(-0.5 * apart @ inverse @ apart)
    torch.testing.assert_close(alphas[0, 8, 15, 0], alpha)
    torch.testing.assert_close(rendered[0, 8, 15], alpha * torch.tensor([1, 0.25, 0]))
    assert alphas[0, 0, 0] == 0 and not rendered[0, 0, 0].any(), "fainter than 1/255"
    assert (alphas.count_nonzero() > 40) and alphas.max() < 0.8


@both
def test_near_ones_cover_far_ones(backend: dispatch.Backend) -> None:
    """Three in a line, given in another order: weights a, (1 - a) a, (1 - a)^2 a, the background behind them."""
    given = one()
    for name, value in given.items():
        if isinstance(value, Tensor) and name not in ("viewmats", "Ks"):
            given[name] = value.expand(3, *value.shape[1:]).clone()
    given["means"][:, 2] = torch.tensor([3.0, 1.0, 2.0])
    given["scales"] *= given["means"][:, 2:]
    given["colors"] = torch.eye(3)
    given["backgrounds"] = torch.tensor([[1.0, 2.0, 3.0]])
    rendered, alphas, meta = rasterization(**given, render_mode="RGB+D", backend=backend)
    assert meta["flatten_ids"][:3].tolist() == [1, 2, 0]
    a = float(rendered[0, 5, 10, 1] - 2 * (1 - alphas[0, 5, 10, 0]))  # the nearest is green
    rest = (1 - a) ** 3
    wanted = torch.tensor([(1 - a) ** 2 * a + rest, a + 2 * rest, (1 - a) * a + 3 * rest])
    torch.testing.assert_close(rendered[0, 5, 10, :3], wanted)
    torch.testing.assert_close(rendered[0, 5, 10, 3], torch.tensor(a * (1 + 2 * (1 - a) + 3 * (1 - a) ** 2)))
    expected, _, _ = rasterization(**given, render_mode="ED", backend=backend)
    torch.testing.assert_close(expected[..., 0], rendered[..., 3] / alphas[..., 0].clamp(min=1e-10))


@both
def test_a_pixel_stops_before_the_splat_that_would_close_it(backend: dispatch.Backend) -> None:
    """Each covers 0.999 in its middle: after one 1e-3 of the light is left, and a second would leave 1e-6."""
    given = one(0.0125, 0.0125, scale=0.5, opacity=1.0)
    for name, value in given.items():
        if isinstance(value, Tensor) and name not in ("viewmats", "Ks"):
            given[name] = value.expand(4, *value.shape[1:]).clone()
    given["means"] *= torch.tensor([1.0, 1.1, 1.2, 1.3])[:, None]
    _, alphas, _ = rasterization(**given, backend=backend)
    torch.testing.assert_close(float(alphas[0, 6, 10, 0]), 0.999, rtol=0, atol=1e-6)
    _, loose, _ = rasterization(**given, backend=backend, rules=Rules(stop=1e-7))
    torch.testing.assert_close(float(loose[0, 6, 10, 0]), 1 - 1e-6, rtol=0, atol=1e-7)
    _, other, _ = rasterization(**given, backend=backend, rules=GSPLAT_1_6)  # 0.99: after one 1e-2, a second 1e-4
    torch.testing.assert_close(float(other[0, 6, 10, 0]), 0.99, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_the_references_gradients_by_finite_differences(mode: Any, render_mode: Any) -> None:
    given = scene(5, 9, 7, views=2, bases=4)
    given["scales"] = 0.3 + given["scales"]  # large, so that no step crosses a border
    given["opacities"] = 0.3 + 0.5 * given["opacities"]
    given["colors"] *= 0.3
    names = [*NAMES, "backgrounds"]

    def render(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        more = given | dict(zip(names, tensors, strict=True)) | {"Ks": given["Ks"].double()}
        rendered, alphas, meta = rasterization(
            **more, sh_degree=1, render_mode=render_mode, rasterize_mode=mode, backend="torch",
            rules=Rules(min_alpha=1e-30, extent=100.0, opacity_extent=False),
        )  # fmt: skip
        assert (meta["radii"] > 0).all()
        return rendered, alphas

    leaves = [given[name].double().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(render, leaves, fast_mode=True)


def test_harmonics_are_orthonormal() -> None:
    """On a fine sphere; and the first ones are those that gsplat's files mean."""
    polar, turn = torch.meshgrid(
        (torch.arange(200, dtype=torch.float64) + 0.5) * math.pi / 200,
        torch.arange(100, dtype=torch.float64) * math.pi / 50, indexing="ij",
    )  # fmt: skip
    sine = polar.sin()
    sphere = torch.stack([sine * turn.cos(), sine * turn.sin(), polar.cos()], 2).view(-1, 3)
    bases = harmonic_bases(3, sphere)
    weights = (sine * (math.pi / 200) * (math.pi / 50)).view(-1, 1)
    torch.testing.assert_close(bases.t() @ (weights * bases), torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-4)
    axes = harmonic_bases(1, torch.eye(3, dtype=torch.float64))
    root = math.sqrt(3 / (4 * math.pi))
    wanted = torch.tensor([[0, 0, -root], [-root, 0, 0], [0, root, 0]], dtype=torch.float64)
    torch.testing.assert_close(axes[:, 1:], wanted)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"count": 400, "width": 64, "height": 48}, {}),
    "one channel": ({"count": 200, "width": 33, "height": 17, "channels": 1}, {"render_mode": "RGB"}),
    "seven channels": ({"count": 200, "width": 17, "height": 50, "channels": 7}, {}),
    "depth": ({"count": 300, "width": 40, "height": 40, "channels": 3}, {"render_mode": "D"}),
    "all": ({"count": 300, "width": 40, "height": 33, "views": 3, "bases": 16}, {
        "render_mode": "RGB+ED", "sh_degree": 3, "rasterize_mode": "antialiased",
    }),
    "degree 2 of 16": ({"count": 100, "width": 30, "height": 30, "bases": 16}, {"sh_degree": 2}),
    "degree 0": ({"count": 100, "width": 30, "height": 30, "bases": 1}, {"sh_degree": 0, "render_mode": "RGB+D"}),
    "packed": ({"count": 300, "width": 40, "height": 33}, {"packed": True, "rasterize_mode": "antialiased"}),
    "packed harmonics": ({"count": 60, "width": 40, "height": 33, "bases": 9}, {"packed": True, "sh_degree": 1}),
    "other rules": ({"count": 200, "width": 40, "height": 33}, {
        "rules": Rules(0.7, 0.05, 1e-2, 2.0, False, 0.3, 0.05), "rasterize_mode": "antialiased", "eps2d": 1.0,
    }),
    "limits": ({"count": 300, "width": 40, "height": 33}, {"near_plane": 2.5, "far_plane": 3.4, "radius_clip": 3.0}),
}  # fmt: skip


@at_every_level
@pytest.mark.parametrize("name", CASES)
def test_the_core_agrees_with_the_reference(name: str, level: int) -> None:
    """Pictures, what is between, and all gradients."""
    sizes, options = CASES[name]
    given = scene(**sizes)
    exact = answers(given, torch.float64, backend="torch", **options)
    ours = answers(given, torch.float32, backend="native", level=level, **options)
    assert_close(ours, exact)
    torch.testing.assert_close(ours["rendered"].double(), exact["rendered"], rtol=1e-4, atol=1e-5)


@at_every_level
def test_own_harmonics_of_each_camera(level: int) -> None:
    given = scene(80, 30, 20, bases=9)
    given["colors"] = 0.5 * torch.randn(2, 80, 9, 3, generator=torch.Generator().manual_seed(1))
    exact = answers(given, torch.float64, backend="torch", sh_degree=2)
    ours = answers(given, torch.float32, backend="native", sh_degree=2, level=level)
    assert_close(ours, exact)
    del given["backgrounds"]
    given["colors"] = torch.rand(2, 80, 5, generator=torch.Generator().manual_seed(1))
    assert_close(
        answers(given, torch.float32, backend="native", level=level),
        answers(given, torch.float64, backend="torch"),
    )


@at_every_level
@pytest.mark.parametrize("kind", ["lines", "large", "dense", "sparse"])
def test_every_shape_of_gaussian(kind: str, level: int) -> None:
    """Lines of a pixel's width and discs beyond the image, at every angle: no block of pixels is forgotten."""
    given = scene(150 if kind != "dense" else 1500, 64, 64, views=1)
    if kind == "lines":
        given["scales"][:, 0], given["scales"][:, 1:] = 2.0, 1e-4
    elif kind == "large":
        given["scales"] += 1.0
        given["opacities"] *= 0.1
    elif kind == "dense":
        given["scales"] *= 0.7
        given["opacities"] = 0.9 + 0.1 * given["opacities"]
    else:
        given["scales"] *= 0.1
    exact = answers(given, torch.float64, backend="torch")
    ours = answers(given, torch.float32, backend="native", level=level)
    # a conic of float32 knows the direction of a long line less well than its place
    assert_close(ours, exact, **({"rtol": 2e-3, "whole": 3e-4} if kind == "lines" else {}))


@at_every_level
@pytest.mark.parametrize(("width", "height"), [(1, 1), (16, 16), (17, 1), (1, 40), (15, 31)])
def test_images_of_any_size(width: int, height: int, level: int) -> None:
    given = scene(60, width, height, views=2)
    given["Ks"][:, 0, 0] = given["Ks"][:, 1, 1] = 30.0
    exact = answers(given, torch.float64, backend="torch")
    assert_close(answers(given, torch.float32, backend="native", level=level), exact)
    assert exact["alphas"].any()


@at_every_level
def test_tiles_have_their_gaussians_in_order(level: int) -> None:
    """As the reference, key by key; equal depths in the order in which they were given."""
    draws = torch.Generator().manual_seed(0)
    means2d = torch.rand(500, 2, generator=draws) * 140 - 20
    radii = torch.randint(0, 30, (500, 2), generator=draws, dtype=torch.int32)
    depths = torch.randint(1, 20, (500,), generator=draws) / 7
    depths[::3] = torch.rand(167, generator=draws) * 1e9 + 1e-3
    first = torch.tensor([0, 200, 400, 500])  # the last has fewer
    view = View(100, 70, 0.01, 1e10, 0.0, 0.3, False, GSPLAT_1_5)
    ours = splat_native.bins_native(means2d, radii, depths, first, view, level)
    wanted = splat_reference.bins_reference(means2d, radii, depths, first, view)
    for name in ("tiles", "keys", "ids", "offsets"):
        assert torch.equal(getattr(ours, name), getattr(wanted, name)), name
    assert ours.places is not None and torch.equal(ours.places, ours.tiles.cumsum(0) - ours.tiles)
    assert ours.slots is not None and torch.equal(ours.slots.sort().values.long(), torch.arange(len(ours.ids)))
    owner = torch.arange(500).repeat_interleave(ours.tiles)
    assert torch.equal(owner[ours.slots.long()], ours.ids.long())
    same = (ours.keys.diff() == 0).nonzero()
    assert len(same) > 50 and (ours.ids.diff()[same] > 0).all()


def test_the_meta_dictionary_is_that_of_gsplat() -> None:
    """And a strategy that densifies finds what it needs there."""
    given = scene(50, 40, 33, views=2)
    given["means"].requires_grad_()
    rendered, _, meta = rasterization(**given, absgrad=True, backend="native")
    shapes = {"radii": (2, 50, 2), "means2d": (2, 50, 2), "depths": (2, 50), "conics": (2, 50, 3), "opacities": (2, 50)}
    shapes |= {"tiles_per_gauss": (2, 50), "isect_offsets": (2, 3, 3)}
    assert {name: tuple(meta[name].shape) for name in shapes} == shapes
    assert meta["isect_ids"].shape == meta["flatten_ids"].shape == (int(meta["tiles_per_gauss"].sum()),)
    kinds = {"radii": torch.int32, "flatten_ids": torch.int32, "isect_ids": torch.int64, "isect_offsets": torch.int32}
    assert {name: meta[name].dtype for name in kinds} == kinds
    numbers = {"width": 40, "height": 33, "tile_size": 16, "tile_width": 3, "tile_height": 3, "n_cameras": 2}
    assert {name: meta[name] for name in numbers} == numbers and meta["n_batches"] == 1
    assert meta["camera_ids"] is meta["gaussian_ids"] is meta["batch_ids"] is None
    meta["means2d"].retain_grad()
    rendered.square().sum().backward()
    grad, absolute = meta["means2d"].grad, meta["means2d"].absgrad
    assert (
        grad.abs().sum() > 0 and (absolute >= grad.abs() * (1 - 1e-4)).all() and absolute.sum() > 1.2 * grad.abs().sum()
    )
    packed = rasterization(**given, packed=True, backend="native")[2]
    seen = (meta["radii"] > 0).all(2)
    assert torch.equal(packed["camera_ids"] * 50 + packed["gaussian_ids"], seen.flatten().nonzero().squeeze(1))
    assert torch.equal(packed["means2d"], meta["means2d"][seen]) and packed["tiles_per_gauss"].ndim == 1


@pytest.mark.parametrize("options", [{"sh_degree": 2, "rasterize_mode": "antialiased"}, {}], ids=["all", "plain"])
def test_the_cores_bits_do_not_depend_on_the_number_of_threads(options: dict[str, Any]) -> None:
    given = scene(6000, 90, 70, views=2, bases=9 if options else 0)
    assert_same_bits(lambda: list(answers(given, torch.float32, backend="native", **options).values()))


def test_not_all_tensors_need_gradients() -> None:
    """Each alone gets what it gets among all."""
    given = scene(40, 30, 20)
    full = answers(given, torch.float32, backend="native")
    for name in [*NAMES, "backgrounds"]:
        alone = given | {name: given[name].clone().requires_grad_()}
        rendered, alphas, _ = rasterization(**alone, backend="native")
        draws = torch.Generator().manual_seed(9)
        pulls = [torch.randn(one.shape, generator=draws) for one in (rendered, alphas)]
        (grad,) = torch.autograd.grad([rendered, alphas], alone[name], pulls)
        assert torch.equal(grad, full[f"grad {name}"]), name


def test_strided_tensors_and_unused_answers() -> None:
    given = scene(40, 30, 20)
    plain = rasterization(**given, backend="native")[0]
    turned = given | {name: given[name].t().contiguous().t() for name in ("means", "quats", "scales", "colors")}
    assert torch.equal(rasterization(**turned, backend="native")[0], plain)
    exact = lone_gradients(given, torch.float64, backend="torch")
    assert all(grad.any() for grad in exact.values())
    assert_close(lone_gradients(given, torch.float32, backend="native"), exact)
    leaf = given | {"means": given["means"].requires_grad_()}
    _, alphas, _ = rasterization(**leaf, backend="native")
    with pytest.raises(RuntimeError):
        torch.autograd.grad(
            torch.autograd.grad(alphas.sum(), given["means"], create_graph=True)[0].sum(), given["means"]
        )


def test_many_channels_and_float64_are_for_the_reference() -> None:
    given = scene(5, 8, 8, channels=512)
    assert rasterization(**given)[0].shape == (2, 8, 8, 512)
    with pytest.raises(DreamforgeError, match="no splat for these types and sizes"):
        rasterization(**given, backend="native")


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))
    right = splat_native.harmonics_native
    monkeypatch.setattr(splat, "harmonics_native", lambda *given, level: 1.1 * right(*given, level))
    assert not agrees(torch.device("cpu"))


def test_gsplat_is_asked_by_name_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene(4, 8, 8)
    with pytest.raises(DreamforgeError, match="backend gsplat was asked for, but it runs on CUDA only, not on cpu"):
        rasterization(**given, backend="gsplat")
    asked: dict[str, Any] = {}

    class Stand:
        @staticmethod
        def rasterization(*tensors: Tensor, **options: Any) -> tuple[Any, ...]:
            asked.update(options, tensors=tensors)
            return "pictures", "alphas", {}

    monkeypatch.setattr("dreamforge.ops.peers.module", lambda name, device: Stand)
    assert splat.rasterization(**given, backend="gsplat", absgrad=True, packed=True)[0] == "pictures"
    assert [one.shape for one in asked["tensors"][:7]] == [given[name].shape for name in (*NAMES, "Ks")]
    assert asked["absgrad"] and asked["packed"] and asked["eps2d"] == 0.3 and asked["tensors"][7:] == (8, 8)
