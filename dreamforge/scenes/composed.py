"""Several objects in one scene, each a scene of its own kind that stands somewhere: rendered together or by part."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dreamforge.geometry.parts import joined
from dreamforge.render.layers import composited
from dreamforge.render.volume import Field
from dreamforge.rng import derive, generator
from dreamforge.scenes import placing
from dreamforge.scenes.convert import HasField
from dreamforge.scenes.placing import check_names, check_place, chosen
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import restore
from dreamforge.types import Cameras, DreamforgeError, Frame, Mesh, ParamGroup, RenderOutput, Scene, State


@dataclass(frozen=True)
class Placed:
    """An object and where it stands: ``scale`` times as large, turned by ``rotation_deg``, its middle at ``position``.

    Degrees about the world's fixed x, then y, then z axis; metres. The scene's own background is never seen.
    """

    scene: Any = field(default=None, metadata={"slot": "scene"})
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_place("An object", self.position, self.rotation_deg, self.scale)
        if not hasattr(type(self.scene), "build"):
            raise DreamforgeError(
                f"An object of {self.scene!r} was asked for; give it a scene, for example "
                "scene: {use: gaussians.Gaussians}."
            )
        if getattr(self.scene, "background", "solid") != "solid":
            raise DreamforgeError(
                f"An object was given background {self.scene.background}, which nobody would see; give it to the "
                "composed scene instead."
            )


@dataclass(frozen=True)
class Composed:
    """Named objects in one scene, of any kinds of scenes.

        objects:
          hat: {scene: {use: gaussians.Gaussians}, position: [0, 0.6, 0], rotation_deg: [0, 90, 0], scale: 0.4}
          head: {scene: {use: hash_nerf.HashNerf}, scale: 0.5}

    Every object lives in [-1, 1]^3 of its own frame, with its front at +Z, see ``Placed``. ``background`` as of
    ``hash_nerf.HashNerf``. Objects that share their room cannot be rendered exactly as layers, see
    ``render.layers.composited``; groups of ``gaussians.Gaussians`` can, and they end in one splats.ply.
    """

    objects: dict[str, Placed] = field(default_factory=dict, metadata={"entries": Placed})
    background: Kind = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
        if not self.objects:
            raise DreamforgeError(
                "A composed scene without objects was asked for; give it some, for example "
                "objects: {hat: {scene: {use: gaussians.Gaussians}, position: [0, 0.5, 0], scale: 0.4}}."
            )
        check_names("An object", list(self.objects), taken=["background"])

    @property
    def part_names(self) -> tuple[str, ...]:
        """What a term's ``parts`` may name."""
        return tuple(self.objects)

    def build(self, seed: int, device: torch.device | str = "cpu") -> "ComposedScene":
        """Every object at a start of its own, which does not depend on the others."""
        return ComposedScene(self, seed, device)


