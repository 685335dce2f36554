"""A mesh that stays as it is and learns its texture: texels over its coordinates, or a field of colours."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge.geometry.bake import Texels, texels_of
from dreamforge.geometry.distance import signed_distance
from dreamforge.geometry.unwrap import unwrap
from dreamforge.ops.dispatch import Backend
from dreamforge.ops.hashgrid import HashGrid
from dreamforge.ops.isosurface import grid
from dreamforge.ops.raster import interpolate, mip_level, texture
from dreamforge.render.light import linear_to_srgb, srgb_to_linear
from dreamforge.render.raster import vertex_normals
from dreamforge.render.surface import Corners, Drawn, Triangles, draw
from dreamforge.render.volume import Field
from dreamforge.rng import generator
from dreamforge.scenes.color_field import ColorField
from dreamforge.scenes.lit import Kind as LitKind
from dreamforge.scenes.lit import Lit
from dreamforge.scenes.mesh import BOUND, MARGIN, WALL
from dreamforge.scenes.sky import Kind, Sky
from dreamforge.scenes.state import copied, restore
from dreamforge.types import Cameras, DreamforgeError, Mesh, ParamGroup, RenderOutput, State, Surface

GREY = 0.5  # sRGB, of a mesh without colours
CELLS = 40  # along an edge of the grid of distances that a density field asks


@dataclass(frozen=True)
class Textured:
    """A mesh with a texture of ``size``^2 texels; without a mesh, a sphere of ``radius`` metres.

    ``texture``: "texels" learn one by one and are looked up trilinear; "field" is a hash field of ``levels`` grids
    from ``coarsest`` to ``finest`` vertices with a network of ``hidden`` units, baked when it is extracted. Texels lie
    on the mesh's own coordinates where it has some, else on new charts; they ``start`` as its "own" picture or colours,
    where it has them, or "grey": a guidance refines what it sees, and hardly gives a red thing another colour. A field
    starts grey. Everything else as of ``mesh.SdfMesh``.
    """

    texture: Literal["texels", "field"] = "texels"
    start: Literal["own", "grey"] = "own"
    size: int = 512
    radius: float = 0.6
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
    background: Kind = "solid"
    background_color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    backend: Backend = "auto"
    lr_texels: float = 0.05
    lr_encoding: float = 1e-2
    lr_mlp: float = 1e-2
    lr_background: float = 1e-3

    def __post_init__(self) -> None:
        power = self.size & (self.size - 1) == 0
        if not power or not 16 <= self.size <= 4096 or not 0 < self.radius < BOUND or self.oversample < 1:
            raise DreamforgeError(
                f"size {self.size}, radius {self.radius} and oversample {self.oversample} were given; a power of two "
                f"from 16 to 4096 texels, a radius between 0 and {BOUND:g} metres and at least 1 are expected."
            )

    def build(self, seed: int, device: torch.device | str = "cpu") -> "TexturedScene":
        """A grey sphere; a ``TexturedScene`` is made of any other mesh directly, or by ``load_state``."""
        import trimesh

        ball = trimesh.creation.icosphere(subdivisions=3, radius=self.radius)
        vertices, faces = torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces.copy()).long()
        return TexturedScene(self, Mesh(vertices, faces), seed, device)


@dataclass(frozen=True)
class Shape:
    """What stays: ``mesh`` with normals and coordinates; ``joined``, the same faces without seams, which outlines need;
    ``texels``, those of the map that lie on it."""

    mesh: Mesh
    joined: Triangles
    texels: Texels

    @staticmethod
    def of(mesh: Mesh, size: int) -> "Shape":
        """``mesh`` has coordinates; normals that it lacks are smooth, across seams too."""
        assert mesh.uv is not None
        vertices, origin = torch.unique(mesh.vertices, dim=0, return_inverse=True)
        faces = origin[mesh.faces]
        normals = vertex_normals(vertices, faces)[origin] if mesh.normals is None else mesh.normals
        texels = texels_of(mesh.uv, mesh.faces, size, size)
        return Shape(replace(mesh, normals=normals), Triangles.of(vertices, faces), texels)


class TexturedScene:
    """A ``Scene``: a mesh, whose texture alone learns."""

    def __init__(self, spec: Textured, mesh: Mesh, seed: int, device: torch.device | str) -> None:
        """``mesh`` in [-1, 1]^3, with texture, vertex colours or neither. Raises DreamforgeError where it cannot be
        unwrapped."""
        self.spec = spec
        self.shape = Shape.of(_on(_charted(mesh, spec.size), device), spec.size)
        draws = generator(seed, "textured")
        # A shape that stays learns nothing from white pictures.
        self.lit = Lit(spec.shading, spec.lit_from, spec.lit_share, textureless=0.0)
        self.age = torch.zeros((), dtype=torch.int64)  # steps so far
        self.texels: Tensor | None = None
        self.color: ColorField | None = None
        if spec.texture == "texels":
            shown = mesh if spec.start == "own" else Mesh(mesh.vertices, mesh.faces)
            start = _start(_on(shown, device), self.shape.texels)
            self.texels = torch.logit(start, 1 / 255).requires_grad_()
        else:
            growth = (spec.finest / spec.coarsest) ** (1 / max(spec.levels - 1, 1))
            sizes = HashGrid(spec.levels, spec.features, spec.log2_entries, spec.coarsest, growth)
            self.color = ColorField(sizes, spec.hidden, draws, device, BOUND * MARGIN, spec.backend)
        self.sky = Sky(spec.background, spec.background_color, draws, device)

    def render(
        self, cameras: Cameras, background: Tensor | None = None, seed: int = 0, parts: Sequence[str] | None = None
    ) -> RenderOutput:
        """See ``types.Scene``. The scene is one whole: it knows no ``parts``."""
        if parts:
            raise DreamforgeError(
                f"parts {list(parts)} of a Textured were asked for, but it has none; leave parts out."
            )
        behind = self.sky.seen(cameras, self.spec.backend) if background is None else background
        shade = self.lit.shade(cameras, int(self.age), seed)
        mesh, joined = self.shape.mesh, self.shape.joined
        assert mesh.normals is not None
        drawn = draw(
            joined,
            cameras,
            oversample=self.spec.oversample,
            normals=Corners(mesh.normals, mesh.faces),
            derivatives=self.texels is not None,
            backend=self.spec.backend,
        )
        albedo = self._albedo(drawn)
        rgb = albedo if shade is None else shade(albedo, drawn.normal, drawn.position, drawn.view)
        picture = drawn.picture(rgb, behind)
        return replace(picture, surface=Surface(joined.vertices, joined.faces, joined.across))

    def _albedo(self, drawn: Drawn) -> Tensor:
        """The colours ``[P,3]`` that pixels see."""
        if self.color is not None:
            return self.color(drawn.position)
        mesh, size, backend = self.shape.mesh, self.spec.size, self.spec.backend
        assert mesh.uv is not None and drawn.dx is not None and drawn.dy is not None
        uv, right, down = (
            interpolate(mesh.uv, mesh.faces, drawn.face, weights, backend=backend)
            for weights in (drawn.bary, drawn.dx, drawn.dy)
        )
        # As shown, as pixels are averaged too: in linear light, as engines look up, a render would take three times as
        # long, and only borders finer than a pixel would differ.
        return texture(self.picture(), uv, mip_level(right, down, size, size), "trilinear", backend=backend)

    def picture(self) -> Tensor:
        """The texture, sRGB ``[size,size,3]``: what is between charts continues them."""
        if self.texels is not None:
            return self.shape.texels.spread(torch.sigmoid(self.texels))
        assert self.color is not None
        mesh, texels = self.shape.mesh, self.shape.texels
        return texels.filled(self.color(texels.mix(mesh.vertices, mesh.faces)))

    def param_groups(self) -> list[ParamGroup]:
        spec = self.spec
        if self.texels is not None:
            groups: list[ParamGroup] = [{"params": [self.texels], "lr": spec.lr_texels, "name": "texels"}]
        else:
            assert self.color is not None
            groups = [
                {"params": [self.color.table], "lr": spec.lr_encoding, "name": "encoding"},
                {"params": self.color.weights, "lr": spec.lr_mlp, "name": "mlp"},
            ]
        if self.sky.params:
            groups.append({"params": self.sky.params, "lr": spec.lr_background, "name": "background"})
        return groups

    def adapt(self, step: int, seed: int) -> None:
        self.age.fill_(step + 1)

    def density_field(self) -> Field:
        """See ``convert.HasField``: as dense as a wall within a few millimetres, everywhere in the colour of the
        nearest texel."""
        from scipy.spatial import cKDTree

        mesh, texels = self.shape.mesh, self.shape.texels
        points, _ = grid(CELLS, BOUND * MARGIN, "cpu")
        box = signed_distance(_on(mesh, "cpu"), points, BOUND * MARGIN).view([1, 1] + [CELLS + 1] * 3)
        box = box.to(mesh.vertices.device)
        nearest = cKDTree(texels.mix(mesh.vertices, mesh.faces).cpu().numpy())
        shown = self.picture().detach().flatten(0, 1).index_select(0, texels.number)

        def field(position: Tensor) -> tuple[Tensor, Tensor]:
            at = (position / (BOUND * MARGIN)).flip(1).view(1, 1, 1, -1, 3)
            distance = torch.nn.functional.grid_sample(box, at, padding_mode="border", align_corners=True).flatten()
            _, number = nearest.query(position.detach().cpu().numpy())
            color = shown.index_select(0, torch.from_numpy(number).to(shown.device))
            return WALL * torch.sigmoid(-WALL * distance), color

        return field

    @torch.no_grad()
    def extract(self, resolution: int) -> Mesh:
        """See ``types.Scene``. The mesh as it is, whatever the ``resolution``, with its texture: one whole."""
        return _on(replace(self.shape.mesh, texture=self.picture(), parts=()), "cpu")

    def state(self) -> State:
        return copied(self._still() | self._learns())

    def load_state(self, state: State) -> None:
        """The mesh comes with the state. Raises DreamforgeError for the state of a texture of other sizes."""
        still: dict[str, Any] = {name: state[name] for name in self._still() if name in state}
        if len(still) == 4 and all(value.shape[1:] == (3 - (name == "uv"),) for name, value in still.items()):
            self.shape = Shape.of(_on(Mesh(**still), self.sky.color.device), self.spec.size)
        restore(self._still() | self._learns(), state, "Textured")

    def _still(self) -> State:
        mesh = self.shape.mesh
        assert mesh.uv is not None and mesh.normals is not None
        return {"vertices": mesh.vertices, "faces": mesh.faces, "normals": mesh.normals, "uv": mesh.uv}

    def _learns(self) -> State:
        learns = {"texels": self.texels} if self.texels is not None else {}
        field = self.color.tensors() if self.color is not None else {}
        return {"age": self.age, **learns, **field, **self.sky.tensors()}


def _charted(mesh: Mesh, size: int) -> Mesh:
    """The mesh's own coordinates, if there are any and none repeats the picture; else new ones. Without colours."""
    own = mesh.uv is not None and float(mesh.uv.min()) > -1e-4 and float(mesh.uv.max()) < 1 + 1e-4
    return replace(mesh if own else unwrap(mesh, size), texture=None, colors=None, material=None)


def _start(mesh: Mesh, texels: Texels) -> Tensor:
    """The map that shows what ``mesh``, of the same faces, shows: its picture, its colours, or grey."""
    if mesh.texture is not None and mesh.uv is not None:
        uv = texels.mix(mesh.uv, mesh.faces)
        shrink = max(max(mesh.texture.shape[:2]) / len(texels.source), 1)
        level = torch.full_like(uv[:, 0], shrink).log2()
        linear = texture(srgb_to_linear(mesh.texture), uv, level, "trilinear")
    elif mesh.colors is not None:
        linear = texels.mix(srgb_to_linear(mesh.colors), mesh.faces)
    else:
        return torch.full((*texels.source.shape, 3), GREY, device=texels.face.device)
    return texels.filled(linear_to_srgb(linear).clamp(0, 1))


def _on(mesh: Mesh, device: torch.device | str) -> Mesh:
    given = {one.name: getattr(mesh, one.name) for one in fields(mesh)}
    moved: dict[str, Any] = {name: value.to(device) for name, value in given.items() if isinstance(value, Tensor)}
    return replace(mesh, **moved)
