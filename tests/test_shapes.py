"""Building blocks of the toybox against closed forms: volumes, areas, normals, transforms."""

from collections import Counter

import numpy as np
import pytest

from dreamforge.toybox.shapes import (
    Part,
    ball,
    box,
    capsule,
    cylinder,
    dome,
    extrude,
    join,
    lathe,
    mirrored,
    ring,
    rotation_matrix,
    rounded_box,
    tube,
)

HEXAGON = [(np.cos(a), np.sin(a)) for a in np.radians(np.arange(0, 360, 60))]
CLOSED = {
    "ball": ball((0.2, -0.1, 0.4), 0.7, "main"),
    "ellipsoid": ball((0.2, -0.1, 0.4), (0.7, 0.3, 1.1), "main"),
    "dome": dome((0.1, 0.2, 0.3), (0.5, 0.4, 0.6), "main"),
    "cylinder": cylinder((0.1, 0.2, 0.3), (0.5, 1.0, -0.4), 0.3, "main"),
    "downward cylinder": cylinder((0, 1, 0), (0, -1, 0), 0.3, "main"),
    "frustum": cylinder((0, 0, 0), (0, 0, 2), 0.5, "main", end_radius=0.2),
    "cone": cylinder((0, 0, 0), (1, 0, 0), 0.5, "main", end_radius=0.0),
    "capsule": capsule((0, 0, 0), (0.3, 0.8, 0.1), 0.25, "main"),
    "ring": ring((0.1, 0.2, 0.3), 0.8, 0.2, "main"),
    "ring around x": ring((0.1, 0.2, 0.3), 0.8, 0.2, "main", axis="x"),
    "ring around z": ring((0.1, 0.2, 0.3), 0.8, 0.2, "main", axis="z"),
    "tube": tube([(0, 0, 0), (0.3, 0.5, 0), (0.2, 1.0, 0.4), (0, 1.3, 0.4)], (0.2, 0.15, 0.2, 0.1), "main"),
    "extrude": extrude(HEXAGON, 0.4, "main", (1, 2, 3)),
    "box": box((0.1, 0.2, 0.3), (1.0, 0.4, 0.6), "main"),
    "rounded box": rounded_box((0, 0, 0), (1.0, 0.8, 0.3), 0.2, "main"),
    "lathe": lathe([(0, 0), (0.8, 0), (0.4, 0.7), (0.6, 1.0), (0, 1.2)], "main"),
}
every_shape = pytest.mark.parametrize("name", CLOSED)


def corners(part: Part) -> np.ndarray:
    return part.vertices[part.faces]


def volume(part: Part) -> float:
    """The divergence theorem: signed tetrahedra from the origin; positive where faces are seen from outside."""
    a, b, c = corners(part).transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def area(part: Part) -> float:
    a, b, c = corners(part).transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2)


def polygon(n: int) -> float:
    """Area of the regular n-gon in the unit circle."""
    return n / 2 * np.sin(2 * np.pi / n)


@every_shape
def test_closed_and_wound_from_outside(name):
    """Every edge is walked once in each direction, and the volume inside is positive."""
    part = CLOSED[name]
    _, merged = np.unique(part.vertices.round(9) + 0.0, axis=0, return_inverse=True)
    triangles = merged.reshape(-1)[part.faces]
    edges = Counter((int(a), int(b)) for i in range(3) for a, b in triangles[:, [i, (i + 1) % 3]] if a != b)
    assert all(edges[b, a] == count for (a, b), count in edges.items())
    assert volume(part) > 0


@every_shape
def test_normals_are_unit_and_agree_with_the_winding(name):
    part = CLOSED[name]
    np.testing.assert_allclose(np.linalg.norm(part.normals, axis=-1), 1.0, atol=1e-12)
    a, b, c = corners(part).transpose(1, 0, 2)
    face = np.cross(b - a, c - a)
    face /= np.linalg.norm(face, axis=-1, keepdims=True)
    assert (part.normals[part.faces] * face[:, None]).sum(-1).min() > 0.5


