"""Lights and what stands behind: closed forms."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch

from dreamforge.cameras import orbit, rays
from dreamforge.render.light import lights_near, linear_to_srgb, point_shading, shading, srgb_to_linear
from dreamforge.rng import generator
from dreamforge.scenes.lit import Kind, Lit
from dreamforge.scenes.placing import frame, looked_into
from dreamforge.scenes.sky import Sky
from dreamforge.types import Cameras

UP = torch.tensor([0.0, 0.0, 1.0])


def front(views: int, distance: float = 3.0) -> Cameras:
    return orbit(torch.zeros(views), torch.zeros(views), distance, 0.8, 4, 4)


def places(cameras: Cameras) -> torch.Tensor:
    return cameras.camera_to_world[:, :3, 3]


def test_lights_come_from_about_the_side_of_their_camera() -> None:
    for distance in (1.0, 3.0):
        lights = lights_near(places(front(4000, distance)), torch.Generator().manual_seed(0))
        away = lights.norm(dim=1)
        assert 0.8 <= away.min() < 0.81 and 1.49 < away.max() <= 1.5
        assert float(away.mean()) == pytest.approx(1.15, abs=0.01)
        wanted = distance * UP + torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
        wanted = torch.nn.functional.normalize(wanted, dim=1).mean(0)
        torch.testing.assert_close((lights / away[:, None]).mean(0), wanted, rtol=0, atol=0.05)
    assert len(lights.unique(dim=0)) == 4000, "each view has its own"


def test_a_point_lights_by_the_cosine_and_nothing_from_behind() -> None:
    position = torch.tensor([0.2, 0.1, -0.3])
    for angle, wanted in ((0.0, 1.0), (60.0, 0.1 + 0.9 * 0.5), (120.0, 0.1)):
        towards = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))])
        for far in (0.5, 2.0):
            assert float(point_shading(UP, position, position + far * towards)) == pytest.approx(wanted, abs=1e-6)


def test_soft_light_falls_from_above_and_reaches_everywhere() -> None:
    towards = torch.nn.functional.normalize(torch.tensor([0.0, 0.94, 0.34]), dim=0)
    across = torch.tensor([1.0, 0.0, 0.0])
    for normal, wanted in ((towards, 1.0), (across, 0.725), (-towards, 0.45)):
        assert float(shading(normal)) == pytest.approx(wanted, abs=1e-6)


def test_a_random_light_is_drawn_by_the_seed_of_a_render() -> None:
    cameras, view = front(2), torch.tensor([1, 0])
    normal, position = UP.expand(2, 3), torch.tensor([[0.1, 0.0, 0.5], [0.0, 0.2, 0.5]])
    albedo = torch.tensor([[0.9, 0.4, 0.1], [0.2, 0.3, 0.8]])
    textured, white = Lit("random", share=1.0, textureless=0.0), Lit("random", share=1.0, textureless=1.0)
    for seed in (1, 2):
        draws = generator(seed, "light")
        torch.rand(2, generator=draws)
        factor = point_shading(normal, position, lights_near(places(cameras), draws)[view])
        for lit, linear in ((textured, srgb_to_linear(albedo)), (white, torch.ones(2, 3))):
            shade = lit.shade(cameras, 0, seed)
            assert shade is not None
            torch.testing.assert_close(shade(albedo, normal, position, view), linear_to_srgb(linear * factor))


def test_the_soft_light_dims_colors_in_linear_light() -> None:
    shade = Lit("soft").shade(front(1), 0, 0)
    assert shade is not None
    albedo, normal = torch.tensor([[0.9, 0.4, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    wanted = linear_to_srgb(srgb_to_linear(albedo) * 0.725)
    torch.testing.assert_close(shade(albedo, normal, normal, torch.tensor([0])), wanted)


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("kind", ["soft", "random"])
def test_in_a_frame_of_its_own_an_object_is_lit_by_the_light_of_the_world(kind: Kind, width: int) -> None:
    """Of a frame within a frame: as its points and normals, taken to the world, are lit there."""
    draws = torch.Generator().manual_seed(0)
    base, view = torch.rand(50, width, generator=draws), torch.arange(50) % 2
    position = torch.rand(50, 3, generator=draws) - 0.5
    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=draws), dim=1)
    outer = frame((0.1, -0.2, 0.3), (20.0, -70.0, 130.0), 0.6)
    inner = frame((-0.3, 0.2, 0.1), (0.0, 50.0, -30.0), 0.5)
    cameras = orbit(torch.tensor([0.3, 1.4]), torch.tensor([0.2, 0.5]), 3.0, 0.8, 4, 4)
    lit = Lit(kind, textureless=0.0)
    there, here = (lit.shade(one, 1, 4) for one in (cameras, looked_into(inner, looked_into(outer, cameras))))
    assert there is not None and here is not None
    in_world = outer.outwards(inner.outwards(position))
    wanted = there(base, normal @ (outer.turn @ inner.turn).t(), in_world, view)
    torch.testing.assert_close(here(base, normal, position, view), wanted, rtol=0, atol=1e-5)
    alone = lit.shade(replace(looked_into(inner, cameras), placed=None), 1, 4)
    assert alone is not None and not torch.allclose(alone(base, normal, position, view), wanted, atol=0.05)


def test_when_a_light_is_drawn() -> None:
    cameras, lit = front(1), Lit("random", start=10, share=0.75)
    assert lit.shade(cameras, 9, 5) is None and lit.shade(cameras, 10, 0) is None
    count = sum(lit.shade(cameras, 10, seed) is not None for seed in range(1, 401))
    assert count == pytest.approx(300, abs=30)
    assert Lit("none").shade(cameras, 10, 5) is None
    assert Lit("soft", start=10).shade(cameras, 0, 0) is not None


@pytest.mark.parametrize("kind", ["solid", "learned", "environment"])
def test_the_sky_starts_as_it_is_told(kind: Literal["solid", "learned", "environment"]) -> None:
    sky = Sky(kind, (0.2, 0.4, 1.0), torch.Generator().manual_seed(0), "cpu")
    seen = sky.seen(front(2))
    if kind == "environment":
        assert seen.shape == (2, 4, 4, 3) and seen.std() > 0.01
    else:
        torch.testing.assert_close(seen, torch.tensor([0.2, 0.4, 1.0]), rtol=0, atol=1.1e-3)
    assert len(sky.tensors()) == len(sky.params) == {"solid": 0, "learned": 1, "environment": 2}[kind]


def test_an_environment_sees_all_directions_by_functions_that_are_orthogonal() -> None:
    """Spherical harmonics up to degree 2: six square views of a right angle, weighted by their solid angles."""
    quarter = math.pi / 2
    sides = [orbit(torch.tensor([k * quarter]), torch.zeros(1), 1.0, quarter, 48, 48) for k in range(4)]
    sides += [orbit(torch.zeros(1), torch.tensor([up * quarter]), 1.0, quarter, 48, 48) for up in (-1.0, 1.0)]
    sky = Sky("environment", (0.5, 0.5, 0.5), torch.Generator().manual_seed(0), "cpu")
    functions = []
    for number in range(9):
        with torch.no_grad():
            first, last = (weight.zero_() for weight in sky.params)
            first[0, number], first[1, number] = 1.0, -1.0  # f = ReLU(f) - ReLU(-f)
            last[0, 0], last[0, 1] = 1.0, -1.0
            functions.append(torch.cat([torch.logit(sky.seen(side)[..., 0].double()).flatten() for side in sides]))
    # a pixel of a plane at distance 1 has a solid angle of cos^3 times its area
    weight = torch.cat([(rays(side)[1] @ side.camera_to_world[0, :3, 2]).flatten() ** 3 for side in sides]).double()
    basis = torch.stack(functions)
    product = (basis * weight) @ basis.T / weight.sum()
    scale = product.diagonal().sqrt()
    torch.testing.assert_close(product / (scale[:, None] * scale), torch.eye(9).double(), rtol=0, atol=5e-3)
