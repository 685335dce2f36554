import math

import numpy as np
import pytest
import torch

from dreamforge.cameras import orbit, project, rays, turntable
from dreamforge.ops import scanline
from dreamforge.ops.raster import interpolate, rasterize
from dreamforge.render.light import SOFT, Light, delight, linear_to_srgb, shading, srgb_to_linear
from dreamforge.render.raster import render_layers, render_mesh, vertex_normals
from dreamforge.toybox.shapes import ball, box
from dreamforge.types import DreamforgeError, Mesh

WHITE = torch.ones(3)


def front(height=64, width=64, distance=3.0, fov=0.7):
    return orbit(torch.zeros(1), torch.zeros(1), distance, fov, height, width)


def flat(points, faces, size, depth=None):
    """Faces drawn straight in pixel coordinates."""
    pixels = torch.as_tensor(points, dtype=torch.float32)[None]
    depth = torch.ones(pixels.shape[:2]) if depth is None else torch.as_tensor(depth)[None]
    return rasterize(pixels, depth, torch.as_tensor(faces), size, size)


def solid(part, color=None):
    colors = None if color is None else torch.tensor(color, dtype=torch.float32).expand(len(part.vertices), 3)
    return Mesh(
        torch.tensor(part.vertices).float(), torch.tensor(part.faces), torch.tensor(part.normals).float(), colors
    )


def random_mesh(count, seed, dtype=torch.float32):
    draws = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 1, 3, generator=draws) * 1.6 - 0.8
    corners = centre + (torch.rand(count, 3, 3, generator=draws) - 0.5)
    return corners.reshape(-1, 3).to(dtype), torch.arange(3 * count).view(-1, 3)


# ---- the rasteriser


def test_square_covers_the_analytic_pixels():
    # centres from 2.5 to 6.5 in x, 1.5 to 3.5 in y; the left and upper edge are exactly on centres: they belong to it
    found = flat([[2.5, 1.5], [7.5, 1.5], [7.5, 4.5], [2.5, 4.5]], [[0, 1, 2], [0, 2, 3]], 10)
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[1:4, 2:7] = True
    assert torch.equal(found.face[0] >= 0, expected)


def test_shared_edges_leave_no_gap_and_no_double_pixel():
    """A jittered grid fills its picture: each pixel belongs to exactly one face, whichever way the faces wind."""
    n, size = 8, 32
    axis = torch.linspace(-4, size + 4, n)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).clone()
    points[1:-1, 1:-1] += torch.randn(n - 2, n - 2, 2, generator=torch.Generator().manual_seed(0))
    points[2:5] = (points[2:5] * 2).round() / 2  # many vertices and edges exactly on centres
    index = torch.arange(n * n).view(n, n)
    a, b, c, d = (x.flatten() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([b, c, d], 1)])
    alone = sum((flat(points.view(-1, 2), face[None], size).face >= 0).int() for face in faces)
    assert torch.equal(alone[0], torch.ones(size, size, dtype=torch.int32))


def test_one_triangle_is_where_the_half_planes_say():
    corners = torch.tensor([[3.3, 2.1], [28.7, 9.2], [8.4, 30.6]])
    found = flat(corners, [[0, 1, 2]], 32)
    centre = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy"), -1) + 0.5
    side = [
        (q[0] - p[0]) * (centre[..., 1] - p[1]) - (q[1] - p[1]) * (centre[..., 0] - p[0])
        for p, q in zip(corners, corners.roll(-1, 0), strict=True)
    ]
    assert torch.equal(found.face[0] >= 0, torch.stack(side).amin(0) > 0)
    covered = found.face[0] >= 0
    assert torch.allclose((found.bary[0] @ corners)[covered], centre[covered], atol=1e-4)
    assert torch.equal(found.bary[0][~covered], torch.zeros(int((~covered).sum()), 3))


def test_both_windings_are_drawn_alike():
    corners = [[3.3, 2.1], [28.7, 9.2], [8.4, 30.6]]
    one, other = flat(corners, [[0, 1, 2]], 32), flat(corners, [[2, 1, 0]], 32)
    assert torch.equal(one.face, other.face) and (one.face >= 0).any()
    assert torch.allclose(one.bary, other.bary.flip(-1), atol=1e-5)


def test_the_nearer_face_wins_where_two_cross():
    """Two planes that intersect in the column x = 16: each is in front on its side."""
    points = [[0, 0], [32, 0], [32, 32], [0, 32]] * 2
    depth = [1.0, 3.0, 3.0, 1.0, 3.0, 1.0, 1.0, 3.0]  # 1/z is affine and equal in the middle
    found = flat(points, [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], 32, depth)
    first = found.face[0] < 2
    assert first[:, :16].all() and not first[:, 16:].any()


