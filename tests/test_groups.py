"""Groups of Gaussians: frames, turned harmonics, parts and shares, births within a group, transforms that learn."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from dreamforge import config
from dreamforge.cameras import orbit
from dreamforge.export.splats import write_splats
from dreamforge.geometry.splats import read_splats
from dreamforge.ops.splat_reference import harmonic_bases
from dreamforge.optimiser import SceneAdam
from dreamforge.render.splat import gaussian_field, rotations, splat_render, turned_harmonics
from dreamforge.scenes.composed import Composed, Placed
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.scenes.groups import Group
from dreamforge.scenes.placing import frame, looked_into, product, quaternion
from dreamforge.types import Cameras, DreamforgeError, HasSplats, Splats

TURN = (20.0, -70.0, 130.0)
TWO = {"one": Group(40, (-0.5, 0.1, 0.0), TURN, 0.4), "two": Group(60, (0.5, 0.0, -0.2), (0.0, 30.0, 0.0), 0.5)}
SPEC = Gaussians(capacity=200, groups=TWO, opacity=0.5, refine_from=1, refine_every=1)
GREY = torch.tensor([0.4, 0.5, 0.6])


def cameras(views: int = 2, size: int = 24) -> Cameras:
    return orbit(torch.linspace(-1.0, 1.4, views), torch.linspace(0.1, 0.5, views), 3.2, 0.7, size, size)


def shaken(scene: GaussianScene, by: float = 0.2) -> GaussianScene:
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in scene.tensors.values():
            tensor.add_(by * torch.randn(tensor.shape, generator=draws))
    return scene


def rows(splats: Splats, which: Tensor) -> Splats:
    return Splats(**{one.name: getattr(splats, one.name)[which].detach() for one in fields(Splats)})


def own(scene: GaussianScene, number: int) -> Splats:
    """A group's Gaussians in its own frame, straight from the tensors."""
    which = (scene.alive & (scene.group == number)).nonzero().squeeze(1)
    t = {name: tensor.detach()[which] for name, tensor in scene.tensors.items()}
    sh = torch.cat([t["colors"], t["harmonics"]], 1)
    return Splats(t["means"], t["log_scales"], t["quaternions"], t["logits"], sh)


# ---- harmonics


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_turned_harmonics_are_the_function_that_was_turned(degree: int) -> None:
    draws = torch.Generator().manual_seed(degree)
    turn = rotations(torch.randn(5, 4, generator=draws, dtype=torch.float64))
    matrix = turned_harmonics(turn, degree)
    direction = torch.nn.functional.normalize(torch.randn(100, 3, generator=draws, dtype=torch.float64), dim=1)
    coefficient = torch.randn((degree + 1) ** 2, 3, generator=draws, dtype=torch.float64)
    for one, of in zip(turn, matrix, strict=True):
        turned = harmonic_bases(degree, direction) @ (of @ coefficient)
        torch.testing.assert_close(turned, harmonic_bases(degree, direction @ one) @ coefficient, rtol=0, atol=1e-10)
        torch.testing.assert_close(of @ of.t(), torch.eye(len(of)).double(), rtol=0, atol=1e-9)
        band = torch.arange(len(of)).double().sqrt().long()
        assert float(of[band[:, None] != band].abs().max()) < 1e-9, "a rotation keeps the bands"
    torch.testing.assert_close(turned_harmonics(turn[0] @ turn[1], degree), matrix[0] @ matrix[1])


