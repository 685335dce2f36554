"""Pictures drawn from a prior: deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with zero noise)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamforge import pictures
from dreamforge.files import atomic_write
from dreamforge.guidance.combine import cfg
from dreamforge.priors.parametrisation import alpha_sigma, to_x0
from dreamforge.priors.pretrained import trained
from dreamforge.rng import generator
from dreamforge.types import Cameras, Prior, Query

FIRST_T, LAST_T = 0.995, 0.02
COLUMNS = 8  # of a sheet


@torch.no_grad()
def sample(
    prior: Prior,
    prompts: Sequence[str],
    *,
    cameras: Cameras | None = None,
    steps: int = 30,
    cfg_scale: float = 4.0,
    seed: int = 0,
) -> Tensor:
    """One picture a prompt, ``[B,H,W,3]`` in [0,1]. ``cameras`` (B of them) are given in both halves of CFG."""
    text, nothing = prior.embed(prompts), prior.embed([""] * len(prompts))
    empty = prior.encode(torch.zeros(len(prompts), 8, 8, 3), seed)
    x_t = torch.randn(empty.shape, generator=generator(seed, "sample")).to(empty)
    times = torch.linspace(FIRST_T, LAST_T, steps).to(empty)
    for now, then in zip(times, [*times[1:], times.new_zeros(())], strict=True):
        t = now.repeat(len(x_t))
        unconditional, conditional = prior.predict_noise(x_t, t, [Query(nothing, cameras), Query(text, cameras)])
        eps = cfg(unconditional, conditional, cfg_scale)
        x0 = to_x0(eps, x_t, *alpha_sigma(prior.schedule, t, x_t))
        alpha, sigma = alpha_sigma(prior.schedule, then.repeat(len(x_t)), x_t)
        x_t = alpha * x0 + sigma * eps
    return prior.decode(x_t)


def sample_sheet(folder: Path, prompt: str, n: int, seed: int, path: Path) -> list[str]:
    """Write ``n`` pictures of one prompt by the prior in ``folder``, side by side; returns its warnings."""
    prior = trained(str(folder)).build()
    drawn = [sample(prior, [prompt], seed=seed + i)[0] for i in range(n)]
    drawn += [torch.ones_like(drawn[0])] * (-n % min(n, COLUMNS))
    rows = [torch.cat(drawn[i : i + COLUMNS], 1) for i in range(0, len(drawn), COLUMNS)]
    atomic_write(path, pictures.png(torch.cat(rows).cpu()))
    return prior.warnings(prompt)
