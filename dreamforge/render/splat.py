"""3D Gaussians as a picture (Kerbl et al. 2023) and as a field of density and colour."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.ops.splat import rasterization
from dreamforge.ops.splat_reference import harmonic_bases
from dreamforge.render.volume import Field
from dreamforge.types import Cameras, RenderOutput, Splats

C0 = 0.28209479177387814  # the constant harmonic: colour = 0.5 + C0 times the first coefficient
REACH = 3.0  # standard deviations to which a Gaussian counts in a field
CELLS = 16  # along an edge of the grid that finds the Gaussians around a point


@dataclass(frozen=True)
class Seen:
    """What densification asks of a rendering: ``means2d [B,N,2]`` in pixels, whose gradient is kept, ``radii [B,N]``
    (0 where a Gaussian is not seen), the picture's ``height`` and ``width``."""

    means2d: Tensor
    radii: Tensor
    height: int
    width: int


def splat_render(
    splats: Splats,
    cameras: Cameras,
    background: Tensor,
    *,
    semantic: Tensor | None = None,
    normals: bool = False,
    antialiased: bool = False,
    absgrad: bool = False,
    backend: Backend = "auto",
) -> tuple[RenderOutput, Seen]:
    """Pictures of Gaussians over ``background [3]``, ``[B,3]`` or ``[B,H,W,3]``.

    ``semantic [N,K]`` is composited like a colour. ``normals``: each Gaussian's thinnest axis, turned to the camera.
    Depth is the mean along the camera's z over what is seen, 0 where nothing is. Gradients reach everything of
    ``splats`` but, as in 3DGS, no camera.
    """
    viewmats = world_to_camera(cameras)
    color = _colors(splats, cameras)
    layers = [color] if semantic is None else [color, semantic.expand(len(cameras), -1, -1)]
    if normals:
        layers.append(_normals(splats, cameras))
    pictures, alpha, meta = rasterization(
        splats.means,
        splats.quaternions,
        splats.log_scales.exp(),
        torch.sigmoid(splats.logit_opacities),
        torch.cat(layers, -1),
        viewmats,
        cameras.intrinsics,
        cameras.width,
        cameras.height,
        render_mode="RGB+D",
        absgrad=absgrad,
        rasterize_mode="antialiased" if antialiased else "classic",
        backend=backend,
    )
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    seen = Seen(meta["means2d"], meta["radii"].amin(-1), cameras.height, cameras.width)
    return _output(pictures, alpha, background, 0 if semantic is None else semantic.shape[1], normals), seen


def _output(pictures: Tensor, alpha: Tensor, background: Tensor, semantics: int, normals: bool) -> RenderOutput:
    behind = background.expand(len(pictures), 3)[:, None, None] if background.ndim < 4 else background
    rgb = held(pictures[..., :3] + (1 - alpha) * behind)
    depth = pictures[..., -1:] / alpha.clamp_min(1e-6)
    normal = torch.nn.functional.normalize(pictures[..., -4:-1], dim=-1) if normals else None
    semantic = pictures[..., 3 : 3 + semantics] if semantics else None
    return RenderOutput(rgb, alpha, depth, normal, semantic)


def world_to_camera(cameras: Cameras) -> Tensor:
    """``[B,4,4]``, the inverse of ``camera_to_world``, which turns and moves only."""
    turn = cameras.camera_to_world[:, :3, :3].transpose(1, 2)
    matrix = torch.eye(4, device=turn.device, dtype=turn.dtype).repeat(len(turn), 1, 1)
    matrix[:, :3, :3] = turn
    matrix[:, :3, 3] = -(turn @ cameras.camera_to_world[:, :3, 3:])[..., 0]
    return matrix


