"""A radiance field without view dependence: hash grid, small MLP, occupancy grid (Mueller et al. 2022), blob."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.cameras import rays
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid, encode
from dreamforge.ops.march import cell_points, decayed, occupied
from dreamforge.ops.mlp import fused_mlp, init
from dreamforge.render.volume import evaluate, volume_render, volume_surface
from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, State

BOUND = 1.0  # the object lives in [-1, 1]^3


@dataclass(frozen=True)
class HashNerf:
    """Sizes of the field, its start, its background, its optimiser's rates.

    Encoding: ``levels`` grids from ``coarsest`` to ``finest`` vertices a side (one finest cell is about a pixel at 64
    pixels), ``features`` numbers a vertex, at most 2^``log2_entries`` vertices a level. One network of ``hidden`` ReLU
    units in ``layers`` layers answers (raw density, raw colour); density = ``density_scale`` softplus(raw + blob(p))
    in 1/m, colour = sigmoid. Short runs want a ``density_scale`` above 1: Adam moves raw by some tens at most. Blob,
    "magic3d": ``blob_scale`` (1 - |p| / ``blob_std``); "dreamfusion": ``blob_scale`` exp(-|p|^2 / (2 ``blob_std``^2));
    Magic3D's values are scale 10, std 0.5, DreamFusion's 5 and 0.2. ``samples`` stand across the 2 metres of the
    volume. The density is looked up in all ``occupancy_cells``^3 cells every ``occupancy_every`` steps.
    ``sparse_adam``: entries of the table that no sample of a step lies beside rest, with their moments. ``half_table``
    is read in float16, the table learns in float32. ``backend`` of all operations: "torch" is the readable reference.
    ``background``: "solid" ``background_color``; "learned", one colour that starts there; "environment", a network
    from the ray's direction to a colour. ``normals`` adds rendered normals (four times the work).
    """

    levels: int = 6
    features: int = 2
    log2_entries: int = 18
    coarsest: int = 8
    finest: int = 64
    hidden: int = 32
    layers: int = 1
    density_scale: float = 1.0
    blob: Literal["magic3d", "dreamfusion"] = "magic3d"
    blob_scale: float = 10.0
    blob_std: float = 0.5
    samples: int = 64
    occupancy_cells: int = 48
    occupancy_every: int = 8
    occupancy_decay: float = 0.8  # 0.95 is for runs of 20 000 steps: here a cell must be forgotten in about 150
    occupancy_threshold: float = 0.01
    background: Literal["solid", "learned", "environment"] = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    normals: bool = False
    sparse_adam: bool = False
    half_table: bool = False
    backend: Backend = "auto"
    lr_encoding: float = 1e-2
    lr_mlp: float = 1e-2  # DreamFusion in threestudio: 0.01 for the whole geometry; 1e-3 stays foggy for 600 steps
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
        positive = ("hidden", "layers", "density_scale", "blob_std", "samples", "occupancy_cells", "occupancy_every")
        wrong = [name for name in positive if getattr(self, name) <= 0]
        if wrong:
            raise DreamforgeError(
                f"{wrong[0]} is {getattr(self, wrong[0])}, but a number above 0 is expected; change it."
            )
        if not 2 <= self.coarsest <= self.finest or len(self.background_color) != 3:
            raise DreamforgeError(
                f"coarsest {self.coarsest}, finest {self.finest} and background_color {self.background_color} were "
                "given; 2 <= coarsest <= finest and three colour channels are expected."
            )

    @property
    def grid(self) -> HashGrid:
        growth = (self.finest / self.coarsest) ** (1 / max(self.levels - 1, 1))
        return HashGrid(self.levels, self.features, self.log2_entries, self.coarsest, growth)

    def build(self, seed: int, device: torch.device | str = "cpu") -> "HashNerfScene":
        """The scene at its start; drawn on the CPU, so that every device starts the same."""
        return HashNerfScene(self, seed, device)


class HashNerfScene:
    """A ``Scene``: table and weights of the field, weights of the background, running opacity of the occupancy."""

    def __init__(self, spec: HashNerf, seed: int, device: torch.device | str) -> None:
        self.spec, self.grid, self.step = spec, spec.grid, 2 * BOUND / spec.samples
        draws = generator(seed, "hash_nerf")
        widths = [self.grid.width, *[spec.hidden] * spec.layers, 4]
        self.table = self.grid.table(draws).to(device).requires_grad_()
        self.half = self.table.detach().half() if spec.half_table else None
        self.weights = [weight.to(device).requires_grad_() for weight in init(widths, draws)]
        self.color = torch.tensor(spec.background_color, dtype=torch.float32, device=device)
        self.sky: list[Tensor] = []
        if spec.background == "learned":
            self.sky = [torch.logit(self.color, 1e-3).requires_grad_()]
        elif spec.background == "environment":
            self.sky = [weight.to(device).requires_grad_() for weight in init([9, 16, 3], draws)]
        self.opacity = torch.zeros([spec.occupancy_cells] * 3, device=device)
        for look in range(2):
            self._look(generator(seed, "occupancy", look), decay=1.0)

    def field(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """``position [N,3]`` in the world -> density ``[N]`` in 1/m and colour ``[N,3]`` as shown."""
        unit = (position * (0.5 / BOUND) + 0.5).clamp(0, 1)
        encoded = encode(unit, self.table, self.grid, self.half, self.spec.backend)
        (raw,) = fused_mlp(encoded, self.weights, backend=self.spec.backend)
        radius = position.square().sum(-1) / self.spec.blob_std**2
        if self.spec.blob == "magic3d":
            blob = self.spec.blob_scale * (1 - radius.sqrt())
        else:
            blob = self.spec.blob_scale * torch.exp(-0.5 * radius)
        density = self.spec.density_scale * torch.nn.functional.softplus(raw[:, 0] + blob)
        return density, torch.sigmoid(raw[:, 1:])

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. The scene is one whole: it knows no ``parts``."""
        if parts:
            raise DreamforgeError(
                f"parts {list(parts)} of a HashNerf were asked for, but it has none; leave parts out."
            )
        behind = self._background(cameras) if background is None else background
        return volume_render(
            self.field,
            occupied(self.opacity, self.spec.occupancy_threshold),
            cameras,
            behind,
            seed,
            step=self.step,
            bound=BOUND,
            normals=self.spec.normals,
            backend=self.spec.backend,
        )

    def _background(self, cameras: Cameras) -> Tensor:
        if self.spec.background == "solid":
            return self.color
        if self.spec.background == "learned":
            return torch.sigmoid(self.sky[0])
        x, y, z = (directions := rays(cameras)[1]).unbind(-1)
        # Real spherical harmonics up to degree 2, without their constants: the network scales them.
        basis = torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], -1)
        return torch.sigmoid(fused_mlp(basis.view(-1, 9), self.sky, backend=self.spec.backend)[0]).view(
            directions.shape
        )

    def param_groups(self) -> list[ParamGroup]:
        sparse = {"sparse": self.spec.sparse_adam, "backend": self.spec.backend}
        groups: list[ParamGroup] = [
            {"params": [self.table], "lr": self.spec.lr_encoding, "name": "encoding", **sparse},
            {"params": self.weights, "lr": self.spec.lr_mlp, "name": "mlp"},
        ]
        if self.sky:
            groups.append({"params": self.sky, "lr": self.spec.lr_background, "name": "background"})
        return groups

    def adapt(self, step: int, seed: int) -> None:
        """Renew the half table; look where the density is now, every ``occupancy_every`` steps."""
        self._renew_half()
        if (step + 1) % self.spec.occupancy_every == 0:
            self._look(generator(seed, "occupancy"), self.spec.occupancy_decay)

    def _look(self, draws: torch.Generator, decay: float) -> None:
        density, _ = evaluate(self.field, cell_points(self.spec.occupancy_cells, BOUND, draws).to(self.table))
        seen = -torch.expm1(-density * self.step)
        self.opacity = decayed(self.opacity, seen.view_as(self.opacity), decay)

    def extract(self, resolution: int) -> Mesh:
        """See ``types.Scene``; colours as shown, with the light that the field learnt in them."""
        return volume_surface(self.field, resolution, step=self.step, device=self.table.device, bound=BOUND)

    def state(self) -> State:
        return {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of a scene of other sizes."""
        own = self._tensors()
        wrong = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if wrong:
            raise DreamforgeError(
                f"{', '.join(wrong)} in the given state do not fit this HashNerf; use the recipe that made it."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        self._renew_half()

    @torch.no_grad()
    def _renew_half(self) -> None:
        if self.half is not None:
            self.half.copy_(self.table)

    def _tensors(self) -> State:
        layers = {f"mlp.{number}": weight for number, weight in enumerate(self.weights)}
        sky = {f"background.{number}": weight for number, weight in enumerate(self.sky)}
        return {"table": self.table, **layers, **sky, "occupancy": self.opacity}
