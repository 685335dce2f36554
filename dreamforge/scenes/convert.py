"""From one kind of scene to another, without a prior: first what is where, then what it looks like.

The order is PVD's (Fang et al. 2023, "One is All"): density and colour at points, then pictures. Gaussians and meshes
start on the source's surface, which says both; a radiance field first learns the source's field at points. Then every
target is fitted to pictures of the source from all sides. A scene of the same kind and sizes is not learnt again: it is
taken over as it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamforge.cameras import OrbitSampler
from dreamforge.geometry.distance import signed_distance
from dreamforge.geometry.points import face_areas, on_surface
from dreamforge.optimiser import SceneAdam
from dreamforge.render.splat import C0
from dreamforge.render.volume import Field
from dreamforge.rng import derive, generator
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.scenes.hash_nerf import HashNerf, HashNerfScene
from dreamforge.scenes.mesh import BOUND, MARGIN, MeshScene, SdfMesh
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.types import Cameras, DreamforgeError, HasSplats, Mesh, Scene, Splats

EXTRACTION = 128  # voxels along an edge of the surface that targets start on
AROUND = OrbitSampler(elevation_deg=(-60.0, 90.0), distance=(2.6, 3.4), fov_deg=(40.0, 40.0))
Step = Callable[[int, int], None]  # done, of how many


@runtime_checkable
class HasField(Protocol):
    """A scene that is a density and a colour at every point: what a radiance field learns first."""

    def density_field(self) -> Field: ...


@dataclass(frozen=True)
class Effort:
    """``points`` steps at ``batch`` points, for radiance fields alone, then ``steps`` steps at ``views`` each of
    ``pictures`` pictures of ``resolution`` pixels, at ``rate`` times the target's own learning rates."""

    points: int = 200
    batch: int = 1 << 15
    steps: int = 250
    views: int = 2
    pictures: int = 120
    resolution: int = 192
    rate: float = 1.0

    def __post_init__(self) -> None:
        steps, sizes = (self.points, self.steps), (self.batch, self.views, self.pictures, self.resolution)
        if min(steps) < 0 or min(sizes) < 1 or not 0 < self.rate < math.inf:
            raise DreamforgeError(
                f"'conversion' was given points {self.points}, batch {self.batch}, steps {self.steps}, views "
                f"{self.views}, pictures {self.pictures}, resolution {self.resolution} and rate {self.rate}, but 0 or "
                "more steps, sizes of at least 1 and a rate above 0 are expected."
            )


USUAL = Effort()
SPLATS = Effort(resolution=256)
# a mesh is drawn at twice the resolution, and its start is nearly right
MESH = Effort(steps=200, pictures=160, rate=0.3)
# Gaussians of 3DGS are widened by a part of a pixel, so they are larger in small pictures: a mesh that learns from 128
# pixels is a pixel too large at 256
SPLATS_MESH = Effort(steps=140, resolution=256, rate=0.3)
CHARTED = 64  # voxels along an edge of a surface that is unwrapped: xatlas takes seconds for its 20 000 triangles


def convert(
    source: Scene, spec: Any, seed: int, device: torch.device, effort: Effort | None = None, on_step: Step | None = None
) -> Scene:
    """A scene of ``spec`` that looks as ``source`` does. Its background is its own. ``effort``: ``usual`` where None.

    Raises DreamforgeError for a source without a surface, and for a spec that no scene can be converted to.
    """
    same = _taken_over(source, spec, seed, device)
    if same is not None:
        return same
    effort = effort or usual(source, spec)
    say = on_step or (lambda done, steps: None)
    to_come = _count(effort) + effort.steps
    target: GaussianScene | MeshScene | HashNerfScene | TexturedScene
    learnt = effort.points if isinstance(spec, HashNerf) else 0
    if isinstance(spec, Gaussians):
        target = gaussians_on(source.extract(EXTRACTION), spec, seed, device)
    elif isinstance(spec, SdfMesh):
        target = mesh_around(source.extract(EXTRACTION), spec, seed, device)
        _match_outlines(source, target, seed)
    elif isinstance(spec, HashNerf):
        target = spec.build(seed, device)
        _learn_field(source, target, effort, seed, lambda done: say(done, learnt + to_come))
    elif isinstance(spec, Textured):
        target = TexturedScene(spec, source.extract(CHARTED), seed, device)
    else:
        raise DreamforgeError(
            f"A scene was to be converted to {type(spec).__name__}, but only Gaussians, SdfMesh, Textured and HashNerf "
            "can be converted to; give the stage one of them, or 'from: scratch'."
        )
    _learn_pictures(source, target, effort, seed, lambda done: say(learnt + done, learnt + to_come))
    return target


