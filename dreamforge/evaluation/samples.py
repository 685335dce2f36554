"""What the 2D prior alone can do: how many of its samples are judged right."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.evaluation.network import Judge
from dreamforge.evaluation.statistics import share
from dreamforge.evaluation.suites import Prompt
from dreamforge.evaluation.verdict import Verdict, decide, judge_pictures
from dreamforge.evaluation.wanted import right
from dreamforge.priors.sampling import sample
from dreamforge.rng import derive, generator
from dreamforge.types import Cameras, Prior

STEPS, CFG = 25, 4.0
BATCH = 16
SPREAD = math.radians(45.0)  # a camera that is given looks within this of the front


def samples(prior: Prior, prompts: Sequence[str], *, count: int, camera: bool, seed: int = 0) -> Tensor:
    """``count`` pictures of every prompt, ``[len(prompts), count, H, W, 3]``; cameras near the front, or none."""
    asked = [prompt for prompt in prompts for _ in range(count)]
    drawn = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        cameras = near_front(len(part), derive(seed, "cameras", start)) if camera else None
        seed_of_part = derive(seed, "samples", start)
        drawn.append(sample(prior, part, cameras=cameras, steps=STEPS, cfg_scale=CFG, seed=seed_of_part).float().cpu())
    whole = torch.cat(drawn)
    return whole.view(len(prompts), count, *whole.shape[1:])


def near_front(count: int, seed: int) -> Cameras:
    """Cameras within 45 degrees of the front, 0 to 30 degrees high."""
    azimuth, elevation = torch.rand(2, count, generator=generator(seed)).unbind()
    return orbit((2 * azimuth - 1) * SPREAD, math.radians(30.0) * elevation, 3.2, math.radians(40.0), 64, 64)


def judged(judge: Judge, pictures: Tensor) -> list[list[Verdict]]:
    """A verdict for every picture of ``[P,N,H,W,3]`` by itself."""
    return [
        [decide(judge.labels, votes[i : i + 1]) for i in range(len(votes))]
        for votes in (judge_pictures(judge, row) for row in pictures)
    ]


def right_samples(judge: Judge, prior: Prior, prompts: Sequence[Prompt], *, count: int, camera: bool) -> dict[str, Any]:
    """The share of samples judged right, over all, by group of the suite, and by prompt."""
    pictures = samples(prior, [prompt.prompt for prompt in prompts], count=count, camera=camera)
    verdicts = judged(judge, pictures)
    outcomes = [[right(v, prompt.asked) for v in row] for prompt, row in zip(prompts, verdicts, strict=True)]
    groups = {
        group: share([one for p, row in zip(prompts, outcomes, strict=True) for one in row if p.group == group])
        for group in dict.fromkeys(prompt.group for prompt in prompts)
    }
    return {
        "camera": camera,
        "samples per prompt": count,
        "steps": STEPS,
        "cfg_scale": CFG,
        "all": share([one for row in outcomes for one in row]),
        **groups,
        "prompts": {p.prompt: sum(row) for p, row in zip(prompts, outcomes, strict=True)},
        "first": [(pictures[i, 0], verdicts[i][0], outcomes[i][0]) for i in range(len(prompts))],
    }
