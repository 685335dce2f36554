"""Texture coordinates: on the same surface, apart from each other, nearly undistorted, the same every time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamforge.geometry.bake import texels_of
from dreamforge.geometry.unwrap import unwrap
from dreamforge.ops.raster import rasterize
from dreamforge.toybox.objects import make
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import ball, quad

SIZE = 256


def mug() -> Mesh:
    return make("mug", None, 3).mesh((0.8, 0.1, 0.1))


def marble() -> Mesh:
    return ball(16)


def charts(faces: Tensor) -> Tensor:
    """The number of the chart of each face: faces that share vertices."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, two = faces.flatten(), faces.roll(1, 1).flatten()
    count = int(faces.max()) + 1
    _, labels = connected_components(coo_array((torch.ones(len(one)), (one, two)), shape=(count, count)))
    return torch.from_numpy(labels).long()[faces[:, 0]]


@pytest.mark.parametrize("make_mesh", [marble, mug])
def test_it_is_the_same_surface_with_everything_that_its_vertices_carry(make_mesh) -> None:
    mesh = make_mesh()
    mesh = replace(mesh, material=mesh.vertices[:, :2])
    out = unwrap(mesh, SIZE)
    assert out.uv is not None and out.uv.shape == (len(out.vertices), 2) and out.texture is None
    assert out.uv.min() >= 0 and out.uv.max() <= 1
    for name in ("vertices", "normals", "colors", "material"):
        before, after = getattr(mesh, name), getattr(out, name)
        assert torch.equal(after[out.faces], before[mesh.faces]), name


@pytest.mark.parametrize("make_mesh", [marble, mug])
def test_no_two_charts_are_nearer_than_a_gutter_also_across_the_borders(make_mesh) -> None:
    out = unwrap(make_mesh(), 512)
    assert out.uv is not None
    found = rasterize((out.uv * 512)[None], torch.ones(1, len(out.uv)), out.faces, 512, 512).face[0]
    label = torch.where(found < 0, -1, charts(out.faces)[found.clamp_min(0)])
    assert len(label.unique()) > 5
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 3), (3, 0), (2, 2), (2, -2)):  # a gutter is 4 texels of 512
        there = label.roll(shift, (0, 1))
        assert not ((label != there) & (label >= 0) & (there >= 0)).any()


@pytest.mark.parametrize("make_mesh", [marble, mug])
def test_texels_are_squares_of_one_size_and_faces_do_not_overlap(make_mesh) -> None:
    """Areas on the map are those on the surface but for one factor, and are covered once."""
    out = unwrap(make_mesh(), 1024)
    assert out.uv is not None
    a, b, c = out.vertices.double()[out.faces].unbind(1)
    there = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    u, v, w = out.uv.double()[out.faces].unbind(1)
    one, two = v - u, w - u
    here = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs() / 2
    density = (here / there)[there > 1e-6]
    middle = density.median()
    off = ((density / middle - 1).abs() > 0.5).double() * there[there > 1e-6]
    assert off.sum() < 0.05 * there.sum()
    covered = len(texels_of(out.uv, out.faces, 1024, 1024).number) / 1024**2
    assert covered == pytest.approx(float(here.sum()), rel=0.02)
    assert covered > 0.45


def test_it_is_deterministic() -> None:
    one, two = unwrap(mug(), SIZE), unwrap(mug(), SIZE)
    assert one.uv is not None and two.uv is not None
    assert torch.equal(one.uv, two.uv) and torch.equal(one.faces, two.faces)


def test_own_coordinates_and_picture_are_replaced() -> None:
    out = unwrap(quad(), 64)
    assert out.texture is None and out.uv is not None
    assert len(texels_of(out.uv, out.faces, 64, 64).number) > 0.8 * 64**2, "a square fills the square"


def test_what_cannot_be_unwrapped() -> None:
    with pytest.raises(DreamforgeError, match="an area"):
        unwrap(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])))
    with pytest.raises(DreamforgeError, match="at most 200000 triangles"):
        unwrap(Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]).expand(200_001, 3)))
