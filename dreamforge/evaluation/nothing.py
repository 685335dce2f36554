"""Pictures in which there is no toy, or not enough of one: what a failed distillation looks like.

Every maker takes finished pictures of toys ``[N,3,S,S]``, their backgrounds, pictures of toys of other kinds in the
same colours before the same backgrounds, and a generator, and answers N pictures. Values in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamforge.evaluation.augment import between, blur, clouds

Maker = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]


def spoil(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """Every row becomes nothing, the makers in turn from a random one on."""
    start = int(torch.randint(len(MAKERS), (1,), generator=draw))
    spoiled = torch.empty_like(pictures)
    for k in range(min(len(MAKERS), len(pictures))):
        maker = list(MAKERS.values())[(start + k) % len(MAKERS)]
        rows = slice(k, None, len(MAKERS))
        spoiled[rows] = maker(pictures[rows], background[rows], strangers[rows], draw)
    return spoiled.clamp(0, 1)


def plain(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """The background alone."""
    return background


def noise(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """Coloured noise at one of several scales."""
    cells = (64, 32, 16, 8)[int(torch.randint(4, (1,), generator=draw))]
    strength = between(0.08, 0.4, (len(pictures), 1, 1, 1), draw)
    return background + strength * clouds(len(pictures), 3, pictures.shape[-1], cells, draw)


def fog(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """A cloud of one colour, thicker in the middle: a density field that has not settled."""
    count, size = len(pictures), pictures.shape[-1]
    axis = torch.linspace(-1, 1, size)
    middle = torch.exp(-(axis[:, None].square() + axis.square()) / 0.5)
    cells = (4, 6, 10)[int(torch.randint(3, (1,), generator=draw))]
    density = (middle * (0.8 + 0.7 * clouds(count, 1, size, cells, draw))).clamp(0, 1)
    color = torch.rand(count, 3, 1, 1, generator=draw) + 0.1 * clouds(count, 3, size, 5, draw)
    return torch.lerp(background, color, density * between(0.3, 1.0, (count, 1, 1, 1), draw))


def blobs(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """Soft discs of any colour, anywhere."""
    count, axis = len(pictures), torch.linspace(-1, 1, pictures.shape[-1])
    picture = background
    for _ in range(int(torch.randint(3, 11, (1,), generator=draw))):
        x, y = between(-0.8, 0.8, (2, count, 1, 1), draw)
        distance = ((axis[None, None, :] - x).square() + (axis[None, :, None] - y).square()).sqrt()
        radius, soft = between(0.08, 0.4, (count, 1, 1), draw), between(0.03, 0.15, (count, 1, 1), draw)
        mask = torch.sigmoid((radius - distance) / soft)[:, None]
        picture = torch.lerp(picture, torch.rand(count, 3, 1, 1, generator=draw), mask)
    return picture


def faint(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """A toy of hardly any opacity."""
    return torch.lerp(background, pictures, between(0.03, 0.15, (len(pictures), 1, 1, 1), draw))


def melted(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """A toy blurred until only its colour is left."""
    return blur(pictures, float(between(6, 10, (1,), draw)) * pictures.shape[-1] / 64)


def shuffled(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """The pieces of a toy in another order."""
    pieces = 4 * (1 + int(torch.randint(2, (1,), generator=draw)))
    count, channels, size, _ = pictures.shape
    side = size // pieces
    grid = pictures.view(count, channels, pieces, side, pieces, side).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)
    grid = grid[torch.randperm(pieces**2, generator=draw)].unflatten(0, (pieces, pieces))
    whole: Tensor = grid.permute(2, 3, 0, 4, 1, 5).reshape(pictures.shape)
    return whole


def missing(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """Sixty to ninety percent of the pieces of a toy are gone."""
    count, size = len(pictures), pictures.shape[-1]
    lost = torch.rand(count, 1, 8, 8, generator=draw) < between(0.6, 0.9, (count, 1, 1, 1), draw)
    return torch.where(lost.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3), background, pictures)


def halves(pictures: Tensor, background: Tensor, strangers: Tensor, draw: torch.Generator) -> Tensor:
    """The left half of one toy and the right half of another kind."""
    right = torch.arange(pictures.shape[-1]) >= pictures.shape[-1] // 2
    return torch.where(right, strangers, pictures)


MAKERS: dict[str, Maker] = {
    maker.__name__: maker for maker in (plain, noise, fog, blobs, faint, melted, shuffled, missing, halves)
}
