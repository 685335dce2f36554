"""The whole vocabulary of dreamforge: data types and protocols, no behaviour but to pick and place what they hold.

Conventions, stated once:

world       right-handed, metres, +Y up, the object's front faces +Z (glTF); the object lives in [-1, 1]^3
camera      OpenCV frame: x right, y down, z forward; intrinsics in pixels, pixel centres at +0.5, row 0 on top
angles      radians (names ending in ``_deg`` exist in YAML only); azimuth 0 looks at the front from +Z and grows
            towards +X; elevation grows upwards
images      ``[B, H, W, C]`` float in [0, 1], sRGB as shown; lighting is computed linear
x           what a prior sees, ``[B, C, h, w]`` (pixels in [-1, 1] or latents)
diffusion   x_t = alpha x + sigma eps with alpha^2 + sigma^2 = 1; t a float in (0, 1); a prior always answers eps
CFG         ``uncond + s (cond - uncond)`` everywhere
gradients   the engine divides a guidance's gradient by the number of views, never by pixels
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor


class DreamforgeError(ValueError):
    """Wrong input. The message is one sentence: what was given, what was expected, what to do. CLI exit code 2."""


class NoMesh(DreamforgeError):
    """Raised by ``Scene.extract`` of a scene that has no surface (a 2D canvas)."""


@dataclass(frozen=True)
class Frame:
    """Where an object stands in the world: x_world = turn (scale x) + position.

    ``turn [3,3]`` a rotation, ``position [3]`` in metres, ``scale`` above 0. Make one with ``placing.frame``.
    """

    turn: Tensor
    position: Tensor
    scale: float

    def to(self, device: torch.device | str) -> "Frame":
        return Frame(self.turn.to(device), self.position.to(device), self.scale)

    def within(self, outer: "Frame") -> "Frame":
        """This frame, which stands in ``outer``, in what ``outer`` stands in."""
        position = outer.outwards(self.position[None])[0]
        return Frame(outer.turn @ self.turn, position, outer.scale * self.scale)

    def turned(self, directions: Tensor) -> Tensor:
        """Own directions ``[...,3]`` in the world."""
        return (self.turn * directions[..., None, :]).sum(-1)

    def outwards(self, points: Tensor) -> Tensor:
        """Own points ``[N,3]`` in the world."""
        return self.turned(points * self.scale) + self.position

    def inwards(self, points: Tensor) -> Tensor:
        """Points ``[N,3]`` of the world in this frame."""
        return (self.turn.t() * (points - self.position)[:, None]).sum(-1) / self.scale


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras of one size, and the orbit they came from.

    ``camera_to_world [B,4,4]``, ``intrinsics [B,3,3]`` in pixels, ``azimuth``, ``elevation`` (radians) and
    ``distance`` (metres to the world's origin), each ``[B]``. Make them with ``cameras.orbit``. Cameras that stand in
    an object's own frame have ``placed``, where it stands in the world: the lights are there.
    """

    camera_to_world: Tensor
    intrinsics: Tensor
    height: int
    width: int
    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    placed: Frame | None = None

    def __len__(self) -> int:
        return len(self.azimuth)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Cameras":
        picked = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.type is Tensor}
        return replace(self, **picked)

    def to(self, device: torch.device | str) -> "Cameras":
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type is Tensor}
        return replace(self, **moved, placed=None if self.placed is None else self.placed.to(device))


@dataclass(frozen=True)
class Samples:
    """Packed samples along the rays of a volume rendering: what regularisers need.

    ``ray [S]`` int64 index of the ray in ``[0, rays)`` (rays = B*H*W, row-major), ascending; ``t [S]`` distance of
    the midpoint from the camera; ``delta [S]`` length of the interval; ``density [S]`` 1/m; ``weights [S]``
    contribution to the pixel in [0, 1]; ``position [S, 3]`` in the world; ``gradient [S, 3]`` of a signed distance,
    where there is one.
    """

    ray: Tensor
    t: Tensor
    delta: Tensor
    density: Tensor
    weights: Tensor
    position: Tensor
    rays: int
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Surface:
    """The mesh that was rendered: what regularisers of surfaces need.

    ``vertices [V,3]``, ``faces [F,3]``; ``across [F,3]``: 3 f + k is corner k of face f, and beyond the edge across
    from it lies the corner of this number, or -1; ``crossed [E,2]`` signed distances at both ends of the grid's edges
    that the surface crosses, ``deviation [D]`` of FlexiCubes: None where a mesh has no grid.
    """

    vertices: Tensor
    faces: Tensor
    across: Tensor
    crossed: Tensor | None = None
    deviation: Tensor | None = None


