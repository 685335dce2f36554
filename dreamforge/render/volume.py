"""A field of density and colour as a picture (emission and absorption: NeRF, Mildenhall et al. 2020) and as a mesh."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dreamforge.cameras import rays
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.march import Packed, render, sample, visible
from dreamforge.render.pbr import parted
from dreamforge.render.raster import vertex_normals
from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, Mesh, RenderOutput, Samples

# position [S,3] -> density [S] in 1/m, rgb [S,3] in [0,1]; to extract also [S,5], as of pbr.answered
Field = Callable[[Tensor], tuple[Tensor, Tensor]]
RayDensity = Callable[[Tensor, Tensor], Tensor]  # position [S,3], ray [S] int64 -> density [S] as met along the ray

OPAQUE = 1e-3  # samples that less than this share of the light reaches are left out
CHUNK = 1 << 15  # rays rendered at once where no gradient needs them together
POINTS = 1 << 18  # points evaluated at once where no gradient is needed
FLOATER = 0.005  # pieces of a mesh with less than this share of the largest one's volume are dropped


@dataclass(frozen=True)
class Looked:
    """Points as seen along a ray: ``density [S]`` in 1/m, ``rgb [S,3]`` in [0,1], unit ``normal [S,3]``, ``gradient
    [S,3]`` of a signed distance."""

    density: Tensor
    rgb: Tensor
    normal: Tensor | None = None
    gradient: Tensor | None = None


def volume_render(
    density: RayDensity,
    look: Callable[[Tensor, Tensor], Looked],
    occupancy: Tensor,
    cameras: Cameras,
    background: Tensor,
    seed: int,
    *,
    step: float,
    bound: float = 1.0,
    backend: Backend = "auto",
) -> RenderOutput:
    """Render a field inside ``[-bound, bound]^3`` where ``occupancy [G,G,G]`` (bool; x, y, z) says so.

    ``look(position [S,3], ray [S])`` says what is there, ``density`` of the same arguments its density alone; a ray's
    number is that of its pixel, row by row, view after view. Samples stand ``step`` metres apart, shifted by a random
    part of a step per ray: a function of ``seed``. ``background`` is ``[3]``, ``[B,3]`` or ``[B,H,W,3]``. Depth is the
    mean over the ray's weights, 0 where alpha is 0. Differentiable in the field and the background. ``backend``: of
    the operations on rays.
    """
    shape = (len(cameras), cameras.height, cameras.width)
    origins, directions = (v.reshape(-1, 3) for v in rays(cameras))
    draws = generator(seed, "march")  # drawn on the CPU: every device gets the same picture
    shift = torch.rand(len(origins), generator=draws).to(origins)
    size = len(origins) if torch.is_grad_enabled() else CHUNK
    traced = [
        _trace(density, look, number * size, sample(o, d, occupancy, bound, step, s, backend), step, backend)
        for number, (o, d, s) in enumerate(
            zip(origins.split(size), directions.split(size), shift.split(size), strict=True)
        )
    ]
    sums, samples = torch.cat([sums for sums, _ in traced]), joined_samples([one for _, one in traced])
    alpha, t = sums[:, -2:-1], sums[:, -1:] / sums[:, -2:-1].clamp(min=1e-6)
    forward = cameras.camera_to_world[:, None, :3, 2]
    slant = (directions.view(shape[0], -1, 3) * forward).sum(-1).view(-1, 1)
    behind = background.expand(shape[0], 3)[:, None, None] if background.ndim < 4 else background
    alpha = alpha.reshape(*shape, 1)
    normal = torch.nn.functional.normalize(sums[:, 3:6], dim=-1).view(*shape, 3) if sums.shape[1] > 5 else None
    rgb = sums[:, :3].reshape(*shape, 3) + (1 - alpha) * behind
    return RenderOutput(rgb, alpha, (t * slant).view(*shape, 1), normal, samples=samples)


def _trace(
    density: RayDensity,
    look: Callable[[Tensor, Tensor], Looked],
    first: int,
    packed: Packed,
    step: float,
    backend: Backend,
) -> tuple[Tensor, Samples]:
    """Sums over each ray, of colour (and normal), of 1, of t, and the samples that light reaches. The rays are those
    from number ``first`` on.

    The density of all samples is looked at first, without gradients: what stands behind a surface would get none, and
    is left out where they are kept for.
    """
    with torch.no_grad():
        pieces = zip(packed.position.split(POINTS), (packed.ray + first).split(POINTS), strict=True)
        seen = visible(packed, torch.cat([density(*piece) for piece in pieces]), step, OPAQUE, backend)
    here = look(seen.position, seen.ray + first)
    values = here.rgb if here.normal is None else torch.cat([here.rgb, here.normal], 1)
    sums, weights = render(seen, here.density, values, step, backend)
    width = torch.full_like(seen.t, step)
    return sums, Samples(
        seen.ray, seen.t, width, here.density, weights, seen.position, packed.rays, gradient=here.gradient
    )


def joined_samples(parts: Sequence[Samples]) -> Samples:
    """The samples of several renderings as those of one, its rays one rendering after another."""
    moved, before = [], 0
    for part in parts:
        moved.append(replace(part, ray=part.ray + before) if before else part)
        before += part.rays
    names = [one.name for one in fields(Samples) if one.name != "rays" and getattr(parts[0], one.name) is not None]
    return Samples(**{name: torch.cat([getattr(one, name) for one in moved]) for name in names}, rays=before)


def slope(value: Callable[[Tensor], Tensor], position: Tensor, step: float) -> Tensor:
    """The gradient ``[S,3]`` of ``value`` by differences between the corners of a tetrahedron half a ``step`` wide."""
    corners = position.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    values = torch.stack([value(position + corner * (step / 2)) for corner in corners], -1)
    return values @ corners / (2 * step)  # the corners' products with themselves add up to 4


@torch.no_grad()
def evaluate(field: Field, position: Tensor) -> tuple[Tensor, Tensor]:
    """``field`` at any number of points ``[N,3]``, in pieces, without gradients."""
    density, color = zip(*(field(part) for part in position.split(POINTS)), strict=True)
    return torch.cat(density), torch.cat(color)


@torch.no_grad()
def volume_surface(field: Field, resolution: int, *, step: float, device: torch.device, bound: float = 1.0) -> Mesh:
    """The visible surface of ``field`` as a closed mesh on the CPU, coloured as a camera would see it.

    ``resolution`` voxels a side (16 to 512). Inside is what is denser than ``surface_level``, and whatever half of the
    light cannot reach from any side: a thin thing may be thick fog. Floaters go, hollows that nobody sees are filled.
    Raises DreamforgeError when nothing stops light.
    """
    _check_resolution(resolution)
    coarse = min(resolution, 64)
    level = surface_level(_voxels(field, coarse, bound, device), 2 * bound / coarse)
    density = _voxels(field, resolution, bound, device)
    inside = torch.maximum(density / level, _depth_inside(density * (2 * bound / resolution)) / math.log(2))
    return _meshed(inside, field, step=step, device=device, bound=bound)


@torch.no_grad()
def distance_surface(
    distance: Callable[[Tensor], Tensor],
    field: Field,
    resolution: int,
    *,
    step: float,
    device: torch.device,
    bound: float = 1.0,
) -> Mesh:
    """As ``volume_surface``, where the signed ``distance [N]`` in metres (negative inside) of positions is 0.

    Raises DreamforgeError when it is negative nowhere.
    """
    _check_resolution(resolution)
    voxels = _voxels(lambda position: (distance(position), position), resolution, bound, device)
    if not bool((voxels < 0).any()):
        raise DreamforgeError(
            f"the signed distance is nowhere below {float(voxels.min()):.3g} metres, so there is no surface to "
            "extract; train longer or start from a larger sphere."
        )
    return _meshed((1 - voxels * (resolution / (2 * bound))).clamp(0, 2), field, step=step, device=device, bound=bound)


def _check_resolution(resolution: int) -> None:
    if not 16 <= resolution <= 512:
        raise DreamforgeError(f"an extraction at {resolution} voxels a side was asked for; choose 16 to 512.")


def _meshed(inside: Tensor, field: Field, *, step: float, device: torch.device, bound: float) -> Mesh:
    """The surface where ``inside [G,G,G]``, on the CPU, is 1, without floaters and hollows, in the field's colours."""
    from skimage.measure import marching_cubes

    resolution = len(inside)
    padded = torch.nn.functional.pad(one_solid(inside, 1.0), [1] * 6)  # the surface closes at the end of the volume
    points, triangles, _, _ = marching_cubes(padded.numpy(), 1.0, allow_degenerate=False)
    vertices = (torch.from_numpy(points.copy()).float() - 0.5) * (2 * bound / resolution) - bound
    faces = torch.from_numpy(triangles.copy()).long()
    a, b, c = vertices[faces].unbind(1)
    if float((a * torch.linalg.cross(b, c)).sum()) < 0:  # six times the signed volume
        faces = faces.flip(1)
    normals = vertex_normals(vertices, faces)
    colors = _seen_colors(field, vertices.to(device), normals.to(device), step)
    rgb, material = parted(colors.cpu())
    return Mesh(vertices, faces, normals, rgb, material=material)