def _colors(splats: Splats, cameras: Cameras) -> Tensor:
    """``[B,N,3]``, not below 0."""
    degree = math.isqrt(splats.sh.shape[1]) - 1
    if degree == 0:
        return (splats.sh[:, 0] * C0 + 0.5).clamp_min(0).expand(len(cameras), -1, -1)
    directions = splats.means - cameras.camera_to_world[:, None, :3, 3]
    bases = harmonic_bases(degree, torch.nn.functional.normalize(directions, dim=-1).view(-1, 3))
    return ((bases.view(*directions.shape[:2], -1, 1) * splats.sh).sum(2) + 0.5).clamp_min(0)


def _normals(splats: Splats, cameras: Cameras) -> Tensor:
    """``[B,N,3]`` unit: the axis of the least scale, turned to the camera."""
    thin = splats.log_scales.argmin(1)
    axis = rotations(splats.quaternions).gather(2, thin[:, None, None].expand(-1, 3, 1))[..., 0]
    towards = cameras.camera_to_world[:, None, :3, 3] - splats.means.detach()
    return torch.where((axis * towards).sum(-1, keepdim=True) < 0, -axis, axis)


def rotations(quaternions: Tensor) -> Tensor:
    """``[N,4]`` wxyz, of any length but 0 -> rotation matrices ``[N,3,3]``."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).view(*quaternions.shape[:-1], 3, 3)


def turned_harmonics(turn: Tensor, degree: int) -> Tensor:
    """What turning a thing does to its harmonics: ``turn [...,3,3]`` -> ``[...,K,K]``, K = (degree + 1)^2.

    The colour seen along d was f(turn^T d): of the bases Y, the matrix D with Y(d) D = Y(turn^T d) for all d. Rotations
    keep the bands, so D is exact; it is solved for at fixed directions, in float64. Differentiable in ``turn``.
    """
    number = torch.arange(64, dtype=torch.float64) + 0.5  # a Fibonacci spiral on the sphere
    z, around = 1 - number / 32, number * (math.pi * (1 + math.sqrt(5)))
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * around.cos(), flat * around.sin(), z], 1)
    seen = directions @ turn.cpu().double()  # rows turn^T d
    bases = harmonic_bases(degree, seen.reshape(-1, 3)).view(*seen.shape[:-1], -1)
    matrix: Tensor = (torch.linalg.pinv(harmonic_bases(degree, directions)) @ bases).to(turn)
    return matrix


def held(picture: Tensor) -> Tensor:
    """Within [0, 1]; the gradient passes where it leads back, so that no pixel is stuck outside."""
    result: Tensor = _Held.apply(picture)
    return result


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, picture: Tensor) -> Tensor:
        ctx.save_for_backward(picture)
        return picture.clamp(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (picture,) = ctx.saved_tensors  # type: ignore[attr-defined]
        outwards = ((picture > 1) & (grad < 0)) | ((picture < 0) & (grad > 0))
        return grad.masked_fill(outwards, 0.0)


def gaussian_field(splats: Splats, cell: float, bound: float = 1.0) -> Field:
    """The Gaussians as a field: a density in 1/m whose picture is theirs, and colours (the constant harmonics).

    A ray along the thinnest axis through the middle of a Gaussian of opacity o loses the share o of its light:
    density(x) = -ln(1 - o) / (sqrt(2 pi) s) exp(-d^2 / 2) with s the least scale and d the Mahalanobis distance. So
    that samples ``cell`` metres apart do not miss them, Gaussians are widened by half of that, the loss kept.
    Positions outside of [-bound, bound]^3 are empty. Values only.
    """
    turn, scale = rotations(splats.quaternions), splats.log_scales.exp()
    wide = (scale.square() + (0.5 * cell) ** 2).sqrt()
    precision = turn @ torch.diag_embed(1 / wide.square()) @ turn.transpose(1, 2)
    extent = REACH * (turn.square() @ wide.square()[..., None])[..., 0].sqrt()
    least = wide.amin(1)
    # the share of a face's light that is lost stays when a Gaussian is widened: the area grows, the depth thins
    area = (scale.prod(1) / scale.amin(1)) / (wide.prod(1) / least)
    depth = -torch.log1p(-torch.sigmoid(splats.logit_opacities).clamp(max=0.999)) * area
    amplitude = depth / (math.sqrt(2 * math.pi) * least)
    color = (splats.sh[:, 0] * C0 + 0.5).clamp(0, 1)
    owner, first = _cells(splats.means, extent, bound)
    facts = (splats.means, precision, amplitude, color, owner, first)
    return lambda position: _at(position, *facts, bound)


def _cells(means: Tensor, extent: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Gaussians by cell of the grid: their numbers, those of cell c from ``first[c]`` to ``first[c + 1]``."""
    scale = CELLS / (2 * bound)
    low = ((means - extent + bound) * scale).floor().long().clamp(0, CELLS)
    high = ((means + extent + bound) * scale).floor().long().clamp(-1, CELLS - 1)
    size = (high - low + 1).clamp_min(0)
    count = size.prod(1)
    gaussian = torch.repeat_interleave(count)
    number = torch.arange(len(gaussian), device=means.device) - (count.cumsum(0) - count)[gaussian]
    sides = size[gaussian]
    z = number % sides[:, 2]
    y = number // sides[:, 2] % sides[:, 1]
    x = number // (sides[:, 2] * sides[:, 1])
    place = low[gaussian] + torch.stack([x, y, z], 1)
    cell = (place[:, 0] * CELLS + place[:, 1]) * CELLS + place[:, 2]
    order = cell.argsort(stable=True)
    counts = torch.bincount(cell, minlength=CELLS**3)
    return gaussian[order], torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@torch.no_grad()
