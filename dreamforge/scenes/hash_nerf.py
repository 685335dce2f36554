"""A radiance field without view dependence: hash grid, small MLP, occupancy grid (Mueller et al. 2022), blob."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.cameras import rays
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid, encode
from dreamforge.ops.march import cell_points, decayed, occupied
from dreamforge.ops.mlp import fused_mlp, init
from dreamforge.render import pbr
from dreamforge.render.volume import Field, Looked, distance_surface, evaluate, slope, volume_render, volume_surface
from dreamforge.rng import generator
from dreamforge.scenes.lit import Kind as LitKind
from dreamforge.scenes.lit import Lit
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import copied, restore
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, State

BOUND = 1.0  # the object lives in [-1, 1]^3


@dataclass(frozen=True)
class HashNerf:
    """Sizes of the field, its start, its background, its optimiser's rates.

    Encoding: ``levels`` grids from ``coarsest`` to ``finest`` vertices a side (one finest cell is about a pixel at 64
    pixels), ``features`` numbers a vertex, at most 2^``log2_entries`` vertices a level. One network of ``hidden`` ReLU
    units in ``layers`` layers answers (raw density, raw colour); density = ``density_scale`` softplus(raw + blob(p))
    in 1/m, colour = sigmoid. Short runs want a ``density_scale`` above 1: Adam moves raw by some tens at most. It
    grows to ``hard_scale``, by the same factor every step, between the steps ``harden_from`` and ``harden_until`` (0:
    it stays): outlines become as sharp as a mesh's, once their place is known. Blob, "magic3d": ``blob_scale`` (1 -
    |p| / ``blob_std``); "dreamfusion": ``blob_scale`` exp(-|p|^2 / (2 ``blob_std``^2)); Magic3D's values are scale 10,
    std 0.5, DreamFusion's 5 and 0.2. ``samples`` stand across the 2 metres of the volume, ``hard_samples`` from the
    step ``harden_until`` on. The density is looked up in all ``occupancy_cells``^3 cells every ``occupancy_every``
    steps. ``sparse_adam``: entries of the table that no sample of a step lies beside rest, with their moments.
    ``half_table`` is read in float16, the table learns in float32. ``backend`` of all operations: "torch" is the
    readable reference.
    ``background``: "solid" ``background_color``; "learned", one colour that starts there; "environment", a network
    from the ray's direction to a colour. ``normals`` adds rendered normals (four times the work).

    ``surface``: "density" as above, or "sdf": the raw number is added to the distance to a sphere of ``sdf_radius``
    metres, and alpha is NeuS's (Wang et al. 2021, eq. 13) of a sharpness that starts at ``sdf_sharpness`` in 1/m and
    is learnt. ``shading``: "none", colours are as shown; else they are albedo, and lit: "soft" by the one light of
    all pictures, "random" as in DreamFusion, after ``lit_from`` steps by a point near the camera in ``lit_share`` of
    the renders, of which ``textureless_share`` are white; before, and in previews (seed 0), as shown. ``material``
    "pbr" adds metallic and roughness to the albedo, which a light then shows (see ``render.pbr``). ``levels_from``
    levels count at the start, from step ``level_start`` on one more every ``level_every`` (0: all at once).
    """

    levels: int = 6
    features: int = 2
    log2_entries: int = 18
    coarsest: int = 8
    finest: int = 64
    hidden: int = 32
    layers: int = 1
    density_scale: float = 1.0
    hard_scale: float = 1.0
    harden_from: int = 0
    harden_until: int = 0
    hard_samples: int = 64
    blob: Literal["magic3d", "dreamfusion"] = "magic3d"
    blob_scale: float = 10.0
    blob_std: float = 0.5
    samples: int = 64
    occupancy_cells: int = 48
    occupancy_every: int = 8
    occupancy_decay: float = 0.8  # 0.95 is for runs of 20 000 steps: here a cell must be forgotten in about 150
    occupancy_threshold: float = 0.01
    background: Kind = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    normals: bool = False
    surface: Literal["density", "sdf"] = "density"
    sdf_radius: float = 0.5
    sdf_sharpness: float = 20.0  # NeuS's start, e^3
    shading: LitKind = "none"
    lit_from: int = 1000
    lit_share: float = 0.75
    textureless_share: float = 0.5
    material: pbr.Material = "none"
    levels_from: int = 4
    level_start: int = 0
    level_every: int = 0
    sparse_adam: bool = False
    half_table: bool = False
    backend: Backend = "auto"
    lr_encoding: float = 1e-2
    lr_mlp: float = 1e-2  # DreamFusion in threestudio: 0.01 for the whole geometry; 1e-3 stays foggy for 600 steps
    lr_background: float = 1e-3
    lr_sharpness: float = 1e-2

    def __post_init__(self) -> None:
        positive = [
            "hidden",
            "layers",
            "density_scale",
            "hard_scale",
            "blob_std",
            "samples",
            "hard_samples",
            "occupancy_cells",
            "occupancy_every",
        ]
        positive += ["sdf_radius", "sdf_sharpness", "levels_from"]
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

        if not (0 <= self.harden_from < self.harden_until or self.harden_until == 0):
            raise DreamforgeError(
                f"harden_from {self.harden_from} and harden_until {self.harden_until} were given; steps with 0 <= "
                "harden_from < harden_until, or harden_until 0 are expected."
            )

    def scale_at(self, age: int) -> float:
        """``density_scale`` after ``age`` steps, on its way to ``hard_scale``."""
        if not self.harden_until:
            return self.density_scale
        share = min(max((age - self.harden_from) / (self.harden_until - self.harden_from), 0.0), 1.0)
        scale: float = self.density_scale * (self.hard_scale / self.density_scale) ** share
        return scale

    def samples_at(self, age: int) -> int:
        """Across the volume after ``age`` steps: of a surface thinner than a step, a picture is noise of the shifts."""
        return self.hard_samples if 0 < self.harden_until <= age else self.samples

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
        self.spec, self.grid = spec, spec.grid
        draws = generator(seed, "hash_nerf")
        widths = [self.grid.width, *[spec.hidden] * spec.layers, 4 if spec.material == "none" else 6]
        self.table = self.grid.table(draws).to(device).requires_grad_()
        self.half = self.table.detach().half() if spec.half_table else None
        self.weights = [weight.to(device).requires_grad_() for weight in init(widths, draws)]
        self.log_sharpness = torch.tensor(math.log(spec.sdf_sharpness), device=device)
        if spec.surface == "sdf":
            self.log_sharpness.requires_grad_()
        self.lit = Lit(spec.shading, spec.lit_from, spec.lit_share, spec.textureless_share)
        self.age = torch.zeros((), dtype=torch.int64)  # steps so far
        self.sky = Sky(spec.background, spec.background_color, draws, device)
        self.opacity = torch.zeros([spec.occupancy_cells] * 3, device=device)
        for look in range(2):
            self._survey(generator(seed, "occupancy", look), decay=1.0)

    @property
    def step(self) -> float:
        """Metres between samples."""
        return 2 * BOUND / self.spec.samples_at(int(self.age))

    def field(self, position: Tensor, reach: float = 0.0) -> tuple[Tensor, Tensor]:
        """``position [N,3]`` in the world -> density ``[N]`` in 1/m and colour ``[N,3]``, as shown or albedo.

        Of a signed distance f and sharpness s the density is s / (1 + e^(s f)): NeuS's of a ray along the gradient; its
        greatest within ``reach`` metres.
        """
        density, base = self._made_of(position, reach)
        return density, base[:, :3]

    def _made_of(self, position: Tensor, reach: float = 0.0) -> tuple[Tensor, Tensor]:
        """Density, and colour and material as ``pbr.answered``."""
        raw = self._raw(position)
        base = pbr.answered(raw[:, 1:])
        if self.spec.surface == "sdf":
            sharpness = self.log_sharpness.exp()
            return sharpness * torch.sigmoid(-sharpness * (self._distance(position, raw) - reach)), base
        radius = position.square().sum(-1) / self.spec.blob_std**2
        if self.spec.blob == "magic3d":
            blob = self.spec.blob_scale * (1 - radius.sqrt())
        else:
            blob = self.spec.blob_scale * torch.exp(-0.5 * radius)
        scale = self.spec.scale_at(int(self.age))
        return scale * torch.nn.functional.softplus(raw[:, 0] + blob), base

    def _raw(self, position: Tensor) -> Tensor:
        """The network's numbers ``[N,4]``, or ``[N,6]`` with a material."""
        unit = (position * (0.5 / BOUND) + 0.5).clamp(0, 1)
        encoded = encode(unit, self.table, self.grid, self.half, self.spec.backend)
        if self.spec.level_every:
            there = self.spec.levels_from + max(int(self.age) - self.spec.level_start, 0) // self.spec.level_every
            if there < self.spec.levels:
                level = torch.arange(self.grid.width, device=position.device) // self.spec.features
                encoded = encoded * (level < there)
        (raw,) = fused_mlp(encoded, self.weights, backend=self.spec.backend)
        return raw

    def _distance(self, position: Tensor, raw: Tensor) -> Tensor:
        """Signed distance ``[N]`` in metres, negative inside."""
        distance: Tensor = position.norm(dim=-1) - self.spec.sdf_radius + raw[:, 0]
        return distance

    def _look(self, cameras: Cameras, seed: int) -> Callable[[Tensor, Tensor], Looked]:
        """What points are as seen by the pixels of ``cameras``."""
        shade, pixels = self.lit.shade(cameras, int(self.age), seed), cameras.height * cameras.width
        directions = rays(cameras)[1].reshape(-1, 3) if self.spec.surface == "sdf" else None

        def look(position: Tensor, ray: Tensor) -> Looked:
            if directions is not None:
                density, base, gradient = self._crossed(position, directions.index_select(0, ray))
                normal: Tensor | None = torch.nn.functional.normalize(gradient, dim=-1)
            else:
                density, base = self._made_of(position)
                normal, gradient = None, None
                if self.spec.normals or shade is not None:
                    climb = slope(lambda p: self.field(p)[0], position, self.step)
                    normal = torch.nn.functional.normalize(-climb, dim=-1)
            if shade is None:
                rgb = base[:, :3]
            else:
                assert normal is not None
                rgb = shade(base, normal, position, ray // pixels)
            return Looked(density, rgb, normal if self.spec.normals else None, gradient)

        return look

    def _crossed(self, position: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Density, ``pbr.answered`` and gradient of the distance, where a step of a ray along ``direction`` crosses f.

        NeuS, eq. 13: alpha = (Phi(f before) - Phi(f behind)) / Phi(f before), with f half a step before and behind
        from its slope along the ray, which must fall. The density is what has this alpha over a step.
        """
        raw = self._raw(position)
        here = self._distance(position, raw)
        gradient = slope(lambda p: self._distance(p, self._raw(p)), position, self.step)
        half = (direction * gradient).sum(-1).clamp_max(0) * (self.step / 2)
        sharpness = self.log_sharpness.exp()
        # Phi(f before) / Phi(f behind) >= 1; its logarithm is the optical depth of the step
        before, behind = sharpness * (here - half), sharpness * (here + half)
        depth = torch.nn.functional.logsigmoid(before) - torch.nn.functional.logsigmoid(behind)
        return depth / self.step, pbr.answered(raw[:, 1:]), gradient

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. The scene is one whole: it knows no ``parts``."""
        if parts:
            raise DreamforgeError(
                f"parts {list(parts)} of a HashNerf were asked for, but it has none; leave parts out."
            )
        behind = self.sky.seen(cameras, self.spec.backend) if background is None else background
        look = self._look(cameras, seed)
        sdf = self.spec.surface == "sdf"
        return volume_render(
            (lambda position, ray: look(position, ray).density)
            if sdf
            else (lambda position, ray: self.field(position)[0]),
            look,
            occupied(self.opacity, self.spec.occupancy_threshold),
            cameras,
            behind,
            seed,
            step=self.step,
            bound=BOUND,
            backend=self.spec.backend,
        )

    def param_groups(self) -> list[ParamGroup]:
        sparse = {"sparse": self.spec.sparse_adam, "backend": self.spec.backend}
        groups: list[ParamGroup] = [
            {"params": [self.table], "lr": self.spec.lr_encoding, "name": "encoding", **sparse},
            {"params": self.weights, "lr": self.spec.lr_mlp, "name": "mlp"},
        ]
        if self.spec.surface == "sdf":
            groups.append({"params": [self.log_sharpness], "lr": self.spec.lr_sharpness, "name": "sharpness"})
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": self.spec.lr_background, "name": "background"})
        return groups

    def adapt(self, step: int, seed: int) -> None:
        """Renew the half table; look where the density is now, every ``occupancy_every`` steps."""
        self._renew_half()
        self.age.fill_(step + 1)
        if (step + 1) % self.spec.occupancy_every == 0:
            self._survey(generator(seed, "occupancy"), self.spec.occupancy_decay)

    def _survey(self, draws: torch.Generator, decay: float) -> None:
        # A sharp surface may pass between the point and its cell's far corner: distances count from there.
        reach = 3**0.5 * 2 * BOUND / self.spec.occupancy_cells
        points = cell_points(self.spec.occupancy_cells, BOUND, draws).to(self.table)
        density, _ = evaluate(lambda position: self.field(position, reach), points)
        seen = -torch.expm1(-density * self.step)
        self.opacity = decayed(self.opacity, seen.view_as(self.opacity), decay)

    def density_field(self) -> Field:
        """See ``convert.HasField``."""
        return self.field

    def extract(self, resolution: int) -> Mesh:
        """See ``types.Scene``; colours are albedo, and with the material, where there is a light; else as shown."""
        where: dict[str, Any] = {"step": self.step, "device": self.table.device, "bound": BOUND}
        if self.spec.surface == "sdf":
            return distance_surface(lambda p: self._distance(p, self._raw(p)), self._made_of, resolution, **where)
        return volume_surface(self._made_of, resolution, **where)

    def state(self) -> State:
        return copied(self._tensors())

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of a scene of other sizes."""
        restore(self._tensors(), state, "HashNerf")
        self._renew_half()

    @torch.no_grad()
    def _renew_half(self) -> None:
        if self.half is not None:
            self.half.copy_(self.table)

    def _tensors(self) -> State:
        layers = {f"mlp.{number}": weight for number, weight in enumerate(self.weights)}
        return {"table": self.table, **layers, **self.sky.tensors(), "occupancy": self.opacity, "age": self.age} | (
            {"sharpness": self.log_sharpness} if self.spec.surface == "sdf" else {}
        )
