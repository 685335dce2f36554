"""Where a named part of a scene stands in the world: scaled alike along all axes, turned, moved."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dreamforge.render.splat import rotations
from dreamforge.types import Cameras, DreamforgeError, Frame


def frame(
    position: tuple[float, float, float],
    rotation_deg: tuple[float, float, float],
    scale: float,
    device: torch.device | str = "cpu",
) -> Frame:
    """See ``quaternion`` for ``rotation_deg``."""
    turn = rotations(quaternion(rotation_deg)[None])[0]
    return Frame(turn.to(device), torch.tensor(position, device=device), scale)


def looked_into(frame: Frame, cameras: Cameras) -> Cameras:
    """The same cameras in this frame, which know where it stands: they see the same picture, at 1 / scale of the
    depth."""
    pose = cameras.camera_to_world.clone()
    pose[:, :3, :3] = frame.turn.t() @ cameras.camera_to_world[:, :3, :3]
    pose[:, :3, 3] = place = frame.inwards(cameras.camera_to_world[:, :3, 3])
    distance = place.norm(dim=1)
    return replace(
        cameras,
        camera_to_world=pose,
        azimuth=torch.atan2(place[:, 0], place[:, 2]),
        elevation=torch.asin((place[:, 1] / distance.clamp_min(1e-9)).clamp(-1, 1)),
        distance=distance,
        placed=frame if cameras.placed is None else frame.within(cameras.placed),
    )


def quaternion(rotation_deg: tuple[float, float, float]) -> Tensor:
    """Degrees about the world's fixed x, then y, then z axis, right-handed, as a unit quaternion ``[4]`` wxyz.

    A turn about y moves the front (+Z) towards +X, as the azimuth grows.
    """
    whole = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    for axis, degrees in enumerate(rotation_deg):
        half = math.radians(degrees) / 2
        one = torch.zeros(4, dtype=torch.float64)
        one[0], one[1 + axis] = math.cos(half), math.sin(half)
        whole = product(one, whole)
    return whole.float()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Quaternions ``[...,4]`` wxyz: first the turn ``b``, then ``a``."""
    w, x, y, z = a.unbind(-1)
    s, i, j, k = b.unbind(-1)
    return torch.stack(
        [
            w * s - x * i - y * j - z * k,
            w * i + x * s + y * k - z * j,
            w * j - x * k + y * s + z * i,
            w * k + x * j - y * i + z * s,
        ],
        -1,
    )


def check_place(
    what: str, position: tuple[float, float, float], rotation_deg: tuple[float, float, float], scale: float
) -> None:
    """Raise DreamforgeError for a place that nothing can stand at."""
    if not all(map(math.isfinite, [*position, *rotation_deg, scale])) or scale <= 0:
        raise DreamforgeError(
            f"{what} was given position {list(position)}, rotation_deg {list(rotation_deg)} and scale {scale}; three "
            "metres, three angles and a scale above 0 are expected."
        )


def check_names(what: str, names: Sequence[object], taken: Sequence[str] = ()) -> None:
    """Raise DreamforgeError unless every name is a word that overrides and states can spell."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier()) or name in taken:
            raise DreamforgeError(
                f"{what} was named {name!r}, but a word of letters, digits and _ that starts with a letter is "
                f"expected{''.join(f', other than {one!r}' for one in taken)}; rename it."
            )


def chosen(parts: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that ``parts`` asks for, in the order of ``names``: all of them where it asks for none.

    Raises DreamforgeError, with the nearest name, for a part that is not there.
    """
    if parts and not names:
        raise DreamforgeError(
            f"parts {list(parts)} of a scene were asked for, but it has none; leave parts out, or give it groups."
        )
    for part in parts or ():
        if part not in names:
            near = difflib.get_close_matches(part, names, n=1, cutoff=0.0)[0]
            raise DreamforgeError(f"There is no part {part!r} in this scene: did you mean {near!r} of {list(names)}?")
    return [name for name in names if not parts or name in parts]
