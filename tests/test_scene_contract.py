"""What every scene promises. Each file of ``dreamforge/scenes`` is found and tested with its default settings."""

from typing import Any

import pytest
import torch

from dreamforge.cameras import turntable
from dreamforge.scenes.canvas import Canvas
from dreamforge.scenes.composed import Placed
from dreamforge.scenes.gaussians import Gaussians
from dreamforge.scenes.hash_nerf import HashNerf
from dreamforge.slots import SLOTS
from dreamforge.types import Mesh, NoMesh, Scene

SIZE = 12
CPU = torch.device("cpu")
PAIR = {
    "ball": Placed(Gaussians(count=400, capacity=400), (-0.4, 0.0, 0.0), (0.0, 30.0, 0.0), 0.5),
    "fog": Placed(HashNerf(levels=2, log2_entries=8, finest=16, samples=32), (0.4, 0.0, 0.0), scale=0.5),
}
NEEDS: dict[str, dict[str, Any]] = {  # what has no default
    "ensemble.Ensemble": {"of": Canvas(size=8), "particles": 1},
    "composed.Composed": {"objects": PAIR},
}


def found() -> dict[str, type]:
    """Every scene by ``file.Class``."""
    return SLOTS["scene"].choices()


every_scene = pytest.mark.parametrize("name", sorted(found()))


def make(name: str, seed: int = 0) -> Scene:
    return found()[name](**NEEDS.get(name, {})).build(seed, CPU)


def changed(scene: Scene, by: float = 0.3) -> None:
    """Move every parameter."""
    with torch.no_grad():
        for group in scene.param_groups():
            for weight in group["params"]:
                weight.add_(by)


@every_scene
def test_it_is_a_frozen_spec_of_a_scene(name):
    assert found()[name].__dataclass_params__.frozen, f"{name} must be @dataclass(frozen=True)"
    scene = make(name)
    assert isinstance(scene, Scene)
    groups = scene.param_groups()
    assert groups and all(group["lr"] > 0 and group["name"] and group["params"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)


@every_scene
@pytest.mark.parametrize("views", [1, 3])
def test_pictures_have_their_shapes_and_ranges(name, views):
    seen = make(name).render(turntable(views, height=SIZE, width=SIZE + 4), torch.tensor([0.2, 0.5, 0.8]), 0)
    assert seen.rgb.shape == (views, SIZE, SIZE + 4, 3)
    assert seen.alpha.shape == seen.depth.shape == (views, SIZE, SIZE + 4, 1)
    for picture in (seen.rgb, seen.alpha):
        assert picture.min() >= 0 and picture.max() <= 1 + 1e-5
    assert seen.depth.isfinite().all()


@every_scene
def test_the_same_seed_is_the_same_picture(name):
    scene, cameras = make(name), turntable(2, height=SIZE, width=SIZE)
    first, again = scene.render(cameras, None, 3), scene.render(cameras, None, 3)
    assert torch.equal(first.rgb, again.rgb) and torch.equal(first.depth, again.depth)
    assert torch.equal(first.rgb, make(name).render(cameras, None, 3).rgb), "building draws from its seed alone"


@every_scene
def test_every_group_of_parameters_gets_a_gradient(name):
    scene = make(name)
    scene.render(turntable(2, height=SIZE, width=SIZE), None, 0).rgb.square().sum().backward()
    for group in scene.param_groups():
        grads = [weight.grad for weight in group["params"]]
        assert any(grad is not None and grad.any() for grad in grads), f"nothing reaches {group['name']}"
    scene.adapt(0, 0)


@every_scene
def test_a_state_is_a_copy_from_which_another_goes_on(name):
    scene, cameras = make(name), turntable(2, height=SIZE, width=SIZE)
    changed(scene)
    kept, picture = scene.state(), scene.render(cameras, None, 1).rgb.detach()
    before = {key: value.clone() for key, value in kept.items()}
    changed(scene)
    assert all(torch.equal(kept[key], value) for key, value in before.items()), "a state does not follow its scene"
    other = make(name, seed=5)
    other.load_state(kept)
    assert torch.equal(other.render(cameras, None, 1).rgb, picture)
    assert all(torch.equal(value, before[key]) for key, value in other.state().items())


@every_scene
def test_a_mesh_or_none(name):
    try:
        mesh = make(name).extract(16)
    except NoMesh:
        return
    assert isinstance(mesh, Mesh) and len(mesh.vertices) and mesh.faces.max() < len(mesh.vertices)
