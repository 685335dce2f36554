import math

import pytest
import torch
from omegaconf import OmegaConf

from dreamforge.cameras import OrbitSampler, orbit, project, rays, turntable
from dreamforge.types import CameraSampler, DreamforgeError

ANGLES = torch.tensor([0.0, 0.7, math.pi / 2, -2.5, 3.0])
LIFTS = torch.tensor([0.0, 0.4, -0.3, math.pi / 2, -math.pi / 2])


def some(height=48, width=64):
    return orbit(ANGLES, LIFTS, torch.tensor([3.0, 2.5, 3.0, 4.0, 2.0]), 0.7, height, width)


def test_the_frame_is_a_rotation_even_at_the_poles():
    rotation = some().camera_to_world[:, :3, :3].double()
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double(), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(5).double(), atol=1e-6)


def test_positions_follow_the_convention():
    azimuth = torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2, 0.0])
    elevation = torch.tensor([0.0, 0.0, 0.0, 0.0, math.pi / 2])
    position = orbit(azimuth, elevation, 3.0, 0.7, 8, 8).camera_to_world[:, :3, 3]
    expected = torch.tensor([[0.0, 0, 3], [3, 0, 0], [0, 0, -3], [-3, 0, 0], [0, 3, 0]])
    assert torch.allclose(position, expected, atol=1e-5)
    lifted = orbit(torch.tensor([1.0, 1.0]), torch.tensor([0.3, -0.3]), 2.0, 0.7, 8, 8).camera_to_world[:, 1, 3]
    assert torch.allclose(lifted, torch.tensor([2 * math.sin(0.3), -2 * math.sin(0.3)]))


def test_the_origin_is_in_the_middle_at_the_distance():
    cameras = some(height=48, width=64)
    pixels, depth = project(torch.zeros(1, 3), cameras)
    assert torch.allclose(pixels, torch.tensor([32.0, 24.0]).expand(5, 1, 2), atol=1e-4)
    assert torch.allclose(depth[:, 0], cameras.distance, atol=1e-5)


def test_up_is_up_and_the_objects_left_hand_is_on_the_right_of_a_front_view():
    cameras = orbit(torch.tensor([0.0, math.pi / 2, math.pi]), torch.zeros(3), 3.0, 0.7, 32, 32)
    pixels, _ = project(torch.tensor([[0.0, 0.5, 0], [0.5, 0, 0], [0, 0, 0.5]]), cameras)
    x, y = (pixels - 16).unbind(-1)
    assert (y[:, 0] < -1).all()
    assert y[:, 1:].abs().max() < 1e-4
    assert x[0, 1] > 1 and abs(x[1, 1]) < 1e-4 and x[2, 1] < -1  # +X: right, towards us, left
    assert abs(x[0, 2]) < 1e-4 and x[1, 2] < -1  # +Z, seen from +X, is on the left


def test_a_higher_camera_sees_the_top_face_further_down():
    cameras = orbit(torch.zeros(2), torch.tensor([0.0, 0.5]), 3.0, 0.7, 32, 32)
    pixels, _ = project(torch.tensor([[0.0, 0.0, 0.5]]), cameras)
    assert pixels[1, 0, 1] > pixels[0, 0, 1] + 1  # a point in front sinks when we rise


def test_field_of_view_is_vertical():
    cameras = orbit(torch.zeros(1), torch.zeros(1), 2.0, math.radians(60), 100, 40)
    pixels, _ = project(torch.tensor([[0.0, 2 * math.tan(math.radians(30)), 0.0]]), cameras)
    assert torch.allclose(pixels[0, 0], torch.tensor([20.0, 0.0]), atol=1e-4)


def test_projecting_points_on_rays_gives_the_pixel_centres():
    cameras = some(height=5, width=7)
    origins, directions = rays(cameras)
    assert origins.shape == directions.shape == (5, 5, 7, 3)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(5, 5, 7), atol=1e-6)
    points = origins + directions * torch.linspace(0.5, 4, 35).view(5, 7, 1)
    for i in range(5):
        pixels, depth = project(points[i].reshape(-1, 3), cameras[[i]])
        centres = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(5.0), indexing="xy"), -1) + 0.5
        assert torch.allclose(pixels[0].view(5, 7, 2), centres, atol=1e-4)
        assert (depth > 0).all()


