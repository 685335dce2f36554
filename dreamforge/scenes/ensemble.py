"""Particles: several scenes of one spec that differ by their seed, optimised with one guidance (ProlificDreamer).

VSD's estimator sees the renders of all of them, so that together they become samples of the prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.render.volume import joined_samples
from dreamforge.rng import derive
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, Scene, State


@dataclass(frozen=True)
class Ensemble:
    """``particles`` scenes of the spec ``of``: ``{use: ensemble.Ensemble, particles: 4, of: {use: ...}}``.

    ``views``: "one" shows every view of a render the same particle, another each time (ProlificDreamer's code);
    "spread" shares the views of a step out among all particles. ``shown`` is the particle of previews and asset.
    """

    of: Any = field(default=None, metadata={"slot": "scene"})
    particles: int = 4
    views: Literal["one", "spread"] = "one"
    shown: int = 0

    def __post_init__(self) -> None:
        if self.particles < 1 or not 0 <= self.shown < self.particles:
            raise DreamforgeError(
                f"An ensemble of {self.particles} particles that shows number {self.shown} was asked for; choose at "
                "least 1, and shown from 0 to one less."
            )
        if not hasattr(type(self.of), "build"):
            raise DreamforgeError(
                f"An ensemble of {self.of!r} was asked for; give it the scene of its particles, for example "
                "of: {use: hash_nerf.HashNerf}."
            )

    @property
    def part_names(self) -> tuple[str, ...] | None:
        """What a term's ``parts`` may name; None where the particles do not say."""
        names: tuple[str, ...] | None = getattr(self.of, "part_names", None)
        return names

    def build(self, seed: int, device: torch.device | str = "cpu") -> "EnsembleScene":
        """Every particle at a start of its own."""
        return EnsembleScene(self, [self.of.build(derive(seed, "particle", k), device) for k in range(self.particles)])


class EnsembleScene:
    """A ``Scene`` of scenes; ``particles`` are theirs, each with its own ``extract`` and ``render``."""

    def __init__(self, spec: Ensemble, particles: Sequence[Scene]) -> None:
        self.spec, self.particles = spec, list(particles)

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. ``seed`` picks the particles: 0, the seed of previews, shows ``spec.shown`` alone."""
        count, views = len(self.particles), len(cameras)
        first = (self.spec.shown + seed) % count
        if self.spec.views == "one" or seed == 0:
            return self.particles[first].render(cameras, background, seed, parts)
        if views < count:
            raise DreamforgeError(
                f"{views} views were to be spread over {count} particles, but each needs one: set views to at least "
                f"{count}, or scene.views to one."
            )
        # Neighbouring views stay together, so that samples along rays stay in order; who gets which block changes.
        bounds = [k * views // count for k in range(count + 1)]
        shares = []
        for k, (start, end) in enumerate(pairwise(bounds)):
            behind = background[start:end] if background is not None and background.dim() > 1 else background
            particle = self.particles[(first + k) % count]
            shares.append(particle.render(cameras[start:end], behind, derive(seed, k), parts))
        return joined(shares)

    def param_groups(self) -> list[ParamGroup]:
        return [
            {**group, "name": f"{k}.{group['name']}"}
            for k, particle in enumerate(self.particles)
            for group in particle.param_groups()
        ]

    def adapt(self, step: int, seed: int) -> None:
        """Those particles that this step has given gradients adapt."""
        for k, particle in enumerate(self.particles):
            if any(p.grad is not None for group in particle.param_groups() for p in group["params"]):
                particle.adapt(step, derive(seed, k))

    def extract(self, resolution: int) -> Mesh:
        """The mesh of the particle ``spec.shown``."""
        return self.particles[self.spec.shown].extract(resolution)

    def state(self) -> State:
        return {f"{k}.{name}": v for k, particle in enumerate(self.particles) for name, v in particle.state().items()}

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of another ensemble."""
        given = {name.partition(".")[0] for name in state}
        if given != {str(k) for k in range(len(self.particles))}:
            raise DreamforgeError(
                f"The state of particles {', '.join(sorted(given))} was given to an ensemble of {len(self.particles)}; "
                "use the recipe that made the state."
            )
        for k, particle in enumerate(self.particles):
            own = {name.partition(".")[2]: v for name, v in state.items() if name.partition(".")[0] == str(k)}
            particle.load_state(own)


def joined(shares: Sequence[RenderOutput]) -> RenderOutput:
    """The renders of consecutive blocks of ``cameras`` as one."""
    images: dict[str, Any] = {}
    for one in fields(RenderOutput):
        values = [getattr(share, one.name) for share in shares]
        if one.name != "samples":
            images[one.name] = None if values[0] is None else torch.cat(values)
    packed = [share.samples for share in shares if share.samples is not None]
    if len(packed) == len(shares):
        images["samples"] = joined_samples(packed)
    return RenderOutput(**images)