@dataclass(frozen=True)
class RenderOutput:
    """``rgb [B,H,W,3]`` sRGB over the background, ``alpha [B,H,W,1]``, ``depth [B,H,W,1]`` along the camera's z."""

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None = None  # [B,H,W,3] world space, unit length where alpha > 0
    semantic: Tensor | None = None  # [B,H,W,K]
    samples: Samples | None = None
    surface: Surface | None = None


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh. Colours and texture are sRGB albedo in [0, 1]: no light in them.

    ``vertices [V,3]`` float32, ``faces [F,3]`` int64 counter-clockwise seen from outside, ``normals [V,3]``,
    ``colors [V,3]``; or ``uv [V,2]`` (origin at the top left, as glTF) with ``texture [H,W,3]``. ``material``, metallic
    and roughness in [0, 1], linear, stands beside either: ``[V,2]`` beside colours, ``[H,W,2]`` beside a texture.
    ``parts``: the names of its objects and how many faces each has, one after another; none where it is one whole.
    """

    vertices: Tensor
    faces: Tensor
    normals: Tensor | None = None
    colors: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None
    material: Tensor | None = None
    parts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Splats:
    """3D Gaussians: raw parameters of the field's PLY layout (log scale, logit opacity, quaternion wxyz)."""

    means: Tensor  # [N,3]
    log_scales: Tensor  # [N,3]
    quaternions: Tensor  # [N,4] wxyz, not necessarily normalised
    logit_opacities: Tensor  # [N]
    sh: Tensor  # [N,K,3] spherical harmonics coefficients, DC first


