"""Meshes: the zero of signed distances on a grid (FlexiCubes, Shen et al. 2023; or tetrahedra), coloured by a field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamforge.geometry.points import quartered
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.isosurface import flexicubes, grid, marching_tetrahedra
from dreamforge.render import pbr
from dreamforge.render.raster import vertex_normals
from dreamforge.render.surface import Triangles, surface_render
from dreamforge.render.volume import Field
from dreamforge.rng import generator
from dreamforge.scenes.color_field import ColorField
from dreamforge.scenes.lit import Kind as LitKind
from dreamforge.scenes.lit import Lit
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import copied, restore
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, State, Surface

BOUND = 1.0  # the object lives in [-1, 1]^3
WALL = 200.0  # 1/m
MARGIN = 1.05  # the grid is this much larger, so that the surface closes before its border


@dataclass(frozen=True)
class SdfMesh:
    """A grid of ``resolution``^3 cubes whose vertices have a signed distance and move by up to half a cube.

    It starts as a sphere of ``radius`` metres, grey. ``surface``: "flexicubes", with weights that learn, or
    "tetrahedra". ``learn``: both parts, or "geometry" or "texture" alone. Colours are a hash field of ``levels`` grids
    from ``coarsest`` to ``finest`` vertices with a network of ``hidden`` units: as shown, or albedo under a ``shading``
    (see ``lit.Lit``), to which ``material`` "pbr" adds metallic and roughness (see ``render.pbr``). Every pixel is the
    mean of ``oversample``^2. ``background`` as of ``hash_nerf.HashNerf``.
    """

    surface: Literal["flexicubes", "tetrahedra"] = "flexicubes"
    resolution: int = 40
    radius: float = 0.6
    learn: Literal["all", "geometry", "texture"] = "all"
    levels: int = 6
    features: int = 2
    log2_entries: int = 16
    coarsest: int = 8
    finest: int = 128
    hidden: int = 32
    oversample: int = 2
    shading: LitKind = "none"
    lit_from: int = 0
    lit_share: float = 0.75
    textureless_share: float = 0.5
    material: pbr.Material = "none"
    background: Kind = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    backend: Backend = "auto"
    lr_distance: float = 5e-3
    lr_moves: float = 1e-2
    lr_weights: float = 1e-2
    lr_encoding: float = 1e-2
    lr_mlp: float = 1e-2
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
        if not 4 <= self.resolution <= 512 or not 0 < self.radius < BOUND or self.oversample < 1:
            raise DreamforgeError(
                f"resolution {self.resolution}, radius {self.radius} and oversample {self.oversample} were given; 4 to "
                f"512 cubes, a radius between 0 and {BOUND:g} metres and at least 1 are expected."
            )

    def build(self, seed: int, device: torch.device | str = "cpu") -> "MeshScene":
        """The scene at its start; drawn on the CPU, so that every device starts the same."""
        return MeshScene(self, seed, device)


class MeshScene:
    """A ``Scene``: distances, moves and weights of the grid, a colour field; each render makes the mesh anew."""

    def __init__(self, spec: SdfMesh, seed: int, device: torch.device | str) -> None:
        self.spec = spec
        self.points, cubes = grid(spec.resolution, BOUND * MARGIN, device)
        learns = spec.learn != "texture"
        self.distance = (self.points.norm(dim=1) - spec.radius).requires_grad_(learns)
        self.moves = torch.zeros_like(self.points).requires_grad_(learns)
        shapes = {"alpha": (8,), "beta": (12,), "gamma": ()}  # of FlexiCubes
        none = {name: torch.zeros(len(cubes), *shape, device=device) for name, shape in shapes.items()}
        self.weights = {name: one.requires_grad_(learns) for name, one in none.items()}
        growth = (spec.finest / spec.coarsest) ** (1 / max(spec.levels - 1, 1))
        sizes = HashGrid(spec.levels, spec.features, spec.log2_entries, spec.coarsest, growth)
        draws = generator(seed, "mesh")
        self.color = ColorField(sizes, spec.hidden, draws, device, BOUND * MARGIN, spec.backend, spec.material)
        white = spec.textureless_share if learns else 0.0  # a shape that stays learns nothing from white pictures
        self.lit = Lit(spec.shading, spec.lit_from, spec.lit_share, white)
        self.age = torch.zeros((), dtype=torch.int64)  # steps so far
        self.sky = Sky(spec.background, spec.background_color, draws, device)

    def geometry(self, training: bool) -> tuple[Triangles, Tensor | None]:
        """The mesh as it is now, and FlexiCubes' deviations."""
        spec = self.spec
        cube = 2 * BOUND * MARGIN / spec.resolution
        points = self.points + torch.tanh(self.moves) * (0.499 * cube)  # neighbours cannot meet
        if spec.surface == "tetrahedra":
            vertices, faces = marching_tetrahedra(points, self.distance, spec.resolution, backend=spec.backend)
            return Triangles.of(vertices, faces), None
        alpha, beta, gamma = self.weights.values()
        vertices, faces, deviation = flexicubes(
            points,
            self.distance,
            spec.resolution,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            training=training,
            backend=spec.backend,
        )
        return Triangles.of(vertices, faces), deviation

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. The scene is one whole: it knows no ``parts``."""
        if parts:
            raise DreamforgeError(
                f"parts {list(parts)} of an SdfMesh were asked for, but it has none; leave parts out."
            )
        behind = self.sky.seen(cameras, self.spec.backend) if background is None else background
        shade = self.lit.shade(cameras, int(self.age), seed)
        mesh, deviation = self.geometry(training=torch.is_grad_enabled())

        def colors(position: Tensor, normal: Tensor, view: Tensor) -> Tensor:
            base = self.color.base(position)
            if self.spec.learn == "geometry":
                base = base.detach()
            return base[:, :3] if shade is None else shade(base, normal, position, view)

        picture = surface_render(
            mesh, colors, cameras, behind, oversample=self.spec.oversample, backend=self.spec.backend
        )
        surface = Surface(mesh.vertices, mesh.faces, mesh.across, self._crossed(), deviation)
        return RenderOutput(picture.rgb, picture.alpha, picture.depth, picture.normal, surface=surface)

    def _crossed(self) -> Tensor:
        """The distances at both ends of the grid's edges that the surface crosses: ``[E,2]``."""
        box, size = self.distance.view([self.spec.resolution + 1] * 3), self.spec.resolution
        pairs = []
        for axis in range(3):
            low, high = box.narrow(axis, 0, size), box.narrow(axis, 1, size)
            crossed = ((low < 0) != (high < 0)).nonzero(as_tuple=True)
            pairs.append(torch.stack([low[crossed], high[crossed]], -1))
        return torch.cat(pairs)

    def param_groups(self) -> list[ParamGroup]:
        spec = self.spec
        groups: list[ParamGroup] = []
        if spec.learn != "texture":
            groups += [
                {"params": [self.distance], "lr": spec.lr_distance, "name": "distance"},
                {"params": [self.moves], "lr": spec.lr_moves, "name": "moves"},
            ]
            if spec.surface == "flexicubes":
                groups.append({"params": [*self.weights.values()], "lr": spec.lr_weights, "name": "weights"})
        if spec.learn != "geometry":
            groups += [
                {"params": [self.color.table], "lr": spec.lr_encoding, "name": "encoding"},
                {"params": self.color.weights, "lr": spec.lr_mlp, "name": "mlp"},
            ]
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": spec.lr_background, "name": "background"})
        return groups

    def adapt(self, step: int, seed: int) -> None:
        self.age.fill_(step + 1)

    def density_field(self) -> Field:
        """See ``convert.HasField``: as dense as a wall within a few millimetres, and the colours of the field."""

        def field(position: Tensor) -> tuple[Tensor, Tensor]:
            size = self.spec.resolution + 1
            box = self.distance.view(1, 1, size, size, size)
            at = (position / (BOUND * MARGIN)).flip(1).view(1, 1, 1, -1, 3)
            distance = torch.nn.functional.grid_sample(box, at, padding_mode="border", align_corners=True).flatten()
            return WALL * torch.sigmoid(-WALL * distance), self.color(position)

        return field

    def colors_at(self, position: Tensor, normal: Tensor) -> Tensor:
        """See ``types.HasColors``."""
        return self.color.base(position.to(self.points))

    @torch.no_grad()
    def extract(self, resolution: int) -> Mesh:
        """See ``types.Scene``. The mesh as it is, its faces cut in four until an edge is about 2 m / ``resolution``
        long, so that vertex colours show what the field knows. Raises DreamforgeError when it has vanished."""
        mesh, _ = self.geometry(training=False)
        if len(mesh.faces) == 0:
            raise DreamforgeError(
                "the signed distance is nowhere below 0, so there is no surface to extract; start from a larger radius "
                "or lower the learning rates."
            )
        vertices, faces = mesh.vertices, mesh.faces
        rounds = math.ceil(math.log2(max(resolution / self.spec.resolution, 1)))
        for _ in range(rounds):
            vertices, faces = quartered(vertices, faces)
        normals = vertex_normals(vertices, faces)
        colors, material = pbr.parted(self.color.base(vertices).cpu())
        return Mesh(vertices.cpu(), faces.cpu(), normals.cpu(), colors, material=material)

    def state(self) -> State:
        return copied(self._tensors())

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of a scene of other sizes."""
        restore(self._tensors(), state, "SdfMesh")

    def _tensors(self) -> State:
        grown = {"distance": self.distance, "moves": self.moves, "age": self.age, **self.weights}
        return {**grown, **self.color.tensors(), **self.sky.tensors()}
