"""True renders of a prompt: what the toybox draws of its kind and colour, as the prior's training pictures show it."""

import numpy as np
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.evaluation.wanted import Wanted
from dreamforge.render.background import muted
from dreamforge.rng import derive, generator
from dreamforge.toybox.objects import make
from dreamforge.toybox.pictures import FOV, choose_color, compose, shade_of, toy_layers, view_angles


def true_renders(asked: Wanted, count: int, seed: int, size: int = 64) -> Tensor:
    """``[count,size,size,3]`` sRGB: proportions, shade, view and background are drawn anew for each from ``seed``.

    Views and backgrounds are those of the training pictures, which lean to the front; no accessory. ``asked`` names a
    colour.
    """
    layers, mains, seconds = [], [], []
    for number in range(count):
        rng = np.random.default_rng(derive(seed, "truth", asked.kind, str(asked.color), number))
        azimuth, elevation = (torch.from_numpy(angle).float() for angle in view_angles(1, rng))
        distance = torch.from_numpy(rng.uniform(2.9, 3.5, 1)).float()
        toy = make(asked.kind, None, derive(seed, "true toy", asked.kind, number))
        layers.append(toy_layers(toy, orbit(azimuth, elevation, distance, FOV, size, size)))
        mains.append(shade_of(str(asked.color), rng))
        seconds.append(shade_of(choose_color(asked.kind, rng, trained_only=False), rng))
    main, second = (torch.from_numpy(np.stack(shades)).float() for shades in (mains, seconds))
    behind = muted(count, generator(seed, "true backgrounds", asked.kind, str(asked.color)))
    return compose(torch.cat(layers), main, second, behind)
