"""Splatting in plain torch: the definition of every stage of ``ops.splat``, in any float type, with gradients.

EWA splatting (Zwicker et al. 2002), 3D Gaussian splatting (Kerbl et al. 2023), antialiasing (Mip-Splatting, Yu et al.
2024), bounds by opacity (StopThePop, Radl et al. 2024, section B.2). C cameras, N Gaussians.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 16  # pixels a side of a tile; as in extensions/include/splat.h
BASES = 16  # spherical harmonics up to degree 3


@dataclass(frozen=True)
class Rules:
    """The constants that differ between versions of gsplat; these are those of 1.5.3.

    ``max_alpha``: what a splat covers of a pixel at most. ``min_alpha``: it counts from there on. ``stop``: a pixel is
    done before the splat that would leave it this share of the light or less. ``extent``: half the size of a splat's
    box in standard deviations, at most; with ``opacity_extent`` it ends where alpha falls below ``min_alpha``.
    ``compensation_floor``: of det / det of the blurred, in antialiased mode. ``frustum_margin``: by how much of half
    the field of view beyond the image's border the slope of the projection still follows a Gaussian.
    """

    max_alpha: float = 0.999
    min_alpha: float = 1 / 255
    stop: float = 1e-4
    extent: float = 3.33
    opacity_extent: bool = True
    compensation_floor: float = 0.0
    frustum_margin: float = 0.3


GSPLAT_1_5 = Rules()
GSPLAT_1_6 = Rules(max_alpha=0.99, compensation_floor=0.005**2)  # its main branch of August 2026


@dataclass(frozen=True)
class View:
    """What the cameras of a call share: the image's size in pixels, what is left out, the blur in pixels squared."""

    width: int
    height: int
    near: float
    far: float
    clip: float
    blur: float
    antialiased: bool
    rules: Rules


@dataclass(frozen=True)
class Bins:
    """The Gaussians of each tile, near ones first: ``ids[offsets[image, tile] : next offset]``, int32.

    Gaussians of all images stand one after another; ``tiles [M]`` int32 says how many tiles each touches,
    ``keys`` int64: image, tile and the depth's bits of each entry of ``ids``. For the core on a CPU: ``places [M]``
    int64, how many tiles the Gaussians before each touch; ``slots`` int32, each entry's number by Gaussian and
    then by tile, where its gradient is kept.
    """

    tiles: Tensor
    keys: Tensor
    ids: Tensor
    offsets: Tensor
    places: Tensor | None = None
    slots: Tensor | None = None


def project_reference(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, view: View
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``[N,3]``, ``[N,4]``, ``[N,3]``, ``[N]``, ``[C,4,4]``, ``[C,3,3]`` -> radii int32 ``[C,N,2]``, means2d
    ``[C,N,2]``, depths ``[C,N]``, conics ``[C,N,3]``, compensations ``[C,N]``; zeros where not seen.

    What is not seen takes no part in the computation with gradients, so its numbers may be anything.
    """
    shape = (len(viewmats), len(means))
    camera, gaussian = (
        index.flatten()
        for index in torch.meshgrid(*(torch.arange(n, device=means.device) for n in shape), indexing="ij")
    )
    given = (means, quats, scales, opacities, viewmats, Ks)
    with torch.no_grad():
        radii = _radii(*_pairs(*given, camera, gaussian, view), opacities[gaussian], view)
        radii[~_usable(means, quats, scales, opacities)[gaussian]] = 0
    seen = (radii > 0).all(1).nonzero().squeeze(1)
    columns = _pairs(*given, camera[seen], gaussian[seen], view)[:4]
    full = [column.new_zeros(len(radii), *column.shape[1:]).index_copy(0, seen, column) for column in columns]
    means2d, depths, conics, compensations = (one.view(*shape, *one.shape[1:]) for one in full)
    return radii.view(*shape, 2), means2d, depths, conics, compensations


def _usable(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor) -> Tensor:
    """Whether all numbers of a Gaussian are finite, and its quaternion is a rotation."""
    finite = [one.isfinite().all(1) for one in (means, quats, scales, opacities[:, None])]
    length: Tensor = quats.norm(dim=1)
    usable: Tensor = torch.stack(finite).all(0) & (length > 1e-12) & (length < 1e18)
    return usable


def _pairs(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    camera: Tensor,
    gaussian: Tensor,
    view: View,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Some pairs ``[P]`` of a camera and a Gaussian -> means2d, depths, conics, compensations, and the blurred
    covariances as xx, yy and determinant ``[P,3]``."""
    turn, shift = viewmats[camera, :3, :3], viewmats[camera, :3, 3]
    at = (turn @ means[gaussian, :, None]).squeeze(2) + shift
    axes = turn @ rotations(quats[gaussian]) * scales[gaussian, None, :]
    depths = at[:, 2]
    slope = at[:, :2] / depths[:, None]  # x / z, y / z
    focal = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], 1)
    centre, size = Ks[:, :2, 2], focal.new_tensor([view.width, view.height])
    margin = view.rules.frustum_margin * 0.5 * size / focal
    low, high = -centre / focal - margin, (size - centre) / focal + margin
    clipped = slope.clamp(low[camera], high[camera])
    near = focal[camera] / depths[:, None]
    # rows of J (axes in the camera's frame): the projection's slope there, with x / z clipped
    rows = near[:, :, None] * (axes[:, :2] - clipped[:, :, None] * axes[:, 2:])
    covariance = rows @ rows.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = torch.linalg.cross(rows[:, 0], rows[:, 1]).square().sum(1)
    blurred = determinant + view.blur * (xx + yy) + view.blur**2
    conics = torch.stack([yy + view.blur, -xy, xx + view.blur], 1) / blurred[:, None]
    kept, floor = determinant / blurred, view.rules.compensation_floor
    above = kept > floor  # a root of the floor has no gradient, the root of 0 an infinite one
    compensations = torch.where(above, torch.where(above, kept, 1.0).sqrt(), math.sqrt(floor))
    means2d = focal[camera] * slope + centre[camera]
    return means2d, depths, conics, compensations, torch.stack([xx + view.blur, yy + view.blur, blurred], 1)