def usual(source: Scene, spec: Any) -> Effort:
    """What a conversion takes where nothing is said: within a minute on two cores, for a default asset."""
    if isinstance(spec, SdfMesh | Textured):
        return SPLATS_MESH if isinstance(source, HasSplats) else MESH
    return SPLATS if isinstance(spec, Gaussians) else USUAL


def _taken_over(source: Scene, spec: Any, seed: int, device: torch.device) -> Scene | None:
    """The scene of ``spec`` with the state of ``source``, where it is of the same kind, has tensors of the same sizes
    and reads the same from them: a mesh whose texture alone learns from now on, a field with other rates."""
    scene: Scene = spec.build(seed, device)
    if type(scene) is not type(source):
        return None
    own, given = scene.state(), source.state()
    if own.keys() != given.keys() or any(own[name].shape != given[name].shape for name in own):
        return None
    scene.load_state(given)
    place = (torch.rand(1 << 12, 3, generator=generator(seed, "same")) * 2 - 1).to(device)
    read = zip(_answers(scene, place), _answers(source, place), strict=True)
    return scene if all(torch.allclose(one, two, rtol=1e-3, atol=1e-4) for one, two in read) else None


@torch.no_grad()
def _answers(scene: Scene, place: Tensor) -> tuple[Tensor, ...]:
    """What a scene with a table, which says nothing by itself, reads from it at ``place [N,3]``."""
    if isinstance(scene, HashNerfScene):
        return scene.field(place)
    return (scene.color.base(place),) if isinstance(scene, MeshScene) else ()


# ---- what is where


def gaussians_on(mesh: Mesh, spec: Gaussians, seed: int, device: torch.device) -> GaussianScene:
    """``spec.count`` flat Gaussians evenly on a surface, in its colours."""
    place, normal, color = on_surface(mesh, spec.count, generator(seed, "convert", "surface"))
    apart = math.sqrt(float(face_areas(mesh).sum()) / spec.count)
    flat = torch.tensor([0.5 * apart, 0.5 * apart, 0.1 * apart])
    sh = torch.zeros(spec.count, (spec.sh_degree + 1) ** 2, 3)
    sh[:, 0] = (color - 0.5) / C0
    start = Splats(place, flat.log().repeat(spec.count, 1), turned_to(normal), torch.full((spec.count,), 2.5), sh)
    return GaussianScene(spec, start, seed, device)


def mesh_around(mesh: Mesh, spec: SdfMesh, seed: int, device: torch.device) -> MeshScene:
    """A grid of the surface's signed distances, and its colours in the field."""
    scene = spec.build(seed, device)
    with torch.no_grad():
        scene.distance.copy_(signed_distance(mesh, scene.points.cpu(), BOUND * MARGIN).to(device))
    optimiser = _optimiser(scene)
    for step in range(150):
        place, _, color = on_surface(mesh, 1 << 14, generator(seed, "convert", "color", step))
        optimiser.zero_grad()
        (scene.color(place.to(device)) - color.to(device)).square().mean().backward()
        optimiser.step()
    return scene


@torch.no_grad()
def _match_outlines(source: Scene, target: MeshScene, seed: int) -> None:
    """Move the surface out or in, by up to 4 cm, to where the outlines of ``source`` are: seen face on, half of the
    light stops deeper inside of a field than along its rim."""
    cameras = AROUND.sample(4, 128, 0.0, derive(seed, "outlines")).to(target.distance.device)
    black, start = torch.zeros(3, device=target.distance.device), target.distance.clone()
    wanted = source.render(cameras, black, seed).alpha

    def miss(outwards: float) -> float:
        target.distance.copy_(start - outwards)
        return float((target.render(cameras, black, seed).alpha - wanted).square().mean())

    best = min((0.004 * step for step in range(-10, 11)), key=miss)
    target.distance.copy_(start - best)


