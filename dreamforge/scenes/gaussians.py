"""3D Gaussians that are densified and pruned while they learn (Kerbl et al. 2023; MCMC: Kheradmand et al. 2024)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.render.splat import Seen, gaussian_field, splat_render
from dreamforge.render.volume import Field, volume_surface
from dreamforge.rng import derive, generator
from dreamforge.scenes.densify import Rows, grow_and_prune, relocate_and_add, reset_opacity, wander
from dreamforge.scenes.groups import Group, Groups
from dreamforge.scenes.placing import check_names, chosen
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import copied, restore
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, Splats, State

SURFACE_STEP = 2.0 / 64  # metres in which the light of an extracted surface is gathered


@dataclass(frozen=True)
class Gaussians:
    """Numbers of Gaussians, their start, how they multiply, the optimiser's rates.

    ``count`` Gaussians start in a ball of ``radius`` metres, evenly spread, as large as their distance, grey, with
    ``opacity``; there is room for ``capacity``. ``sh_degree`` 0 to 3: how much a colour may depend on the direction.
    ``semantic`` learnt numbers of each are composited into ``RenderOutput.semantic``. ``strategy``: "default", who is
    pulled on the screen by more than ``grow_pull`` (with ``absgrad`` the pixels' absolute pulls count) is cloned, or
    split above ``grow_scale`` metres, who is fainter than ``prune_opacity`` or larger than ``prune_scale`` goes,
    opacities fall to twice ``prune_opacity`` every ``reset_every`` steps (0: never); "mcmc", faint ones move to where
    opacity is, the number grows by ``growth``, and faint ones wander (``noise``, the paper's lambda, times the rate of
    the means); "none". Both act every ``refine_every`` steps from ``refine_from`` to ``refine_until``. ``antialiased``:
    small Gaussians lose opacity instead of growing to a pixel. ``normals`` are the thinnest axes.

    ``groups``: named objects, each a ball of ``radius`` in a frame of its own (``groups.Group``), in whose metres its
    Gaussians learn, multiply and go; ``count`` is then the sum of theirs, and a copy belongs to the group of its
    source. All are rendered in one piece, so they may be inside each other. ``lr_transforms`` above 0: their places,
    turns and sizes learn too. ``RenderOutput.semantic`` has first the visible share of each group, then ``semantic``.
    """

    count: int = 2_000
    capacity: int = 10_000
    radius: float = 0.6
    opacity: float = 0.1
    sh_degree: int = 0
    semantic: int = 0
    groups: dict[str, Group] = field(default_factory=dict, metadata={"entries": Group})
    strategy: Literal["default", "mcmc", "none"] = "mcmc"
    refine_from: int = 50
    refine_until: int = 15_000
    refine_every: int = 25
    grow_pull: float = 2e-4
    grow_scale: float = 0.02
    prune_opacity: float = 0.005
    prune_scale: float = 0.5
    reset_every: int = 0
    absgrad: bool = False
    growth: float = 1.05
    noise: float = 5e5
    antialiased: bool = False
    normals: bool = False
    background: Kind = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    backend: Backend = "auto"
    lr_means: float = 2e-3
    lr_scales: float = 5e-3
    lr_quaternions: float = 5e-3
    lr_opacities: float = 5e-2
    lr_colors: float = 1e-2
    lr_harmonics: float = 5e-4
    lr_semantic: float = 1e-2
    lr_transforms: float = 0.0
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
        check_names("A group", list(self.groups))
        if self.groups:
            object.__setattr__(self, "count", sum(one.count for one in self.groups.values()))
        if self.lr_transforms < 0 or (self.lr_transforms and not self.groups):
            raise DreamforgeError(
                f"lr_transforms {self.lr_transforms} and {len(self.groups)} groups were given, but 0 or more, and 0 "
                "without groups, is expected; change it."
            )
        if not 1 <= self.count <= self.capacity or self.refine_every < 1:
            raise DreamforgeError(
                f"count {self.count}, capacity {self.capacity} and refine_every {self.refine_every} were given, but "
                "1 <= count <= capacity and at least 1 are expected; change them."
            )
        if not 0 <= self.sh_degree <= 3 or self.semantic < 0 or not (self.radius > 0 and 0 < self.opacity < 1):
            raise DreamforgeError(
                f"sh_degree {self.sh_degree}, semantic {self.semantic}, radius {self.radius} and opacity "
                f"{self.opacity} were given; 0 to 3, 0 or more, above 0 and between 0 and 1 are expected."
            )

    @property
    def part_names(self) -> tuple[str, ...]:
        """What a term's ``parts`` may name."""
        return tuple(self.groups)

    def build(self, seed: int, device: torch.device | str = "cpu") -> "GaussianScene":
        """The scene at its start; drawn on the CPU, so that every device starts the same."""
        if not self.groups:
            return GaussianScene(self, self._ball(self.count, generator(seed, "gaussians")), seed, device)
        counts = {name: one.count for name, one in self.groups.items()}
        balls = [self._ball(count, generator(seed, "gaussians", name)) for name, count in counts.items()]
        start = Splats(**{one.name: torch.cat([getattr(ball, one.name) for ball in balls]) for one in fields(Splats)})
        group = torch.arange(len(counts)).repeat_interleave(torch.tensor(list(counts.values())))
        return GaussianScene(self, start, seed, device, group)

    def _ball(self, count: int, draws: torch.Generator) -> Splats:
        direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=-1)
        means = direction * self.radius * torch.rand(count, 1, generator=draws) ** (1 / 3)
        apart = self.radius * (4 / 3 * math.pi / count) ** (1 / 3)
        return Splats(
            means,
            torch.full((count, 3), math.log(apart)),
            torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            torch.full((count,), math.log(self.opacity / (1 - self.opacity))),
            torch.zeros(count, (self.sh_degree + 1) ** 2, 3),
        )


