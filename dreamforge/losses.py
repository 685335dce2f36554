"""Regularisers: plain functions ``RenderOutput -> scalar``, each with its source. A recipe gives them weights.

    losses: {sparsity: 1.0, orientation: [[0.0, 0.0], [0.5, 10.0]]}

Those that need samples along rays exist for volume scenes only.
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dreamforge.schedule import check_curve, curve
from dreamforge.types import DreamforgeError, RenderOutput, Samples, Surface

Loss = Callable[[RenderOutput], Tensor]


def total(render: RenderOutput, weights: Mapping[str, Any], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the named losses, and each value before its weight (detached scalars, for the log).

    A weight is a curve over progress (``schedule.curve``); a loss of weight 0 is not computed. The sum does not
    require grad when nothing was weighted. Raises DreamforgeError for an unknown name.
    """
    check(weights)
    result = render.rgb.new_zeros(())
    values: dict[str, Tensor] = {}
    for name, weight in weights.items():
        scale = curve(weight, progress)
        if scale != 0:
            value = LOSSES[name](render)
            values[name] = value.detach()
            result = result + scale * value
    return result, values


def check(weights: Mapping[str, Any]) -> None:
    """Raise DreamforgeError unless every name is a loss and every weight a number or knots over progress."""
    for name, weight in weights.items():
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.0)
            raise DreamforgeError(f"There is no loss {name!r}; did you mean {near[0]!r}? All: {', '.join(LOSSES)}.")
        check_curve(f"losses.{name}", weight)


def sparsity(render: RenderOutput) -> Tensor:
    """mean sqrt(alpha^2 + 0.01): less matter (threestudio, DreamFusion recipe)."""
    return (render.alpha**2 + 0.01).sqrt().mean()


def opaque(render: RenderOutput) -> Tensor:
    """Mean entropy of alpha in nats, alpha clamped to [1e-3, 1 - 1e-3]: every pixel all or nothing (threestudio)."""
    return _entropy(render.alpha.clamp(1e-3, 1 - 1e-3)).mean()


def entropy(render: RenderOutput) -> Tensor:
    """Mean entropy of alpha in bits, alpha clamped to [1e-5, 1 - 1e-5]: as ``opaque``, in stable-dreamfusion's unit."""
    return _entropy(render.alpha.clamp(1e-5, 1 - 1e-5)).mean() / torch.log(render.alpha.new_tensor(2.0))


def orientation(render: RenderOutput) -> Tensor:
    """Ref-NeRF (arXiv 2112.03907, eq. 11): visible normals must not face away, sg(alpha) max(0, n . d)^2.

    Of the rendered normal and the direction d of its ray, mean over the pixels that hold at least two samples.
    """
    if render.normal is None:
        raise DreamforgeError("The loss 'orientation' needs normals, which this scene does not render; remove it.")
    direction, seen = _ray_directions(_samples(render, "orientation"))
    away = (render.normal.reshape(-1, 3) * direction).sum(1).clamp_min(0)
    alpha = render.alpha.detach().reshape(-1)
    return (seen * alpha * away**2).sum() / seen.sum().clamp_min(1)


def z_variance(render: RenderOutput) -> Tensor:
    """HiFA (arXiv 2305.18766): variance of the distance along a ray, sum w (t - mean)^2 / sum w: thin surfaces.

    Mean over pixels with alpha > 0.5. (threestudio leaves out both divisions by sum w.)
    """
    samples = _samples(render, "z_variance")
    w, t = samples.weights, samples.t
    mass = _per_ray(w, samples)
    mean = _per_ray(w * t, samples) / mass.clamp_min(1e-6)
    # The derivative by the mean is -2 sum w (t - mean) = 0: nothing is lost by cutting it off.
    variance = _per_ray(w * (t - mean.detach()[samples.ray]) ** 2, samples) / mass.clamp_min(1e-6)
    solid = (mass.detach() > 0.5).to(w)
    return (solid * variance).sum() / solid.sum().clamp_min(1)


def emptiness(render: RenderOutput) -> Tensor:
    """SJC (arXiv 2212.00774): mean log(1 + 10 w) over the weights of all samples: no thin fog."""
    w = _samples(render, "emptiness").weights
    return (1 + 10 * w).log().sum() / max(len(w), 1)


def distortion(render: RenderOutput) -> Tensor:
    """mip-NeRF 360 (arXiv 2111.12077, eq. 15): sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 delta_i, mean over rays.

    In metres along the ray. The pairs cost O(S): samples ascend along a ray, so the double sum is
    2 sum_i w_i (t_i W_i - M_i) with W_i, M_i the sums of w and w t over the samples in front of i.
    """
    samples = _samples(render, "distortion")
    w, t = samples.weights, samples.t
    pairs = 2 * w * (t * _in_front(w, samples) - _in_front(w * t, samples))
    return (pairs + w**2 * samples.delta / 3).sum() / samples.rays


