"""A scene that starts from a mesh, points or Gaussians of a file, brought into the unit volume."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dreamforge.geometry.cloud import Cloud
from dreamforge.render.splat import C0
from dreamforge.scenes.convert import Effort, convert
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.types import DreamforgeError, Mesh, Scene, Splats

RADIUS = 0.9  # metres from the origin to the farthest vertex
SOLID = 4.0  # logit of the opacity of points that something else than Gaussians is made of

Start = Mesh | Cloud | Splats


@dataclass(frozen=True)
class Place:
    """Where a file's thing stands: the middle of its bounding box ``center [3]``, and how many of its units are one
    metre of the unit volume."""

    center: Tensor
    unit: float

    def inside(self, points: Tensor) -> Tensor:
        """Points ``[N,3]`` of the file's world in the unit volume."""
        return ((points.double() - self.center) / self.unit).to(points.dtype)

    def outside(self, points: Tensor) -> Tensor:
        """The way back."""
        return (points.double() * self.unit + self.center).to(points.dtype)

    def mesh_inside(self, mesh: Mesh) -> Mesh:
        return replace(mesh, vertices=self.inside(mesh.vertices))

    def mesh_outside(self, mesh: Mesh) -> Mesh:
        return replace(mesh, vertices=self.outside(mesh.vertices))

    def splats_outside(self, splats: Splats) -> Splats:
        return replace(splats, means=self.outside(splats.means), log_scales=splats.log_scales + math.log(self.unit))


def place_of(start: Start) -> Place:
    """Raises DreamforgeError for a thing without extent."""
    points = (start.vertices if isinstance(start, Mesh) else _points(start)).detach().cpu().double()
    center = (points.amin(0) + points.amax(0)) / 2
    reach = float((points - center).norm(dim=1).max())
    if not 0 < reach / RADIUS < 1e30:
        raise DreamforgeError(f"the start reaches {reach:g} from its middle, expected a size; scale it to metres")
    return Place(center, reach / RADIUS)


def scene_from(start: Start, spec: Any, seed: int, device: torch.device, effort: Effort | None = None) -> Scene:
    """A scene of ``spec`` that looks as ``start``: a mesh keeps its faces where the spec is ``Textured``, points and
    Gaussians become Gaussians as they are; everything else is converted with ``effort``, see ``convert.convert``.

    Raises DreamforgeError for a spec that cannot be converted to, and for more Gaussians than the spec has room for.
    """
    place = place_of(start)
    if isinstance(start, Mesh):
        mesh = place.mesh_inside(start)
        if isinstance(spec, Textured):
            return TexturedScene(spec, mesh, seed, device)
        return convert(TexturedScene(Textured(), mesh, seed, device), spec, seed, device, effort)
    if isinstance(start, Cloud):
        start = splats_at(
            replace(start, points=place.inside(start.points)),
            math.log(spec.opacity / (1 - spec.opacity)) if isinstance(spec, Gaussians) else SOLID,
        )
    else:
        start = replace(start, means=place.inside(start.means), log_scales=start.log_scales - math.log(place.unit))
    if isinstance(spec, Gaussians):
        return gaussians_from(start, spec, seed, device)
    count = len(start.means)
    plain = Gaussians(count=count, capacity=count, sh_degree=math.isqrt(start.sh.shape[1]) - 1, strategy="none")
    return convert(GaussianScene(plain, start, seed, device), spec, seed, device, effort)


def gaussians_from(start: Splats, spec: Gaussians, seed: int, device: torch.device) -> GaussianScene:
    """Those Gaussians, with as many harmonics as the spec has: cut off, or filled up with zeros."""
    if len(start.means) > spec.capacity:
        raise DreamforgeError(
            f"The start has {len(start.means)} points or Gaussians, but the scene has room for {spec.capacity}: give "
            f"scene.capacity={len(start.means)} or more."
        )
    wanted = (spec.sh_degree + 1) ** 2
    sh = torch.nn.functional.pad(start.sh[:, :wanted], (0, 0, 0, max(wanted - start.sh.shape[1], 0)))
    return GaussianScene(spec, replace(start, sh=sh), seed, device)


def splats_at(cloud: Cloud, logit: float) -> Splats:
    """A round Gaussian at each point, as 3DGS starts: as large as the root of the mean squared distance to the three
    nearest others; grey where there are no colours."""
    from scipy.spatial import cKDTree

    count = len(cloud.points)
    distance, _ = cKDTree(cloud.points.numpy()).query(cloud.points.numpy(), k=4)
    size = torch.from_numpy(distance[:, 1:]).square().mean(1).clamp_min(1e-7).sqrt().float()
    colors = torch.full((count, 3), 0.5) if cloud.colors is None else cloud.colors
    return Splats(
        cloud.points,
        size.log()[:, None].repeat(1, 3),
        torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        torch.full((count,), logit),
        ((colors - 0.5) / C0)[:, None],
    )


def _points(start: Cloud | Splats) -> Tensor:
    return start.points if isinstance(start, Cloud) else start.means