def test_turntable_starts_in_front_and_turns_towards_x():
    cameras = turntable(4, elevation=0.0, distance=2.0, height=8, width=6)
    expected = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])
    assert torch.allclose(cameras.camera_to_world[:, :3, 3], expected, atol=1e-5)
    assert (cameras.height, cameras.width, len(cameras)) == (8, 6, 4)


def test_sampler_is_a_function_of_its_seed_and_keeps_its_ranges():
    sampler = OrbitSampler(elevation_deg=(-10, 30), distance=(2.0, 2.5), fov_deg=(30, 50))
    assert isinstance(sampler, CameraSampler)
    cameras = sampler.sample(64, 16, 0.0, seed=3)
    again, other = sampler.sample(64, 16, 1.0, seed=3), sampler.sample(64, 16, 0.0, seed=4)
    assert torch.equal(cameras.camera_to_world, again.camera_to_world)
    assert not torch.equal(cameras.camera_to_world, other.camera_to_world)
    elevation = torch.rad2deg(cameras.elevation)
    assert elevation.min() >= -10 and elevation.max() <= 30 and elevation.std() > 8
    assert cameras.distance.min() >= 2 and cameras.distance.max() <= 2.5 and cameras.distance.std() > 0.1
    fov = torch.rad2deg(2 * torch.atan(8 / cameras.intrinsics[:, 0, 0]))
    assert fov.min() >= 29.99 and fov.max() <= 50.01 and fov.std() > 4


def test_sampler_puts_one_view_in_each_bin_of_azimuth():
    for seed in range(20):
        azimuth = torch.rad2deg(OrbitSampler().sample(8, 16, 0.0, seed).azimuth)
        assert (torch.floor((azimuth + 180) / 45) == torch.arange(8)).all()


def test_front_bias_is_the_share_of_views_near_the_front():
    azimuth = torch.rad2deg(OrbitSampler(front_bias=1.0).sample(4000, 16, 0.0, 0).azimuth)
    assert abs(float(azimuth.std()) - 40) < 2 and abs(float(azimuth.mean())) < 2
    half = torch.rad2deg(OrbitSampler(front_bias=0.5).sample(4000, 16, 0.0, 0).azimuth)
    inside = float((half.abs() < 40).float().mean())
    assert abs(inside - (0.5 * 0.6827 + 0.5 * 80 / 360)) < 0.03
    narrow = OrbitSampler(front_bias=1.0, azimuth_deg=(-30, 30)).sample(100, 16, 0.0, 0).azimuth
    assert torch.rad2deg(narrow).abs().max() <= 30.001


def test_sampler_is_its_own_schema():
    schema = OmegaConf.structured(OrbitSampler)
    merged = OmegaConf.merge(schema, OmegaConf.create("{elevation_deg: [0, 30], front_bias: 0.5}"))
    sampler = OmegaConf.to_object(merged)
    assert isinstance(sampler, OrbitSampler) and tuple(sampler.elevation_deg) == (0.0, 30.0)
    assert len(sampler.sample(3, 8, 0.0, 0)) == 3
    with pytest.raises(Exception, match="elevaton"):
        OmegaConf.merge(schema, {"elevaton_deg": [0, 1]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"elevation_deg": (20, 10)},
        {"elevation_deg": (0, 95)},
        {"distance": (-1, 2)},
        {"fov_deg": (0, 40)},
        {"front_bias": 1.5},
    ],
)
def test_impossible_ranges_are_refused_by_name(wrong):
    with pytest.raises(DreamforgeError, match=next(iter(wrong))):
        OrbitSampler(**wrong)


def test_impossible_cameras_are_refused():
    zero = torch.zeros(1)
    for distance, fov, size in ((0.0, 0.7, 8), (3.0, 0.0, 8), (3.0, math.pi, 8), (3.0, 0.7, 0)):
        with pytest.raises(DreamforgeError):
            orbit(zero, zero, distance, fov, size, 8)
    with pytest.raises(DreamforgeError):
        turntable(0)
