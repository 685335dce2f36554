"""Noise attached to a surface: every view's is N(0, I) exactly, and views of one place share it as they share cells."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d

from dreamforge import config
from dreamforge.assembly import Priors, build_stage
from dreamforge.cameras import orbit, project, rays
from dreamforge.engine import fit
from dreamforge.noise import Consistent, ConsistentNoise, Gaussian, sphere_cells, surface_points
from dreamforge.types import Cameras, DreamforgeError, Noise, RenderOutput

SIZE = 12


def around(*azimuth: float, size: int = SIZE) -> Cameras:
    return orbit(torch.tensor(azimuth), torch.full((len(azimuth),), 0.2), 3.2, 0.7, size, size)


def sphere(cameras: Cameras, radius: float = 0.8) -> RenderOutput:
    """The depth of a ball, by hand: |o + t d| = r."""
    origin, direction = rays(cameras)
    b = (origin * direction).sum(-1)
    root = b**2 - origin.square().sum(-1) + radius**2
    t = -b - root.clamp_min(0).sqrt()
    depth = t * (direction * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1)
    alpha = (root > 0).float()[..., None]
    return RenderOutput(torch.zeros(*alpha.shape[:3], 3), alpha, depth[..., None] * alpha)


def many(spec: Consistent, cameras: Cameras, render: RenderOutput, runs: int, channels: int = 1) -> Tensor:
    """``[runs, B, C, h, w]``: the noise of as many runs as one sees it in one step."""
    x = torch.zeros(len(cameras), channels, SIZE, SIZE)
    return torch.stack([spec.build(run).sample(x, cameras, render, seed=run) for run in range(runs)])


def expected(noise: ConsistentNoise, cameras: Cameras, render: RenderOutput) -> Tensor:
    """Covariance of all pixels of all views by counting cells: |A and B| / sqrt(|A| |B|); ``[B*P, B*P]``."""
    owns = torch.zeros(len(cameras) * SIZE * SIZE, math.prod(noise.cells(SIZE)))
    for view, (cells, pixels) in enumerate(noise.owners(cameras, render, SIZE, SIZE)):
        owns[view * SIZE * SIZE + pixels, cells] = 1
    count = owns.sum(1).clamp_min(1)
    shared = owns @ owns.T / (count[:, None] * count).sqrt()
    return shared + torch.diag((owns.sum(1) == 0).float())  # noise of its own where there is no surface


@pytest.mark.parametrize("spec", [Consistent(), Consistent(share=0.5), Consistent(lifetime="step", background="fresh")])
def test_the_marginal_is_standard_normal(spec: Consistent) -> None:
    """Over runs every pixel of a view has mean 0, variance 1, kurtosis 3, and no two of them correlate."""
    runs, cameras = 2000, around(0.3)
    noise = many(spec, cameras, sphere(cameras), runs).flatten(1)  # [runs, pixels]
    assert noise.mean(0).abs().max() < 5 / runs**0.5
    assert (noise.square().mean(0) - 1).abs().max() < 5 * (2 / runs) ** 0.5
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.05)
    between = noise.T @ noise / runs - torch.diag(noise.square().mean(0))
    assert between.abs().max() < 5.5 / runs**0.5


def test_pixels_of_a_view_share_no_cell_and_so_are_independent() -> None:
    """Exactly, not over draws: a sum of n cells / sqrt(n) has variance 1, disjoint sums do not correlate."""
    cameras = around(0.0, 1.0, 3.0)
    noise = Consistent(samples=5).build(0)
    for cells, owners in noise.owners(cameras, sphere(cameras), SIZE, SIZE):
        assert len(cells.unique()) == len(cells) > len(owners.unique()) > 20
    inside = expected(noise, cameras[[0]], sphere(cameras[[0]]))
    assert torch.equal(inside, torch.eye(SIZE * SIZE))


def test_views_share_noise_as_they_share_cells() -> None:
    """Covariance over runs = |A and B| / sqrt(|A| |B|), for all pixels of three views; far less behind the object."""
    cameras, runs = around(0.0, 0.1, math.pi), 2000
    render = sphere(cameras)
    wanted = expected(Consistent(background="fresh").build(0), cameras, render)
    noise = many(Consistent(background="fresh"), cameras, render, runs).flatten(1)
    found = noise.T @ noise / runs
    assert (found - wanted).abs().max() < 6 * (2 / runs) ** 0.5
    pixels = SIZE * SIZE
    near, far = wanted[:pixels, pixels : 2 * pixels], wanted[:pixels, 2 * pixels :]
    seen = render.alpha[0].flatten() > 0
    assert near.max(1).values[seen].mean() > 0.5, "each pixel has a partner in the neighbouring view"
    assert far.sum() < 0.02 * near.sum()


def test_the_partner_is_where_the_same_place_is_seen() -> None:
    """The pixel that shares most is the one onto which the other camera projects the surface point."""
    cameras = around(0.0, 0.25)
    render = sphere(cameras)
    shared = expected(Consistent().build(0), cameras, render)[: SIZE * SIZE, SIZE * SIZE :]
    points, solid = surface_points(cameras[[0]], sphere(cameras[[0]]), SIZE, SIZE)
    place = points[0].view(-1, 3)
    facing = solid[0].flatten() & (place @ cameras.camera_to_world[1, :3, 3] > 1.4)  # the other camera sees it well
    pixel, _ = project(place, cameras[[1]])
    partner = shared.argmax(1)
    there = torch.stack([partner % SIZE, partner // SIZE], 1) + 0.5
    assert facing.sum() > 40
    assert (there - pixel[0])[facing].abs().max() < 0.55


def test_points_and_cells() -> None:
    """A rendered ball's points lie on it; cells are of equal area: a uniform sphere fills them evenly."""
    cameras = around(0.4, size=32)
    points, solid = surface_points(cameras, sphere(cameras), 64, 64)
    assert points[solid].norm(dim=-1).median().item() == pytest.approx(0.8, abs=0.005)
    draws = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(sphere_cells(draws, 8, 25), minlength=200).float()
    assert len(counts) == 200 and (counts - 1000).abs().max() < 5 * 1000**0.5


