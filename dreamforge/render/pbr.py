"""glTF's metallic-roughness material in linear light: under a point, and under a light from all around.

The reflection of light from l to the eye at v is glTF 2.0's, appendix B.3.5, with h half-way between l and v:

    f(l, v) = (1 - F) c_diff / pi + F D V,   c_diff = (1 - metallic) base,   F_0 = 0.04 + metallic (base - 0.04)

Microfacets are spread by D, GGX of alpha = roughness^2 (Walter et al. 2007, eq. 33), hide each other by V, Smith's
height-correlated visibility (Heitz 2014, eq. 99), and mirror by F = F_0 + (1 - F_0) (1 - v.h)^5 (Schlick 1994).

A light from all around whose radiance is linear in the direction, L(d) = a + b d.u, needs no prefiltered picture. Its
irradiance over pi is a + 2/3 b n.u. The mean of L over a lobe is L at the lobe's mean direction m, |m| <= 1; so the
split of Karis (2013) into the lobe's light and its energy,

    integral of D V F L n.l dl = (F_0 (E - B) + B) (a + b m.u),

is exact but for the Fresnel term's share of the lobe, B, being as spread as all of it, E: B and E are the integrals of
D V n.l times (1 - v.h)^5 and times 1. E, B and m = p r + q n, r being v mirrored about n, depend on n.v and roughness
alone. They were integrated over microfacets visible from v (Heitz 2018) and fitted by polynomials in roughness and
x = n.v / (n.v + alpha), the scale on which grazing views change: E = 1 + (1 - x) e(x, roughness), and with factors
that are 0 at roughness 0, a mirror, B = (1 - n.v)^5 (1 + ...), p = 1 + ..., q = .... For n.v above 0.001 they are off
by at most 0.013 (E), 0.021 (B) and 0.011 (m, times E). What is not mirrored, 1 - (F_0 (E - B) + B), reaches the
diffuse layer, so that no material sends back more than it gets.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dreamforge.render.light import SOFT, Light

Material = Literal["none", "pbr"]

DIELECTRIC = 0.04  # F_0 of glass and plastic: an index of refraction of 1.5
SMOOTHEST = 0.08  # roughness of the smoothest material that is learnt: below, a highlight is half a degree wide
START = (0.05, 0.8)  # metallic and roughness where nothing is learnt yet: a plain, matt thing
GRAZING = 1e-3  # n.v from which on the fits hold

# Coefficients: a row for each power of x from 0, a column for each power of roughness from 0 (E) or 1 (others).
ENERGY = (
    (-0.06, 0.3, -0.41, 0.16),
    (0.68, -4.91, 7.44, -6.32),
    (-3.78, 22.05, -32.4, 18.41),
    (2.81, -25.47, 24.13, -6.85),
    (0.78, 4.99, 15.02, -24.49),
)
FRESNEL = (
    (-2.4, 1.65, 0.21, -0.39),
    (15.71, -85.45, 132.73, -64.76),
    (-89.13, 471.11, -663.14, 304.6),
    (147.31, -658.12, 653.68, -290.49),
    (-72.63, 282.35, -245.37, 362.15),
)
MIRRORED = ((0.118, -3.901, 4.114, -1.327), (0.026, 3.228, -4.898, 1.506), (-0.292, 2.575, -6.777, 4.902))
UPRIGHT = ((0.753, 2.713, -5.558, 2.603), (-1.593, 5.69, -6.884, 3.399), (1.125, -10.417, 14.202, -5.685))


def answered(raw: Tensor) -> Tensor:
    """A network's numbers ``[N,3]`` or ``[N,5]`` -> sRGB in (0, 1), grey at 0, and with five of them also metallic in
    (0, 1) and roughness in (``SMOOTHEST``, 1), at 0 those of ``START``."""
    if raw.shape[1] == 3:
        return torch.sigmoid(raw)
    low = raw.new_tensor([0.0, SMOOTHEST])
    start = torch.logit((raw.new_tensor(START) - low) / (1 - low))
    return torch.cat([torch.sigmoid(raw[:, :3]), low + (1 - low) * torch.sigmoid(raw[:, 3:] + start)], 1)


def parted(base: Tensor) -> tuple[Tensor, Tensor | None]:
    """What ``answered`` -> colours ``[N,3]`` and, where there is one, the material ``[N,2]``."""
    return base[:, :3], base[:, 3:] if base.shape[1] > 3 else None


def brdf(base: Tensor, material: Tensor, normal: Tensor, eye: Tensor, towards: Tensor) -> Tensor:
    """f(l, v) in 1/sr, ``[...,3]``, of linear ``base [...,3]``, ``material [...,2]`` (metallic, and roughness above 0)
    and unit ``normal``, ``eye`` (v) and ``towards`` the light (l), each ``[...,3]``. Light from below is seen as if
    from the horizon: who integrates multiplies by max(0, n.l)."""
    diffuse, f0 = _layers(base, material)
    half = torch.nn.functional.normalize(eye + towards, dim=-1)
    nv, nl = _cosine(normal, eye).clamp_min(GRAZING), _cosine(normal, towards).clamp_min(0)
    square = material[..., 1:] ** 4  # alpha^2
    spread = square / (math.pi * (1 - _cosine(normal, half).clamp(0, 1).square() * (1 - square)).square())
    away = nl * (nv.square() * (1 - square) + square).sqrt() + nv * (nl.square() * (1 - square) + square).sqrt()
    fresnel = f0 + (1 - f0) * (1 - _cosine(eye, half).clamp(0, 1)) ** 5
    return (1 - fresnel) * diffuse / math.pi + fresnel * spread * 0.5 / away


def under_point(
    base: Tensor, material: Tensor, normal: Tensor, eye: Tensor, towards: Tensor, ambient: float = 0.1
) -> Tensor:
    """Linear light ``[...,3]`` that leaves to ``eye``; arguments as of ``brdf``. As ``light.point_shading``: the point
    shines 1 - ``ambient`` on a white wall that faces it, and ``ambient`` comes from all around."""
    shines = math.pi * _cosine(normal, towards).clamp_min(0) * brdf(base, material, normal, eye, towards)
    return (1 - ambient) * shines + _around(base, material, normal, eye, ambient, normal.new_zeros(3))


def under_soft(base: Tensor, material: Tensor, normal: Tensor, eye: Tensor, light: Light = SOFT) -> Tensor:
    """Linear light ``[...,3]`` that leaves to ``eye`` under the one light of all pictures; arguments as of ``brdf``,
    roughness from 0 on. The light is that which makes ``light.shading`` of a white wall, half Lambert: a = ambient +
    diffuse / 2 and b = 3/4 diffuse, which is nowhere dark where ambient is at least diffuse / 4."""
    direction = torch.nn.functional.normalize(normal.new_tensor(light.direction), dim=0)
    return _around(base, material, normal, eye, light.ambient + 0.5 * light.diffuse, 0.75 * light.diffuse * direction)


def _around(base: Tensor, material: Tensor, normal: Tensor, eye: Tensor, mean: float, lean: Tensor) -> Tensor:
    """Under the radiance ``mean`` + d.``lean`` (``[3]``) from every direction d."""
    diffuse, f0 = _layers(base, material)
    nv, roughness = _cosine(normal, eye).clamp(GRAZING, 1), material[..., 1:]
    energy, fresnel, mirrored, upright = lobe(nv, roughness)
    mirrors = f0 * (energy - fresnel) + fresnel
    way = mirrored * (2 * nv * normal - eye) + upright * normal
    lights = mean + 2 / 3 * _cosine(normal, lean), mean + _cosine(way, lean)
    return (1 - mirrors) * diffuse * lights[0] + mirrors * lights[1]


def lobe(nv: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fits E, B, p and q at n.v and roughness, each of the arguments' shape; 0 <= B <= E <= 1."""
    x = nv / (nv + roughness.square())
    energy = (1 + (1 - x) * _polynomial(ENERGY, x, roughness)).clamp(0, 1)
    fresnel = (1 - nv) ** 5 * (1 + roughness * _polynomial(FRESNEL, x, roughness))
    p, q = (roughness * _polynomial(rows, x, roughness) for rows in (MIRRORED, UPRIGHT))
    return energy, torch.minimum(fresnel.clamp_min(0), energy), 1 + p, q


def _polynomial(rows: tuple[tuple[float, ...], ...], x: Tensor, y: Tensor) -> Tensor:
    """Sum of rows[i][j] x^i y^j."""
    total = torch.zeros_like(x)
    for row in reversed(rows):
        inner = torch.zeros_like(y)
        for number in reversed(row):
            inner = inner * y + number
        total = total * x + inner
    return total


def _layers(base: Tensor, material: Tensor) -> tuple[Tensor, Tensor]:
    """c_diff and F_0."""
    metallic = material[..., :1]
    return (1 - metallic) * base, DIELECTRIC + metallic * (base - DIELECTRIC)


def _cosine(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum(-1, keepdim=True)