def _learn_field(source: Scene, target: HashNerfScene, effort: Effort, seed: int, said: Callable[[int], None]) -> None:
    """Density, as the share of light that a step of the target stops, and colour where there is some."""
    if not isinstance(source, HasField):
        raise DreamforgeError(
            f"A {type(source).__name__} has no field of density, so it cannot become a HashNerf; convert it to "
            "Gaussians or SdfMesh."
        )
    field, optimiser = source.density_field(), _optimiser(target)
    mesh = source.extract(EXTRACTION)
    for step in range(effort.points):
        draws = generator(seed, "convert", "points", step)
        near, _, _ = on_surface(mesh, effort.batch // 2, draws)
        near = near + 0.03 * torch.randn(near.shape, generator=draws)
        position = torch.cat([near, torch.rand(near.shape, generator=draws) * 2 - 1]).clamp(-1, 1).to(target.table)
        with torch.no_grad():
            wanted, color = field(position)
        density, shown = target.field(position)
        stops, wanted = -torch.expm1(-density * target.step), -torch.expm1(-wanted * target.step)
        loss = (stops - wanted).square().mean() + (wanted[:, None] * (shown - color).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        target.adapt(step, derive(seed, "adapt", step))
        said(step + 1)


# ---- what it looks like


@dataclass(frozen=True)
class Pictures:
    """What N ``cameras`` see of a source: ``rgb [N,H,W,3]`` over ``behind [N,3]``, ``alpha [N,H,W,1]``."""

    cameras: Cameras
    behind: Tensor
    rgb: Tensor
    alpha: Tensor

    def __getitem__(self, index: Tensor) -> "Pictures":
        return Pictures(self.cameras[index], self.behind[index], self.rgb[index], self.alpha[index])


@torch.no_grad()
def taken(
    source: Scene, count: int, resolution: int, seed: int, device: torch.device, said: Callable[[int], None]
) -> Pictures:
    """``count`` pictures of the source from all around, one after another."""
    cameras = AROUND.sample(count, resolution, 0.0, derive(seed, "cameras")).to(device)
    behind = torch.rand(count, 3, generator=generator(seed, "background")).to(device)
    found = []
    for number in range(count):
        one = torch.tensor([number], device=device)
        seen = source.render(cameras[one], behind[one], derive(seed, "picture", number))
        found.append((seen.rgb, seen.alpha))
        said(number + 1)
    rgb, alpha = (torch.cat(images) for images in zip(*found, strict=True))
    return Pictures(cameras, behind, rgb, alpha)


def _learn_pictures(source: Scene, target: Any, effort: Effort, seed: int, said: Callable[[int], None]) -> None:
    """Each picture is taken once, as a field takes longer to draw than most targets to learn, and looked at in turn."""
    if effort.steps == 0:
        return
    optimiser, count = _optimiser(target), _count(effort)
    device = optimiser.param_groups[0]["params"][0].device
    album = taken(source, count, effort.resolution, seed, device, said)
    turns = -(-effort.steps * effort.views // count)
    order = torch.cat([torch.randperm(count, generator=generator(seed, "order", turn)) for turn in range(turns)])
    rates = [effort.rate * group["lr"] for group in optimiser.param_groups]
    for step, shots in enumerate(order.split(effort.views)[: effort.steps]):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.1 ** (step / effort.steps)
        descend(target, album[shots.to(device)], optimiser, derive(seed, "render", step))
        said(count + step + 1)


def _count(effort: Effort) -> int:
    """How many pictures are taken: no more than are looked at."""
    return min(effort.pictures, effort.steps * effort.views)


def descend(target: Any, wanted: Pictures, optimiser: torch.optim.Optimizer, seed: int) -> None:
    """One step of ``target`` towards pictures: colours over what is behind, and alpha."""
    shown = target.render(wanted.cameras, wanted.behind, seed)
    loss = (shown.rgb - wanted.rgb).square().mean() + (shown.alpha - wanted.alpha).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    target.adapt(0, seed)


def _optimiser(scene: Any) -> torch.optim.Optimizer:
    return SceneAdam(scene.param_groups(), (0.9, 0.99), 1e-15)


class Agreement(NamedTuple):
    """PSNR in dB: over the union of both foregrounds (alpha above 1/2), and where both are opaque (above 0.98) alone,
    without the edges."""

    union: float
    solid: float


@torch.no_grad()
def agreement(one: Scene, two: Scene, views: int, resolution: int, seed: int, device: torch.device) -> Agreement:
    """How alike pictures of two scenes are from ``views`` new sides, over white."""
    error, pixels = [0.0, 0.0], [0, 0]
    for view in range(views):
        cameras = AROUND.sample(1, resolution, 0.0, derive(seed, "unseen", view)).to(device)
        white = torch.ones(1, 3, device=device)
        a, b = (scene.render(cameras, white, derive(seed, "unseen", view)) for scene in (one, two))
        apart = (a.rgb - b.rgb).double().square().sum(-1, keepdim=True)
        either, both = (a.alpha > 0.5) | (b.alpha > 0.5), (a.alpha > 0.98) & (b.alpha > 0.98)
        for number, seen in enumerate((either, both)):
            error[number] += float(apart[seen].sum())
            pixels[number] += 3 * int(seen.sum())
    union, solid = (-10 * math.log10(max(e / max(n, 1), 1e-10)) for e, n in zip(error, pixels, strict=True))
    return Agreement(union, solid)


def turned_to(normal: Tensor) -> Tensor:
    """Quaternions ``[N,4]`` wxyz that turn the z axis to unit ``normal [N,3]``, the short way."""
    x, y, z = normal.unbind(1)
    half = torch.stack([1 + z, -y, x, torch.zeros_like(x)], 1)
    back = (z < -0.9999)[:, None]  # there is no short way: half a turn about x
    return torch.nn.functional.normalize(torch.where(back, half.new_tensor([0.0, 1, 0, 0]), half), dim=1)