@pytest.mark.parametrize("n", [8, 20])
def test_volumes_are_those_of_the_polygons_drawn(n):
    """Exact for n segments: the circle's pi becomes the area of the n-gon."""
    k = polygon(n)
    assert volume(cylinder((1, 2, 3), (1, 2, 5), 0.5, "main", segments=n)) == pytest.approx(k * 0.25 * 2)
    assert volume(cylinder((0, 0, 0), (2, 0, 0), 0.5, "main", 0.0, n)) == pytest.approx(k * 0.25 * 2 / 3)
    frustum = cylinder((0, 0, 0), (0, 3, 0), 0.5, "main", 0.2, n)
    assert volume(frustum) == pytest.approx(k * 3 / 3 * (0.25 + 0.1 + 0.04))
    assert volume(tube([(0, 0, 0), (0, 0, 1), (0, 0, 2)], 0.3, "main", n)) == pytest.approx(k * 0.09 * 2)
    # Pappus: the tube's cross-section is drawn as a regular polygon of 12 corners, of area 3 r^2
    assert volume(ring((0, 0, 0), 0.8, 0.2, "main", segments=n)) == pytest.approx(2 * k * 0.8 * 3 * 0.04)


def test_volumes_approach_those_of_smooth_solids():
    fine = 360
    assert volume(ball((1, 1, 1), 0.7, "main", fine)) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=1e-3)
    ellipsoid = ball((0, 0, 0), (0.7, 0.3, 1.1), "main", fine)
    assert volume(ellipsoid) == pytest.approx(4 / 3 * np.pi * 0.7 * 0.3 * 1.1, rel=1e-3)
    assert area(ball((0, 0, 0), 0.7, "main", fine)) == pytest.approx(4 * np.pi * 0.49, rel=1e-3)
    assert volume(dome((0, 0, 0), 0.7, "main", fine)) == pytest.approx(2 / 3 * np.pi * 0.7**3, rel=1e-3)
    whole = np.pi * 0.25**2 * 0.9 + 4 / 3 * np.pi * 0.25**3  # cylinder and two half balls
    assert volume(capsule((0, 0, 0), (0, 0, 0.9), 0.25, "main", fine)) == pytest.approx(whole, rel=0.01)