def surface_level(density: Tensor, cell: float) -> float:
    """The density whose surface lies where the eye sees one; ``density [G,G,G]`` in 1/m of voxels of ``cell`` metres.

    The eye sees a surface where half the light has been stopped, at optical depth ln 2. Among densities a fifth apart
    the one is chosen whose first crossing lies closest to that from six sides, pixels that only one of the two covers
    counting as far off. So fog, a hard ball and a spike in either all get a level of their own. Raises DreamforgeError
    when no pixel is half covered.
    """
    sides = [side for axis in range(3) for side in (density.movedim(axis, 0), density.movedim(axis, 0).flip(0))]
    seen = torch.stack([_half_light(side * cell) for side in sides])
    if not bool(seen.isfinite().any()):
        raise DreamforgeError(
            f"the densest point ({float(density.max()):.3g} per metre) does not stop half of the light in any view, so "
            "there is no surface to extract; train longer or start from a denser blob."
        )
    levels = float(density.max()) * torch.logspace(-4, math.log10(0.95), 48)
    far = len(density) / 8
    costs = []
    for level in levels.tolist():
        found = torch.stack([_crossing(side, level) for side in sides])
        either = seen.isfinite() | found.isfinite()
        costs.append(float((seen - found)[either].abs().nan_to_num(far, far, far).clamp(max=far).mean()))
    good = levels[[cost <= 1.05 * min(costs) + 0.02 for cost in costs]]
    return float(good[len(good) // 2])


def _depth_inside(depth: Tensor) -> Tensor:
    """Optical depth of voxels ``[G,G,G]`` -> optical depth between each voxel's centre and the nearest of six sides."""
    found = torch.full_like(depth, math.inf)
    for axis in range(3):
        from_low = depth.cumsum(axis) - depth / 2
        found = torch.minimum(found, torch.minimum(from_low, depth.sum(axis, keepdim=True) - from_low))
    return found


def _half_light(depth: Tensor) -> Tensor:
    """Optical depth of voxels ``[G,...]`` -> distance in voxels from the first face to depth ln 2; inf: never."""
    total = depth.cumsum(0)
    first = (total >= math.log(2)).to(torch.uint8).argmax(0, keepdim=True)
    here, there = depth.gather(0, first), total.gather(0, first)
    place = first + 1 - (there - math.log(2)) / here.clamp(min=1e-12)
    return torch.where(total[-1] >= math.log(2), place[0], math.inf)


def _crossing(density: Tensor, level: float) -> Tensor:
    """Distance in voxels from the first face to the first crossing of ``level`` between voxel centres; inf: never."""
    first = (density > level).to(torch.uint8).argmax(0, keepdim=True)
    here = density.gather(0, first)
    before = torch.where(first > 0, density.gather(0, (first - 1).clamp(min=0)), 0.0)
    place = first + 0.5 - (here - level) / (here - before).clamp(min=1e-12)
    return torch.where(here > level, place, math.inf)[0]


def one_solid(density: Tensor, level: float) -> Tensor:
    """``density [G,G,G]`` on the CPU without small pieces above ``level`` that float apart, hollows filled."""
    from skimage.measure import label

    pieces = torch.from_numpy(label((density > level).numpy(), connectivity=1)).long()
    sizes = torch.bincount(pieces.flatten())
    sizes[0] = 0
    floats = (pieces > 0) & (sizes < FLOATER * sizes.max())[pieces]
    density = density.masked_fill(floats, 0.0)
    air = torch.nn.functional.pad(density <= level, [1] * 6, value=True)
    airs = torch.from_numpy(label(air.numpy(), connectivity=1))
    hollow = (air & (airs != airs[0, 0, 0]))[1:-1, 1:-1, 1:-1]
    return density.masked_fill(hollow, 2 * level)


def _voxels(field: Field, resolution: int, bound: float, device: torch.device) -> Tensor:
    """Density at the centres of ``resolution``^3 voxels, on the CPU."""
    axis = (torch.arange(resolution, device=device) + 0.5) * (2 * bound / resolution) - bound
    centers = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    return evaluate(field, centers)[0].view([resolution] * 3).cpu()


def _seen_colors(field: Field, vertices: Tensor, normals: Tensor, step: float) -> Tensor:
    """Colours, and material, ``[V,C]``: a short ray per vertex, from one step outside to three inside, composited."""
    along = torch.arange(-2, 7, device=vertices.device) * (step / 2)
    position = vertices[:, None] - normals[:, None] * along[:, None]
    density, color = evaluate(field, position.view(-1, 3))
    depth = density.view(len(vertices), -1) * (step / 2)
    weights = torch.exp(depth - depth.cumsum(1)) * -torch.expm1(-depth)
    total = (weights[..., None] * color.view(*depth.shape, -1)).sum(1)
    return total / weights.sum(1, keepdim=True).clamp(min=1e-9)
