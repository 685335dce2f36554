"""Groups of Gaussians: named objects that stand in one world and are rendered in one piece."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamforge.render.splat import rotations, turned_harmonics
from dreamforge.scenes.placing import check_place, product, quaternion
from dreamforge.types import DreamforgeError, Splats, State


@dataclass(frozen=True)
class Group:
    """``count`` Gaussians at the start and their frame: ``scale`` times as large in the world, turned by
    ``rotation_deg``, its middle at ``position``. Degrees about the world's fixed x, then y, then z axis; metres."""

    count: int = 1000
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_place("A group", self.position, self.rotation_deg, self.scale)
        if self.count < 1:
            raise DreamforgeError(f"A group of {self.count} Gaussians was asked for; give it at least 1.")


class Groups:
    """Where G groups stand: ``positions [G,3]``, ``turns [G,4]`` wxyz of any length, ``log_sizes [G]``, to learn."""

    def __init__(self, specs: Mapping[str, Group], learn: bool, device: torch.device | str) -> None:
        self.names = list(specs)
        of = list(specs.values())
        self.positions = torch.tensor([one.position for one in of], device=device).requires_grad_(learn)
        self.turns = torch.stack([quaternion(one.rotation_deg) for one in of]).to(device).requires_grad_(learn)
        self.log_sizes = torch.tensor([one.scale for one in of], device=device).log().requires_grad_(learn)

    def outwards(self, own: Splats, group: Tensor) -> Splats:
        """Gaussians of the groups ``group [N]`` int64, from their own frames, in the world."""
        return _moved(own, group, self.positions, torch.nn.functional.normalize(self.turns, dim=1), self.log_sizes)

    @torch.no_grad()
    def inwards(self, world: Splats, group: Tensor) -> Splats:
        """The other way."""
        back = torch.nn.functional.normalize(self.turns, dim=1) * self.turns.new_tensor([1.0, -1, -1, -1])
        middle = (rotations(back) * self.positions[:, None]).sum(-1) * (-self.log_sizes).exp()[:, None]
        return _moved(world, group, -middle, back, -self.log_sizes)

    @torch.no_grad()
    def nearest(self, means: Tensor) -> Tensor:
        """The group ``[N]`` whose middle is the nearest to ``means [N,3]`` of the world, as measured in its frame."""
        far: Tensor = (means[:, None] - self.positions).norm(dim=-1) / self.log_sizes.exp()
        return far.argmin(1)

    def tensors(self) -> State:
        return {"group.positions": self.positions, "group.turns": self.turns, "group.log_sizes": self.log_sizes}


def _moved(splats: Splats, group: Tensor, positions: Tensor, turns: Tensor, log_sizes: Tensor) -> Splats:
    """x -> turn (size x) + position, each Gaussian by its group's."""
    turn = rotations(turns)
    size, turn_of = log_sizes.index_select(0, group)[:, None], turn.index_select(0, group)
    means = (turn_of * (splats.means * size.exp())[:, None]).sum(-1) + positions.index_select(0, group)
    moved = replace(
        splats,
        means=means,
        log_scales=splats.log_scales + size,
        quaternions=product(turns.index_select(0, group), splats.quaternions),
    )
    if splats.sh.shape[1] == 1:
        return moved
    degree = {4: 1, 9: 2, 16: 3}[splats.sh.shape[1]]
    return replace(moved, sh=turned_harmonics(turn, degree).index_select(0, group) @ splats.sh)
