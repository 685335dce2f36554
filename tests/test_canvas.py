"""The flat scene: what it shows, its gradient, its state, and that it has no mesh."""

import pytest
import torch

from dreamforge.cameras import orbit
from dreamforge.scenes.canvas import Canvas
from dreamforge.types import Cameras, DreamforgeError, NoMesh, Scene


def cameras(views: int, height: int, width: int) -> Cameras:
    return orbit(torch.zeros(views), torch.zeros(views), 3.0, 0.7, height, width)


def test_it_shows_its_pictures_in_turn() -> None:
    scene = Canvas(size=8, pictures=2).build(0)
    assert isinstance(scene, Scene)
    out = scene.render(cameras(3, 8, 8))
    torch.testing.assert_close(out.rgb, torch.sigmoid(scene.logits)[[0, 1, 0]])
    assert out.alpha.shape == out.depth.shape == (3, 8, 8, 1)
    assert bool((out.alpha == 1).all()) and not out.depth.any()


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (5, 16)])
def test_it_is_resized_to_the_camera_and_keeps_its_mean(size: tuple[int, int]) -> None:
    scene = Canvas(size=8).build(1)
    rgb = scene.render(cameras(2, *size)).rgb
    assert rgb.shape == (2, *size, 3) and rgb.min() >= 0 and rgb.max() <= 1
    torch.testing.assert_close(rgb[0].mean((0, 1)), torch.sigmoid(scene.logits)[0].mean((0, 1)), rtol=0.1, atol=0.02)


def test_grey_noise_and_seeds() -> None:
    assert bool((Canvas(4, init="grey").build(0).render(cameras(1, 4, 4)).rgb == 0.5).all())
    assert torch.equal(Canvas(4).build(7).logits, Canvas(4).build(7).logits)
    assert not torch.equal(Canvas(4).build(7).logits, Canvas(4).build(8).logits)


def test_descent_reaches_a_picture() -> None:
    scene = Canvas(size=8).build(0)
    target = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    optimiser = torch.optim.Adam(scene.param_groups())
    for _ in range(150):
        optimiser.zero_grad()
        (scene.render(cameras(1, 8, 8)).rgb - target).square().sum().backward()
        optimiser.step()
    assert (scene.render(cameras(1, 8, 8)).rgb - target).abs().max() < 0.01


def test_state_round_trip_and_no_mesh() -> None:
    scene, other = Canvas(size=4).build(0), Canvas(size=4).build(1)
    other.load_state(scene.state())
    assert torch.equal(other.logits, scene.logits) and other.logits.requires_grad
    with pytest.raises(DreamforgeError, match="expects logits"):
        other.load_state({"logits": torch.zeros(1, 5, 5, 3)})
    with pytest.raises(NoMesh, match="PNG"):
        scene.extract(64)
    with pytest.raises(DreamforgeError, match="at least 1"):
        Canvas(size=0)