def _radii(
    means2d: Tensor,
    depths: Tensor,
    conics: Tensor,
    compensations: Tensor,
    blurred: Tensor,
    opacities: Tensor,
    view: View,
) -> Tensor:
    """Half the size of each box in whole pixels, int32 ``[P,2]``; zeros for what is not seen."""
    rules, most = view.rules, 3e38
    seen = (depths >= view.near) & (depths <= view.far) & (blurred[:, 2] > 0) & (blurred[:, 2] < most)
    extent = torch.full_like(depths, rules.extent)
    if rules.opacity_extent:
        strength = opacities * compensations if view.antialiased else opacities
        seen &= strength >= rules.min_alpha
        extent = (2 * (strength / rules.min_alpha).clamp(min=1).log()).sqrt().clamp(max=rules.extent)
    radius = (extent[:, None] * blurred[:, :2].clamp(min=0).sqrt()).ceil()
    size = means2d.new_tensor([view.width, view.height])
    inside = ((means2d + radius > 0) & (means2d - radius < size)).all(1)
    seen &= inside & (radius > view.clip).any(1) & (radius > 0).all(1)
    return torch.where(seen[:, None], radius.clamp(max=1e9), 0).int()


def rotations(quats: Tensor) -> Tensor:
    """Quaternions w, x, y, z of any length ``[P,4]`` -> ``[P,3,3]``."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, 1).view(-1, 3, 3)


def harmonics_reference(degree: int, means: Tensor, eyes: Tensor, coefficients: Tensor, radii: Tensor) -> Tensor:
    """Colours ``[C,N,3]`` >= 0 of Gaussians at ``means [N,3]`` from cameras at ``eyes [C,3]``: 1/2 + the harmonics of
    ``coefficients``, ``[N,K,3]`` or ``[C,N,K,3]``; zeros where ``radii [C,N,2]`` says that nothing is seen."""
    camera, gaussian = (radii > 0).all(2).nonzero(as_tuple=True)
    direction = means[gaussian] - eyes[camera]
    bases = harmonic_bases(degree, direction / direction.norm(dim=1, keepdim=True))
    own = coefficients[camera, gaussian] if coefficients.ndim == 4 else coefficients[gaussian]
    colors = ((bases[:, :, None] * own[:, : bases.shape[1]]).sum(1) + 0.5).clamp(min=0)
    return colors.new_zeros(*radii.shape[:2], 3).index_put((camera, gaussian), colors)


def harmonic_bases(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics of unit ``directions [P,3]`` (Sloan 2013): ``[P, (degree + 1)^2]``, degree up to 3."""
    x, y, z = directions.unbind(1)
    bases = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        bases += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        bases += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.9461746957575601 * z * z - 0.31539156525252,
        ]
        bases += [-1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    if degree > 2:
        bases += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z]
        bases += [-0.4570457994644658 * y * (5 * z * z - 1), 0.3731763325901154 * z * (5 * z * z - 3)]
        bases += [-0.4570457994644658 * x * (5 * z * z - 1), 1.445305721320277 * z * (x * x - y * y)]
        bases += [-0.5900435899266435 * x * (x * x - 3 * y * y)]
    return torch.stack(bases, 1)