def test_equal_depth_goes_to_the_lower_face_in_any_order():
    points = [[0, 0], [16, 0], [0, 16]]
    assert flat(points, [[0, 1, 2], [0, 1, 2]], 8).face.max() == 0
    assert flat(points, [[1, 2, 0], [0, 1, 2]], 8).face.max() == 0


def test_faces_behind_the_camera_or_degenerate_are_left_out():
    points = torch.tensor([[0.0, 0.5, 9], [0.5, -0.5, 9], [-0.5, -0.5, 9], [0, 0.5, 0], [0, 0.5, 0], [0.5, 0, 0]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    pixels, depth = project(points, front())
    assert (rasterize(pixels, depth, faces, 64, 64).face == -1).all()
    bad = pixels.clone()
    bad[0, 3] = torch.nan
    assert (rasterize(bad, depth.abs(), faces[1:], 64, 64).face == -1).all()


def test_slivers_do_not_come_through_a_huge_wall_in_front():
    """Triangles as thin as rounding has ill-conditioned depth slopes; they must keep to their corners' depths."""
    draws, count = torch.Generator().manual_seed(1), 5000
    along = torch.randn(count, 3, 1, generator=draws) * 20 * torch.randn(count, 1, 2, generator=draws)
    thin = 2e-6 * torch.randn(count, 3, 2, generator=draws)
    slivers = torch.randint(0, 32, (count, 1, 2), generator=draws) + 0.5 + along + thin  # across a pixel's centre
    wall = torch.tensor([[[-1e6, -1e6], [2e6, -1e6], [-1e6, 2e6]]])
    depth = torch.cat([1.6 + torch.rand(3 * count, generator=draws), torch.full((3,), 1.5)])
    faces = torch.arange(3 * count + 3).view(-1, 3)
    found = flat(torch.cat([slivers, wall]).view(-1, 2), faces, 32, depth)
    assert (found.face == count).all()
    behind = flat(torch.cat([slivers, wall]).view(-1, 2), faces, 32, torch.cat([depth[:-3], torch.full((3,), 2.7)]))
    assert (behind.face < count).any() and (behind.face >= 0).all()
    assert torch.allclose(behind.bary.sum(-1), torch.ones(1, 32, 32), atol=1e-5)
    assert behind.depth.min() > 1.599 and behind.depth.max() < 2.701


def test_depth_and_attributes_are_perspective_correct():
    """On a slanted plane the interpolated world position lies on the pixel's ray, at the depth."""
    points = torch.tensor([[-0.9, -0.8, 0.9], [0.8, -0.9, -0.9], [0.1, 0.9, 0.2]])
    faces, cameras = torch.tensor([[0, 1, 2]]), front()
    pixels, depth = project(points, cameras)
    found = rasterize(pixels, depth, faces, 64, 64)
    hit = found.face[0] >= 0
    place = interpolate(points, faces, found.face, found.bary)[0][hit]
    origins, directions = (r[0][hit] for r in rays(cameras))
    normal = torch.linalg.cross(points[1] - points[0], points[2] - points[0])
    distance = ((points[0] - origins) @ normal) / (directions @ normal)
    assert hit.sum() > 300
    assert torch.allclose(place, origins + distance[:, None] * directions, atol=1e-4)
    assert torch.allclose(found.depth[0][hit], 3.0 - place[:, 2], atol=1e-4)


def test_sphere_matches_the_analytic_one():
    mesh, cameras = solid(ball((0, 0, 0), 0.7, "red", segments=160)), front(96, 96)
    pixels, depth = project(mesh.vertices, cameras)
    found = rasterize(pixels, depth, mesh.faces, 96, 96)
    origins, directions = (r[0].double() for r in rays(cameras))
    along = -(origins * directions).sum(-1)
    miss = (origins + along[..., None] * directions).norm(dim=-1)
    hit = found.face[0] >= 0
    assert torch.equal(hit[(miss - 0.7).abs() > 0.002], (miss < 0.7)[(miss - 0.7).abs() > 0.002])
    inner = miss < 0.65
    t = along - (0.49 - miss**2).clamp_min(0).sqrt()
    z = t * -directions[..., 2]
    assert (found.depth[0] - z)[inner].abs().max() < 2e-3


def test_random_mesh_agrees_with_ray_casting():
    trimesh = pytest.importorskip("trimesh")
    points, faces = random_mesh(80, seed=5)
    cameras = orbit(torch.tensor([0.6]), torch.tensor([0.4]), 3.2, 0.7, 40, 40)
    pixels, depth = project(points, cameras)
    found = rasterize(pixels, depth, faces, 40, 40)
    origins, directions = (r.reshape(-1, 3).double() for r in rays(cameras))
    face = cast(trimesh, points, faces, origins, directions)
    nudged = [cast(trimesh, points, faces, origins, directions + d) for d in 1e-3 * torch.eye(3).double()]
    safe = np.logical_and.reduce([face == other for other in nudged])  # away from edges
    assert safe.mean() > 0.9 and 0.2 < (face >= 0).mean() < 0.95
    assert np.array_equal(found.face.flatten().numpy()[safe], face[safe])


def cast(trimesh, points, faces, origins, directions):
    """First face along each ray, from trimesh's triangle tests (no acceleration structure needed)."""
    triangles = points[faces].double().numpy()
    best, face = np.full(len(origins), np.inf), np.full(len(origins), -1)
    for index, triangle in enumerate(triangles):
        normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        t = ((triangle[0] - origins.numpy()) @ normal) / (directions.numpy() @ normal)
        place = origins.numpy() + t[:, None] * directions.numpy()
        bary = trimesh.triangles.points_to_barycentric(np.broadcast_to(triangle, (len(t), 3, 3)), place)
        nearer = (bary.min(1) > 0) & (t > 0) & (t < best)
        best[nearer], face[nearer] = t[nearer], index
    return face


def test_chunks_and_order_do_not_change_the_result(monkeypatch):
    points, faces = random_mesh(300, seed=2)
    pixels, depth = project(points, turntable(2, height=50, width=40))
    whole = rasterize(pixels, depth, faces, 50, 40, backend="torch")
    assert whole.face.shape == (2, 50, 40)
    monkeypatch.setattr(scanline, "CHUNK", 1499)
    parts = rasterize(pixels, depth, faces, 50, 40, backend="torch")
    assert torch.equal(whole.face, parts.face) and torch.equal(whole.depth, parts.depth)
    turned = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))
    mixed = rasterize(pixels, depth, faces[turned], 50, 40)
    assert torch.equal(torch.where(mixed.face >= 0, turned[mixed.face], -1), whole.face)


