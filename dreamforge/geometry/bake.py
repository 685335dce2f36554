"""Maps of a mesh with texture coordinates: what its surface carries, or a function of its points, as texels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.ops.raster import interpolate, rasterize
from dreamforge.types import DreamforgeError, Mesh

Values = Callable[[Tensor, Tensor], Tensor]  # position [N,3], unit normal [N,3] -> [N,K]
BATCH = 1 << 18  # texels that a function is asked at once


@dataclass(frozen=True)
class Texels:
    """The N texels of a map that lie on charts, and what the others copy.

    ``number [N]``: which ones, row by row; ``face [N]``, ``bary [N,3]``: the places of their centres on the mesh.
    ``source [H,W]``: the number of the one that is nearest to a texel, itself on a chart. So every chart goes on into
    its gutter, to the middle between charts, and a look-up through the levels of a pyramid finds its colours alone as
    far as the gutter is wide.
    """

    number: Tensor
    face: Tensor
    bary: Tensor
    source: Tensor

    def mix(self, values: Tensor, faces: Tensor) -> Tensor:
        """What the vertices carry, ``[V,K]``, at the texels on charts: ``[N,K]``."""
        return interpolate(values, faces, self.face, self.bary)

    def spread(self, texels: Tensor) -> Tensor:
        """A map ``[H,W,K]`` with its gutters filled: ``[H,W,K]``."""
        return texels.flatten(0, 1).index_select(0, self.source.flatten()).view(texels.shape)

    def filled(self, values: Tensor) -> Tensor:
        """``[N,K]`` -> the map ``[H,W,K]``."""
        whole = values.new_zeros(self.source.numel(), values.shape[1]).index_copy(0, self.number, values)
        return self.spread(whole.view(*self.source.shape, -1))


@torch.no_grad()
def texels_of(uv: Tensor, faces: Tensor, height: int, width: int) -> Texels:
    """The texels under the charts ``uv [V,2]``, ``faces [F,3]`` in a map of ``height`` x ``width``.

    A texel is on a chart where its centre is; a face that covers no centre gets the texel in its middle, if it is
    still free. Of charts that overlap the lower face wins, what lies beyond [0, 1] is left out. Raises DreamforgeError
    where nothing is left.
    """
    size = uv.new_tensor([width, height])
    pixels = uv * size
    found = rasterize(pixels[None], torch.ones_like(pixels[None, :, 0]), faces, height, width)
    face, bary = found.face.flatten(), found.bary.view(-1, 3)
    missed = torch.ones(len(faces), dtype=torch.bool, device=uv.device)
    missed[face[face >= 0]] = False
    alone = missed.nonzero().squeeze(1)
    middle = pixels[faces[alone]].mean(1).floor().long()
    inside = ((middle >= 0) & (middle < size)).all(1)
    alone, place = alone[inside], (middle[:, 1] * width + middle[:, 0])[inside]
    first = torch.full_like(face, len(faces)).scatter_reduce(0, place, alone, "amin")
    taken = (face < 0) & (first < len(faces))
    face, bary = torch.where(taken, first, face), bary.masked_fill(taken[:, None], 1 / 3)
    on = (face >= 0).nonzero().squeeze(1)
    if len(on) == 0:
        raise DreamforgeError(
            f"no texel of a map of {width}x{height} lies on the mesh's charts, but texture coordinates in [0, 1] are "
            "expected; unwrap it anew, without its uv."
        )
    return Texels(on, face[on], bary[on], _nearest(face.view(height, width) >= 0))


@torch.no_grad()
def bake(mesh: Mesh, size: int, values: Values) -> Tensor:
    """``values`` of the points of a mesh with ``uv`` as a map ``[size,size,K]``, gutters filled.

    Normals are the mesh's own, else those of its faces. Raises DreamforgeError for a mesh without ``uv``, or whose
    charts lie beyond [0, 1].
    """
    if mesh.uv is None:
        raise DreamforgeError("the mesh has no uv, expected texture coordinates to bake at; unwrap it first")
    texels = texels_of(mesh.uv, mesh.faces, size, size)
    position, normal = texels.mix(mesh.vertices, mesh.faces), texels_normals(mesh, texels)
    parts = [values(*both) for both in zip(position.split(BATCH), normal.split(BATCH), strict=True)]
    return texels.filled(torch.cat(parts))


def texels_normals(mesh: Mesh, texels: Texels) -> Tensor:
    """Unit normals ``[N,3]`` at the texels: the mesh's own, mixed, else those of its faces."""
    if mesh.normals is not None:
        return torch.nn.functional.normalize(texels.mix(mesh.normals, mesh.faces), dim=-1)
    a, b, c = mesh.vertices[mesh.faces[texels.face]].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)


def _nearest(on: Tensor) -> Tensor:
    """For each texel of ``on [H,W]`` the number of the nearest that is."""
    from scipy.ndimage import distance_transform_edt

    row, column = distance_transform_edt(~on.cpu().numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy(row.astype("int64") * on.shape[1] + column).to(on.device)