def _at(
    position: Tensor,
    means: Tensor,
    precision: Tensor,
    amplitude: Tensor,
    color: Tensor,
    owner: Tensor,
    first: Tensor,
    bound: float,
) -> tuple[Tensor, Tensor]:
    density, shown = position.new_zeros(len(position)), position.new_zeros(len(position), 3)
    place = ((position + bound) * (CELLS / (2 * bound))).floor().long()
    inside = ((place >= 0) & (place < CELLS)).all(1)
    cell = torch.where(inside, (place[:, 0] * CELLS + place[:, 1]) * CELLS + place[:, 2], CELLS**3)
    order = cell.argsort(stable=True)
    numbers, counts = torch.unique_consecutive(cell[order], return_counts=True)
    bounds = first.tolist()
    for number, points in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
        if number == CELLS**3 or bounds[number] == bounds[number + 1]:
            continue
        near = owner[bounds[number] : bounds[number + 1]]
        middle = position[
            points[0]
        ]  # the squares of differences as products of powers: from nearby, so that none is large
        distance = _powers(position[points] - middle) @ _quadratic(means[near] - middle, precision[near])
        share = amplitude[near] * torch.exp(-0.5 * distance)
        density[points] = total = share.sum(1)
        shown[points] = (share @ color[near]) / total.clamp_min(1e-12)[:, None]
    return density, shown


def _powers(x: Tensor) -> Tensor:
    """``[P,3]`` -> ``[P,10]``: products of two coordinates, one, and 1."""
    a, b, c = x.unbind(1)
    return torch.stack([a * a, b * b, c * c, a * b, a * c, b * c, a, b, c, torch.ones_like(a)], 1)


def _quadratic(mean: Tensor, precision: Tensor) -> Tensor:
    """The factors ``[10,G]`` of ``_powers(x)`` in (x - mean)^T precision (x - mean)."""
    pulled = (precision @ mean[..., None])[..., 0]
    twice = 2 * precision
    squares = [precision[:, 0, 0], precision[:, 1, 1], precision[:, 2, 2]]
    mixed = [twice[:, 0, 1], twice[:, 0, 2], twice[:, 1, 2]]
    return torch.stack([*squares, *mixed, *(-2 * pulled).unbind(1), (mean * pulled).sum(1)])
