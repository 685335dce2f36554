"""The nearest points of a triangle mesh."""

from typing import Any

import torch
from torch import Tensor

from dreamforge.geometry.points import on_surface
from dreamforge.rng import generator
from dreamforge.types import Mesh

SAMPLES = 1 << 18  # points of the surface, besides one on each face, that say which faces are near
CANDIDATES = 8
TURNED = 0.005  # metres that a face counts as farther away for each unit that its normal is off
BATCH = 1 << 16  # points at once


class Nearest:
    """Answers where a mesh is nearest to points: faces are found by samples of the surface, a few millimetres apart on
    a mesh of a metre, the places on them exactly."""

    def __init__(self, vertices: Tensor, faces: Tensor) -> None:
        """``vertices [V,3]``, ``faces [F,3]`` on the CPU, with an area."""
        from scipy.spatial import cKDTree

        self.corners = vertices.float()[faces]
        a, b, c = self.corners.unbind(1)
        self.normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        # Corners of their own let each face carry its number.
        number = torch.arange(len(faces), dtype=torch.float64).repeat_interleave(3)[:, None]
        apart = Mesh(self.corners.flatten(0, 1), torch.arange(3 * len(faces)).view(-1, 3), colors=number)
        place, _, on = on_surface(apart, SAMPLES, generator(0, "nearest"))
        self.face = torch.cat([on[:, 0].round().long(), torch.arange(len(faces))])
        place = torch.cat([place, self.corners.mean(1)])
        self.tree: Any = cKDTree(torch.cat([place, TURNED * self.normals[self.face]], 1).numpy())

    def __call__(self, points: Tensor, facing: Tensor) -> tuple[Tensor, Tensor]:
        """For ``points [N,3]`` the nearest ``face [N]`` and ``bary [N,3]``, of the faces that look the way of unit
        ``facing [N,3]`` where there is one near: a thin plate has two sides."""
        parts = [self._batch(*both) for both in zip(points.split(BATCH), facing.split(BATCH), strict=True)]
        face, bary = (torch.cat(column) for column in zip(*parts, strict=True))
        return face, bary

    def _batch(self, points: Tensor, facing: Tensor) -> tuple[Tensor, Tensor]:
        _, found = self.tree.query(torch.cat([points, TURNED * facing], 1).numpy(), k=range(1, CANDIDATES + 1))
        face = self.face[torch.from_numpy(found).clamp_max(len(self.face) - 1)]
        bary, distance = closest(points[:, None].expand(-1, CANDIDATES, -1), self.corners[face])
        away = (self.normals[face] * facing[:, None]).sum(-1) <= 0
        best = (distance + away * 1e3).argmin(1, keepdim=True)
        return face.gather(1, best)[:, 0], bary.gather(1, best[..., None].expand(-1, -1, 3))[:, 0]


def closest(points: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """The place on triangles ``corners [...,3,3]`` that is nearest to ``points [...,3]``: weights of the corners
    ``[...,3]`` and the distance ``[...]``. A triangle without an area counts as its edges."""
    a, b, c = corners.unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    square = (normal * normal).sum(-1, keepdim=True)
    two = (torch.linalg.cross(points - a, c - a) * normal).sum(-1, keepdim=True) / square
    three = (torch.linalg.cross(b - a, points - a) * normal).sum(-1, keepdim=True) / square
    inner = torch.cat([1 - two - three, two, three], -1)
    best = torch.where((inner >= 0).all(-1, keepdim=True), inner, torch.nan)  # nan: not inside
    reach = torch.where(best.isnan().any(-1), torch.inf, _distance(points, corners, best))
    for first in range(3):
        second = (first + 1) % 3
        start, along = corners[..., first, :], corners[..., second, :] - corners[..., first, :]
        share = ((points - start) * along).sum(-1) / (along * along).sum(-1).clamp_min(1e-30)
        edge = torch.zeros_like(inner)
        edge[..., second] = share.clamp(0, 1)
        edge[..., first] = 1 - edge[..., second]
        far = _distance(points, corners, edge)
        best = torch.where((far < reach)[..., None], edge, best)
        reach = torch.minimum(reach, far)
    return best, reach


def _distance(points: Tensor, corners: Tensor, bary: Tensor) -> Tensor:
    away: Tensor = ((bary[..., None] * corners).sum(-2) - points).norm(dim=-1)
    return away
