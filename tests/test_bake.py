"""Maps: what is baked is found again at every point of the surface, through every level, from one chart alone."""

import pytest
import torch
from torch import Tensor

from dreamforge.geometry.bake import Texels, bake, texels_of
from dreamforge.geometry.unwrap import unwrap
from dreamforge.ops.raster import texture
from dreamforge.toybox.objects import make
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import ball, quad
from tests.test_unwrap import charts

SIZE = 512


def mug() -> Mesh:
    return make("mug", None, 3).mesh((0.8, 0.1, 0.1))


def marble() -> Mesh:
    return ball(16)


def points(mesh: Mesh, values: Tensor, count: int = 20_000) -> Tensor:
    """What the corners of faces carry, ``[V,K]``, at the same random points of the surface, borders of faces too."""
    draws = torch.Generator().manual_seed(0)
    face = torch.randint(len(mesh.faces), (count,), generator=draws)
    weights = torch.rand(count, 3, generator=draws)
    weights[::3, 0] = 0  # on an edge
    weights[::9, 1] = 0  # at a corner
    weights = weights / weights.sum(1, keepdim=True)
    return (weights[..., None] * values[mesh.faces[face]]).sum(1)


def texel(mesh: Mesh, size: int) -> float:
    """The side of a texel on the surface, in metres."""
    assert mesh.uv is not None
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    u, v, w = (mesh.uv * size)[mesh.faces].unbind(1)
    there = torch.linalg.cross(b - a, c - a).norm(dim=1).sum()
    one, two = v - u, w - u
    return float((there / (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum()).sqrt())


@pytest.mark.parametrize("make_mesh", [marble, mug])
def test_a_linear_field_is_found_again_at_every_point(make_mesh) -> None:
    """Within two texels' steps of it: one for a point at a chart's border, beyond the last centre."""
    mesh = unwrap(make_mesh(), SIZE)
    assert mesh.uv is not None
    slope = torch.tensor([[0.3, -0.1, 0.2], [0.1, 0.4, -0.2], [0.05, 0.0, 0.45]])

    def field(position: Tensor, normal: Tensor) -> Tensor:
        return 0.5 + position @ slope.T

    got = texture(bake(mesh, SIZE, field), points(mesh, mesh.uv))
    wanted = field(points(mesh, mesh.vertices), got)
    step = texel(mesh, SIZE) * float(torch.linalg.matrix_norm(slope, 2))
    error = (got - wanted).norm(dim=1)
    assert error.max() < 2 * step and error.mean() < 0.2 * step


def test_what_vertices_carry_and_the_normals_are_baked_alike() -> None:
    mesh = unwrap(marble(), SIZE)
    assert mesh.uv is not None and mesh.colors is not None and mesh.normals is not None
    texels = texels_of(mesh.uv, mesh.faces, SIZE, SIZE)
    from_vertices = texels.filled(texels.mix(mesh.colors, mesh.faces))
    torch.testing.assert_close(from_vertices, bake(mesh, SIZE, lambda p, n: (p + 1) / 2), atol=1e-5, rtol=0)
    facing = bake(mesh, SIZE, lambda p, n: n)
    torch.testing.assert_close(facing.norm(dim=-1), torch.ones(SIZE, SIZE), atol=1e-5, rtol=0)
    place = bake(mesh, SIZE, lambda p, n: torch.nn.functional.normalize(p, dim=-1))
    assert (facing * place).sum(-1).min() > 0.99
    bare = Mesh(mesh.vertices, mesh.faces, uv=mesh.uv)
    assert (bake(bare, SIZE, lambda p, n: n) * place).sum(-1).min() > 0.9, "without normals: those of the faces"


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("make_mesh", [marble, mug])
def test_no_chart_bleeds_into_another(make_mesh, level: float) -> None:
    """Every chart in a colour of its own: a look-up finds that of its point, from the picture to a quarter of it.

    Gutters are 8 texels of 1024: half of that, and two texels more on either side that the last level mixes in.
    """
    mesh = unwrap(make_mesh(), 1024)
    assert mesh.uv is not None
    chart = charts(mesh.faces)
    palette = torch.rand(int(chart.max()) + 1, 3, generator=torch.Generator().manual_seed(1))
    texels = texels_of(mesh.uv, mesh.faces, 1024, 1024)
    painted = texels.filled(palette[chart[texels.face]])
    color = torch.zeros(len(mesh.vertices), 3)
    color[mesh.faces] = palette[chart][:, None].expand(-1, 3, -1)
    uv = points(mesh, mesh.uv)
    got = texture(painted, uv, torch.full((len(uv),), level), "trilinear")
    off = (got - points(mesh, color)).abs().amax(1)
    if level < 2:
        assert off.max() < 1e-4
    else:
        assert (off > 1e-4).float().mean() < 0.05 and off.mean() < 2e-3


def test_gutters_take_the_nearest_texel_and_charts_keep_their_own() -> None:
    uv = torch.tensor([[0.0, 0.0], [0.25, 0.0], [0.0, 1.0], [1.0, 0.0], [0.75, 0.0], [1.0, 1.0]])
    texels = texels_of(uv, torch.tensor([[0, 1, 2], [3, 4, 5]]), 16, 16)
    column = texels.source % 16
    assert (column[:, 0] == 0).all() and (column[:, 15] == 15).all()
    assert (column[0, :8] <= 3).all() and (column[0, 8:] >= 12).all(), "to the middle between both"
    assert torch.equal(texels.source.flatten()[texels.number], texels.number)


def test_a_face_smaller_than_a_texel_gets_one() -> None:
    """And two such faces in one texel: the first; a face that covers centres already loses none."""
    big = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    small = torch.tensor([[0.80, 0.80], [0.81, 0.80], [0.80, 0.81]])
    uv = torch.cat([big, small, small, small - 0.75])
    texels = texels_of(uv, torch.arange(12).view(4, 3), 16, 16)
    assert (texels.number[texels.face == 1] == 12 * 16 + 12).all() and int((texels.face == 1).sum()) == 1
    assert not (texels.face >= 2).any()
    assert isinstance(texels, Texels) and (texels.bary.sum(1) - 1).abs().max() < 1e-6


def test_what_cannot_be_baked() -> None:
    with pytest.raises(DreamforgeError, match="no uv"):
        bake(marble(), 64, lambda p, n: p)
    away = quad()
    assert away.uv is not None
    with pytest.raises(DreamforgeError, match="no texel"):
        texels_of(away.uv + 3, away.faces, 64, 64)