def eikonal(render: RenderOutput) -> Tensor:
    """Gropp et al. 2020 (arXiv 2002.10099): mean (|grad f| - 1)^2 over samples: f stays a distance (NeuS)."""
    gradient = _samples(render, "eikonal").gradient
    if gradient is None:
        raise DreamforgeError("The loss 'eikonal' needs a signed distance: give the scene surface: sdf, or remove it.")
    missed: Tensor = ((gradient.norm(dim=1) - 1) ** 2).sum() / max(len(gradient), 1)
    return missed


def deviation(render: RenderOutput) -> Tensor:
    """FlexiCubes (Shen et al. 2023, eq. 8): mean of how unequally far a dual vertex is from the edges around it."""
    found = _surface(render, "deviation").deviation
    if found is None:
        raise DreamforgeError("The loss 'deviation' needs FlexiCubes, which this scene does not have; remove it.")
    return found.sum() / max(len(found), 1)


def signs(render: RenderOutput) -> Tensor:
    """nvdiffrec (Munkberg et al. 2022, eq. 2): at crossed edges cross entropy of one end's distance and the other's
    sign, mean over both: fewer crossings, no floaters where nobody looks."""
    found = _surface(render, "signs").crossed
    if found is None:
        raise DreamforgeError("The loss 'signs' needs a grid of distances, which this scene does not have; remove it.")
    sign = (found.detach().flip(1) > 0).to(found)
    return torch.nn.functional.binary_cross_entropy_with_logits(found, sign, reduction="sum") / max(len(found), 1)


def smooth_normals(render: RenderOutput) -> Tensor:
    """Mean of 1 - cos of the angle between faces that share an edge (Fantasia3D, threestudio's normal consistency)."""
    surface = _surface(render, "smooth_normals")
    corner = [surface.vertices.index_select(0, surface.faces[:, k]) for k in range(3)]
    normal = torch.nn.functional.normalize(torch.linalg.cross(corner[1] - corner[0], corner[2] - corner[0]), dim=1)
    here = (surface.across.flatten() >= 0).nonzero().squeeze(1)
    there = surface.across.flatten().index_select(0, here) // 3
    bend = 1 - (normal.index_select(0, here // 3) * normal.index_select(0, there)).sum(1)
    return bend.sum() / max(len(bend), 1)


def tv_rgb(render: RenderOutput) -> Tensor:
    """Mean squared difference of neighbouring pixels, both axes added (LucidDreamer's weight counts it twice)."""
    return _variation(render.rgb)


def tv_depth(render: RenderOutput) -> Tensor:
    """``tv_rgb`` of the depth, in square metres."""
    return _variation(render.depth)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        loss.__name__: loss
        for loss in (
            sparsity, opaque, entropy, orientation, z_variance, emptiness, distortion, eikonal, deviation, signs,
            smooth_normals, tv_rgb, tv_depth,
        )
    }
)  # fmt: skip


def _entropy(p: Tensor) -> Tensor:
    return -p * p.log() - (1 - p) * (1 - p).log()


def _variation(image: Tensor) -> Tensor:
    return image.diff(dim=1).square().mean() + image.diff(dim=2).square().mean()


def _surface(render: RenderOutput, name: str) -> Surface:
    if render.surface is None:
        raise DreamforgeError(f"The loss {name!r} needs a mesh, which this scene does not have; remove it.")
    return render.surface


def _samples(render: RenderOutput, name: str) -> Samples:
    if render.samples is None:
        raise DreamforgeError(f"The loss {name!r} needs samples along rays, which this scene does not have; remove it.")
    return render.samples


def _per_ray(value: Tensor, samples: Samples) -> Tensor:
    """Sum of ``value [S]`` over each ray, ``[rays]``."""
    return value.new_zeros(samples.rays).index_add(0, samples.ray, value)


def _in_front(value: Tensor, samples: Samples) -> Tensor:
    """Exclusive running sum of ``value [S]`` along each ray."""
    # One running sum over all rays, minus what came before the ray; in double where there is one, as it cancels.
    wide = value if value.device.type == "mps" else value.double()
    rays = _per_ray(wide, samples)
    before = (rays.cumsum(0) - rays).index_select(0, samples.ray)  # not before[ray]: its backward has no fixed order
    return (wide.cumsum(0) - wide - before).to(value)


def _ray_directions(samples: Samples) -> tuple[Tensor, Tensor]:
    """Unit direction ``[rays,3]`` of each ray, from its first to its last sample, and 1.0 where it has two."""
    counts = torch.zeros(samples.rays, dtype=torch.long, device=samples.ray.device)
    counts = counts.index_add(0, samples.ray, torch.ones_like(samples.ray))
    seen = counts > 1
    last = counts.cumsum(0) - 1
    position = samples.position.detach()
    direction = position.new_zeros(samples.rays, 3)
    direction[seen] = position[last[seen]] - position[(last - counts + 1)[seen]]
    return torch.nn.functional.normalize(direction, dim=1), seen.to(position)