def test_float64_agrees_with_float32():
    points, faces = random_mesh(100, seed=3, dtype=torch.float64)
    cameras = front()
    low = rasterize(*project(points.float(), cameras), faces, 64, 64)
    high = rasterize(*project(points, cameras), faces, 64, 64)
    assert high.depth.dtype == torch.float64
    same = low.face == high.face
    assert same.float().mean() > 0.999
    assert torch.allclose(low.depth[same].double(), high.depth[same], atol=1e-4)


# ---- the pictures


def test_axes_are_where_the_conventions_put_them():
    arms = {0: box((0.5, 0, 0), (0.8, 0.1, 0.1), "x"), 1: box((0, 0.5, 0), (0.1, 0.8, 0.1), "y")}
    arms[2] = box((0, 0, 0.5), (0.1, 0.1, 0.8), "z")
    pieces = [solid(part, torch.eye(3)[i].tolist()) for i, part in arms.items()]
    offset = np.cumsum([0] + [len(p.vertices) for p in pieces[:-1]])
    mesh = Mesh(
        torch.cat([p.vertices for p in pieces]),
        torch.cat([p.faces + int(o) for p, o in zip(pieces, offset, strict=True)]),
        colors=torch.cat([p.colors for p in pieces]),
    )
    degrees = torch.tensor([0.0, 30, 90, 180, 270])
    cameras = orbit(torch.deg2rad(degrees), torch.full((5,), 0.35), 3.0, 0.8, 64, 64)
    rgb = render_mesh(mesh, cameras, torch.zeros(3), light=None).rgb
    x = torch.arange(64.0)
    column = (rgb * x[None, None, :, None]).sum((1, 2)) / rgb.sum((1, 2)) - 31.5
    row = (rgb * x[None, :, None, None]).sum((1, 2)) / rgb.sum((1, 2)) - 31.5
    for i, angle in enumerate(degrees.tolist()):
        right = torch.tensor([math.cos(math.radians(angle)), 0.0, -math.sin(math.radians(angle))])
        for axis in range(3):
            if abs(right[axis]) > 0.4:
                assert column[i, axis] * right[axis] > 2, (angle, axis)
            else:
                assert abs(column[i, axis]) < 2, (angle, axis)
        assert row[i, 1] < -5
    assert row[0, 2] > 3 and row[3, 2] < 1  # +Z points at the front camera: down; away from the back one


