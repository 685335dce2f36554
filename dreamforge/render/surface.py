"""A mesh as a picture with gradients: to its vertices through outlines, places and normals, and to its colours."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.cameras import project
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.raster import antialias, interpolate, neighbours, rasterize
from dreamforge.types import Cameras, RenderOutput

Colors = Callable[[Tensor, Tensor, Tensor], Tensor]  # position [P,3], unit normal [P,3], view [P] -> sRGB [P,3]


@dataclass(frozen=True)
class Triangles:
    """``vertices [V,3]``, ``faces [F,3]`` int64, counter-clockwise from outside, and ``across [F,3]``, their
    ``ops.raster.neighbours``: keep it while the faces stay."""

    vertices: Tensor
    faces: Tensor
    across: Tensor

    @staticmethod
    def of(vertices: Tensor, faces: Tensor) -> "Triangles":
        return Triangles(vertices, faces, neighbours(faces))


def surface_render(
    mesh: Triangles,
    colors: Colors,
    cameras: Cameras,
    background: Tensor,
    *,
    oversample: int = 2,
    backend: Backend = "auto",
) -> RenderOutput:
    """Pictures of ``mesh`` over ``background [3]``, ``[B,3]`` or ``[B,H,W,3]``, means of ``oversample``^2 pixels each.

    ``colors`` is asked once for all pixels that see the mesh; normals are smooth, means of the faces around a vertex.
    Depth is the mean along the camera's z over what is seen, 0 where nothing is.
    """
    views, height, width = len(cameras), cameras.height * oversample, cameras.width * oversample
    pixels, depth = project(mesh.vertices, cameras)
    pixels = pixels * oversample
    found = rasterize(pixels, depth, mesh.faces, height, width, backend=backend)
    both = torch.cat([mesh.vertices, face_normals(mesh)], 1)
    place = interpolate(both, mesh.faces, found.face, found.bary, backend=backend).view(-1, 6)
    hit = (found.face.flatten() >= 0).nonzero().squeeze(1)
    normal = torch.nn.functional.normalize(place.index_select(0, hit)[:, 3:], dim=-1)
    rgb = colors(place.index_select(0, hit)[:, :3], normal, hit // (height * width))
    columns = torch.cat([rgb, torch.ones_like(rgb[:, :1]), normal, found.depth.flatten()[hit, None]], 1)
    sharp = columns.new_zeros(views * height * width, 8).index_copy(0, hit, columns).view(views, height, width, 8)
    smooth = antialias(sharp, found, pixels, depth, mesh.faces, mesh.across, backend=backend)
    mean = smooth.view(views, cameras.height, oversample, cameras.width, oversample, 8).mean((2, 4))
    alpha = mean[..., 3:4]
    behind = background.expand(views, 3)[:, None, None] if background.ndim < 4 else background
    return RenderOutput(
        mean[..., :3] + (1 - alpha) * behind,
        alpha,
        mean[..., 7:] / alpha.clamp_min(1e-6),
        torch.nn.functional.normalize(mean[..., 4:7], dim=-1),
    )


def face_normals(mesh: Triangles) -> Tensor:
    """Normals ``[V,3]`` of the vertices, of any length: the sum over the faces around each, as long as their areas."""
    corners = [mesh.vertices.index_select(0, mesh.faces[:, k]) for k in range(3)]
    area = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    total = torch.zeros_like(mesh.vertices)
    for k in range(3):
        total = total.index_add(0, mesh.faces[:, k], area)
    return total
