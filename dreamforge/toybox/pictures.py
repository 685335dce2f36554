"""Pictures of toys as layers whose colours and background are chosen later, so that one drawing serves many captions.

``picture_linear = main * c_main + second * c_second + fixed + (1 - alpha) * background``: light is linear in albedo.
A layer of bare light draws the same toy without any texture.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.render.light import SOFT, linear_to_srgb, srgb_to_linear
from dreamforge.render.raster import render_layers
from dreamforge.rng import derive
from dreamforge.toybox.catalog import ACCESSORIES, KINDS, held_out
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import Toy, make
from dreamforge.types import Cameras

FOV = np.radians(40.0)
VIEWS_PER_TOY = 2
ACCESSORY_SHARE = 0.4  # of the toys of a kind that has accessories


@dataclass(frozen=True)
class Pictures:
    """``layers [N,7,S,S]`` uint8, square roots of (main, second, fixed r, g, b, light, alpha); labels ``[N]``.

    ``kind`` and ``accessory`` index KINDS and ACCESSORIES (-1: none); angles in radians.
    """

    layers: Tensor
    kind: Tensor
    accessory: Tensor
    azimuth: Tensor
    elevation: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def save(self, path: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: getattr(self, name) for name in self.__dataclass_fields__}, path)

    @staticmethod
    def load(path: Path) -> "Pictures":
        from safetensors.torch import load_file

        return Pictures(**load_file(path))


def view_angles(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Azimuths and elevations that lean to the front, as photographs do; a few from high above."""
    front = rng.normal(0.0, np.radians(45.0), count)
    around = rng.uniform(-np.pi, np.pi, count)
    azimuth = np.where(rng.random(count) < 0.45, front, around)
    low, high = rng.uniform(np.radians(-10), np.radians(45), count), rng.uniform(np.radians(60), np.radians(85), count)
    return (azimuth + np.pi) % (2 * np.pi) - np.pi, np.where(rng.random(count) < 0.05, high, low)


def toy_layers(toy: Toy, cameras: Cameras, antialias: int = 3) -> Tensor:
    """``[B,7,H,W]`` uint8 layers of one toy."""
    fixed = srgb_to_linear(toy.paints) * (toy.slots.sum(-1, keepdim=True) == 0)
    weights = torch.cat([toy.slots, fixed, torch.ones_like(fixed[:, :1])], -1)
    layers = render_layers(toy.vertices, toy.faces, toy.normals, weights, cameras, SOFT, antialias)
    return (layers.clamp(0, 1).sqrt() * 255).round().to(torch.uint8).permute(0, 3, 1, 2).contiguous()


def _one_toy(number: int, seed: int, size: int) -> tuple[Tensor, int, int, np.ndarray, np.ndarray]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(derive(seed, "pictures", number))
    kind = list(KINDS)[number % len(KINDS)]
    options = KINDS[kind].accessories
    accessory = options[rng.integers(len(options))] if options and rng.random() < ACCESSORY_SHARE else None
    azimuth, elevation = view_angles(VIEWS_PER_TOY, rng)
    distance = torch.from_numpy(rng.uniform(2.9, 3.5, VIEWS_PER_TOY)).float()
    angles = torch.from_numpy(azimuth).float(), torch.from_numpy(elevation).float()
    toy = make(kind, accessory, derive(seed, "toy", number))
    layers = toy_layers(toy, orbit(*angles, distance, FOV, size, size))
    which = -1 if accessory is None else ACCESSORIES.index(accessory)
    return layers, number % len(KINDS), which, azimuth, elevation


def draw(
    toys: int, seed: int, size: int = 64, workers: int = 2, progress: Callable[[int], None] | None = None
) -> Pictures:
    """Draw ``toys`` toys, kinds in turn, from two views each. The same arguments give the same pictures."""
    work = partial(_one_toy, seed=seed, size=size)
    rows = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for row in pool.map(work, range(toys), chunksize=16):
            rows.append(row)
            if progress is not None:
                progress(1)
    layers, kinds, accessories, azimuth, elevation = zip(*rows, strict=True)
    repeat = partial(torch.repeat_interleave, repeats=VIEWS_PER_TOY)
    return Pictures(
        torch.cat(layers),
        repeat(torch.tensor(kinds, dtype=torch.int16)),
        repeat(torch.tensor(accessories, dtype=torch.int16)),
        torch.from_numpy(np.concatenate(azimuth)).float(),
        torch.from_numpy(np.concatenate(elevation)).float(),
    )


def compose(layers: Tensor, main: Tensor, second: Tensor, background: Tensor) -> Tensor:
    """Layers ``[B,7,S,S]`` uint8 and sRGB colours ``[B,3]`` -> pictures ``[B,S,S,3]`` sRGB."""
    light = (layers.permute(0, 2, 3, 1).float() / 255).square()
    main, second, background = (srgb_to_linear(c)[:, None, None] for c in (main, second, background))
    linear = light[..., :1] * main + light[..., 1:2] * second + light[..., 2:5] + (1 - light[..., -1:]) * background
    return linear_to_srgb(linear.clamp(0, 1))


def compose_clay(layers: Tensor, clay: Tensor, background: Tensor) -> Tensor:
    """The same pictures of toys made of one untextured material of colour ``clay [B,3]`` sRGB."""
    light = (layers.permute(0, 2, 3, 1).float() / 255).square()
    clay, background = (srgb_to_linear(c)[:, None, None] for c in (clay, background))
    return linear_to_srgb((light[..., 5:6] * clay + (1 - light[..., -1:]) * background).clamp(0, 1))


def choose_color(kind: str, rng: np.random.Generator, trained_only: bool) -> str:
    """A colour name for this kind; ``trained_only`` leaves the held-out pairs out."""
    names = [c for c in COLORS if not (trained_only and held_out(kind, c))]
    return names[rng.integers(len(names))]


def shade_of(color: str, rng: np.random.Generator) -> np.ndarray:
    """A shade of the named colour: brightness within 12 %, each channel within 0.03 (sRGB)."""
    return np.clip(np.array(COLORS[color]) * rng.uniform(0.88, 1.1) + rng.uniform(-0.03, 0.03, 3), 0.0, 1.0)