@dataclass(frozen=True)
class Embedding:
    """Prompts as one prior embedded them. Opaque to everybody else: only that prior reads ``tensors``.

    Every tensor has the same leading axis, one row a prompt, so that views pick rows: ``embedding[rows]``.
    """

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor | slice | list[int]) -> "Embedding":
        return Embedding({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Query:
    """One question to a prior, B rows. ``cameras=None`` drops the camera; ``control`` is an image ``[B,H,W,C]``."""

    text: Embedding
    cameras: Cameras | None = None
    control: Tensor | None = None


@dataclass(frozen=True)
class Region:
    """A named part of the picture with a text of its own: ``mask [B,H,W,1]`` in [0, 1]."""

    name: str
    text: Embedding
    mask: Tensor


@dataclass(frozen=True)
class Condition:
    """What is asked for, per view (B rows each).

    ``text`` view-dependent, ``plain`` without view words, ``uncond`` the empty (or negative) text of CFG;
    ``negatives`` for Perp-Neg: pairs of (text, weight ``[B]``, negative numbers push away); ``empty`` is the empty
    text where ``uncond`` is a negative one.
    """

    text: Embedding
    plain: Embedding
    uncond: Embedding
    negatives: tuple[tuple[Embedding, Tensor], ...] = ()
    cameras: Cameras | None = None
    regions: tuple[Region, ...] = ()
    empty: Embedding | None = None


@dataclass(frozen=True)
class View:
    """All that a guidance may look at in one step; B views. Everything in it is detached."""

    x: Tensor  # [B,C,h,w] encoded render, detached
    x_t: Tensor  # [B,C,h,w] = alpha x + sigma noise
    noise: Tensor  # [B,C,h,w]
    t: Tensor  # [B] in (0, 1)
    condition: Condition
    cameras: Cameras | None = None
    render: RenderOutput | None = None  # detached
    progress: float = 0.0  # of the stage, in [0, 1]
    seed: int = 0  # a pure function may draw from it


@dataclass(frozen=True)
class Gradient:
    """What a guidance answers: the gradient on ``x`` and, if it has one, on the rendered ``rgb [B,H,W,3]``.

    ``stats`` are scalars for the log, best as tensors without dimensions: a ``float(...)`` of one on a GPU would wait
    for it. Not divided by the number of views: the engine does that.
    """

    x: Tensor
    rgb: Tensor | None = None
    stats: Mapping[str, Tensor | float] = field(default_factory=dict)


ParamGroup = dict[str, Any]  # {"params": [...], "lr": float, "name": str}, as torch.optim takes them
State = dict[str, Tensor]  # what a checkpoint stores


class Schedule(Protocol):
    """alpha(t), sigma(t) of the variance-preserving process; t ``[B]`` float in (0, 1)."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


@runtime_checkable
class TrainablePrior(Protocol):
    """A trainable copy or adapter of a prior: predicts eps and owns parameters."""

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]: ...

    def param_groups(self) -> list[ParamGroup]: ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


@runtime_checkable
class Prior(Protocol):
    """A 2D diffusion prior. Whatever its network predicts, it answers eps in float32."""

    schedule: Schedule
    knows_cameras: bool  # False: a Query's cameras are ignored

    def encode(self, rgb: Tensor, seed: int) -> Tensor:
        """Picture ``[B,H,W,3]`` in [0,1], any size -> x ``[B,C,h,w]``; differentiable."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """x ``[B,C,h,w]`` -> picture ``[B,H,W,3]`` in [0,1]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Embedding: ...

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        """eps ``[B,C,h,w]`` for every query, batched inside; differentiable when grad is enabled."""
        ...

    def trainable(
        self, mode: Literal["lora", "full"] = "lora", camera: bool = True, rank: int = 4, seed: int = 0
    ) -> TrainablePrior:
        """A low-rank adapter on the prior's network or a full copy of it that starts as the prior itself.

        ``camera``: it is told the cameras of a Query, also where the prior knows none; ``seed`` draws what is random.
        The prior's own predictions stay as they are, to the bit.
        """
        ...


@runtime_checkable
class Guidance(Protocol):
    """A method: a frozen dataclass with one pure function. No counter, no log, no state."""

    def grad(self, view: View, prior: Prior) -> Gradient | None:
        """The gradient of this method at ``view``; None means: no scene step now."""
        ...


@runtime_checkable
class LearnedGuidance(Protocol):
    """A guidance with weights of its own, made by ``build(prior, seed)`` of its frozen spec."""

    learn_steps: int

    def grad(self, view: View, prior: Prior) -> Gradient | None: ...

    def learn(self, view: View, prior: Prior) -> Tensor: ...

    def param_groups(self) -> list[ParamGroup]: ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


@runtime_checkable
class Timesteps(Protocol):
    """Draws t. Any anneal is one of these, not a new guidance."""

    def sample(self, views: int, progress: float, seed: int) -> Tensor:
        """``[views]`` float in (0, 1)."""
        ...


@runtime_checkable
class Noise(Protocol):
    """Draws the noise of one step; may see cameras and geometry. ``draws`` > 1 averages over several per render.

    ``antithetic``: the second of two draws has the t of the first and minus its noise. A spec whose noise stays for a
    run is ``build(seed)``: it returns one of these.
    """

    draws: int
    antithetic: bool

    def sample(self, x: Tensor, cameras: Cameras | None, render: RenderOutput | None, seed: int) -> Tensor:
        """``[B,C,h,w]`` with the marginal N(0, I)."""
        ...


@runtime_checkable
class CameraSampler(Protocol):
    """Draws the cameras of one step."""

    def sample(self, views: int, resolution: int, progress: float, seed: int) -> Cameras: ...


@runtime_checkable
class HasSplats(Protocol):
    """A scene that is 3D Gaussians."""

    def splats(self) -> Splats: ...


@runtime_checkable
class HasColors(Protocol):
    """A scene that knows the colours of points near its surface: what textures are baked from."""

    def colors_at(self, position: Tensor, normal: Tensor) -> Tensor:
        """``[N,3]``, unit ``[N,3]``, on any device -> sRGB ``[N,3]``, or ``[N,5]`` with metallic and roughness, all in
        [0, 1]."""
        ...


@runtime_checkable
class Scene(Protocol):
    """Something differentiable that can be rendered and, mostly, turned into a mesh."""

    def render(
        self, cameras: Cameras, background: Tensor | None, seed: int, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """``background [3]`` or ``[B,3]`` sRGB replaces the scene's own; None keeps it. Same seed, same picture."""
        ...

    def param_groups(self) -> list[ParamGroup]: ...

    def adapt(self, step: int, seed: int) -> None:
        """Once per step while gradients exist: occupancy update, densification. May do nothing."""
        ...

    def extract(self, resolution: int) -> Mesh:
        """A mesh with vertex colours; raises NoMesh where there is no surface."""
        ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...
