"""A prior whose distribution is known: a mixture of Gaussians per prompt, so that its score is exact.

p(x | y) = sum_k w_k N(x; m_k, s_k^2), hence p_t(x_t | y) = sum_k w_k N(x_t; alpha m_k, alpha^2 s_k^2 + sigma^2) and

    eps(x_t) = -sigma grad log p_t(x_t) = sigma sum_k r_k (x_t - alpha m_k) / (alpha^2 s_k^2 + sigma^2)

with r_k the posterior probability of component k. It is the oracle for the mathematics of every guidance.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamforge.priors.parametrisation import DiscreteSchedule, FlowSchedule, alpha_sigma
from dreamforge.rng import derive, generator
from dreamforge.types import DreamforgeError, Embedding, ParamGroup, Query, Schedule, State


@dataclass(frozen=True, eq=False)
class Components:
    """K Gaussians: ``means [K,C,h,w]``, ``stds`` that broadcasts to it (0: a point), ``weights [K]`` in any unit."""

    means: Tensor
    stds: Tensor
    weights: Tensor


def gaussian(mean: Tensor, std: float) -> Components:
    """One isotropic Gaussian around ``mean [C,h,w]``."""
    return Components(mean[None], torch.tensor([std]).view(1, 1, 1, 1), torch.ones(1))


def union(parts: Sequence[Components]) -> Components:
    """All components together, each part equally likely."""
    return Components(
        torch.cat([part.means for part in parts]),
        torch.cat([part.stds.expand_as(part.means) for part in parts]),
        torch.cat([part.weights / part.weights.sum() for part in parts]),
    )


def known(prompts: Mapping[str, Components]) -> Callable[[str], Components]:
    """A world of exactly these prompts; the empty prompt is the mixture over all of them."""
    everything = union(list(prompts.values()))

    def look_up(prompt: str) -> Components:
        if prompt not in prompts and prompt:
            near = difflib.get_close_matches(prompt, prompts, n=1, cutoff=0.0)
            raise DreamforgeError(f"The prompt {prompt!r} is not in this mixture; did you mean {near[0]!r}?")
        return prompts.get(prompt, everything)

    return look_up


@dataclass(frozen=True)
class Mixture:
    """A world of ``pictures`` smooth coloured pictures, usable with any text, for recipes and tests.

    A text picks one picture (the same text always the same one), the empty text is the mixture over all.
    """

    size: int = 64  # pixels; x is [B,3,size,size] in [-1, 1]
    std: float = 0.1  # of every pixel of x around its picture
    pictures: int = 16
    schedule: Literal["flow", "scaled_linear"] = "flow"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.pictures < 1 or self.std <= 0:
            raise DreamforgeError(
                f"Mixture got size {self.size}, pictures {self.pictures} and std {self.std}; all must be positive."
            )

    def build(self, device: torch.device | str = "cpu") -> "MixturePrior":
        worlds = [gaussian(self._picture(k), self.std) for k in range(self.pictures)]
        everything = union(worlds)

        def look_up(prompt: str) -> Components:
            return worlds[derive(self.seed, prompt) % self.pictures] if prompt else everything

        schedule = FlowSchedule() if self.schedule == "flow" else DiscreteSchedule.scaled_linear()
        return MixturePrior(look_up, self.size, schedule, device)

    def _picture(self, k: int) -> Tensor:
        """``[3,size,size]`` in [-0.9, 0.9]: 4 x 4 random colours, smoothly interpolated."""
        coarse = torch.rand(1, 3, 4, 4, generator=generator(self.seed, "picture", k)) * 1.8 - 0.9
        return F.interpolate(coarse, (self.size, self.size), mode="bilinear", align_corners=True)[0]


class MixturePrior:
    """The exact prior over pictures ``[3,size,size]`` in [-1, 1]; ``components(prompt)`` says what a text means.

    An Embedding holds the components themselves (``means [N,K,3,h,w]``, ``stds`` alike, ``weights [N,K]``), so a
    blend of two embeddings means the Gaussian in between.
    """

    knows_cameras = False

    def __init__(
        self,
        components: Callable[[str], Components],
        size: int,
        schedule: Schedule | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.components, self.size, self.device = components, size, torch.device(device)
        self.schedule: Schedule = FlowSchedule() if schedule is None else schedule

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        """``[B,H,W,3]`` in [0,1] -> ``[B,3,size,size]`` in [-1,1], resized with antialiasing."""
        x = rgb.to(self.device).permute(0, 3, 1, 2)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return x * 2 - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)

    def embed(self, prompts: Sequence[str]) -> Embedding:
        """Rows with fewer components than the longest are filled up with components of weight 0."""
        rows = [self.components(prompt) for prompt in prompts]
        count = max(len(row.weights) for row in rows)
        means, stds, weights = [], [], []
        for row in rows:
            missing = count - len(row.weights)
            means.append(F.pad(row.means, (0, 0, 0, 0, 0, 0, 0, missing)))
            stds.append(F.pad(row.stds.expand_as(row.means), (0, 0, 0, 0, 0, 0, 0, missing), value=1.0))
            weights.append(F.pad(row.weights / row.weights.sum(), (0, missing)))
        tensors = {"means": torch.stack(means), "stds": torch.stack(stds), "weights": torch.stack(weights)}
        return Embedding({name: tensor.to(self.device) for name, tensor in tensors.items()})

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        alpha, sigma = alpha_sigma(self.schedule, t.to(x_t), x_t)
        return [exact_eps(x_t, alpha, sigma, query.text.tensors) for query in queries]

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> "MixtureEstimator":
        return MixtureEstimator(self, scale_too=mode == "full", camera=camera)


def exact_eps(x_t: Tensor, alpha: Tensor, sigma: Tensor, components: Mapping[str, Tensor]) -> Tensor:
    """eps ``[B,C,h,w]`` of the mixture at ``x_t``; alpha, sigma ``[B,1,1,1]``."""
    means, stds, weights = (components[name].to(x_t) for name in ("means", "stds", "weights"))
    variance = (alpha[:, None] * stds) ** 2 + sigma[:, None] ** 2  # [B,K,C,h,w]
    residual = x_t[:, None] - alpha[:, None] * means
    log_likelihood = -0.5 * (residual**2 / variance + variance.log()).flatten(2).sum(2)
    r = (weights.log() + log_likelihood).softmax(1)  # [B,K]
    return sigma * (r[:, :, None, None, None] * residual / variance).sum(1)


class MixtureEstimator:
    """A learnable copy of a mixture: every mean moves by a shift that is linear in the camera.

    It starts as the prior itself. ``scale_too`` ("full") also learns one factor on the standard deviations, so that
    around a single picture it can become any isotropic Gaussian: the exact score of renders that are all alike.
    A question without cameras uses the first row of ``shift`` only.
    """

    FEATURES = 5  # 1, camera given, cos azimuth, sin azimuth, sin elevation

    def __init__(self, prior: MixturePrior, scale_too: bool, camera: bool) -> None:
        self.prior, self.scale_too, self.camera = prior, scale_too, camera
        shape = (self.FEATURES if camera else 1, 3, prior.size, prior.size)
        self.shift = torch.zeros(shape, device=prior.device, requires_grad=True)
        self.log_scale = torch.zeros((), device=prior.device, requires_grad=scale_too)

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        moved = []
        for query in queries:
            tensors = query.text.tensors
            shift = torch.einsum("bf,fchw->bchw", self._features(query, len(x_t)), self.shift)
            means, stds = tensors["means"] + shift[:, None], tensors["stds"] * self.log_scale.exp()
            moved.append(Query(Embedding({**tensors, "means": means, "stds": stds})))
        return self.prior.predict_noise(x_t, t, moved)

    def _features(self, query: Query, views: int) -> Tensor:
        one = torch.ones(views, device=self.shift.device)
        if not self.camera:
            return one[:, None]
        if query.cameras is None:
            return torch.stack([one, *[0 * one] * (self.FEATURES - 1)], 1)
        azimuth, elevation = query.cameras.azimuth, query.cameras.elevation
        return torch.stack([one, one, azimuth.cos(), azimuth.sin(), elevation.sin()], 1)

    def param_groups(self) -> list[ParamGroup]:
        params = [self.shift, self.log_scale] if self.scale_too else [self.shift]
        return [{"params": params, "lr": 1e-2, "name": "mixture"}]

    def state(self) -> State:
        return {"shift": self.shift.detach().clone(), "log_scale": self.log_scale.detach().clone()}

    def load_state(self, state: State) -> None:
        with torch.no_grad():
            self.shift.copy_(state["shift"])
            self.log_scale.copy_(state["log_scale"])
