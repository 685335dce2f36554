"""Pictures of meshes: rasterised at several samples per pixel, lit and averaged in linear light."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.cameras import project
from dreamforge.ops.raster import interpolate, rasterize, texture
from dreamforge.render.light import SOFT, Light, linear_to_srgb, shading, srgb_to_linear
from dreamforge.types import Cameras, DreamforgeError, Mesh, RenderOutput

CLAY = 0.7  # sRGB grey of a mesh without colours


@dataclass(frozen=True)
class _Hits:
    """The P covered samples of one view."""

    face: Tensor  # [P]
    bary: Tensor  # [P,3]
    depth: Tensor  # [P]
    normal: Tensor  # [P,3] unit, world


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: Tensor,
    light: Light | None = SOFT,
    antialias: int = 3,
) -> RenderOutput:
    """A mesh over ``background [3]`` or ``[B,3]`` (sRGB), composited in linear light with antialias^2 samples a pixel.

    Colours are the texture (bilinear, repeating), else the vertex colours (interpolated linear), else light grey;
    ``light=None`` shows the albedo itself. Missing normals are computed. ``alpha`` is the covered share of a pixel,
    ``depth`` and ``normal`` are means over its covered samples, 0 where there are none. Values only: no gradient.
    """
    normals = vertex_normals(mesh.vertices, mesh.faces) if mesh.normals is None else mesh.normals
    albedo = _albedo(mesh)

    def values(hits: _Hits) -> Tensor:
        color = albedo(hits) if light is None else albedo(hits) * shading(hits.normal, light)
        return torch.cat([color, torch.ones_like(color[:, :1]), hits.depth[:, None], hits.normal], -1)

    out = _pictures(mesh.vertices, mesh.faces, normals, cameras, antialias, 8, values)
    color, alpha, depth, normal = out[..., :3], out[..., 3:4], out[..., 4:5], out[..., 5:]
    behind = srgb_to_linear(background.to(color)).expand(len(cameras), 3)[:, None, None]
    rgb = linear_to_srgb(color + (1.0 - alpha) * behind).clamp(0.0, 1.0)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    return RenderOutput(rgb, alpha, depth / alpha.clamp_min(1e-6), normal)


@torch.no_grad()
def render_layers(
    vertices: Tensor,
    faces: Tensor,
    normals: Tensor,
    layers: Tensor,
    cameras: Cameras,
    light: Light | None = SOFT,
    antialias: int = 3,
) -> Tensor:
    """Pictures that can be coloured afterwards: linear vertex weights ``layers [V,K]`` -> ``[B,H,W,K+1]``.

    Each layer is multiplied by the light and by the covered share of the pixel; the last channel is that share. A
    picture in linear light is sum_k layer_k colour_k + (1 - alpha) background.
    """

    def values(hits: _Hits) -> Tensor:
        weights = interpolate(layers, faces, hits.face, hits.bary)
        weights = weights if light is None else weights * shading(hits.normal, light)
        return torch.cat([weights, torch.ones_like(hits.depth)[:, None]], -1)

    return _pictures(vertices, faces, normals, cameras, antialias, layers.shape[1] + 1, values)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals ``[V,3]``: the mean of the faces around a vertex, weighted by area; 0 where there is no area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for i in range(3):
        total.index_add_(0, faces[:, i], area)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def _pictures(
    vertices: Tensor,
    faces: Tensor,
    normals: Tensor,
    cameras: Cameras,
    antialias: int,
    channels: int,
    values: Callable[[_Hits], Tensor],
) -> Tensor:
    """The mean over a pixel's samples of ``values(hits) [P,channels]``, 0 where uncovered: ``[B,H,W,channels]``."""
    if antialias < 1:
        raise DreamforgeError(
            f"antialias is {antialias}, but a number of samples along a pixel's side is expected; give 1 or more"
        )
    cameras = cameras.to(vertices.device)
    height, width = cameras.height * antialias, cameras.width * antialias
    out = vertices.new_zeros(len(cameras), cameras.height, cameras.width, channels)
    for i in range(len(cameras)):  # one view at a time bounds the memory
        pixels, depth = project(vertices, cameras[[i]])
        found = rasterize(pixels * antialias, depth, faces, height, width)
        index = (found.face.flatten() >= 0).nonzero().squeeze(1)
        face, bary = found.face.flatten().index_select(0, index), found.bary.view(-1, 3).index_select(0, index)
        normal = torch.nn.functional.normalize(interpolate(normals, faces, face, bary), dim=-1)
        samples = vertices.new_zeros(height * width, channels)
        samples.index_copy_(0, index, values(_Hits(face, bary, found.depth.flatten()[index], normal)))
        rows = samples.view(cameras.height, antialias, -1).sum(1)
        out[i] = rows.view(cameras.height, cameras.width, antialias, channels).sum(2) / antialias**2
    return out


def _albedo(mesh: Mesh) -> Callable[[_Hits], Tensor]:
    """The linear albedo of a mesh at hits, ``[P,3]``."""
    if mesh.texture is not None and mesh.uv is not None:
        uv, texels = mesh.uv, srgb_to_linear(mesh.texture)
        return lambda hits: texture(texels, interpolate(uv, mesh.faces, hits.face, hits.bary))
    colors = torch.full_like(mesh.vertices, CLAY) if mesh.colors is None else mesh.colors
    linear = srgb_to_linear(colors)
    return lambda hits: interpolate(linear, mesh.faces, hits.face, hits.bary)
