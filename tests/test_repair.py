"""Repairs, each on a mesh that is broken in one way, and what must be left alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from dreamforge.geometry.repair import repair
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import area, ball


def made(solid: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(solid.vertices, dtype=torch.float32), torch.from_numpy(np.array(solid.faces, np.int64)))


def sphere() -> Mesh:
    return made(trimesh.creation.icosphere(subdivisions=2))


def volume(mesh: Mesh) -> float:
    return float((mesh.vertices[mesh.faces].mean(1) * area(mesh)).sum() / 6)


def with_faces(mesh: Mesh, *faces: list[int]) -> Mesh:
    return replace(mesh, faces=torch.cat([mesh.faces, torch.tensor(faces)]))


def test_a_good_mesh_stays_as_it_is() -> None:
    given = ball(12)
    found, said = repair(given)
    assert said == []
    for name in ("vertices", "faces", "normals", "colors"):
        assert torch.equal(getattr(found, name), getattr(given, name))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda m: with_faces(m, [0, 1, 999], [-1, 2, 3]), "2 faces name absent vertices"),
        (lambda m: with_faces(m, [0, 0, 1]), "1 face has no area"),
        (lambda m: with_faces(m, m.faces[0].tolist(), m.faces[1, [1, 2, 0]].tolist()), "2 faces are there twice"),
        (lambda m: replace(m, vertices=torch.cat([m.vertices, torch.ones(3, 3)])), "3 vertices belong to no face"),
        (
            lambda m: with_faces(
                replace(m, vertices=torch.cat([m.vertices, torch.full((1, 3), torch.nan)])), [162, 1, 2]
            ),
            "1 vertex is not finite and left out with 1 faces",
        ),
    ],
)
def test_what_cannot_be_drawn_goes_and_is_counted_in_one_sentence(broken, words: str) -> None:
    given = sphere()
    found, (said,) = repair(broken(given))
    assert words in said
    assert torch.equal(found.vertices, given.vertices) and torch.equal(found.faces, given.faces)
    assert found.normals is not None
    assert float((found.normals * given.vertices).sum(1).min()) > 0.999


def test_faces_agree_again_and_the_fewest_are_turned() -> None:
    one, other = sphere(), made(trimesh.creation.box())
    pair = Mesh(torch.cat([one.vertices, other.vertices + 3]), torch.cat([one.faces, other.faces + len(one.vertices)]))
    faces = pair.faces.clone()
    faces[[3, 50, 51, 320, 325]] = faces[[3, 50, 51, 320, 325]].flip(1)
    found, said = repair(replace(pair, faces=faces))
    assert said == ["5 faces were turned to agree with the neighbours"]
    assert volume(found) == pytest.approx(volume(pair))
    assert float((area(found) * area(pair)).sum(1).min()) > 0


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e12])
def test_a_mesh_that_is_inside_out_is_turned_at_any_scale(scale: float) -> None:
    given = replace(sphere(), vertices=sphere().vertices * scale)
    found, said = repair(replace(given, faces=given.faces.flip(1)))
    assert said == ["the surface was inside out and turned"]
    assert found.normals is not None and float((found.normals * sphere().vertices).sum(1).min()) > 0.99


def test_a_hollow_stays_hollow() -> None:
    outer, inner = sphere(), sphere()
    given = Mesh(
        torch.cat([outer.vertices, inner.vertices / 2]),
        torch.cat([outer.faces, inner.faces.flip(1) + len(outer.vertices)]),
    )
    found, said = repair(given)
    assert said == [] and torch.equal(found.faces, given.faces)


def test_what_is_open_or_not_manifold_is_told_and_stays() -> None:
    cup = replace(sphere(), faces=sphere().faces[:200])
    found, said = repair(cup)
    assert any("open at" in text for text in said) and len(found.faces) == 200
    fin = with_faces(replace(sphere(), vertices=torch.cat([sphere().vertices, torch.full((1, 3), 2.0)])), [0, 11, 162])
    assert (fin.faces == 0).any(1).logical_and((fin.faces == 11).any(1)).sum() >= 1
    found, said = repair(with_faces(fin, [*fin.faces[0, :2].tolist(), 162]))
    assert any("not manifold: 1 edge has three or more faces" in text for text in said)
    assert len(found.faces) == len(sphere().faces) + 2


def test_a_one_sided_surface_is_left_alone() -> None:
    """A Moebius band has no outside: no turning of faces makes all neighbours agree."""
    turns, count = torch.arange(24) / 24 * 2 * torch.pi, 24
    rim = torch.stack([turns.cos(), turns.sin(), torch.zeros(count)], 1)
    across = torch.stack([(turns / 2).cos() * turns.cos(), (turns / 2).cos() * turns.sin(), (turns / 2).sin()], 1) * 0.3
    low, high = torch.arange(count), torch.arange(count) + count
    next_low, next_high = low.roll(-1), high.roll(-1)
    next_low[-1], next_high[-1] = count, 0
    faces = torch.cat([torch.stack([low, next_low, high], 1), torch.stack([high, next_low, next_high], 1)])
    found, said = repair(Mesh(torch.cat([rim - across, rim + across]), faces))
    assert torch.equal(found.faces, faces)
    assert not any("turned" in text for text in said)


def test_a_seam_of_the_texture_is_no_opening() -> None:
    box = trimesh.creation.box()
    apart = made(trimesh.Trimesh(box.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False))
    found, said = repair(replace(apart, uv=torch.zeros(36, 2), texture=torch.zeros(2, 2, 3)))
    assert said == [] and len(found.vertices) == 36


def test_colours_and_coordinates_that_are_no_numbers() -> None:
    given = replace(sphere(), colors=torch.full((162, 3), 2.0))
    assert given.colors is not None
    given.colors[5, 0] = torch.nan
    found, said = repair(given)
    assert said == ["colours of 1 vertex are not finite and set to 0.5"]
    assert found.colors is not None and found.colors[5].tolist() == [0.5] * 3 and found.colors[6].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "vertices", [torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]])]
)
def test_nothing_left_is_a_sentence(vertices: torch.Tensor) -> None:
    with pytest.raises(DreamforgeError, match="no triangles that can be drawn"):
        repair(Mesh(vertices, torch.tensor([[0, 1, 2]])))