class ComposedScene:
    """A ``Scene`` of scenes: ``objects`` are theirs by name, ``frames`` say where each stands."""

    def __init__(self, spec: Composed, seed: int, device: torch.device | str) -> None:
        self.spec = spec
        self.objects: dict[str, Scene] = {
            name: one.scene.build(derive(seed, "object", name), device) for name, one in spec.objects.items()
        }
        self.frames = {
            name: placing.frame(one.position, one.rotation_deg, one.scale, device) for name, one in spec.objects.items()
        }
        self.steps = torch.zeros(len(self.objects), dtype=torch.int64)  # in which each object has learnt
        self.sky = Sky(spec.background, spec.background_color, generator(seed, "sky"), device)

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. ``parts`` are names of objects: none, all of them; several, those, where they stand.

        One part alone is seen in its own frame, in the middle and at its own size, as if the cameras had been made for
        it: so a prior that knows single objects sees it in a term with ``parts: [hat]``. It alone keeps ``samples``
        and ``surface``. ``semantic [B,H,W,K]`` is the visible share of each of the K objects, 0 of those not shown.
        """
        names = list(self.objects)
        shown = chosen(parts, names)
        behind = self.sky.seen(cameras) if background is None else background
        if parts and len(shown) == 1:
            alone = self.objects[shown[0]].render(cameras, torch.zeros_like(self.sky.color), seed)
            over = composited([alone], behind)
            picture = replace(alone, rgb=over.rgb, semantic=over.semantic)
        else:
            picture = composited([self._layer(name, cameras, seed) for name in shown], behind)
        assert picture.semantic is not None
        shares = dict(zip(shown, picture.semantic.split(1, -1), strict=True))
        none = torch.zeros_like(picture.alpha)
        return replace(picture, semantic=torch.cat([shares.get(name, none) for name in names], -1))

    def _layer(self, name: str, cameras: Cameras, seed: int) -> RenderOutput:
        """An object where it stands, over black: its colour is then already times its alpha.

        A scene may hold its picture within [0, 1], as Gaussians do: over black that cuts off the least.
        """
        frame = self.frames[name]
        seen = self.objects[name].render(placing.looked_into(frame, cameras), torch.zeros_like(self.sky.color), seed)
        normal = None if seen.normal is None else frame.turned(seen.normal)
        return RenderOutput(seen.rgb, seen.alpha, seen.depth * frame.scale, normal)

    def param_groups(self) -> list[ParamGroup]:
        groups: list[ParamGroup] = [
            {**group, "name": f"{name}.{group['name']}"}
            for name, one in self.objects.items()
            for group in one.param_groups()
        ]
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": self.spec.lr_background, "name": "background"})
        return groups

    def adapt(self, step: int, seed: int) -> None:
        """Those objects that this step has given gradients adapt, each by its own count of such steps: with terms that
        take turns, one would otherwise never meet the steps at which it should."""
        for number, (name, one) in enumerate(self.objects.items()):
            if any(p.grad is not None for group in one.param_groups() for p in group["params"]):
                one.adapt(int(self.steps[number]), derive(seed, name))
                self.steps[number] += 1

    def density_field(self) -> Field:
        """See ``convert.HasField``: densities add up, colours are means by density."""
        fields = [(self.frames[name], _field(name, one)) for name, one in self.objects.items()]

        def field(position: Tensor) -> tuple[Tensor, Tensor]:
            total, shown = torch.zeros_like(position[:, 0]), torch.zeros_like(position)
            for frame, own in fields:
                place = frame.inwards(position)
                density, color = own(place)
                density = density * (place.abs().amax(1) <= 1) / frame.scale  # per metre of the world
                total, shown = total + density, shown + density[:, None] * color
            return total, shown / total.clamp_min(1e-12)[:, None]

        return field

    def extract(self, resolution: int) -> Mesh:
        """The meshes of all objects, each of its own ``resolution``, where they stand: parts of one."""
        meshes = []
        for name, one in self.objects.items():
            try:
                meshes.append(_moved(one.extract(resolution), self.frames[name]))
            except DreamforgeError as error:
                raise type(error)(f"The object {name!r} has no mesh: {error}") from error
        return joined(meshes, list(self.objects))

    def state(self) -> State:
        own = {f"{name}.{key}": v for name, one in self.objects.items() for key, v in one.state().items()}
        return own | {key: v.detach().clone() for key, v in self._tensors().items()}

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of another scene."""
        nested: dict[str, State] = {name: {} for name in self.objects}
        for key, value in state.items():
            name, _, inner = key.partition(".")
            if name not in ("steps", "background"):
                nested.setdefault(name, {})[inner] = value
        if nested.keys() != self.objects.keys() or not all(nested.values()):
            raise DreamforgeError(
                f"The state of the objects {', '.join(sorted(n for n, own in nested.items() if own))} was given to a "
                f"scene of {', '.join(self.objects)}; use the recipe that made the state."
            )
        for name, one in self.objects.items():
            one.load_state(nested[name])
        own = {key: value for key, value in state.items() if key.partition(".")[0] in ("steps", "background")}
        restore(self._tensors(), own, "Composed scene")

    def _tensors(self) -> State:
        return {"steps": self.steps, **self.sky.tensors()}


def _moved(mesh: Mesh, frame: Frame) -> Mesh:
    there = frame.to(mesh.vertices.device)
    normals = None if mesh.normals is None else there.turned(mesh.normals)
    return replace(mesh, vertices=there.outwards(mesh.vertices), normals=normals)


def _field(name: str, scene: Scene) -> Field:
    if not isinstance(scene, HasField):
        raise DreamforgeError(f"The object {name!r} has no field of density: convert the scene to a mesh or Gaussians.")
    return scene.density_field()
