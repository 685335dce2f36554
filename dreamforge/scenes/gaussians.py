"""3D Gaussians that are densified and pruned while they learn (Kerbl et al. 2023; MCMC: Kheradmand et al. 2024)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend
from dreamforge.render.splat import Seen, gaussian_field, splat_render
from dreamforge.render.volume import Field, volume_surface
from dreamforge.rng import derive, generator
from dreamforge.scenes.densify import Rows, grow_and_prune, relocate_and_add, reset_opacity, wander
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import copied, restore
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, Splats, State

SURFACE_STEP = 2.0 / 64  # metres in which the light of an extracted surface is gathered


@dataclass(frozen=True)
class Gaussians:
    """Numbers of Gaussians, their start, how they multiply, the optimiser's rates.

    ``count`` Gaussians start in a ball of ``radius`` metres, evenly spread, as large as their distance, grey, with
    ``opacity``; there is room for ``capacity``. ``sh_degree`` 0 to 3: how much a colour may depend on the direction.
    ``semantic`` numbers of each are composited into ``RenderOutput.semantic``. ``strategy``: "default", who is pulled
    on the screen by more than ``grow_pull`` (with ``absgrad`` the pixels' absolute pulls count) is cloned, or split
    above ``grow_scale`` metres, who is fainter than ``prune_opacity`` or larger than ``prune_scale`` goes, opacities
    fall to twice ``prune_opacity`` every ``reset_every`` steps (0: never); "mcmc", faint ones move to where opacity
    is, the number grows by ``growth``, and faint ones wander (``noise``, the paper's lambda, times the rate of the
    means); "none". Both act every ``refine_every`` steps from ``refine_from`` to ``refine_until``. ``antialiased``:
    small Gaussians lose opacity instead of growing to a pixel. ``normals`` are the thinnest axes.
    """

    count: int = 2_000
    capacity: int = 10_000
    radius: float = 0.6
    opacity: float = 0.1
    sh_degree: int = 0
    semantic: int = 0
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
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
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

    def build(self, seed: int, device: torch.device | str = "cpu") -> "GaussianScene":
        """The scene at its start; drawn on the CPU, so that every device starts the same."""
        draws = generator(seed, "gaussians")
        direction = torch.nn.functional.normalize(torch.randn(self.count, 3, generator=draws), dim=-1)
        means = direction * self.radius * torch.rand(self.count, 1, generator=draws) ** (1 / 3)
        apart = self.radius * (4 / 3 * math.pi / self.count) ** (1 / 3)
        start = Splats(
            means,
            torch.full((self.count, 3), math.log(apart)),
            torch.tensor([1.0, 0, 0, 0]).repeat(self.count, 1),
            torch.full((self.count,), math.log(self.opacity / (1 - self.opacity))),
            torch.zeros(self.count, (self.sh_degree + 1) ** 2, 3),
        )
        return GaussianScene(self, start, seed, device)


class GaussianScene:
    """A ``Scene``: rows for ``capacity`` Gaussians, of which some are alive."""

    def __init__(self, spec: Gaussians, start: Splats, seed: int, device: torch.device | str) -> None:
        """``start``: up to ``capacity`` Gaussians with the spec's number of harmonics."""
        number, coefficients = len(start.means), (spec.sh_degree + 1) ** 2
        if number > spec.capacity or start.sh.shape[1] != coefficients:
            raise DreamforgeError(
                f"{number} Gaussians with {start.sh.shape[1]} harmonics were given to a scene with room for "
                f"{spec.capacity} with {coefficients}; raise capacity, or change sh_degree."
            )
        self.spec = spec
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
        self.alive = torch.arange(spec.capacity, device=device) < number
        self.renewed = torch.zeros_like(self.alive)
        self.pull = torch.zeros(spec.capacity, 2, device=device)  # sum over renders, and their number
        self.sky = Sky(spec.background, spec.background_color, generator(seed, "sky"), device)
        self.seen: list[Seen] = []  # of this step's renders

    def splats(self) -> Splats:
        """Those that are alive."""
        rows = self.alive.nonzero().squeeze(1)
        there = {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
        return Splats(
            there["means"],
            there["log_scales"],
            there["quaternions"],
            there["logits"],
            torch.cat([there["colors"], there["harmonics"]], 1),
        )

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. The scene is one whole: it knows no ``parts``."""
        if parts:
            raise DreamforgeError(
                f"parts {list(parts)} of a Gaussians scene were asked for, but it has none; leave parts out."
            )
        behind = self.sky.seen(cameras, self.spec.backend) if background is None else background
        rows = self.alive.nonzero().squeeze(1)
        semantic = self.tensors["semantic"].index_select(0, rows) if self.spec.semantic else None
        picture, seen = splat_render(
            self.splats(),
            cameras,
            behind,
            semantic=semantic,
            normals=self.spec.normals,
            antialiased=self.spec.antialiased,
            absgrad=self.spec.absgrad,
            backend=self.spec.backend,
        )
        if self.spec.strategy == "default" and seen.means2d.requires_grad:
            self.seen.append(seen)
        return picture

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
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": self.spec.lr_background, "name": "background"})
        return groups

    @torch.no_grad()
    def adapt(self, step: int, seed: int) -> None:
        """Note who was pulled; every ``refine_every`` steps Gaussians are born and die."""
        spec, rows = self.spec, Rows(self.tensors, self.alive, self.renewed)
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
        alive = self.alive.nonzero().squeeze(1)
        for seen in self.seen:
            grad = seen.means2d.absgrad if self.spec.absgrad else seen.means2d.grad  # type: ignore[attr-defined]
            if grad is None:  # no guidance pulled at this picture
                continue
            half = grad.new_tensor([seen.width / 2, seen.height / 2]) * len(grad)
            there = seen.radii > 0
            size = (grad * half).norm(dim=-1) * there
            self.pull.index_add_(0, alive, torch.stack([size.sum(0), there.sum(0).to(size)], 1))
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
        return {**self.tensors, **rows, **self.sky.tensors()}


def _with_room(tensor: Tensor, capacity: int) -> Tensor:
    """A copy with zeros up to ``capacity`` rows."""
    room = tensor.new_zeros(capacity, *tensor.shape[1:])
    room[: len(tensor)] = tensor.detach()
    return room
