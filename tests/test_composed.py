"""Objects in one scene: frames against moved cameras, parts, meshes, recipes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge import config, losses, runs
from dreamforge.cameras import orbit
from dreamforge.render.layers import composited
from dreamforge.render.raster import render_mesh
from dreamforge.scenes.canvas import Canvas
from dreamforge.scenes.composed import Composed, ComposedScene, Placed
from dreamforge.scenes.convert import Effort, convert
from dreamforge.scenes.gaussians import Gaussians
from dreamforge.scenes.groups import Group
from dreamforge.scenes.hash_nerf import HashNerf, HashNerfScene
from dreamforge.scenes.mesh import SdfMesh
from dreamforge.scenes.placing import frame, looked_into
from dreamforge.types import Cameras, DreamforgeError, NoMesh

NERF = HashNerf(levels=2, log2_entries=8, coarsest=4, finest=8, hidden=8, samples=64, occupancy_cells=8, normals=True,
                density_scale=10.0)  # fmt: skip
BALL = Gaussians(count=60, capacity=60, normals=True, sh_degree=1, strategy="none", opacity=0.5)
SOLID = SdfMesh(resolution=10, levels=2, log2_entries=8, finest=8, hidden=8)
KINDS = {"nerf": NERF, "gaussians": BALL, "mesh": SOLID}
TURN = (20.0, -70.0, 130.0)
BLACK, GREY = torch.zeros(3), torch.tensor([0.4, 0.5, 0.6])


def cameras(views: int = 2, size: int = 20) -> Cameras:
    return orbit(torch.linspace(-1.0, 1.4, views), torch.linspace(0.1, 0.5, views), 3.2, 0.7, size, size)


def shaken(scene: Any, by: float = 0.3) -> Any:
    """Parameters moved at random, so that nothing is symmetric."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in scene.param_groups():
            for weight in group["params"]:
                weight.add_(by * torch.randn(weight.shape, generator=draws) * (0.1 if weight.ndim == 1 else 1.0))
    return scene


# ---- layers


def test_one_layer_is_the_picture_itself() -> None:
    scene = shaken(NERF.build(0))
    with torch.no_grad():
        alone, black = scene.render(cameras(), GREY, 5), scene.render(cameras(), BLACK, 5)
    seen = composited([black], GREY)
    assert torch.equal(seen.rgb, alone.rgb) and torch.equal(seen.alpha, alone.alpha)


def test_colors_above_1_are_as_bright_as_alone() -> None:
    """Gaussians' colours have no upper limit, only the picture has: values and gradients are those of the object."""
    spec = replace(BALL, sh_degree=0, background_color=(1.0, 1.0, 1.0))
    scene = Composed({"it": Placed(spec)}, background_color=(1.0, 1.0, 1.0)).build(0)
    own = scene.objects["it"]
    with torch.no_grad():
        own.tensors["colors"].fill_(4.0)  # 1.6 of 1
    grads = []
    for one in (scene, own):
        seen = one.render(cameras(), None, 0)
        assert bool((seen.rgb == 1).any()) and bool((seen.rgb[seen.alpha[..., 0] > 0.1] == 1).all())
        (grad,) = torch.autograd.grad(((seen.rgb - 0.3) * seen.alpha.detach()).sum(), own.tensors["colors"])
        grads.append(grad)
    torch.testing.assert_close(grads[0], grads[1])
    with torch.no_grad():
        dark = scene.render(cameras(), BLACK, 0)
    assert bool((dark.rgb > dark.alpha).any()), "it is brighter than its alpha"


# ---- frames


