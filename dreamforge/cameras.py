"""Cameras that orbit the world's origin: making, sampling and projecting through them. Conventions: ``types.py``."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError

FRONT_SPREAD = math.radians(40.0)  # standard deviation of the azimuth of a view drawn by ``front_bias``


def orbit(
    azimuth: Tensor,
    elevation: Tensor,
    distance: Tensor | float,
    fov: Tensor | float,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> Cameras:
    """Cameras on a sphere that look at the origin with +Y up.

    ``azimuth``, ``elevation`` ``[B]`` radians; ``distance`` metres and ``fov`` (vertical, radians in (0, pi)) are
    numbers or ``[B]``. The frame stays defined at the poles. Raises DreamforgeError for impossible values.
    """
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32, device=device)
    elevation = torch.as_tensor(elevation, dtype=torch.float32, device=device).expand_as(azimuth)
    distance = torch.as_tensor(distance, dtype=torch.float32, device=device).expand_as(azimuth)
    fov = torch.as_tensor(fov, dtype=torch.float32, device=device).expand_as(azimuth)
    if height < 1 or width < 1:
        raise DreamforgeError(
            f"a camera of {width}x{height} pixels sees nothing; give a width and height of at least 1"
        )
    if not bool((distance > 0).all()):
        raise DreamforgeError(f"camera distance {distance.tolist()} must be above 0 metres; give a positive distance")
    if not bool(((fov > 0) & (fov < math.pi)).all()):
        raise DreamforgeError(f"field of view {fov.tolist()} must be in (0, pi) radians; give one between them")
    sa, ca, se, ce = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    zero, one = torch.zeros_like(azimuth), torch.ones_like(azimuth)
    outward = torch.stack([ce * sa, se, ce * ca], -1)
    right = torch.stack([ca, zero, -sa], -1)
    down = torch.stack([se * sa, -ce, se * ca], -1)  # cross(forward, right)
    pose = torch.eye(4, device=device).repeat(len(azimuth), 1, 1)
    pose[:, :3] = torch.stack([right, down, -outward, distance[:, None] * outward], -1)
    focal = 0.5 * height / torch.tan(0.5 * fov)
    rows = [focal, zero, one * (0.5 * width), zero, focal, one * (0.5 * height), zero, zero, one]
    intrinsics = torch.stack(rows, -1).view(-1, 3, 3)
    return Cameras(pose, intrinsics, height, width, azimuth, elevation.clone(), distance.clone())


def turntable(
    views: int,
    elevation: float = math.radians(15.0),
    distance: float = 3.2,
    fov: float = math.radians(40.0),
    height: int = 256,
    width: int = 256,
    device: torch.device | str = "cpu",
) -> Cameras:
    """``views`` cameras at equal steps of azimuth from the front towards +X; angles in radians."""
    if views < 1:
        raise DreamforgeError(f"a turntable of {views} views shows nothing; ask for at least 1 view")
    azimuth = torch.arange(views, dtype=torch.float32) * (2 * math.pi / views)
    return orbit(azimuth, torch.full_like(azimuth, elevation), distance, fov, height, width, device)


def rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The rays through the pixel centres in the world: origins and unit directions, each ``[B,H,W,3]``."""
    pose, k = cameras.camera_to_world, cameras.intrinsics
    x = torch.arange(cameras.width, device=pose.device, dtype=pose.dtype) + 0.5
    y = torch.arange(cameras.height, device=pose.device, dtype=pose.dtype) + 0.5
    u = ((x - k[:, 0, 2:3]) / k[:, 0, 0:1])[:, None, :].expand(-1, cameras.height, -1)
    v = ((y - k[:, 1, 2:3]) / k[:, 1, 1:2])[:, :, None].expand(-1, -1, cameras.width)
    local = torch.nn.functional.normalize(torch.stack([u, v, torch.ones_like(u)], -1), dim=-1)
    directions = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], local)
    return pose[:, None, None, :3, 3].expand_as(directions), directions


def project(points: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """World ``points [N,3]`` -> pixels ``[B,N,2]`` (x, y; the first centre is (0.5, 0.5)) and depth ``[B,N]``.

    Depth is along the camera's z. Points behind the camera (depth < 0) are mirrored: ``ops.raster`` cuts faces there.
    """
    pose, k = cameras.camera_to_world.to(points.dtype), cameras.intrinsics.to(points.dtype)
    local = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]  # rotation transposed: world to camera
    depth = local[..., 2]
    focal, center = torch.stack([k[:, 0, 0], k[:, 1, 1]], -1), k[:, :2, 2]
    return local[..., :2] / depth[..., None] * focal[:, None] + center[:, None], depth


@dataclass(frozen=True)
class OrbitSampler:
    """Random orbit cameras: a ``CameraSampler``. Every range is (low, high), drawn uniformly; angles in degrees.

    Azimuths are stratified: the range is cut in one bin per view and each view falls anywhere in its bin, so one step
    looks at all sides. ``front_bias`` is the probability that a view is drawn from N(0, 40 deg) around the front
    instead (held inside ``azimuth_deg``). Raises DreamforgeError for ranges that make no camera.
    """

    elevation_deg: tuple[float, float] = (-5.0, 45.0)
    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    distance: tuple[float, float] = (3.0, 3.4)
    fov_deg: tuple[float, float] = (40.0, 40.0)
    front_bias: float = 0.0

    def __post_init__(self) -> None:
        _check_range("elevation_deg", self.elevation_deg, -90.0, 90.0)
        _check_range("azimuth_deg", self.azimuth_deg, -360.0, 360.0)
        _check_range("distance", self.distance, 1e-3, math.inf)
        _check_range("fov_deg", self.fov_deg, 1e-3, 179.0)
        if not 0.0 <= self.front_bias <= 1.0:
            raise DreamforgeError(f"front_bias is {self.front_bias}, but a probability in [0, 1] is expected")

    def sample(self, views: int, resolution: int, progress: float, seed: int) -> Cameras:
        """``views`` square cameras of ``resolution`` pixels, a function of ``seed`` alone; ``progress`` is not used."""
        draws = generator(seed, "cameras")
        jitter, elevation, distance, fov, lot = torch.rand(5, views, generator=draws)
        front = FRONT_SPREAD * torch.randn(views, generator=draws)
        low, high = (math.radians(a) for a in self.azimuth_deg)
        azimuth = low + (high - low) * (torch.arange(views) + jitter) / views
        azimuth = torch.where(lot < self.front_bias, front.clamp(low, high), azimuth)
        return orbit(
            azimuth,
            torch.deg2rad(_between(self.elevation_deg, elevation)),
            _between(self.distance, distance),
            torch.deg2rad(_between(self.fov_deg, fov)),
            resolution,
            resolution,
        )


def _between(bounds: tuple[float, float], share: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _check_range(name: str, bounds: tuple[float, float], low: float, high: float) -> None:
    if len(bounds) != 2 or not low <= bounds[0] <= bounds[1] <= high:
        raise DreamforgeError(
            f"{name} is {list(bounds)}, but [low, high] within [{low:g}, {high:g}] is expected; change {name}"
        )