def test_a_mesh_without_faces_is_background():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    background = torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.0, 0.5]])
    out = render_mesh(empty, turntable(2, height=5, width=4), background)
    assert torch.allclose(out.rgb, background[:, None, None].expand(2, 5, 4, 3), atol=1e-6)
    assert out.alpha.abs().max() == 0 and out.depth.abs().max() == 0 and out.normal.abs().max() == 0


def test_one_pixel_shows_what_is_in_the_middle():
    mesh = solid(ball((0, 0, 0), 0.9, "red"), (0.9, 0.1, 0.2))
    out = render_mesh(mesh, front(1, 1, fov=0.1), WHITE, light=None)
    assert out.rgb.shape == (1, 1, 1, 3) and out.alpha.item() == 1.0
    assert torch.allclose(out.rgb[0, 0, 0], torch.tensor([0.9, 0.1, 0.2]), atol=1e-5)
    assert abs(out.depth.item() - 2.1) < 0.02


def test_alpha_is_partial_only_along_the_outline_and_sums_to_the_area():
    size = 61
    mesh, cameras = solid(ball((0, 0, 0), 0.6, "red", segments=120)), front(size, size)
    alpha = render_mesh(mesh, cameras, WHITE, antialias=3).alpha[0, ..., 0]
    focal = float(cameras.intrinsics[0, 0, 0])
    radius = focal * 0.6 / math.sqrt(9 - 0.36)  # of the sphere's outline, in pixels
    away = (torch.stack(torch.meshgrid(*[torch.arange(size) + 0.5 - size / 2] * 2, indexing="ij")).norm(dim=0)) - radius
    partial = (alpha > 0) & (alpha < 1)
    assert partial.sum() > 40 and away[partial].abs().max() < 1.0
    assert (alpha[away < -1] == 1).all() and (alpha[away > 1] == 0).all()
    assert abs(float(alpha.sum()) / (math.pi * radius**2) - 1) < 0.005
    hard = render_mesh(mesh, cameras, WHITE, antialias=1).alpha
    assert set(hard.unique().tolist()) == {0.0, 1.0}


def test_layers_recolour_to_the_same_picture_as_the_mesh():
    mesh = solid(ball((0.1, 0.2, 0), (0.6, 0.4, 0.5), "red"))
    weight = torch.rand(len(mesh.vertices), 1, generator=torch.Generator().manual_seed(0))
    layers = torch.cat([weight, 1 - weight], 1)
    paint = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]])  # linear
    cameras, background = turntable(3, height=24, width=20), torch.tensor([0.3, 0.9, 0.5])
    out = render_layers(mesh.vertices, mesh.faces, mesh.normals, layers, cameras)
    assert out.shape == (3, 24, 20, 3)
    colour, alpha = out[..., :2] @ paint, out[..., 2:]
    rgb = linear_to_srgb(colour + (1 - alpha) * srgb_to_linear(background))
    painted = Mesh(mesh.vertices, mesh.faces, mesh.normals, linear_to_srgb(layers @ paint))
    expected = render_mesh(painted, cameras, background)
    assert torch.allclose(rgb, expected.rgb, atol=1e-5) and torch.allclose(alpha, expected.alpha)
    assert 0.1 < alpha.mean() < 0.9


