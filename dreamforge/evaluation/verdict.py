"""From what the judge says of single pictures to a verdict on what they show together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.evaluation.network import SIZE, Judge, Labels

NOTHING = "nothing"
FLOOR = 1e-3  # probability below which a view cannot vote: no single view has a veto
FACE = math.radians(120.0)  # the arc from which one front is seen


@dataclass(frozen=True)
class Votes:
    """Log-probabilities of B pictures, as ``Scores``; ``azimuth [B]`` radians and ``front [B]`` a probability."""

    kind: Tensor
    color: Tensor
    second: Tensor
    accessory: Tensor
    azimuth: Tensor
    front: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice) -> "Votes":
        kind, color, second, accessory = (v[rows] for v in (self.kind, self.color, self.second, self.accessory))
        return Votes(kind, color, second, accessory, self.azimuth[rows], self.front[rows])


@dataclass(frozen=True)
class Verdict:
    """What a set of views shows. ``kind`` may be "nothing"; ``accessory`` None is none, ``second`` its colour.

    ``agreement``: share of the views that say this kind by themselves; ``empty``: share that say nothing;
    ``faces``: how many fronts an orbit shows (one is right; None where not counted or the kind has no front).
    """

    kind: str
    color: str
    accessory: str | None
    second: str | None
    agreement: float
    empty: float
    faces: int | None = None


@torch.no_grad()
def judge_pictures(judge: Judge, pictures: Tensor) -> Votes:
    """``[B,H,W,3]`` sRGB in [0, 1], any size, each by itself."""
    scores = judge(resized(pictures).permute(0, 3, 1, 2))
    return Votes(
        scores.kind.log_softmax(-1),
        scores.color.log_softmax(-1),
        scores.second.log_softmax(-1),
        scores.accessory.log_softmax(-1),
        torch.atan2(scores.azimuth[:, 0], scores.azimuth[:, 1]),
        scores.front[:, 0].sigmoid(),
    )


def resized(pictures: Tensor) -> Tensor:
    """``[B,H,W,3]`` -> ``[B,SIZE,SIZE,3]``, the judge's size."""
    if pictures.shape[1:3] == (SIZE, SIZE):
        return pictures
    x = pictures.permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def decide(labels: Labels, votes: Votes) -> Verdict:
    """The verdict of views of one object: per head the class of the highest mean log-probability, floored."""
    kind, color, second, accessory = (
        int(value.clamp_min(math.log(FLOOR)).mean(0).argmax())
        for value in (votes.kind, votes.color, votes.second, votes.accessory)
    )
    single = votes.kind.argmax(-1)
    bare = accessory == labels.bare
    return Verdict(
        NOTHING if kind == labels.nothing else labels.kinds[kind],
        labels.colors[color],
        None if bare else labels.accessories[accessory],
        None if bare else labels.colors[second],
        round(float((single == kind).float().mean()), 4),
        round(float((single == labels.nothing).float().mean()), 4),
    )


def count_faces(front: Tensor) -> int:
    """How many fronts an orbit shows: ``front [N]`` are probabilities at N equal steps of azimuth, all around.

    After a mean over three neighbours every arc of views above one half is one front for each 120 degrees of its
    width, rounded, and at least one: faces side by side melt into one wide arc.
    """
    smooth = (front.roll(1) + front + front.roll(-1)) / 3
    seen = (smooth > 0.5).tolist()
    if all(seen):
        return round(2 * math.pi / FACE)
    start = seen.index(False)
    widths = [0]
    for now in seen[start:] + seen[:start]:  # from a gap on, so that no arc is cut
        widths = [*widths[:-1], widths[-1] + 1] if now else [*widths, 0]
    step = 2 * math.pi / len(seen)
    return sum(max(1, math.floor(width * step / FACE + 0.5)) for width in widths if width)
