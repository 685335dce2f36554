"""Points of a triangle mesh: evenly on it, and at the middles of its edges."""

import torch
from torch import Tensor

from dreamforge.ops.raster import texture
from dreamforge.types import Mesh


def face_areas(mesh: Mesh) -> Tensor:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    areas: Tensor = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    return areas


def on_surface(mesh: Mesh, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` points evenly on a mesh: places, unit normals, colours, each ``[count,3]``, on the CPU."""
    total = face_areas(mesh).double().cumsum(0)
    where = (torch.arange(count) + torch.rand(count, generator=draws)).double() * (total[-1] / count)
    face = torch.searchsorted(total, where).clamp_max(len(total) - 1)
    one, two = torch.rand(2, count, 1, generator=draws)
    flip = one + two > 1
    one, two = torch.where(flip, 1 - one, one), torch.where(flip, 1 - two, two)
    corners = mesh.faces[face]

    def mix(values: Tensor) -> Tensor:
        a, b, c = values[corners].unbind(1)
        return a + one * (b - a) + two * (c - a)

    a, b, c = mesh.vertices[corners].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    if mesh.texture is not None and mesh.uv is not None:
        color = texture(mesh.texture, mix(mesh.uv))
    else:
        color = torch.full_like(normal, 0.5) if mesh.colors is None else mix(mesh.colors)
    return mix(mesh.vertices), normal, color


def quartered(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Every face cut into four at the middles of its edges, which neighbours share."""
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    edges, number = torch.unique(ends, dim=0, return_inverse=True)
    middle = (number + len(vertices)).view(3, -1)
    (a, b, c), (ab, bc, ca) = faces.unbind(1), middle.unbind(0)
    quarters = [torch.stack(corners, 1) for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return torch.cat([vertices, vertices[edges].mean(1)]), torch.stack(quarters, 1).view(-1, 3)