def test_the_lit_colour_and_the_normal_of_a_wall_are_exact():
    wall = Mesh(
        torch.tensor([[-2.0, -2, 0], [2, -2, 0], [2, 2, 0], [-2, 2, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        colors=torch.full((4, 3), 0.5),
    )
    out = render_mesh(wall, front(6, 6), WHITE)
    assert torch.allclose(out.normal, torch.tensor([0.0, 0, 1]).expand(1, 6, 6, 3), atol=1e-6)
    assert torch.allclose(out.depth, torch.full((1, 6, 6, 1), 3.0), atol=1e-5)
    cosine = 0.34 / math.hypot(0.94, 0.34)
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 * (0.45 + 0.55 * (0.5 + 0.5 * cosine))
    expected = 1.055 * linear ** (1 / 2.4) - 0.055
    assert torch.allclose(out.rgb, torch.full((1, 6, 6, 3), expected), atol=1e-5)


def test_edges_are_mixed_in_linear_light():
    half = Mesh(
        torch.tensor([[0.0, -9, 0], [9, -9, 0], [9, 9, 0], [0, 9, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        colors=torch.ones(4, 3),
    )
    out = render_mesh(
        half, front(3, 3), torch.zeros(3), light=None, antialias=2
    )  # the edge is the middle column's middle
    assert torch.allclose(out.alpha[0, :, 1], torch.full((3, 1), 0.5))
    assert torch.allclose(out.rgb[0, :, 1], torch.full((3, 3), 0.735357), atol=1e-5)  # sRGB of linear 0.5


def test_texture_is_read_from_the_top_left_bilinear_and_repeating():
    texture = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    wall = Mesh(
        torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]]),
        texture=texture,
    )
    cameras = front(40, 40, fov=2 * math.atan(1 / 3))  # the wall fills the picture
    rgb = render_mesh(wall, cameras, WHITE, light=None, antialias=1).rgb[0]
    texel = srgb_to_linear(rgb)[[[9, 9], [30, 30]], [[9, 30], [9, 30]]]  # beside the texel centres at 10 and 30
    assert (texel - texture).abs().max() < 0.06
    middle = srgb_to_linear(rgb[19:21, 19:21].mean((0, 1)))
    assert torch.allclose(middle, texture.mean((0, 1)), atol=0.02)
    corner = srgb_to_linear(rgb[0, 0])  # repeating: all four texels meet in the corner too
    assert torch.allclose(corner, texture.mean((0, 1)), atol=0.06)
    moved = Mesh(wall.vertices, wall.faces, uv=wall.uv + 3, texture=texture)
    assert torch.allclose(render_mesh(moved, cameras, WHITE, light=None, antialias=1).rgb[0], rgb, atol=1e-3)


def test_vertex_normals_are_weighted_by_area():
    points = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]])
    normals = vertex_normals(points, torch.tensor([[0, 1, 2], [0, 3, 1]]))  # areas 2 (+z) and 1 (+y)
    assert torch.allclose(normals[0], torch.tensor([0, 1, 2.0]) / math.sqrt(5))
    assert torch.allclose(normals[2], torch.tensor([0, 0, 1.0])) and torch.allclose(
        normals[3], torch.tensor([0, 1.0, 0])
    )
    small = vertex_normals(points * 1e-4, torch.tensor([[0, 1, 2], [0, 3, 1]]))
    assert torch.allclose(small, normals, atol=1e-5)


def test_wrong_antialias_is_refused():
    with pytest.raises(DreamforgeError, match="antialias"):
        render_mesh(solid(ball((0, 0, 0), 0.5, "red")), front(4, 4), WHITE, antialias=0)


# ---- the light


def test_light_is_half_lambert_and_symmetric():
    up = torch.tensor([0.0, 0.94, 0.34]) / math.hypot(0.94, 0.34)
    side = torch.tensor([1.0, 0, 0])
    factors = shading(torch.stack([up, -up, side, -side]))
    assert factors.shape == (4, 1)
    assert torch.allclose(factors[:, 0], torch.tensor([1.0, 0.45, 0.725, 0.725]))
    other = shading(side, Light(direction=(7.0, 0, 0), ambient=0.1, diffuse=0.2))
    assert torch.allclose(other, torch.tensor([0.3]))


def test_srgb_is_the_standard_curve():
    values = torch.tensor([0.0, 0.04045, 0.5, 1.0])
    assert torch.allclose(srgb_to_linear(values), torch.tensor([0.0, 0.0031308, 0.2140411, 1.0]), atol=1e-6)
    ramp = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert torch.allclose(linear_to_srgb(srgb_to_linear(ramp)), ramp, atol=1e-6)
    assert torch.allclose(srgb_to_linear(linear_to_srgb(ramp)), ramp, atol=1e-6)
    for curve in (srgb_to_linear, linear_to_srgb):
        leaf = ramp.clone().requires_grad_()
        curve(leaf).sum().backward()
        assert torch.isfinite(leaf.grad).all() and (leaf.grad > 0).all()


def test_delight_undoes_the_light():
    draws = torch.Generator().manual_seed(0)
    albedo = torch.rand(500, 3, generator=draws)
    normals = torch.nn.functional.normalize(torch.randn(500, 3, generator=draws), dim=-1)
    shown = linear_to_srgb(srgb_to_linear(albedo) * shading(normals, SOFT))
    assert torch.allclose(delight(shown, normals, SOFT), albedo, atol=1e-5)
    assert (shown - albedo).abs().max() > 0.1
    clamped = delight(torch.ones(1, 3), -torch.tensor([[0.0, 0.94, 0.34]]))
    assert torch.allclose(clamped, torch.ones(1, 3)) and clamped.max() <= 1.0
