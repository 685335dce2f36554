"""How far points are from a triangle mesh, and on which side."""

import torch
from torch import Tensor

from dreamforge.geometry.points import face_areas, on_surface
from dreamforge.rng import generator
from dreamforge.types import Mesh

VOXELS = 128  # along an edge of the volume, to tell inside from outside


def signed_distance(mesh: Mesh, points: Tensor, bound: float) -> Tensor:
    """Distances ``[N]`` in metres of ``points [N,3]`` to a mesh in [-bound, bound]^3, negative inside, to about 2 mm.

    From the nearest of many points on it: the side of its face says where one is close by, and farther away whether
    the surface, drawn into voxels, encloses the point. So a mesh may have cracks narrower than a voxel.
    """
    from scipy.spatial import cKDTree

    place, normal, _ = on_surface(mesh, 1 << 18, generator(0, "signed distance"))
    far, nearest = cKDTree(place.numpy()).query(points.numpy())
    distance, nearest = torch.from_numpy(far).float(), torch.from_numpy(nearest)
    outward = ((points - place[nearest]) * normal[nearest]).sum(1) >= 0
    enclosed = _enclosed(_dense(mesh, 2 * bound / VOXELS), points, bound)
    close = distance < 3 * bound * 2 / VOXELS
    inside = torch.where(close, ~outward, enclosed)
    return torch.where(inside, -distance, distance)


def _dense(mesh: Mesh, voxel: float) -> Tensor:
    """Points on a mesh, 32 for each voxel that it crosses on the mean: in a random draw, none of them stays empty."""
    count = 32 * float(face_areas(mesh).double().sum()) / voxel**2
    return on_surface(mesh, int(min(max(count, 1 << 12), 1 << 23)), generator(0, "enclosed"))[0]


def _enclosed(place: Tensor, points: Tensor, bound: float) -> Tensor:
    """Which ``points [N,3]`` lie in voxels that the surface through ``place [M,3]`` fills or encloses."""
    from scipy.ndimage import binary_fill_holes

    def voxel(at: Tensor) -> tuple[Tensor, ...]:
        scaled = ((at / bound + 1) * (VOXELS / 2)).long().clamp(0, VOXELS - 1)
        return tuple((scaled + 1).unbind(1))

    shell = torch.zeros([VOXELS + 2] * 3, dtype=torch.bool)  # with air all around
    shell[voxel(place)] = True
    return torch.from_numpy(binary_fill_holes(shell.numpy()))[voxel(points)]