def test_it_stays_for_a_run_or_a_step() -> None:
    cameras = around(0.0, 2.0)
    render, x = sphere(cameras), torch.zeros(2, 3, SIZE, SIZE)
    run, step = Consistent().build(5), Consistent(lifetime="step", background="fresh").build(5)
    assert isinstance(run, Noise) and run.draws == 1
    assert torch.equal(run.sample(x, cameras, render, 1), run.sample(x, cameras, render, 2))
    assert not torch.equal(run.sample(x, cameras, render, 1), Consistent().build(6).sample(x, cameras, render, 1))
    assert torch.equal(step.sample(x, cameras, render, 1), step.sample(x, cameras, render, 1))
    assert not torch.equal(step.sample(x, cameras, render, 1), step.sample(x, cameras, render, 2))
    half = Consistent(share=0.25).build(5)
    a, b = (half.sample(x, cameras, render, seed).flatten() for seed in (1, 2))
    assert (a @ b / (a.norm() * b.norm())).item() == pytest.approx(0.25, abs=0.12)
    assert run.sample(x.bfloat16(), cameras, render, 1).dtype == torch.bfloat16


def test_what_has_no_surface_gets_the_noise_of_the_screen() -> None:
    """A flat picture (depth 0), no cameras, the background: fixed or fresh; a view does not depend on the others."""
    x, cameras = torch.zeros(3, 4, SIZE, SIZE), around(0.0, 1.0, 2.0)
    flat = RenderOutput(torch.zeros(3, SIZE, SIZE, 3), torch.ones(3, SIZE, SIZE, 1), torch.zeros(3, SIZE, SIZE, 1))
    noise = Consistent().build(1)
    screen = noise.sample(x, cameras, flat, 1)
    assert torch.equal(screen, noise.sample(x, None, None, 2)) and not torch.equal(screen[0], screen[1])
    assert torch.equal(screen[:1], noise.sample(x[:1], cameras[[0]], None, 3))
    render = sphere(cameras)
    assert torch.equal(noise.sample(x, cameras, render, 1)[:, :, 0], screen[:, :, 0]), "the top row shows no ball"
    fresh = Consistent(background="fresh").build(1)
    assert not torch.equal(fresh.sample(x, cameras, flat, 1), fresh.sample(x, cameras, flat, 2))


