"""Where Gaussians are born and die while a scene learns: the strategy of 3DGS, and MCMC.

Both work in place on rows of fixed tensors: a row without a Gaussian is not ``alive``. ``renewed`` marks rows whose
moments the optimiser must forget before its next step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamforge.render.splat import rotations
from dreamforge.rng import generator


@dataclass(frozen=True)
class Rows:
    """Raw parameters by name, each ``[N, ...]``, and what is known of their rows. Everything is changed in place.

    ``means [N,3]``, ``log_scales [N,3]``, ``quaternions [N,4]`` wxyz, ``logits [N]`` of the opacities; others follow,
    as colours and the ``group [N]`` int64 that a Gaussian belongs to: a copy has those of its source.
    """

    tensors: dict[str, Tensor]
    alive: Tensor  # [N] bool
    renewed: Tensor  # [N] bool

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def free(self) -> Tensor:
        """Rows without a Gaussian, ascending."""
        return (~self.alive).nonzero().squeeze(1)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """The Gaussians of the rows ``source`` are born in the rows ``target`` once more."""
        for tensor in self.tensors.values():
            tensor.index_copy_(0, target, tensor.index_select(0, source))
        self.alive[target] = True
        self.renewed[target] = True


@torch.no_grad()
def grow_and_prune(
    rows: Rows,
    pull: Tensor,
    seed: int,
    *,
    grow_pull: float,
    grow_scale: float,
    prune_opacity: float,
    prune_scale: float,
) -> None:
    """Adaptive density control (3DGS, Kerbl et al. 2023, section 5.2): clone small Gaussians, split large ones, prune.

    ``pull [N]``: mean size of the gradient by the position on the screen, in half pictures; who is above
    ``grow_pull`` grows, the strongest first while there are free rows. ``grow_scale``, ``prune_scale`` in metres are
    compared with the largest standard deviation of a Gaussian, ``prune_opacity`` with its opacity.
    """
    size = rows["log_scales"].amax(1).exp()
    wanting = (rows.alive & (pull > grow_pull)).nonzero().squeeze(1)
    wanting = wanting[pull[wanting].argsort(descending=True, stable=True)]
    free = rows.free()
    wanting = wanting[: len(free)]
    born = free[: len(wanting)]
    large = size[wanting] > grow_scale
    rows.copy(wanting, born)
    split(rows, wanting[large], born[large], seed)
    faint = torch.sigmoid(rows["logits"]) < prune_opacity
    rows.alive.logical_and_(~(faint | (rows["log_scales"].amax(1).exp() > prune_scale)))


def split(rows: Rows, one: Tensor, two: Tensor, seed: int) -> None:
    """Both halves of a split Gaussian: at points drawn from it, 1.6 times as small."""
    draws = generator(seed, "split")
    for half in (one, two):
        point = torch.randn(len(half), 3, generator=draws).to(rows["means"])
        turn = rotations(rows["quaternions"][one])
        offset = (turn * (point * rows["log_scales"][one].exp())[:, None]).sum(-1)
        rows["means"][half] += offset
    for half in (one, two):
        rows["log_scales"][half] -= math.log(1.6)
    rows.renewed[one] = True


@torch.no_grad()
def reset_opacity(rows: Rows, most: float) -> None:
    """Nobody is more opaque than ``most``: what the renders do not need then fades away (3DGS)."""
    rows["logits"].clamp_(max=math.log(most / (1 - most)))
    rows.renewed.logical_or_(rows.alive)


@torch.no_grad()
def relocate_and_add(rows: Rows, seed: int, *, least: float, growth: float, most: int) -> None:
    """3DGS as Markov chain Monte Carlo (Kheradmand et al. 2024, section 3.3): the faint move to where opacity is.

    Gaussians of an opacity up to ``least`` are put on others, drawn by opacity; then the number grows by the factor
    ``growth``, up to ``most``. Opacities and scales change so that the picture does not (eq. 9).
    """
    draws = generator(seed, "mcmc")
    _join(rows, (rows.alive & (torch.sigmoid(rows["logits"]) <= least)).nonzero().squeeze(1), least, draws)
    number = int(rows.alive.sum())
    more = min(most, max(number, int(growth * number))) - number
    _join(rows, rows.free()[: max(more, 0)], least, draws)


def _join(rows: Rows, target: Tensor, least: float, draws: torch.Generator) -> None:
    """``target`` rows become copies of others, by opacity above ``least``; eq. 9 of all that share a place now."""
    strong = (rows.alive & (torch.sigmoid(rows["logits"]) > least)).nonzero().squeeze(1)
    if len(strong) == 0 or len(target) == 0:
        return
    opacity = torch.sigmoid(rows["logits"][strong]).cpu()
    chosen = torch.multinomial(opacity.double(), len(target), replacement=True, generator=draws)
    sharing = torch.bincount(chosen, minlength=len(strong)) + 1
    new, factor = shared(opacity, sharing)
    rows["logits"][strong] = torch.logit(new.float(), 1e-6).to(rows["logits"])
    rows["log_scales"][strong] += factor.log().float().to(rows["logits"])[:, None]
    source = strong[chosen.to(strong.device)]
    rows.copy(source, target)
    rows.renewed[source] = True


def shared(opacity: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity, and factor of the scales, of each of ``number [N]`` Gaussians that stand for one of ``opacity [N]``.

    Kheradmand et al. 2024, eq. 9: o' = 1 - (1 - o)^(1/n); scale' / scale = o / sum over i = 1..n, k = 0..i-1 of
    binomial(i - 1, k) (-1)^k o'^(k+1) / sqrt(k + 1). In float64; more than 50 are counted as 50.
    """
    number = number.clamp(max=50)
    one = opacity.double().clamp(max=1 - 1e-7)
    new = 1 - (1 - one) ** (1 / number)
    total = torch.zeros_like(new)
    for i in range(1, int(number.max()) + 1):
        inner = sum((-1) ** k * math.comb(i - 1, k) * new ** (k + 1) / math.sqrt(k + 1) for k in range(i))
        total += torch.where(number >= i, inner, torch.zeros_like(new))
    return new, one / total


@torch.no_grad()
def wander(rows: Rows, seed: int, rate: float) -> None:
    """The noise of the chain (eq. 8): faint Gaussians move at random, shaped by their own covariance.

    ``rate``: learning rate of the means times the paper's lambda; opaque ones (sigmoid(100 (0.005 - o))) stay.
    """
    noise = torch.randn(rows["means"].shape, generator=generator(seed, "wander")).to(rows["means"])
    loose = torch.sigmoid(100 * (0.005 - torch.sigmoid(rows["logits"])))
    turn, scale = rotations(rows["quaternions"]), rows["log_scales"].exp()
    along = (turn * (noise * loose[:, None] * rate)[:, :, None]).sum(1) * scale.square()  # R S S R^T noise
    rows["means"].add_((turn * along[:, None]).sum(-1) * rows.alive[:, None])
