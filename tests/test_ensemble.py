"""Particles: one spec, several seeds; which one a view shows; samples, gradients and states stay apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamforge import config, runs
from dreamforge.cameras import orbit
from dreamforge.rng import derive
from dreamforge.scenes.canvas import Canvas
from dreamforge.scenes.ensemble import Ensemble, EnsembleScene
from dreamforge.scenes.hash_nerf import HashNerf
from dreamforge.types import Cameras, DreamforgeError, NoMesh, Scene

NERF = HashNerf(levels=2, log2_entries=8, coarsest=4, finest=8, hidden=8, samples=16, occupancy_cells=8)


def cameras(views: int, size: int = 8) -> Cameras:
    return orbit(torch.linspace(-2.0, 2.0, views), torch.full((views,), 0.2), 3.2, 0.7, size, size)


def test_every_particle_starts_elsewhere() -> None:
    scene = Ensemble(Canvas(4), 3).build(7)
    assert isinstance(scene, Scene)
    logits = [one.logits for one in scene.particles]
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])
    again = Ensemble(Canvas(4), 5).build(7)
    assert all(torch.equal(a, b.logits) for a, b in zip(logits, again.particles, strict=False)), "more only adds"


def test_one_shows_one_particle_and_over_steps_all_of_them() -> None:
    """``seed`` picks the particle, evenly; seed 0, that of previews, shows ``shown``."""
    scene = Ensemble(Canvas(8), 4, shown=2).build(0)
    own = [one.render(cameras(2)).rgb for one in scene.particles]
    counts = [0] * 4
    for step in range(400):
        rgb = scene.render(cameras(2), seed=derive(step, "render")).rgb
        (which,) = [k for k in range(4) if torch.equal(rgb, own[k])]
        counts[which] += 1
    assert min(counts) > 70
    assert torch.equal(scene.render(cameras(2), seed=0).rgb, own[2])


def test_only_the_particle_that_is_shown_gets_gradients_and_adapts() -> None:
    scene = Ensemble(NERF, 3).build(0)
    seed = 4  # particle 4 % 3 = 1
    scene.render(cameras(1), torch.ones(3), seed).rgb.sum().backward()
    has = [[p.grad is not None for g in one.param_groups() for p in g["params"]] for one in scene.particles]
    assert [any(one) for one in has] == [False, True, False]
    before = [one.state()["occupancy"].clone() for one in scene.particles]
    scene.adapt(NERF.occupancy_every - 1, 0)
    changed = [not torch.equal(one.state()["occupancy"], b) for one, b in zip(scene.particles, before, strict=True)]
    assert changed == [False, True, False]


@pytest.mark.parametrize("views", [3, 5, 6])
def test_spread_shares_the_views_out_in_blocks_that_move(views: int) -> None:
    """Every particle gets a block of neighbouring views, each step another one; the picture is the same as alone."""
    scene = Ensemble(Canvas(8), 3, "spread").build(0)
    own = [one.render(cameras(1)).rgb[0] for one in scene.particles]
    seen = set()
    for seed in range(1, 40):
        rgb = scene.render(cameras(views), seed=seed).rgb
        shown = [next(k for k in range(3) if torch.equal(view, own[k])) for view in rgb]
        assert sorted(set(shown)) == [0, 1, 2] and shown == sorted(shown, key=shown.index), "blocks"
        assert max(map(shown.count, range(3))) - min(map(shown.count, range(3))) <= 1
        seen.add((shown[0], shown[-1]))
    assert len(seen) == 3


def test_spread_volumes_keep_their_rays_in_order() -> None:
    """Samples are those of the particles, their rays counted on: ascending, and the pixels are the picture."""
    scene = Ensemble(NERF, 2, "spread").build(1)
    background = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]])
    with torch.no_grad():
        whole = scene.render(cameras(3), background, seed=3)
    assert whole.samples is not None and whole.samples.rays == 3 * 64
    assert (whole.samples.ray.diff() >= 0).all() and whole.samples.ray.max() < 3 * 64
    alpha = torch.zeros(3 * 64).index_add(0, whole.samples.ray, whole.samples.weights)
    torch.testing.assert_close(alpha.view(3, 8, 8, 1), whole.alpha, rtol=1e-4, atol=1e-5)
    first, second = scene.particles[1], scene.particles[0]  # seed 3: particle 3 % 2 comes first, with one view of three
    with torch.no_grad():
        a = first.render(cameras(3)[:1], background[:1], derive(3, 0)).rgb
        b = second.render(cameras(3)[1:], background[1:], derive(3, 1)).rgb
    assert torch.equal(whole.rgb, torch.cat([a, b]))


def test_fewer_views_than_particles_is_refused() -> None:
    with pytest.raises(DreamforgeError, match=r"2 views were to be spread over 3 particles.*views to at least 3"):
        Ensemble(Canvas(8), 3, "spread").build(0).render(cameras(2), seed=1)


def test_mesh_and_picture_of_the_shown_particle() -> None:
    dense = replace(NERF, density_scale=20.0, blob_std=0.6)
    scene = Ensemble(dense, 2, shown=1).build(0)
    one, other = scene.particles[1].extract(16), scene.particles[0].extract(16)
    assert torch.equal(scene.extract(16).vertices, one.vertices) and not torch.equal(one.vertices, other.vertices)
    with pytest.raises(NoMesh):
        Ensemble(Canvas(8), 2).build(0).extract(16)


def test_state_goes_in_and_out() -> None:
    scene, fresh = (Ensemble(NERF, 2).build(seed) for seed in (0, 1))
    fresh.load_state(scene.state())
    assert all(torch.equal(value, fresh.state()[name]) for name, value in scene.state().items())
    assert [group["name"] for group in scene.param_groups()] == ["0.encoding", "0.mlp", "1.encoding", "1.mlp"]
    with pytest.raises(DreamforgeError, match="particles 0, 1 was given to an ensemble of 3"):
        Ensemble(NERF, 3).build(0).load_state(scene.state())


def test_wrong_settings() -> None:
    with pytest.raises(DreamforgeError, match="ensemble of 0 particles"):
        Ensemble(Canvas(8), 0)
    with pytest.raises(DreamforgeError, match="shows number 2"):
        Ensemble(Canvas(8), 2, shown=2)
    with pytest.raises(DreamforgeError, match=r"ensemble of None.*of: {use: hash_nerf.HashNerf}"):
        Ensemble()


def test_a_recipe_runs_particles_with_one_estimator(tmp_path: Path) -> None:
    """VSD on two pictures, stopped and resumed: the same bytes; a key of the particles is checked like any other."""
    overrides = [
        "scene={use: ensemble.Ensemble, particles: 2, of: {use: canvas.Canvas, size: 8}}", "guidance=vsd.VSD",
        "prior={use: mixture.Mixture, size: 8}", "steps=6", "views=2", "resolution=8", "checkpoint_every=2",
        "preview_every=0",
    ]  # fmt: skip
    recipe = config.load("canvas", [*overrides, "scene.of.lr=0.2"], {"prompt": "a red mushroom"})
    whole = runs.generate(recipe, tmp_path / "whole")
    countdown = iter([False, False, True])
    with pytest.raises(runs.Interrupted):
        runs.generate(recipe, tmp_path / "stopped", listener=runs.Listener(stop=lambda: next(countdown, False)))
    stopped = runs.resume(tmp_path / "stopped")
    assert whole.asset.read_bytes() == stopped.asset.read_bytes()
    scene = stopped.scene()
    assert isinstance(scene, EnsembleScene) and len(scene.particles) == 2
    ends = [run.scene().state() for run in (whole, stopped)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    with pytest.raises(DreamforgeError, match=r"no key 'sise' in scene\.of: did you mean 'size'"):
        config.load("canvas", [*overrides, "scene.of.sise=9"])