def test_turned_harmonics_have_the_gradient_of_differences() -> None:
    given = torch.tensor([[0.9, 0.3, -0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: turned_harmonics(rotations(q), 2), given)


def test_quaternions_of_degrees() -> None:
    """x first, then y, then z; a product is one turn after another."""
    a, b = quaternion((30.0, 0.0, 0.0)), quaternion((0.0, 50.0, 0.0))
    both = rotations(quaternion((30.0, 50.0, 0.0))[None])[0]
    torch.testing.assert_close(both, rotations(b[None])[0] @ rotations(a[None])[0])
    torch.testing.assert_close(rotations(product(b, a)[None])[0], both)
    quarter = rotations(quaternion((0.0, 90.0, 0.0))[None])[0] @ torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(quarter, torch.tensor([1.0, 0, 0]), rtol=0, atol=1e-6)


# ---- frames


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_a_group_is_its_gaussians_seen_by_cameras_that_are_moved(degree: int, antialiased: bool) -> None:
    """Pixel for pixel, colours that depend on the direction too: nothing of the other group is in these pictures."""
    far = {**TWO, "two": replace(TWO["two"], position=(0.0, 0.0, -60.0), scale=0.01)}
    scene = shaken(replace(SPEC, groups=far, sh_degree=degree, antialiased=antialiased, normals=True).build(0))
    one, place = own(scene, 0), TWO["one"]
    placed = frame(place.position, place.rotation_deg, place.scale)
    with torch.no_grad():
        seen = scene.render(cameras(), GREY, 0)
        looked = looked_into(placed, cameras())
        expected, _ = splat_render(one, looked, GREY, normals=True, antialiased=antialiased)
    there = expected.alpha[..., 0] > 0.05
    assert 0.05 < there.float().mean() < 0.9
    torch.testing.assert_close(seen.rgb[there], expected.rgb[there], rtol=0, atol=3e-4)
    torch.testing.assert_close(seen.alpha[there], expected.alpha[there], rtol=0, atol=3e-4)
    torch.testing.assert_close(seen.depth[there], expected.depth[there] * place.scale, rtol=0, atol=2e-3)
    assert seen.normal is not None and expected.normal is not None
    turned = expected.normal[there] @ placed.turn.t()
    assert float((seen.normal[there] * turned).sum(-1).median()) > 0.9999
    with torch.no_grad():
        alone = scene.render(cameras(), GREY, 0, ["one"])
        expected, _ = splat_render(one, cameras(), GREY, normals=True, antialiased=antialiased)
    assert torch.equal(alone.rgb, expected.rgb), "alone it stands in its own frame"


def test_the_way_out_and_back() -> None:
    scene = shaken(replace(SPEC, sh_degree=2).build(0))
    assert scene.groups is not None
    group = scene.group[:100]
    start = Splats(**{f.name: torch.cat([getattr(own(scene, k), f.name) for k in (0, 1)]) for f in fields(Splats)})
    again = scene.groups.inwards(scene.groups.outwards(start, group), group)
    for one in ("means", "log_scales", "logit_opacities", "sh"):
        torch.testing.assert_close(getattr(again, one), getattr(start, one), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotations(again.quaternions), rotations(start.quaternions), rtol=0, atol=1e-5)


def test_a_start_in_the_world_goes_to_the_nearest_group_and_looks_the_same() -> None:
    cloud = shaken(Gaussians(count=80, capacity=80, radius=0.9, sh_degree=1).build(3)).splats()
    scene = GaussianScene(replace(SPEC, sh_degree=1), cloud, 0, "cpu")
    middles = torch.tensor([TWO["one"].position, TWO["two"].position])
    far = torch.cdist(cloud.means.detach(), middles) / torch.tensor([0.4, 0.5])
    assert torch.equal(scene.group[:80], far.argmin(1)) and len(scene.group[:80].unique()) == 2
    with torch.no_grad():
        seen, expected = scene.render(cameras(), GREY, 0), splat_render(cloud, cameras(), GREY)[0]
    torch.testing.assert_close(seen.rgb, expected.rgb, rtol=0, atol=3e-4)


def test_groups_may_be_inside_each_other() -> None:
    """One cloud, its Gaussians dealt out to two groups in one place: the picture of the cloud, to the bit."""
    whole = shaken(Gaussians(count=100, capacity=100, opacity=0.5).build(0))
    here = {"a": Group(50), "b": Group(50)}
    scene = GaussianScene(Gaussians(capacity=100, groups=here), whole.splats(), 0, "cpu", torch.arange(100) % 2)
    with torch.no_grad():
        seen, expected = scene.render(cameras(), GREY, 0), whole.render(cameras(), GREY, 0)
    assert torch.equal(seen.rgb, expected.rgb) and torch.equal(seen.depth, expected.depth)


def test_groups_apart_are_a_composed_scene_of_gaussians() -> None:
    """Without overlap in depth both are exact, so they agree; and so do shares and meshes' fields."""
    apart = {name: replace(one, scale=0.3) for name, one in TWO.items()}
    spec = replace(SPEC, groups=apart, sh_degree=1)
    scene = shaken(spec.build(0), 0.1)
    plain = replace(spec, groups={}, count=10)
    made = Composed({n: Placed(plain, g.position, g.rotation_deg, g.scale) for n, g in apart.items()}).build(0)
    for number, name in enumerate(TWO):
        made.objects[name] = GaussianScene(plain, own(scene, number), 0, "cpu")
    around = orbit(torch.tensor([0.0, 1.3, 3.0]), torch.zeros(3), 3.2, 0.9, 24, 24)
    with torch.no_grad():
        seen, expected = scene.render(around, GREY, 0), made.render(around, GREY, 0)
    for name in ("rgb", "alpha", "semantic"):
        torch.testing.assert_close(getattr(seen, name), getattr(expected, name), rtol=0, atol=1e-4)
    solid = seen.alpha > 0.05
    torch.testing.assert_close(seen.depth[solid], expected.depth[solid], rtol=0, atol=2e-3)
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    density, _ = scene.density_field()(points)
    fine, _ = gaussian_field(scene.splats(), 2.0 / 128)(points)
    assert torch.equal(density, fine) and bool((density > 0).any())


@pytest.mark.parametrize("degree", [0, 2])
def test_a_file_of_splats_has_the_world(degree: int, tmp_path: Path) -> None:
    scene = shaken(replace(SPEC, sh_degree=degree).build(0))
    assert isinstance(scene, HasSplats)
    write_splats(scene.splats(), tmp_path / "splats.ply")
    with torch.no_grad():
        seen = scene.render(cameras(), GREY, 0)
        read = splat_render(read_splats(tmp_path / "splats.ply"), cameras(), GREY)[0]
    torch.testing.assert_close(read.rgb, seen.rgb, rtol=0, atol=1e-4)


# ---- parts and shares


def test_shares_and_parts() -> None:
    groups = {**TWO, "three": Group(30, (0.0, 0.6, 0.3), scale=0.3)}
    scene = shaken(replace(SPEC, groups=groups, semantic=2).build(0))
    assert [int((scene.group[scene.alive] == k).sum()) for k in range(3)] == [40, 60, 30]
    with torch.no_grad():
        every = scene.render(cameras(), GREY, 0)
        some = scene.render(cameras(), GREY, 0, ["three", "one"])
        alone = scene.render(cameras(), GREY, 0, ["two"])
        kept = (scene.group != 1).nonzero().squeeze(1)
        expected = splat_render(rows(scene.splats(), kept[kept < 130]), cameras(), GREY)[0]
    for seen, there in ((every, [True] * 3), (some, [True, False, True]), (alone, [False, True, False])):
        assert seen.semantic is not None and seen.semantic.shape[-1] == 5
        torch.testing.assert_close(seen.semantic[..., :3].sum(-1, keepdim=True), seen.alpha)
        assert [bool(share.any()) for share in seen.semantic[..., :3].unbind(-1)] == there
        assert bool(seen.semantic[..., 3:].any())
    assert torch.equal(some.rgb, expected.rgb)
    with pytest.raises(DreamforgeError, match="no part 'too' in this scene: did you mean 'two'"):
        scene.render(cameras(), GREY, 0, ["too"])
    assert SPEC.build(0).render(cameras(), GREY, 0).semantic is not None
    assert Gaussians(count=5, capacity=5).build(0).render(cameras(), GREY, 0).semantic is None


def test_the_near_group_is_what_is_seen() -> None:
    flat = {"near": Group(300, (0, 0, 0.5), scale=0.4), "far": Group(300, (0, 0, -0.5), scale=0.4)}
    scene = Gaussians(capacity=600, groups=flat, opacity=0.9).build(0)
    with torch.no_grad():
        seen = scene.render(orbit(torch.tensor([0.0, math.pi]), torch.zeros(2), 3.0, 0.5, 21, 21), GREY, 0)
    assert seen.semantic is not None
    torch.testing.assert_close(seen.semantic[:, 10, 10], torch.eye(2), rtol=0, atol=0.02)


def test_a_group_that_has_died_out_is_not_seen() -> None:
    scene = SPEC.build(0)
    scene.alive &= scene.group != 0
    seen = scene.render(cameras(), GREY, 0, ["one"])
    assert not seen.alpha.any() and torch.equal(seen.rgb, GREY.expand_as(seen.rgb))
    assert bool(scene.render(cameras(), GREY, 0).alpha.any())


# ---- learning


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_who_is_born_belongs_to_the_group_of_its_source(strategy: str) -> None:
    """Each group has a colour of its own and its gradient is withheld: after births and deaths it is still so."""
    spec = replace(SPEC, strategy=strategy, grow_pull=1e-9, growth=1.5, grow_scale=0.15, absgrad=strategy == "default")
    scene = spec.build(0)
    shade = torch.tensor([0.2, 0.7])
    with torch.no_grad():
        scene.tensors["colors"].copy_(shade[scene.group][:, None, None].expand_as(scene.tensors["colors"]))
        scene.tensors["logits"][:3] = -8.0  # the first three of "one" are too faint to stay
    born = 0
    for step in range(3):
        parts = [None, ["one"], ["two"]][step]
        before = scene.alive.clone()
        for tensor in scene.tensors.values():
            tensor.grad = None
        scene.render(cameras(), GREY, step, parts).rgb.square().sum().backward()
        scene.adapt(step, step)
        born += int((scene.alive & ~before).sum())
        colors = scene.tensors["colors"].detach()[scene.alive][:, 0, 0]
        assert torch.equal(colors, shade[scene.group[scene.alive]])
    assert born > 20
    where = scene.splats().means.detach()
    middles = torch.tensor([TWO["one"].position, TWO["two"].position])
    assert torch.equal(torch.cdist(where, middles).argmin(1), scene.group[scene.alive]), "and stands where it stands"


def test_who_was_pulled_is_noted_for_the_parts_that_were_shown() -> None:
    scene = replace(SPEC, strategy="default", refine_from=9).build(0)
    scene.render(cameras(), GREY, 0, ["two"]).rgb.square().sum().backward()
    scene.adapt(0, 0)
    pulled = scene.pull[:, 1] > 0
    assert pulled.any() and bool((scene.group[pulled] == 1).all()) and int(pulled.sum()) == 60


def test_transforms_have_the_gradient_of_differences() -> None:
    """Of the world's Gaussians in float64: positions, turns and sizes, harmonics turned along."""
    scene = shaken(replace(SPEC, sh_degree=1, lr_transforms=1e-2).build(0))
    assert scene.groups is not None
    groups, one = scene.groups, own(scene, 0)
    start = Splats(**{f.name: getattr(one, f.name)[:4].double() for f in fields(Splats)})

    def world(positions: Tensor, turns: Tensor, log_sizes: Tensor) -> tuple[Tensor, ...]:
        groups.positions, groups.turns, groups.log_sizes = positions, turns, log_sizes
        moved = groups.outwards(start, torch.tensor([0, 1, 0, 1]))
        return moved.means, moved.log_scales, moved.quaternions, moved.sh

    given = [t.detach().double().requires_grad_() for t in groups.tensors().values()]
    assert torch.autograd.gradcheck(world, given)


def test_transforms_are_fixed_unless_they_are_to_learn() -> None:
    fixed, free = SPEC.build(0), replace(SPEC, lr_transforms=3e-2).build(0)
    assert "transforms" not in {group["name"] for group in fixed.param_groups()}
    (places,) = [group for group in free.param_groups() if group["name"] == "transforms"]
    assert places["lr"] == 3e-2
    aim = replace(SPEC, groups={**TWO, "one": replace(TWO["one"], position=(-0.3, 0.3, 0.0))}).build(0)
    optimiser, losses = SceneAdam([places], (0.9, 0.99), 1e-15), []
    with torch.no_grad():
        wanted = aim.render(cameras(3), GREY, 0).rgb
    for step in range(40):
        optimiser.zero_grad()
        loss = (free.render(cameras(3), GREY, step).rgb - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert free.groups is not None
    torch.testing.assert_close(free.groups.positions[0], torch.tensor([-0.3, 0.3, 0.0]), rtol=0, atol=0.08)
    torch.testing.assert_close(free.groups.positions[1], torch.tensor(TWO["two"].position), rtol=0, atol=0.08)
    optimiser.zero_grad()
    free.render(cameras(), GREY, 0, ["one"]).rgb.sum().backward()
    assert all(p.grad is None for p in places["params"]), "alone, in its own frame, a group says nothing of its place"


def test_state_goes_in_and_out() -> None:
    spec = replace(SPEC, lr_transforms=1e-2, semantic=1)
    scene, fresh = shaken(spec.build(0)), spec.build(1)
    with torch.no_grad():
        scene.groups.positions += 0.1
    scene.group[5] = 1
    fresh.load_state(scene.state())
    assert all(torch.equal(value, fresh.state()[name]) for name, value in scene.state().items())
    with torch.no_grad():
        assert torch.equal(fresh.render(cameras(), GREY, 0).rgb, scene.render(cameras(), GREY, 0).rgb)
    plain = Gaussians(count=10, capacity=200).build(0)
    assert set(plain.state()) == {
        *("means", "log_scales", "quaternions", "logits", "colors", "harmonics", "semantic", "alive", "renewed", "pull")
    }
    with pytest.raises(DreamforgeError, match="group"):
        plain.load_state(scene.state())


def test_a_run_goes_on_in_the_same_bits() -> None:
    spec = replace(SPEC, lr_transforms=1e-2, growth=1.2)

    def run(scene: GaussianScene, steps: range) -> None:
        for step in steps:
            for group in scene.param_groups():
                for p in group["params"]:
                    p.grad = None
            scene.render(cameras(), GREY, step, [None, ["one"]][step % 2]).rgb.square().mean().backward()
            with torch.no_grad():
                for group in scene.param_groups():
                    for p in group["params"]:
                        p.sub_(0 if p.grad is None else p.grad)
            scene.adapt(step, step)

    whole, again = spec.build(0), spec.build(5)
    run(whole, range(3))
    again.load_state(whole.state())
    run(whole, range(3, 6))
    run(again, range(3, 6))
    assert all(torch.equal(value, again.state()[name]) for name, value in whole.state().items())


# ---- recipes


def recipe(**scene: Any) -> config.Recipe:
    block = {"use": "gaussians.Gaussians", "capacity": 100, **scene}
    return config.load("canvas", values={"scene": block, "prompt": "a red mushroom"})


def test_a_recipe_of_groups_survives_its_own_yaml() -> None:
    made = recipe(groups={"hat": {"count": 30, "scale": 0.4}, "head": {"count": 20, "position": [0, 1, 0]}})
    scene = made.stages[0].scene
    assert scene.groups == {"hat": Group(30, scale=0.4), "head": Group(20, (0.0, 1.0, 0.0))} and scene.count == 50
    content = config.dump(made)
    again = OmegaConf.to_container(OmegaConf.create(content))
    assert isinstance(again, dict)
    assert config.build({str(key): value for key, value in again.items()}) == made


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ({"groups": {"hat": {"cuont": 3}}}, "no key 'cuont' in scene.groups.hat: did you mean 'count'"),
        ({"groups": {"hat": {"count": 0}}}, "group of 0 Gaussians"),
        ({"groups": {"hat": {"count": 101}}}, "count 101, capacity 100"),
        ({"groups": {"hat": {"count": 9, "scale": -1}}}, "scale -1.0; three metres"),
        ({"groups": {"my hat": {"count": 9}}}, "named 'my hat', but a word"),
        ({"groups": {"hat": {"count": "many"}}}, "'scene.groups.hat.count' was given 'many', but expects int"),
        ({"count": 9, "lr_transforms": 0.1}, "lr_transforms 0.1 and 0 groups"),
        ({"groups": {"hat": {"count": 9}}, "lr_transforms": -0.1}, "lr_transforms -0.1 and 1 groups"),
    ],
)
def test_wrong_groups_are_refused_in_a_sentence(scene: dict[str, Any], words: str) -> None:
    with pytest.raises(DreamforgeError, match=words):
        recipe(**scene)
