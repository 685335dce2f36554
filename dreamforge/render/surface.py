"""A mesh as a picture with gradients: to its vertices through outlines, places and normals, and to its colours."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.cameras import project
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.raster import Fragments, antialias, interpolate, neighbours, rasterize
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


@dataclass(frozen=True)
class Corners:
    """``values [N,C]`` and the ones that the corners of each face take, ``faces [F,3]``: for what is split at seams."""

    values: Tensor
    faces: Tensor


@dataclass(frozen=True)
class Drawn:
    """What the pixels of a rasterised mesh see, before colours: P of them see it.

    ``position [P,3]``, unit ``normal [P,3]``, ``view [P]``, ``face [P]``, ``bary [P,3]``, and where they were asked
    for ``dx``, ``dy [P,3]``, as of ``ops.raster.Fragments``.
    """

    position: Tensor
    normal: Tensor
    view: Tensor
    face: Tensor
    bary: Tensor
    dx: Tensor | None
    dy: Tensor | None
    _hit: Tensor  # [P] their pixels
    _found: Fragments
    _pixels: Tensor
    _depth: Tensor
    _mesh: Triangles
    _oversample: int
    _backend: Backend

    def picture(self, rgb: Tensor, background: Tensor) -> RenderOutput:
        """Colours ``[P,3]`` over ``background [3]``, ``[B,3]`` or ``[B,H,W,3]``, outlines smoothed."""
        views, height, width = self._found.face.shape
        depth = self._found.depth.flatten().index_select(0, self._hit)
        columns = torch.cat([rgb, torch.ones_like(rgb[:, :1]), self.normal, depth[:, None]], 1)
        sharp = columns.new_zeros(views * height * width, 8).index_copy(0, self._hit, columns)
        smooth = antialias(
            sharp.view(views, height, width, 8),
            self._found,
            self._pixels,
            self._depth,
            self._mesh.faces,
            self._mesh.across,
            backend=self._backend,
        )
        share = self._oversample
        rows = smooth.view(views, height // share, share, -1).sum(2)  # in two steps: one takes six times as long
        mean = rows.view(views, height // share, width // share, share, 8).sum(3) / share**2
        alpha = mean[..., 3:4]
        behind = background.expand(views, 3)[:, None, None] if background.ndim < 4 else background
        return RenderOutput(
            mean[..., :3] + (1 - alpha) * behind,
            alpha,
            mean[..., 7:] / alpha.clamp_min(1e-6),
            torch.nn.functional.normalize(mean[..., 4:7], dim=-1),
        )


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
    drawn = draw(mesh, cameras, oversample=oversample, backend=backend)
    return drawn.picture(colors(drawn.position, drawn.normal, drawn.view), background)


def draw(
    mesh: Triangles,
    cameras: Cameras,
    *,
    oversample: int = 2,
    normals: Corners | None = None,
    derivatives: bool = False,
    backend: Backend = "auto",
) -> Drawn:
    """``mesh`` at ``oversample``^2 points a pixel. ``normals``: its own, in place of means of the faces around a
    vertex."""
    height, width = cameras.height * oversample, cameras.width * oversample
    pixels, depth = project(mesh.vertices, cameras)
    pixels = pixels * oversample
    found = rasterize(pixels, depth, mesh.faces, height, width, derivatives=derivatives, backend=backend)
    hit = (found.face.flatten() >= 0).nonzero().squeeze(1)
    face = found.face.flatten().index_select(0, hit)
    bary, dx, dy = (
        None if image is None else image.view(-1, 3).index_select(0, hit) for image in (found.bary, found.dx, found.dy)
    )
    assert bary is not None
    both = Corners(torch.cat([mesh.vertices, face_normals(mesh)], 1), mesh.faces)
    place = interpolate(both.values, both.faces, face, bary, backend=backend)
    normal = place[:, 3:]
    if normals is not None:
        normal = interpolate(normals.values, normals.faces, face, bary, backend=backend)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    view = hit // (height * width)
    seen = (place[:, :3], normal, view, face, bary, dx, dy)
    return Drawn(*seen, hit, found, pixels, depth, mesh, oversample, backend)


def face_normals(mesh: Triangles) -> Tensor:
    """Normals ``[V,3]`` of the vertices, of any length: the sum over the faces around each, as long as their areas."""
    corners = [mesh.vertices.index_select(0, mesh.faces[:, k]) for k in range(3)]
    area = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0])
    total = torch.zeros_like(mesh.vertices)
    for k in range(3):
        total = total.index_add(0, mesh.faces[:, k], area)
    return total