class GaussianScene:
    """A ``Scene``: rows for ``capacity`` Gaussians, of which some are alive."""

    def __init__(
        self, spec: Gaussians, start: Splats, seed: int, device: torch.device | str, group: Tensor | None = None
    ) -> None:
        """``start``: up to ``capacity`` Gaussians with the spec's number of harmonics.

        Of a spec with groups ``group [N]`` int64 says whose they are, and they are in their groups' frames; without it
        they are in the world, and each goes to the group whose middle is the nearest in that group's metres.
        """
        number, coefficients = len(start.means), (spec.sh_degree + 1) ** 2
        if number > spec.capacity or start.sh.shape[1] != coefficients:
            raise DreamforgeError(
                f"{number} Gaussians with {start.sh.shape[1]} harmonics were given to a scene with room for "
                f"{spec.capacity} with {coefficients}; raise capacity, or change sh_degree."
            )
        self.spec = spec
        self.groups = Groups(spec.groups, spec.lr_transforms > 0, device) if spec.groups else None
        if self.groups and group is None:
            start = Splats(**{one.name: getattr(start, one.name).to(device) for one in fields(Splats)})
            group = self.groups.nearest(start.means)
            start = self.groups.inwards(start, group)
        given = {
            "means": start.means,
            "log_scales": start.log_scales,
            "quaternions": start.quaternions,
            "logits": start.logit_opacities,
            "colors": start.sh[:, :1],
            "harmonics": start.sh[:, 1:],
            "semantic": torch.zeros(number, spec.semantic),
        }
        self.tensors = {name: _with_room(tensor, spec.capacity).to(device) for name, tensor in given.items()}
        self.tensors["quaternions"][number:, 0] = 1.0
        for tensor in self.tensors.values():
            tensor.requires_grad_()
        self.group = _with_room(torch.zeros(number, dtype=torch.int64) if group is None else group, spec.capacity)
        self.group = self.group.to(device)
        self.alive = torch.arange(spec.capacity, device=device) < number
        self.renewed = torch.zeros_like(self.alive)
        self.pull = torch.zeros(spec.capacity, 2, device=device)  # sum over renders, and their number
        self.sky = Sky(spec.background, spec.background_color, generator(seed, "sky"), device)
        self.seen: list[tuple[Tensor, Seen]] = []  # of this step's renders: which rows, and what became of them

    def splats(self) -> Splats:
        """Those that are alive, in the world."""
        return self._splats(self._rows(None), own=False)

    def _rows(self, parts: Sequence[str] | None) -> Tensor:
        """The rows of the living of some groups, ascending."""
        if not self.groups or not parts:
            return self.alive.nonzero().squeeze(1)
        wanted = [name in parts for name in self.groups.names]
        return (self.alive & torch.tensor(wanted, device=self.group.device)[self.group]).nonzero().squeeze(1)

    def _splats(self, rows: Tensor, own: bool) -> Splats:
        """In the world, or each in its ``own`` group's frame."""
        there = {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
        splats = Splats(
            there["means"],
            there["log_scales"],
            there["quaternions"],
            there["logits"],
            torch.cat([there["colors"], there["harmonics"]], 1),
        )
        return self.groups.outwards(splats, self.group.index_select(0, rows)) if self.groups and not own else splats

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. ``parts`` are names of groups: none, all of them; several, those, where they stand.

        One group alone is seen in its own frame, in the middle and at its own size, as if the cameras had been made for
        it: so a prior that knows single objects sees it in a term with ``parts: [hat]``.
        """
        shown = chosen(parts, self.spec.part_names)
        behind = self.sky.seen(cameras, self.spec.backend) if background is None else background
        rows = self._rows(shown)
        picture, seen = splat_render(
            self._splats(rows, own=bool(parts) and len(shown) == 1),
            cameras,
            behind,
            semantic=self._features(rows),
            normals=self.spec.normals,
            antialiased=self.spec.antialiased,
            absgrad=self.spec.absgrad,
            backend=self.spec.backend,
        )
        if self.spec.strategy == "default" and seen.means2d.requires_grad:
            self.seen.append((rows, seen))
        return picture

    def _features(self, rows: Tensor) -> Tensor | None:
        """What is composited into ``semantic``: 1 for the group of each, 0 for the others, then what is learnt."""
        learnt = self.tensors["semantic"].index_select(0, rows)
        if self.groups:
            whose = torch.nn.functional.one_hot(self.group.index_select(0, rows), len(self.groups.names))
            learnt = torch.cat([whose.to(learnt), learnt], 1)
        return learnt if learnt.shape[1] else None

    def param_groups(self) -> list[ParamGroup]:
        rates = {
            "means": self.spec.lr_means,
            "log_scales": self.spec.lr_scales,
            "quaternions": self.spec.lr_quaternions,
            "logits": self.spec.lr_opacities,
            "colors": self.spec.lr_colors,
            "harmonics": self.spec.lr_harmonics,
            "semantic": self.spec.lr_semantic,
        }
        groups: list[ParamGroup] = [
            {"params": [self.tensors[name]], "lr": rate, "name": name, "renewed": self.renewed}
            for name, rate in rates.items()
            if self.tensors[name].numel()
        ]
        if self.groups and self.spec.lr_transforms:
            places = list(self.groups.tensors().values())
            groups.append({"params": places, "lr": self.spec.lr_transforms, "name": "transforms"})
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": self.spec.lr_background, "name": "background"})
        return groups

    @torch.no_grad()
    def adapt(self, step: int, seed: int) -> None:
        """Note who was pulled; every ``refine_every`` steps Gaussians are born and die."""
        spec, whose = self.spec, {"group": self.group} if self.groups else {}
        rows = Rows({**self.tensors, **whose}, self.alive, self.renewed)
        self._note()
        now = spec.refine_from <= step + 1 <= spec.refine_until and (step + 1) % spec.refine_every == 0
        if spec.strategy == "mcmc":
            if now:
                relocate_and_add(
                    rows, derive(seed, "mcmc"), least=spec.prune_opacity, growth=spec.growth, most=spec.capacity
                )
            wander(rows, derive(seed, "wander"), spec.noise * spec.lr_means)
        elif spec.strategy == "default" and now:
            grow_and_prune(
                rows,
                self.pull[:, 0] / self.pull[:, 1].clamp_min(1),
                derive(seed, "grow"),
                grow_pull=spec.grow_pull,
                grow_scale=spec.grow_scale,
                prune_opacity=spec.prune_opacity,
                prune_scale=spec.prune_scale,
            )
            self.pull.zero_()
            if spec.reset_every and (step + 1) % spec.reset_every == 0:
                reset_opacity(rows, 2 * spec.prune_opacity)

    def _note(self) -> None:
        """How much each Gaussian was pulled on the screen, in half pictures and per view, as 3DGS measures it."""
        for rows, seen in self.seen:
            grad = getattr(seen.means2d, "absgrad" if self.spec.absgrad else "grad", None)
            if grad is None:  # no guidance pulled at this picture
                continue
            half = grad.new_tensor([seen.width / 2, seen.height / 2]) * len(grad)
            there = seen.radii > 0
            size = (grad * half).norm(dim=-1) * there
            self.pull.index_add_(0, rows, torch.stack([size.sum(0), there.sum(0).to(size)], 1))
        self.seen.clear()

    def density_field(self) -> Field:
        """See ``convert.HasField``; values only."""
        with torch.no_grad():
            return gaussian_field(self.splats(), 2.0 / 128)

    def extract(self, resolution: int) -> Mesh:
        """See ``types.Scene``; through a field of density, see ``render.splat.gaussian_field``."""
        with torch.no_grad():
            field = gaussian_field(self.splats(), 2.0 / resolution)
            return volume_surface(field, resolution, step=SURFACE_STEP, device=self.alive.device)

    def state(self) -> State:
        return copied(self._tensors())

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of a scene of other sizes."""
        restore(self._tensors(), state, "Gaussians scene")

    def _tensors(self) -> State:
        rows = {"alive": self.alive, "renewed": self.renewed, "pull": self.pull}
        groups = {"group": self.group, **self.groups.tensors()} if self.groups else {}
        return {**self.tensors, **rows, **groups, **self.sky.tensors()}


def _with_room(tensor: Tensor, capacity: int) -> Tensor:
    """A copy with zeros up to ``capacity`` rows."""
    room = tensor.new_zeros(capacity, *tensor.shape[1:])
    room[: len(tensor)] = tensor.detach()
    return room
