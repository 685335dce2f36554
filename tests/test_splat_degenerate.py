"""Splatting of what is empty, unseen, not finite or at a limit, and of what does not fit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamforge.ops import dispatch
from dreamforge.ops.splat import GSPLAT_1_5, GSPLAT_1_6, Rules, rasterization
from dreamforge.types import DreamforgeError
from tests.splats import NAMES, answers, one, scene

pytestmark = pytest.mark.usefixtures("core")
both = pytest.mark.parametrize("backend", ["torch", "native"])


@both
@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_see(count: int, backend: dispatch.Backend) -> None:
    """No Gaussians, or all behind the camera: the background, and gradients of zero."""
    given = scene(count, 20, 18, views=2)
    given["means"] += torch.tensor([0.0, 0.0, 100.0])
    given["viewmats"] = torch.diag(torch.tensor([1.0, 1, -1, 1])).repeat(2, 1, 1)
    found = answers(given, torch.float32, backend=backend, render_mode="RGB+D")
    assert not found["alphas"].any() and not found["rendered"][..., 3].any()
    torch.testing.assert_close(found["rendered"][..., :3], given["backgrounds"][:, None, None].expand(2, 18, 20, 3))
    assert all(not found[f"grad {name}"].any() for name in NAMES) and found["grad backgrounds"].any()
    assert found["grad means"].shape == (count, 3)


@both
@pytest.mark.parametrize(
    ("which", "bad"),
    [
        (name, bad)
        for name in NAMES[:4]
        for bad in (math.nan, math.inf, -math.inf, 1e30)
        if (name, bad) != (NAMES[3], 1e30)
    ],
)
def test_gaussians_that_are_no_numbers_are_left_out(which: str, bad: float, backend: dispatch.Backend) -> None:
    """As if they were not there; their gradients are zero, those of the others what they are without them."""
    good = scene(30, 24, 20, views=2)
    given = good | {name: good[name].clone() for name in NAMES}
    given[which][::3] = bad
    rest = torch.arange(30) % 3 > 0
    alone = good | {name: good[name][rest] for name in NAMES[:5]}
    found, wanted = (answers(one, torch.float32, backend=backend) for one in (given, alone))
    torch.testing.assert_close(found["rendered"], wanted["rendered"])
    for name in NAMES:
        grad = found[f"grad {name}"]
        assert grad.isfinite().all()
        own = grad if name == "viewmats" else grad[rest]
        torch.testing.assert_close(own, wanted[f"grad {name}"], rtol=1e-3, atol=1e-3)
        assert name == "viewmats" or not grad[~rest].any()


@both
def test_limits_of_single_numbers(backend: dispatch.Backend) -> None:
    def alpha(**more: Any) -> float:
        given = one(0.025, 0.025) | more  # in the middle of a pixel
        return float(rasterization(**given, backend=backend)[1].max())

    assert alpha(quats=torch.zeros(1, 4)) == alpha(quats=torch.full((1, 4), 4e-13)) == 0, "no rotation"
    assert alpha(quats=torch.full((1, 4), 1e-11)) == alpha(quats=torch.full((1, 4), 1e17)) > 0
    assert alpha(scales=torch.zeros(1, 3)) == pytest.approx(0.8), "a point, blurred"
    assert alpha(scales=torch.zeros(1, 3), eps2d=0.0) == 0, "a point"
    assert alpha(scales=torch.zeros(1, 3), rasterize_mode="antialiased") == 0
    assert alpha(scales=torch.zeros(1, 3), rasterize_mode="antialiased", rules=GSPLAT_1_6) == pytest.approx(0.004, 1e-5)
    assert alpha(opacities=torch.zeros(1)) == 0 and alpha(opacities=torch.ones(1)) == pytest.approx(0.999)
    assert alpha(opacities=torch.tensor([0.0039])) == 0 and alpha(opacities=torch.tensor([0.004])) > 0
    assert alpha(means=torch.tensor([[0.0, 0, 0.005]])) == 0 and alpha(near_plane=2.001) == 0
    assert alpha(near_plane=2.0) > 0 and alpha(far_plane=2.0) > 0 and alpha(far_plane=1.999) == 0
    radius = float(rasterization(**one(), backend=backend)[2]["radii"].max())
    assert alpha(radius_clip=radius) == 0 and alpha(radius_clip=radius - 1) > 0


@both
def test_a_zero_compensation_has_no_infinite_slope(backend: dispatch.Backend) -> None:
    """A flat Gaussian seen from its edge has a picture without area."""
    given = scene(20, 24, 20, views=1)
    given["scales"][:] = 0.0
    found = answers(
        given, torch.float32, backend=backend, rasterize_mode="antialiased", rules=Rules(opacity_extent=False)
    )
    assert all(tensor.isfinite().all() for tensor in found.values())


@both
def test_a_colour_that_is_no_number_shows(backend: dispatch.Backend) -> None:
    given = scene(30, 64, 64, views=1)
    given["colors"][3, 1] = math.nan
    rendered, alphas, _ = rasterization(**given, backend=backend)
    assert rendered[..., 1].isnan().any() and rendered[..., [0, 2]].isfinite().all() and alphas.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quats": torch.zeros(4, 3)}, r"quats \[4, 3\]"),
        ({"viewmats": torch.eye(4)}, r"viewmats \[4, 4\].* were given, but \[N,3\]"),
        ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, "C > 0"),
        ({"colors": torch.zeros(3, 3)}, r"colors \[3, 3\] was given with sh_degree None"),
        ({"colors": torch.zeros(4, 0)}, r"colors \[4, 0\]"),
        ({"sh_degree": 1}, "with sh_degree 1"),
        ({"sh_degree": 2, "colors": torch.zeros(4, 4, 3)}, "sh_degree 2 was given with 4 coefficients"),
        ({"sh_degree": 4, "colors": torch.zeros(4, 25, 3)}, "degree from 0 to 3"),
        ({"backgrounds": torch.zeros(1, 3)}, r"backgrounds \[1, 3\] was given, but \[2, 3\]"),
        ({"render_mode": "RGBD"}, "render_mode RGBD"),
        ({"rasterize_mode": "sharp"}, "rasterize_mode sharp"),
        ({"width": 0}, "width 0"),
        ({"near_plane": 0.0}, "near_plane 0.0"),
        ({"eps2d": math.nan}, "eps2d nan"),
        ({"rules": replace(GSPLAT_1_5, max_alpha=1.0)}, r"max_alpha=1.0.* was given, but 0 < min_alpha"),
    ],
)
def test_what_does_not_fit_is_told(wrong: dict[str, Any], said: str) -> None:
    given = scene(4, 8, 8)
    with pytest.raises(DreamforgeError, match=said):
        rasterization(**given | wrong)