def moved(views: Cameras, place: Placed) -> Cameras:
    """The cameras through the inverse of translation, rotation and scale, in float64 and by matrices."""
    x, y, z = (math.radians(a) for a in place.rotation_deg)
    about_x = torch.tensor([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = torch.tensor([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = torch.tensor([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = place.scale * (about_z @ about_y @ about_x).double()
    matrix[:3, 3] = torch.tensor(place.position).double()
    pose = torch.linalg.inv(matrix) @ views.camera_to_world.double()
    pose[:, :3, :3] *= place.scale
    return replace(views, camera_to_world=pose.float())


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_is_placed_is_one_seen_by_cameras_that_are_moved(kind: str) -> None:
    place = Placed(KINDS[kind], (0.3, -0.2, 0.4), TURN, 0.6)
    scene = Composed({"it": place, "far": Placed(SdfMesh(4, radius=0.1), (0.0, 0.0, -9.0))}).build(0)
    own = shaken(scene.objects["it"])
    with torch.no_grad():
        seen = scene.render(cameras(), BLACK, 3, ["it"])
        assert torch.equal(seen.rgb, own.render(cameras(), BLACK, 3).rgb), "alone it stands in its own frame"
        seen = scene._layer("it", cameras(), 3)
        expected = own.render(moved(cameras(), place), BLACK, 3)
    assert 0.02 < float(seen.alpha.mean()) < 0.9
    close: dict[str, Any] = {"rtol": 0, "atol": 2e-4}
    torch.testing.assert_close(seen.rgb, expected.rgb, **close)
    torch.testing.assert_close(seen.alpha, expected.alpha, **close)
    clear = expected.alpha[..., 0] > 0.2
    torch.testing.assert_close(seen.depth[clear], expected.depth[clear] * 0.6, rtol=0, atol=1e-3)
    assert seen.normal is not None and expected.normal is not None
    matrix = frame((0, 0, 0), TURN, 1.0).turn
    torch.testing.assert_close(seen.normal[clear], expected.normal[clear] @ matrix.t(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_about_y_shows_the_front_to_the_camera_at_that_azimuth(kind: str) -> None:
    """And half the size is seen from twice as far: by ``orbit`` alone, without a matrix."""
    place = Placed(KINDS[kind], rotation_deg=(0.0, 40.0, 0.0), scale=0.5)
    scene = Composed({"it": place}).build(0)
    own, angle = shaken(scene.objects["it"]), math.radians(40.0)
    there = orbit(torch.tensor([angle, angle + 1]), torch.tensor([0.0, 0.2]), 3.0, 0.5, 20, 20)
    front = orbit(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.2]), 6.0, 0.5, 20, 20)
    with torch.no_grad():
        seen, expected = scene.render(there, GREY, 3), own.render(front, GREY, 3)
    torch.testing.assert_close(seen.rgb, expected.rgb, rtol=0, atol=2e-4)
    looked = looked_into(scene.frames["it"], there)
    torch.testing.assert_close(looked.azimuth, front.azimuth, rtol=0, atol=1e-5)
    torch.testing.assert_close(looked.elevation, front.elevation, rtol=0, atol=1e-5)
    torch.testing.assert_close(looked.distance, front.distance)


def test_the_mesh_stands_where_the_picture_shows_it() -> None:
    spec = Composed({"a": Placed(SOLID, (-0.4, 0.1, 0.2), TURN, 0.5), "b": Placed(SOLID, (0.5, 0, -0.3), scale=0.3)})
    scene = spec.build(0)
    for one in scene.objects.values():
        with torch.no_grad():
            one.distance += 0.3 * one.points[:, 0].abs() - 0.1 * one.points[:, 1]  # a lens on its side
    mesh, views = scene.extract(16), cameras(3, 32)
    assert mesh.colors is not None and mesh.normals is not None and mesh.faces.max() == len(mesh.vertices) - 1
    with torch.no_grad():
        seen = scene.render(views, GREY, 0)
    drawn = render_mesh(mesh, views, GREY, light=None)
    assert float((seen.alpha - drawn.alpha).abs().mean()) < 0.01 < 0.05 < float(seen.alpha.mean())
    inside = (seen.alpha > 0.99)[..., 0]
    assert float((seen.depth - drawn.depth)[inside].abs().max()) < 0.05
    assert seen.normal is not None and drawn.normal is not None
    assert float((seen.normal * drawn.normal)[inside].sum(-1).mean()) > 0.98


def test_the_field_of_all_is_where_they_are() -> None:
    spec = Composed({"a": Placed(NERF, (-0.5, 0, 0), TURN, 0.5), "b": Placed(SOLID, (0.5, 0, 0), scale=0.5)})
    scene = spec.build(0)
    points = torch.tensor([[-0.5, 0.1, 0.0], [0.5, 0.0, 0.1], [0.0, 0.9, 0.9]])
    density, color = scene.density_field()(points)
    assert density[2] == 0, "outside of every object's box there is nothing"
    frame = scene.frames["a"]
    own, shown = scene.objects["a"].field(frame.inwards(points[:1]))
    torch.testing.assert_close(density[0], own[0] / 0.5), "the same light is lost on half of the way"
    torch.testing.assert_close(color[0], shown[0])
    torch.testing.assert_close(frame.outwards(frame.inwards(points)), points)
    assert density[1] > 50
    flat = Composed({"a": Placed(Canvas(4)), "b": Placed(NERF)}).build(0)
    with pytest.raises(DreamforgeError, match="object 'a' has no field of density"):
        flat.density_field()


def test_another_scene_goes_on_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted: Gaussians lie on both surfaces, those of groups in the group that is there; a field learns from it."""
    monkeypatch.setattr("dreamforge.scenes.convert.EXTRACTION", 16)
    places = {"a": (-0.5, 0.0, 0.0), "b": (0.5, 0.1, 0.0)}
    scene = Composed({name: Placed(replace(SOLID, radius=0.8), at, TURN, 0.4) for name, at in places.items()}).build(0)
    groups = {name: Group(150, at, (0.0, 20.0, 0.0), 0.4) for name, at in places.items()}
    still, cpu = Effort(points=1, batch=64, steps=0), torch.device("cpu")
    for spec in (Gaussians(count=300, capacity=300), Gaussians(capacity=300, groups=groups)):
        made = convert(scene, spec, 0, cpu, still)
        means = made.splats().means.detach()
        middles = torch.tensor(list(places.values()))
        apart, nearest = torch.cdist(means, middles).min(1)
        assert len(means) == 300 and float((apart - 0.4 * 0.8).abs().max()) < 0.02
        assert 100 < int(nearest.sum()) < 200
        if spec.groups:
            assert torch.equal(made.group, nearest)
            assert made.render(cameras(), GREY, 0, ["b"]).alpha.any()
    assert isinstance(convert(scene, NERF, 0, cpu, still), HashNerfScene)


# ---- parts and learning

MIXED = Composed({
    "fog": Placed(NERF, (-0.45, 0, 0), (0, 30, 0), 0.45),
    "balls": Placed(BALL, (0.45, 0, 0), scale=0.45),
    "stone": Placed(SOLID, (0, 0.5, 0), (30, 0, 0), 0.3),
})  # fmt: skip


def test_parts() -> None:
    scene = MIXED.build(0)
    with torch.no_grad():
        every = scene.render(cameras(), GREY, 2)
        two = scene.render(cameras(), GREY, 2, ["stone", "fog"])
        alone = scene.render(cameras(), torch.stack([GREY, BLACK]), 2, ["fog"])
        own = scene.objects["fog"].render(cameras(), torch.stack([GREY, BLACK]), 2)
        assert torch.equal(every.rgb, scene.render(cameras(), GREY, 2, []).rgb) and not torch.equal(every.rgb, two.rgb)
    for seen in (every, two, alone):
        assert seen.semantic is not None and seen.semantic.shape == (2, 20, 20, 3)
        torch.testing.assert_close(seen.semantic.sum(-1, keepdim=True), seen.alpha)
    assert every.semantic is not None and two.semantic is not None and alone.semantic is not None
    assert (every.semantic.amax((0, 1, 2)) > 0.3).all()
    assert [bool(one.any()) for one in two.semantic.unbind(-1)] == [True, False, True]
    assert [bool(one.any()) for one in alone.semantic.unbind(-1)] == [True, False, False]
    for name in ("rgb", "alpha", "depth", "normal"):
        assert torch.equal(getattr(alone, name), getattr(own, name))
    assert alone.samples is not None and every.samples is None and every.surface is None
    assert scene.render(cameras(1), GREY, 0, ["stone"]).surface is not None
    with pytest.raises(DreamforgeError, match="no part 'ston' in this scene: did you mean 'stone'"):
        scene.render(cameras(), GREY, 2, ["fog", "ston"])
    with pytest.raises(DreamforgeError, match="'emptiness' needs samples along rays"):
        losses.total(every, {"emptiness": 1.0}, 0.0)


def test_an_object_hides_what_is_behind_it() -> None:
    """From the front the near one alone is seen, from behind the far one, of equal size."""
    solid = replace(SOLID, radius=0.8)
    scene = Composed(
        {"near": Placed(solid, (0, 0, 0.5), scale=0.3), "far": Placed(solid, (0, 0, -0.5), scale=0.3)}
    ).build(0)
    with torch.no_grad():
        seen = scene.render(orbit(torch.tensor([0.0, math.pi]), torch.zeros(2), 3.0, 0.5, 21, 21), GREY, 0)
    assert seen.semantic is not None
    torch.testing.assert_close(seen.semantic[:, 10, 10], torch.eye(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.depth[:, 10, 10, 0], torch.full((2,), 3 - 0.5 - 0.3 * 0.8), rtol=0, atol=0.02)


def test_a_turned_ball_is_lit_from_the_same_side() -> None:
    """The light stands in the world: a ball on its head is still bright above."""
    lit = replace(SOLID, radius=0.8, shading="soft")
    pictures = []
    for turn in ((0.0, 0.0, 0.0), (180.0, 0.0, 0.0)):
        with torch.no_grad():
            scene = Composed({"ball": Placed(lit, (0, 0, 0), turn, 0.5), "other": Placed(SOLID, (3, 0, 0))}).build(0)
            pictures.append(scene.render(cameras(1), BLACK, 0).rgb[0, 5:-5, 10].mean(1))
    torch.testing.assert_close(*pictures, rtol=0, atol=0.02)
    assert pictures[0][2] > 1.2 * pictures[0][-3], "above it is brighter"


def test_gradients_reach_every_object_and_the_sky_and_only_who_is_shown_adapts() -> None:
    scene = replace(MIXED, background="environment").build(0)
    scene.render(cameras(3), None, 2).rgb.square().sum().backward()
    groups = scene.param_groups()
    assert [group["name"] for group in groups] == [
        *("fog.encoding", "fog.mlp", "balls.means", "balls.log_scales", "balls.quaternions", "balls.logits"),
        *("balls.colors", "balls.harmonics", "stone.distance", "stone.moves", "stone.weights", "stone.encoding"),
        *("stone.mlp", "background"),
    ]
    assert all(any(p.grad is not None and p.grad.any() for p in group["params"]) for group in groups)
    for group in groups:
        for p in group["params"]:
            p.grad = None
    before = scene.steps.clone()
    scene.render(cameras(1), GREY, 2, ["stone"]).rgb.sum().backward()
    assert not any(p.grad is not None for group in groups[:8] for p in group["params"])
    scene.adapt(0, 0)
    assert (scene.steps - before).tolist() == [0, 0, 1]


def test_terms_that_take_turns_do_not_make_an_object_miss_its_steps() -> None:
    """Refinement every second step, and learning every second step: by the scene's count it would never be both."""
    spec = Gaussians(count=20, capacity=40, refine_from=1, refine_every=2)
    scene = Composed({"a": Placed(spec), "b": Placed(spec)}).build(0)
    for step in range(8):
        for group in scene.param_groups():
            for p in group["params"]:
                p.grad = None
        scene.render(cameras(1), GREY, 0, ["a" if step % 2 == 0 else "b"]).rgb.sum().backward()
        scene.adapt(step, step)
    assert scene.steps.tolist() == [4, 4]
    assert [int(one.alive.sum()) for one in scene.objects.values()] == [22, 22]


def test_state_goes_in_and_out() -> None:
    scene, fresh = (replace(MIXED, background="learned").build(seed) for seed in (0, 1))
    shaken(scene)
    scene.steps[1] = 7
    fresh.load_state(scene.state())
    assert all(torch.equal(value, fresh.state()[name]) for name, value in scene.state().items())
    assert torch.equal(fresh.render(cameras(), None, 1).rgb, scene.render(cameras(), None, 1).rgb)
    with pytest.raises(
        DreamforgeError, match="state of the objects balls, fog, stone was given to a scene of fog, hat"
    ):
        Composed({"fog": Placed(NERF), "hat": Placed(NERF)}).build(0).load_state(scene.state())
    with pytest.raises(DreamforgeError, match=r"background\.0.*do not fit this Composed scene"):
        MIXED.build(0).load_state(scene.state())


def test_an_object_starts_the_same_whoever_else_is_there() -> None:
    one, two = Composed({"a": Placed(BALL)}).build(4), Composed({"b": Placed(BALL), "a": Placed(BALL)}).build(4)
    first, second = one.objects["a"].splats(), two.objects["a"].splats()
    assert torch.equal(first.means, second.means)
    assert not torch.equal(first.means, two.objects["b"].splats().means)


# ---- meshes


def test_an_object_without_a_mesh_is_named() -> None:
    with pytest.raises(NoMesh, match="The object 'flat' has no mesh: a canvas"):
        Composed({"flat": Placed(Canvas(4))}).build(0).extract(16)
    thin = replace(NERF, density_scale=1e-6)
    with pytest.raises(DreamforgeError, match="The object 'thin' has no mesh: the densest point"):
        Composed({"solid": Placed(SOLID), "thin": Placed(thin)}).build(0).extract(16)


# ---- recipes

OBJECTS = {
    "hat": {
        "scene": {"use": "gaussians.Gaussians", "count": 30, "capacity": 40},
        "position": [0, 0.4, 0],
        "scale": 0.4,
    },
    "head": {"scene": "mesh.SdfMesh", "rotation_deg": [0, 90, 0]},
}


def recipe(objects: object = OBJECTS, **values: object) -> config.Recipe:
    scene = {"use": "composed.Composed", "objects": objects}
    return config.load("canvas", values={"scene": scene, "prompt": "a red mushroom", **values})


def test_a_recipe_survives_its_own_yaml() -> None:
    made = recipe(OBJECTS, **{"scene.objects.hat.scene.count": 20, "scene.objects.head.scene.radius": 0.4})
    scene = made.stages[0].scene
    assert scene.objects["hat"] == Placed(Gaussians(count=20, capacity=40), (0.0, 0.4, 0.0), scale=0.4)
    assert scene.objects["head"] == Placed(SdfMesh(radius=0.4), rotation_deg=(0.0, 90.0, 0.0))
    content = OmegaConf.to_container(OmegaConf.create(config.dump(made)))
    assert isinstance(content, dict) and list(content["scene"]["objects"]) == ["hat", "head"]
    assert config.build({str(key): value for key, value in content.items()}) == made


SCENE = {"use": "gaussians.Gaussians"}
NERF_SKY = {"use": "hash_nerf.HashNerf", "background": "learned"}


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({"hat": {"scene": SCENE, "positon": 3}}, r"'positon' in scene\.objects\.hat: did you mean 'position'"),
        ({"hat": {"scene": {**SCENE, "cuont": 3}}}, r"'cuont' in scene\.objects\.hat\.scene: did you mean 'count'"),
        ({"hat": {"scene": "gaussian.Gaussians"}}, r"no scene 'gaussian.Gaussians': did you mean 'gaussians\.Gau"),
        ({"hat": {"scene": SCENE, "scale": "big"}}, r"'scene\.objects\.hat\.scale' was given 'big', but expects float"),
        ({"hat": 3}, r"'scene\.objects\.hat' was given 3, but expects a block"),
        ([{"scene": SCENE}], r"'scene\.objects' was given \[.*expects a block with one name per line"),
        ({}, "without objects"),
        ({"hat": {}}, "object of None was asked for; give it a scene"),
        ({"hat": {"scene": SCENE, "scale": 0}}, r"scale 0\.0; three metres, three angles and a scale above 0"),
        ({"hat": {"scene": SCENE, "position": [0, float("nan"), 0]}}, r"position \[0\.0, nan, 0\.0\]"),
        ({"a hat": {"scene": SCENE}}, "named 'a hat', but a word"),
        ({"background": {"scene": SCENE}}, "other than 'background'"),
        ({"hat": {"scene": NERF_SKY}}, "background learned, which nobody would see"),
    ],
)
def test_wrong_objects_are_refused_in_a_sentence(objects: object, words: str) -> None:
    with pytest.raises(DreamforgeError, match=words):
        recipe(objects)


def test_a_run_of_two_parts_stops_and_goes_on_in_the_same_bytes(tmp_path: Path) -> None:
    small = {"use": "gaussians.Gaussians", "count": 60, "capacity": 80, "refine_from": 1, "refine_every": 1}
    objects = {
        "flat": {"scene": {"use": "canvas.Canvas", "size": 8}},  # has no mesh: the run ends in a picture, soon
        "ball": {"scene": small, "position": [-0.5, 0, 0], "scale": 0.5},
    }
    terms = [{"parts": ["flat"], "every": 2}, {"parts": ["ball"], "prompt": "a blue car", "every": 2, "offset": 1}]
    quick = {"steps": 6, "views": 2, "resolution": 8, "checkpoint_every": 2, "preview_every": 0}
    made = recipe(objects, terms=terms, prior={"use": "mixture.Mixture", "size": 8}, **quick)
    whole = runs.generate(made, tmp_path / "whole")
    countdown = iter([False, False, True])
    with pytest.raises(runs.Interrupted):
        runs.generate(made, tmp_path / "stopped", listener=runs.Listener(stop=lambda: next(countdown, False)))
    stopped = runs.resume(tmp_path / "stopped")
    assert whole.asset.read_bytes() == stopped.asset.read_bytes()
    scene, again = whole.scene(), stopped.scene()
    assert isinstance(scene, ComposedScene) and scene.steps.tolist() == [3, 3]
    assert all(torch.equal(value, again.state()[name]) for name, value in scene.state().items())
