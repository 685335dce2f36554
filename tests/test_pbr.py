"""Metallic-roughness materials against integrals over the hemisphere, in float64, and the laws of energy."""

import math

import pytest
import torch
from torch import Tensor

from dreamforge.render import pbr
from dreamforge.render.light import SOFT, Light, point_shading, shading

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
WHITE, BLACK = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def made(metallic: float, roughness: float) -> Tensor:
    return torch.tensor([metallic, roughness], dtype=torch.float64)


def seen_at(cosine: float) -> Tensor:
    return torch.tensor([math.sqrt(1 - cosine**2), 0.0, cosine], dtype=torch.float64)


def drawn(count: int, seed: int = 0) -> Tensor:
    """Unit directions above the horizon."""
    found = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(found * torch.tensor([1.0, 1, 0]) + found.abs() * UP, dim=-1)


def mirrored(base: Tensor, roughness: float, eye: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """The integrals of f n.l and of f n.l (l . ``light``) over the hemisphere, of a metal, by the midpoint rule.

    Steps are even in the microfacet's normal h as GGX spreads it: the share of facets steeper than tan^2 is
    alpha^2 / (alpha^2 + tan^2), and a step of l is 4 v.h as large as one of h.
    """
    steps, around = 512, 64
    even = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    share = even**2 * (3 - 2 * even)  # closer where facets are level, and where they are steep
    tangent = (roughness**4 * share / (1 - share)).sqrt()[:, None]
    turn = (torch.arange(around, dtype=torch.float64) + 0.5) * (2 * math.pi / around)
    level = 1 / (1 + tangent**2).sqrt()
    half = torch.stack(torch.broadcast_tensors(tangent * level * turn.cos(), tangent * level * turn.sin(), level), -1)
    facing = (half * eye).sum(-1, keepdim=True)
    towards = 2 * facing * half - eye
    # d share = 6 even (1 - even) / steps; D n.h dh = d share d turn / 2 pi
    spread = roughness**4 / (math.pi * (1 - level[..., None] ** 2 * (1 - roughness**4)) ** 2)
    size = 6 * (even * (1 - even))[:, None, None] / (steps * around) / (spread * level[..., None]) * 4 * facing
    lit = (facing > 0) & (towards[..., 2:] > 0)
    f = pbr.brdf(base, made(1.0, roughness), UP, eye, towards) * towards[..., 2:] * size * lit
    return f.sum((0, 1)), (f * (towards * light).sum(-1, keepdim=True)).sum((0, 1))


@pytest.mark.parametrize("roughness", [0.1, 0.25, 0.5, 0.8, 1.0])
def test_the_fits_are_the_integrals_over_the_hemisphere(roughness: float) -> None:
    """Of white metal the energy, E, and of black the Fresnel term's, B; of both the light of a sky that leans."""
    for cosine in (0.03, 0.15, 0.4, 0.7, 0.95, 1.0):
        eye = seen_at(cosine)
        energy, fresnel, p, q = pbr.lobe(*torch.tensor([[cosine], [roughness]], dtype=torch.float64))
        for lean in (UP, torch.tensor([1.0, 0, 0], dtype=torch.float64)):
            whole, leaning = mirrored(WHITE, roughness, eye, lean)
            assert float(energy) == pytest.approx(float(whole[0]), abs=0.014)
            mean = p * (2 * cosine * UP - eye) + q * UP
            assert float(energy * (mean * lean).sum()) == pytest.approx(float(leaning[0]), abs=0.016)
        assert float(fresnel) == pytest.approx(float(mirrored(BLACK, roughness, eye, UP)[0][0]), abs=0.022)


@pytest.mark.parametrize("light", [SOFT, Light((-0.6, 0.2, 0.5), ambient=0.2, diffuse=0.8)])
def test_a_metal_under_the_soft_light_reflects_its_integral(light: Light) -> None:
    """Half Lambert is what the radiance ambient + diffuse (1/2 + 3/4 d.u) makes of a white wall."""
    direction = torch.nn.functional.normalize(torch.tensor(light.direction, dtype=torch.float64), dim=0)
    base = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    for cosine, roughness in ((0.9, 0.3), (0.5, 0.6), (0.2, 0.9)):
        even, leaning = mirrored(base, roughness, seen_at(cosine), direction)
        wanted = (light.ambient + 0.5 * light.diffuse) * even + 0.75 * light.diffuse * leaning
        got = pbr.under_soft(base, made(1.0, roughness), UP, seen_at(cosine), light)
        torch.testing.assert_close(got, wanted, rtol=0, atol=0.03)


def test_chalk_is_lit_as_everything_else_is() -> None:
    """Less what the surface mirrors before, which comes back as light that is linear in the direction."""
    normal, eye = drawn(50), drawn(50, 1)
    eye = torch.where((eye * normal).sum(-1, keepdim=True) > 0, eye, -eye)
    base = torch.full((50, 3), 0.6, dtype=torch.float64)
    made_of = made(0.0, 1.0).expand(50, 2)
    energy, fresnel, _, _ = pbr.lobe((eye * normal).sum(-1, keepdim=True).clamp_min(1e-3), made_of[:, 1:])
    mirrors = 0.04 * (energy - fresnel) + fresnel
    rest = pbr.under_soft(base, made_of, normal, eye) - pbr.under_soft(base * 0, made_of, normal, eye)
    torch.testing.assert_close(rest, 0.6 * (1 - mirrors) * shading(normal).expand(50, 3))
    towards = drawn(50, 2)
    far = 1e9 * towards  # a point so far away that its direction is the same everywhere
    point = pbr.under_point(base, made_of, normal, eye, towards)
    chalk = 0.6 * point_shading(normal, torch.zeros_like(normal), far)
    assert (point - chalk).abs().mean() < 0.03, "a rough dielectric mirrors little"


def test_white_furnace() -> None:
    """Under the same light from everywhere a perfect mirror of any colour sends its colour back, nothing sends more."""
    everywhere = Light(ambient=1.0, diffuse=0.0)
    cosines, roughness = torch.meshgrid(
        torch.linspace(0, 1, 60, dtype=torch.float64), torch.linspace(0, 1, 30, dtype=torch.float64), indexing="ij"
    )
    eye = torch.stack([(1 - cosines**2).sqrt(), cosines * 0, cosines], -1).view(-1, 3)
    for metallic in (0.0, 0.3, 1.0):
        made_of = torch.stack([torch.full_like(roughness, metallic), roughness], -1).view(-1, 2)
        back = pbr.under_soft(WHITE.expand(len(eye), 3), made_of, UP.expand_as(eye), eye, everywhere)
        assert back.max() <= 1 + 1e-12 and back.min() > 0.3
        if metallic == 1.0:
            torch.testing.assert_close(back[made_of[:, 1] == 0], torch.ones(60, 3, dtype=torch.float64))
    rough = pbr.under_soft(WHITE, made(1.0, 1.0), UP, UP, everywhere)
    assert rough[0] == pytest.approx(0.31, abs=0.02), "light that bounces twice between microfacets is not counted"
    dielectric = pbr.under_soft(BLACK, made(0.0, 0.1), UP, UP, everywhere)
    assert dielectric[0] == pytest.approx(0.04, abs=1e-3), "((n - 1) / (n + 1))^2 of n = 1.5"
    points = pbr.under_point(WHITE, made(1.0, 0.5), UP, seen_at(0.7), UP, ambient=1.0)
    torch.testing.assert_close(points, pbr.under_soft(WHITE, made(1.0, 0.5), UP, seen_at(0.7), everywhere))


def test_light_goes_both_ways_alike() -> None:
    one, two = drawn(200), drawn(200, 1)
    draws = torch.Generator().manual_seed(2)
    base = torch.rand(200, 3, generator=draws, dtype=torch.float64)
    made_of = 0.1 + 0.9 * torch.rand(200, 2, generator=draws, dtype=torch.float64)
    there = pbr.brdf(base, made_of, UP, one, two)
    torch.testing.assert_close(there, pbr.brdf(base, made_of, UP, two, one))
    assert there.min() > 0


def test_the_reflection_is_that_of_gltf() -> None:
    """Appendix B written as there, one direction, in plain numbers."""
    metallic, roughness, base = 0.4, 0.5, 0.7
    n, v, s = UP, seen_at(0.8), torch.nn.functional.normalize(torch.tensor([-0.3, 0.5, 0.6]).double(), dim=0)
    h = (s + v) / (s + v).norm()
    nh, nl, nv, vh = (float(one @ two) for one, two in ((n, h), (n, s), (n, v), (v, h)))
    square = roughness**4
    spread = square / (math.pi * (nh**2 * (square - 1) + 1) ** 2)

    def lambda_(cosine: float) -> float:  # Heitz 2014, eq. 72
        return (-1 + math.sqrt(1 + square * (1 / cosine**2 - 1))) / 2

    shadowed = 1 / (1 + lambda_(nl) + lambda_(nv))  # eq. 99
    f0 = 0.04 * (1 - metallic) + base * metallic
    fresnel = f0 + (1 - f0) * (1 - vh) ** 5
    wanted = (1 - fresnel) * base * (1 - metallic) / math.pi + fresnel * spread * shadowed / (4 * nl * nv)
    assert float(pbr.brdf(WHITE * base, made(metallic, roughness), n, v, s)[0]) == pytest.approx(wanted, rel=1e-9)
    lit = pbr.under_point(WHITE * base, made(metallic, roughness), n, v, s, ambient=0.0)
    assert float(lit[0]) == pytest.approx(math.pi * nl * wanted, rel=1e-9), "the light of one on a white wall"
    behind = pbr.under_point(WHITE * base, made(metallic, roughness), n, v, -s, ambient=0.0)
    assert not behind.any(), "nothing from below"


def test_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    base = (0.1 + 0.8 * torch.rand(4, 3, generator=draws, dtype=torch.float64)).requires_grad_()
    made_of = (0.2 + 0.7 * torch.rand(4, 2, generator=draws, dtype=torch.float64)).requires_grad_()
    normal, eye, towards = (
        torch.nn.functional.normalize(UP + 0.3 * drawn(4, seed), dim=-1).requires_grad_() for seed in range(3)
    )
    assert torch.autograd.gradcheck(pbr.under_point, (base, made_of, normal, eye, towards))
    assert torch.autograd.gradcheck(pbr.under_soft, (base, made_of, normal, eye))


def test_gradients_are_finite_where_they_might_not_be() -> None:
    """Seen and lit from the edge, from behind, along the normal, and from opposite sides; float32, the smoothest."""
    towards = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]]).repeat_interleave(4, 0)
    eye = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]]).repeat(4, 1)
    base = torch.zeros(16, 3, requires_grad=True)
    made_of = torch.tensor([1.0, pbr.SMOOTHEST]).expand(16, 2).clone().requires_grad_()
    normal = UP.float().expand(16, 3).clone().requires_grad_()
    for seen in (
        pbr.under_point(base, made_of, normal, eye, towards),
        pbr.under_soft(base, made_of, normal, eye),
    ):
        grads = torch.autograd.grad(seen.sum(), (base, made_of, normal), allow_unused=True)
        assert seen.isfinite().all() and seen.min() >= 0
        assert all(grad is not None and grad.isfinite().all() for grad in grads)


def test_a_network_that_says_nothing_is_grey_plain_and_matt() -> None:
    start = pbr.answered(torch.zeros(2, 5))
    torch.testing.assert_close(start, torch.tensor([0.5, 0.5, 0.5, *pbr.START]).expand(2, 5))
    ends = pbr.answered(torch.tensor([[-50.0] * 5, [50.0] * 5]))
    torch.testing.assert_close(ends, torch.tensor([[0.0, 0, 0, 0, pbr.SMOOTHEST], [1.0] * 5]))
    assert pbr.parted(start)[0].shape == (2, 3) and torch.equal(pbr.parted(start)[1], start[:, 3:])
    plain = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pbr.answered(plain), plain.sigmoid()) and pbr.parted(plain)[1] is None
