"""Objects that are parts of one mesh: joined, taken apart, decimated, and written under their names."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

from dreamforge.export.arrays import checked
from dreamforge.export.gltf import glb_bytes
from dreamforge.export.prepare import prepare
from dreamforge.export.read import load_mesh
from dreamforge.export.write import export
from dreamforge.geometry.parts import apart, joined
from dreamforge.ops.raster import texture
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import ball, two_objects

EXTRAS = {"prompt": "a stone and a pebble", "seed": 7}


def test_meshes_are_joined_with_what_all_of_them_have() -> None:
    corners, face = torch.eye(3), torch.tensor([[0, 1, 2]])
    plain = Mesh(corners, face, colors=corners, normals=corners)
    rough = replace(plain, material=torch.full((3, 2), 0.5))
    both = joined([plain, rough])
    assert both.faces.tolist() == [[0, 1, 2], [3, 4, 5]] and both.material is None
    assert both.colors is not None and both.colors.shape == (6, 3)
    assert joined([rough, rough]).material is not None
    assert joined([plain, replace(plain, colors=None)]).colors is None
    named = joined([plain, joined([rough, rough])], ["a", "b"])
    assert named.parts == (("a", 1), ("b", 2)) and both.parts == ()
    for one, given in zip(apart(named), [plain, joined([rough, rough])], strict=True):
        assert torch.equal(one.vertices, given.vertices) and torch.equal(one.faces, given.faces) and one.parts == ()
        assert one.colors is not None and one.normals is not None and one.material is None
    assert apart(both) == [both]
    assert [one.material.shape for one in apart(joined([rough, rough], ["a", "b"])) if one.material is not None] == [
        (3, 2),
        (3, 2),
    ]


@pytest.mark.parametrize("kind", ["glb", "obj"])
@pytest.mark.parametrize("size", [0, 64])
def test_parts_are_objects_of_their_names_to_others(tmp_path: Path, kind: str, size: int) -> None:
    mesh = prepare(two_objects(), 400, texture=size)
    assert [name for name, _ in mesh.parts] == ["stone", "pebble"] and len(mesh.faces) <= 400
    export(mesh, tmp_path / f"a.{kind}", kind, EXTRAS)
    found = trimesh.load_scene(tmp_path / f"a.{kind}", split_objects=True, group_material=False)
    nodes = {name: found.geometry[found.graph[name][1]] for name in found.graph.nodes_geometry}
    assert set(nodes) == {"stone", "pebble"}
    for name, one in nodes.items():
        assert len(one.faces) == dict(mesh.parts)[name] > 50
        middle = 0.0 if name == "stone" else 1.2
        assert one.bounds.mean(0) == pytest.approx([middle, 0, 0], abs=0.02)
    back = load_mesh(tmp_path / f"a.{kind}")
    assert (back.texture is None) == (size == 0) and len(back.faces) == len(mesh.faces)
    assert torch.equal(
        back.vertices[back.faces].sum((0, 1)).round(decimals=2), mesh.vertices[mesh.faces].sum((0, 1)).round(decimals=2)
    )


def test_parts_stand_below_one_node_that_has_the_notes() -> None:
    data = glb_bytes(two_objects(), EXTRAS)
    document: dict[str, Any] = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    assert document["scenes"] == [{"nodes": [0]}]
    assert document["nodes"][0] == {"name": "asset", "children": [1, 2], "extras": EXTRAS}
    assert document["nodes"][1:] == [{"name": "stone", "mesh": 0}, {"name": "pebble", "mesh": 1}]
    assert [one["name"] for one in document["meshes"]] == ["stone", "pebble"]


def test_each_part_takes_its_own_colours_into_the_texture() -> None:
    given = two_objects()
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    given = replace(given, colors=torch.where(given.vertices[:, :1] < 0.7, red, blue))
    for part, color in zip(apart(prepare(given, 400, delight=False, texture=64)), (red, blue), strict=True):
        assert part.texture is not None and part.uv is not None
        torch.testing.assert_close(texture(part.texture, part.uv), color.expand(len(part.uv), 3), rtol=0, atol=0.02)


@pytest.mark.parametrize("first", [0, 3])
def test_parts_that_are_not_the_faces_are_refused(first: int) -> None:
    """An empty one, and too few faces together."""
    whole = len(ball(12).faces)
    mesh = replace(ball(12), parts=(("a", first), ("b", whole - 2 * first)))
    with pytest.raises(DreamforgeError, match=f"parts of {first}, {whole - 2 * first} faces"):
        checked(mesh)


def test_a_mesh_under_one_texture_is_one_whole_before_and_after_its_state() -> None:
    """The state has no names: a run that stopped would otherwise end in another file."""
    scene = TexturedScene(Textured(size=64), two_objects(), 0, torch.device("cpu"))
    again = TexturedScene(Textured(size=64), two_objects(), 0, torch.device("cpu"))
    again.load_state(scene.state())
    assert scene.extract(16).parts == again.extract(16).parts == ()