def test_x_may_be_finer_or_coarser_than_the_render() -> None:
    """Latents are coarser, and a 32 pixel render is enlarged for the prior: still one owner a cell, pixels filled."""
    cameras = around(0.0, size=24)
    for side in (8, 48):
        noise = Consistent().build(0)
        ((cells, owners),) = noise.owners(cameras, sphere(cameras), side, side)
        assert len(cells.unique()) == len(cells)
        filled = torch.bincount(owners, minlength=side * side).view(side, side) > 0
        alpha = sphere(cameras).alpha[None, 0, :, :, 0]
        grown, shrunk = max_pool2d(alpha, 3, 1, 1), -max_pool2d(-alpha, 3, 1, 1)  # a pixel's room at the edge
        if side < 24:
            grown, shrunk = adaptive_max_pool2d(grown, side), -adaptive_max_pool2d(-shrunk, side)
        else:
            grown, shrunk = (one.repeat_interleave(2, 1).repeat_interleave(2, 2) for one in (grown, shrunk))
        assert filled[shrunk[0] > 0].all() and not filled[grown[0] == 0].any()


def test_a_recipe_draws_it_from_the_seed_of_the_run() -> None:
    def built(seed: int) -> ConsistentNoise:
        overrides = ["prior={use: mixture.Mixture, size: 8}", "noise=noise.Consistent", "scene.size=8", f"seed={seed}"]
        recipe = config.load("canvas", [*overrides, "prompt=a red mushroom", "resolution=8"])
        noise = build_stage(recipe, 0, Priors(torch.device("cpu"))).terms[0].noise
        assert isinstance(noise, ConsistentNoise)
        return noise

    x = torch.zeros(1, 3, 8, 8)
    one, again, other = (built(seed).sample(x, None, None, 0) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_more_draws_lower_the_variance_of_the_gradient_as_one_over_n() -> None:
    """Var of the mean of n independent draws = Var / n: the step of a picture, over 400 seeds, n = 1 and 6."""
    recipe = config.load(
        "canvas",
        [
            "prior={use: mixture.Mixture, size: 8}",
            "scene={use: canvas.Canvas, size: 8, init: grey, pictures: 1}",
            "views=1",
        ],
        {"prompt": "a red mushroom", "resolution": 8},
    )
    work = build_stage(recipe, 0, Priors(torch.device("cpu")))
    logits = work.scene.state()["logits"]

    def gradients(draws: int) -> Tensor:
        found = []
        for seed in range(400):
            work.scene.load_state({"logits": logits})
            optimiser = torch.optim.SGD(work.scene.param_groups(), lr=1.0)
            optimiser.param_groups[0]["lr"] = 1.0
            fit(work.scene, [replace(work.terms[0], noise=Gaussian(draws=draws))], optimiser, 1, seed)
            found.append(logits - work.scene.state()["logits"])
        return torch.stack(found)

    one, six = gradients(1), gradients(6)
    ratio = (one.var(0).mean() / six.var(0).mean()).item()
    assert ratio == pytest.approx(6, rel=0.12)
    error = ((one.var(0) + six.var(0)) / 400).sqrt()
    assert ((one.mean(0) - six.mean(0)).abs() < 5 * error).all(), "the mean stays"


def test_wrong_settings() -> None:
    for wrong in ({"share": 1.5}, {"fineness": 0.0}, {"samples": 0}):
        with pytest.raises(DreamforgeError, match="Consistent noise got"):
            Consistent(**wrong)
    with pytest.raises(DreamforgeError, match="at least 1"):
        Consistent(draws=0)