@torch.no_grad()
def bins_reference(means2d: Tensor, radii: Tensor, depths: Tensor, first: Tensor, view: View) -> Bins:
    """``means2d [M,2]``, ``radii [M,2]``, ``depths [M]`` of the Gaussians of all images: those of image i are
    ``[first[i], first[i + 1])``, int64."""
    images = len(first) - 1
    image = torch.arange(images, device=first.device).repeat_interleave(first.diff())
    across, down = -(-view.width // TILE), -(-view.height // TILE)
    limit = torch.tensor([across, down], device=means2d.device)
    radius = radii.to(means2d.dtype)
    first = ((means2d - radius) / TILE).floor().clamp(min=0).minimum(limit).long()
    end = ((means2d + radius) / TILE).ceil().clamp(min=0).minimum(limit).long()
    sides = torch.where((radii > 0).all(1, keepdim=True), end - first, 0)
    tiles = sides.prod(1)
    ends = tiles.cumsum(0)
    ids = torch.arange(len(tiles), device=tiles.device).repeat_interleave(tiles)
    number = torch.arange(len(ids), device=tiles.device) - (ends - tiles)[ids]
    x, y = first[ids, 0] + number % sides[ids, 0], first[ids, 1] + number // sides[ids, 0]
    depth = depths.to(torch.float32).contiguous().view(torch.int32).long()
    keys = (image[ids] << (across * down).bit_length() | (y * across + x)) << 32 | depth[ids]
    # by depth as it is: float64 has more of it than a key's bits
    order = depths[ids].argsort(stable=True)
    order = order[(keys[order] >> 32).argsort(stable=True)]
    keys, ids = keys[order], ids[order]
    number = image[ids] * (across * down) + (keys >> 32 & (1 << (across * down).bit_length()) - 1)
    counts = torch.bincount(number, minlength=images * across * down)
    offsets = (counts.cumsum(0) - counts).int().view(images, down, across)
    return Bins(tiles.int(), keys, ids.int(), offsets)


def blend_reference(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    backgrounds: Tensor | None,
    bins: Bins,
    view: View,
    absgrad: bool,
) -> tuple[Tensor, Tensor]:
    """Splats of the last dimensions ``[...,2]``, ``[...,3]``, ``[...]``, ``[...,D]`` -> ``[I,H,W,D]`` and alpha
    ``[I,H,W,1]``, for each tile by a matrix of its pixels and splats. ``absgrad``: see ``ops.splat.rasterization``."""
    images, down, across = bins.offsets.shape
    flat = (means2d.view(-1, 2), conics.view(-1, 3), opacities.reshape(-1), colors.reshape(-1, colors.shape[-1]))
    limits = torch.cat([bins.offsets.flatten().long(), bins.offsets.new_tensor([len(bins.ids)]).long()]).tolist()
    y, x = (one.to(means2d) + 0.5 for one in torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij"))
    if absgrad:
        means2d.absgrad = torch.zeros_like(means2d)  # type: ignore[attr-defined]
    rows = []
    for tile in range(images * down * across):
        corner = means2d.new_tensor([tile % across * TILE, tile // across % down * TILE])
        ids = bins.ids[limits[tile] : limits[tile + 1]].long()
        rows.append(
            _tile(torch.stack([x, y], 2).view(-1, 2) + corner, ids, *flat, view.rules, means2d if absgrad else None)
        )
    out = torch.stack(rows).view(images, down, across, TILE, TILE, -1).transpose(2, 3)
    out = out.reshape(images, down * TILE, across * TILE, -1)[:, : view.height, : view.width]
    rendered, alphas = out[..., :-1], out[..., -1:]
    if backgrounds is not None:
        rendered = rendered + (1 - alphas) * backgrounds[:, None, None]
    return rendered, alphas


def _tile(
    pixels: Tensor,
    ids: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    rules: Rules,
    absgrad: Tensor | None,
) -> Tensor:
    """Pixels ``[P,2]`` and the splats ``ids [K]`` in their order -> ``[P, D + 1]``: the sums of weights times colours,
    and of weights."""
    apart = pixels[:, None] - means2d[ids]
    if absgrad is not None and apart.requires_grad:
        to: Tensor = absgrad.absgrad  # type: ignore[attr-defined]

        def add(grad: Tensor) -> None:
            to.view(-1, 2).index_add_(0, ids, grad.abs().sum(0))

        apart.register_hook(add)
    A, B, C = conics[ids].unbind(1)
    dx, dy = apart.unbind(2)
    sigma = (0.5 * (A * dx * dx + C * dy * dy) + B * dx * dy).clamp(min=0)
    alpha = (opacities[ids] * torch.exp(-sigma)).clamp(max=rules.max_alpha)
    alpha = torch.where(alpha >= rules.min_alpha, alpha, 0)
    after = torch.cumprod(1 - alpha, 1)  # light behind each splat
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1) if len(ids) else after
    weights = torch.where(after > rules.stop, before * alpha, 0)
    return torch.cat([weights @ colors[ids], weights.sum(1, keepdim=True)], 1)
