"""The nearest points of meshes: closed forms, and an exhaustive search."""

import torch

from dreamforge.geometry.nearest import Nearest, closest
from dreamforge.toybox.objects import make
from tests.meshes import ball


def test_places_on_a_triangle() -> None:
    """Above it, beyond each edge and each corner."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    cases = [
        ([0.25, 0.25, 2.0], [0.5, 0.25, 0.25], 2.0),
        ([0.5, -1.0, 0.0], [0.5, 0.5, 0.0], 1.0),
        ([-1.0, 0.25, 0.0], [0.75, 0.0, 0.25], 1.0),
        ([1.0, 1.0, 0.0], [0.0, 0.5, 0.5], 0.5**0.5),
        ([-3.0, -4.0, 0.0], [1.0, 0.0, 0.0], 5.0),
        ([2.0, -0.5, 0.0], [0.0, 1.0, 0.0], 1.25**0.5),
        ([-0.5, 3.0, 0.0], [0.0, 0.0, 1.0], 4.25**0.5),
    ]
    points, weights, far = (torch.tensor(column) for column in zip(*cases, strict=True))
    bary, distance = closest(points, corners.expand(len(points), 3, 3))
    torch.testing.assert_close(bary, weights)
    torch.testing.assert_close(distance, far)


def test_a_triangle_without_an_area_is_a_line() -> None:
    corners = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0]], [[1.0, 1, 1]] * 3])
    bary, distance = closest(torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 3.0]]), corners)
    torch.testing.assert_close(distance, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close((bary[..., None] * corners).sum(1), torch.tensor([[2.0, 0, 0], [1, 1, 1]]))


def test_it_is_the_best_of_all_faces() -> None:
    """Near a toy of large and small triangles, without regard to where they look."""
    mesh = make("mug", None, 3).mesh((0.8, 0.1, 0.1))
    draws = torch.Generator().manual_seed(0)
    on = mesh.vertices[torch.randint(len(mesh.vertices), (100,), generator=draws)]
    points = on + 0.02 * torch.randn(100, 3, generator=draws)
    nearest = Nearest(mesh.vertices, mesh.faces)
    corners = mesh.vertices[mesh.faces]
    _, every = closest(points[:, None].expand(-1, len(corners), -1), corners.expand(100, -1, -1, -1))
    either = []
    for sign in (1, -1):  # of a point's face, or against it: one of both is the nearest of all
        face, bary = nearest(points, sign * nearest.normals[every.argmin(1)])
        either.append(((bary[..., None] * corners[face]).sum(1) - points).norm(dim=1))
    torch.testing.assert_close(torch.minimum(*either), every.amin(1), atol=2e-4, rtol=0)


def test_a_plate_has_two_sides() -> None:
    """From the middle of a thin one: the side that is asked for, though the other is as near."""
    square = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    lift = torch.tensor([0.0, 0, 0.01])
    nearest = Nearest(torch.cat([square + lift, square - lift]), torch.cat([faces, faces.flip(1) + 4]))
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.8, 1.8, 0]) - 0.9
    points[:, 2] = -0.002
    up = torch.tensor([0.0, 0, 1]).expand(50, 3)
    assert (nearest(points, up)[0] < 2).all() and (nearest(points, -up)[0] >= 2).all()


def test_points_on_a_mesh_are_found_where_they_are() -> None:
    mesh = ball(24)
    middles = mesh.vertices[mesh.faces].mean(1)
    face, bary = Nearest(mesh.vertices, mesh.faces)(middles, middles)
    assert torch.equal(face, torch.arange(len(face)))
    torch.testing.assert_close(bary, torch.full_like(bary, 1 / 3), atol=1e-2, rtol=0)