def test_boxes_and_extrusions():
    cube = box((0.1, 0.2, 0.3), (1.0, 0.4, 0.6), "main")
    assert volume(cube) == pytest.approx(0.24) and area(cube) == pytest.approx(2 * (0.4 + 0.6 + 0.24))
    np.testing.assert_allclose(cube.vertices.min(0), [-0.4, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(cube.vertices.max(0), [0.6, 0.4, 0.6], atol=1e-12)
    assert len(np.unique(cube.normals.round(6), axis=0)) == 6, "edges are hard"
    assert volume(extrude(HEXAGON, 0.4, "main")) == pytest.approx(polygon(6) * 0.4)
    soft = rounded_box((0, 0, 0), (1.0, 0.8, 0.3), 0.2, "main")
    assert volume(soft) == pytest.approx((0.8 - 0.04 * (4 - polygon(16))) * 0.3)


def test_a_ball_has_the_normals_of_a_sphere_and_of_an_ellipsoid():
    sphere = ball((0.2, 0.3, 0.4), 0.7, "main", 40)
    inner = np.abs(sphere.vertices[:, 1] - 0.3) < 0.65  # at the poles the profile has one neighbour only
    radial = (sphere.vertices - [0.2, 0.3, 0.4]) / 0.7
    assert np.abs(sphere.normals - radial)[inner].max() < 1e-9
    radii = np.array([0.7, 0.3, 1.1])
    ellipsoid = ball((0, 0, 0), radii, "main", 40)
    gradient = ellipsoid.vertices / radii**2
    gradient /= np.linalg.norm(gradient, axis=-1, keepdims=True)
    inner = np.abs(ellipsoid.vertices[:, 1]) < 0.27
    assert np.abs(ellipsoid.normals - gradient)[inner].max() < 1e-9


def test_a_cone_has_slanted_normals():
    cone = cylinder((0, 0, 0), (0, 2, 0), 1.0, "main", 0.0)
    side = cone.normals[:, 1] > 0
    np.testing.assert_allclose(cone.normals[side, 1], 1 / np.sqrt(5), atol=1e-9)


def test_cylinders_and_capsules_reach_from_end_to_end():
    for end in ((0, 0, 2), (1, 1, 1), (0, -1, 0), (0.3, 0, -1)):
        axis = np.asarray(end) / np.linalg.norm(end)
        along = cylinder((0, 0, 0), end, 0.1, "main").vertices @ axis
        assert along.min() == pytest.approx(0, abs=1e-9) and along.max() == pytest.approx(np.linalg.norm(end))
        along = capsule((0, 0, 0), end, 0.1, "main").vertices @ axis
        assert along.min() == pytest.approx(-0.1) and along.max() == pytest.approx(np.linalg.norm(end) + 0.1)


def test_rings_lie_around_their_axis():
    for axis, thin in (("x", 0), ("y", 1), ("z", 2)):
        size = np.ptp(ring((0, 0, 0), 0.8, 0.2, "main", axis=axis).vertices, axis=0)
        expected = np.full(3, 2.0)
        expected[thin] = 0.4
        np.testing.assert_allclose(size, expected, atol=1e-9)


def test_turning_follows_the_right_hand():
    for axis, before, after in (("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y")):
        turned = rotation_matrix(axis, 90.0) @ np.eye(3)["xyz".index(before)]
        np.testing.assert_allclose(turned, np.eye(3)["xyz".index(after)], atol=1e-12)
    about = box((1, 2, 3), (1, 1, 1), "main").turned("z", 180.0, about=(0, 2, 0))
    middle = (about.vertices.min(0) + about.vertices.max(0)) / 2
    np.testing.assert_allclose(middle, [-1, 2, 3], atol=1e-12)


def test_transforms_keep_volume_and_normals_right():
    part = CLOSED["lathe"]
    assert volume(part.moved((3, -2, 5))) == pytest.approx(volume(part))
    assert volume(part.turned("x", 33.0, (1, 2, 3))) == pytest.approx(volume(part))
    stretched = part.scaled((2.0, 0.5, 3.0), about=(1, 1, 1))
    assert volume(stretched) == pytest.approx(3.0 * volume(part))
    np.testing.assert_allclose(np.linalg.norm(stretched.normals, axis=-1), 1.0, atol=1e-12)
    fixed = box((1, 1, 1), (2, 2, 2), "main").scaled(3.0, about=(0, 0, 0))
    np.testing.assert_allclose(fixed.vertices.max(0), [6, 6, 6], atol=1e-12)
    assert part.painted("second").color == "second" and part.color == "main"


def test_a_mirror_image_is_wound_from_outside_too():
    one, other = mirrored(cylinder((0.2, 0, 0), (0.9, 0.4, 0.3), 0.1, "main", 0.05))
    assert volume(other) == pytest.approx(volume(one)) and volume(one) > 0
    np.testing.assert_allclose(other.vertices, one.vertices * [-1, 1, 1])
    np.testing.assert_allclose(other.normals, one.normals * [-1, 1, 1])


def test_joined_parts_keep_their_faces():
    one, two = box((0, 0, 0), (1, 1, 1), "main"), ball((3, 0, 0), 0.5, "second")
    both = join([one, two])
    assert volume(both) == pytest.approx(volume(one) + volume(two))
    assert both.color == "main" and len(both.vertices) == len(one.vertices) + len(two.vertices)
