import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from dreamforge.export.gltf import glb_bytes, write_glb
from dreamforge.export.obj import write_obj
from dreamforge.export.ply import write_ply
from dreamforge.export.prepare import prepare
from dreamforge.export.read import load_mesh
from dreamforge.export.write import export
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import ball, quad, two_objects
from tests.tools import gltf_reports, require_tool

EXTRAS = {"prompt": 'a "red" mushroom,\n雪 # \\', "recipe": {"name": "default", "hash": "0a1b"}, "seed": 7}


def header(data: bytes) -> dict[str, Any]:
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    document: dict[str, Any] = json.loads(data[20 : 20 + size])
    return document


# --- what other readers see --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    path, mesh = tmp_path / f"my asset ünïcode 雪.{kind}", ball()
    export(mesh, path, kind, EXTRAS)
    back = load_mesh(path)
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=1e-6, rtol=0)
    assert torch.equal(back.faces, mesh.faces)
    assert mesh.normals is not None and mesh.colors is not None and back.normals is not None and back.colors is not None
    torch.testing.assert_close(back.normals, mesh.normals, atol=2e-5, rtol=0)
    # Bytes in PLY, decimals through bytes in OBJ, 16 bits of linear light in GLB.
    torch.testing.assert_close(back.colors, mesh.colors, atol=2e-4 if kind == "glb" else 2.1e-3, rtol=0)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_trimesh_agrees_that_the_outside_is_outside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"ball.{kind}"
    export(ball(), path, kind)
    mesh = trimesh.load_scene(path).to_geometry()
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)
    assert (mesh.face_normals * mesh.triangles_center).sum(-1).min() > 0
    assert (mesh.vertex_normals * mesh.vertices).sum(-1).min() > 0


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_texture_round_trip(tmp_path: Path, kind: str) -> None:
    path, mesh = tmp_path / f"my quad.{kind}", quad()
    export(mesh, path, kind)
    back = load_mesh(path)
    assert back.uv is not None and back.texture is not None and mesh.texture is not None
    assert torch.equal(back.texture, mesh.texture)
    assert mesh.uv is not None and back.colors is None
    place = [int((back.vertices - v).norm(dim=-1).argmin()) for v in mesh.vertices]
    torch.testing.assert_close(back.uv[place], mesh.uv, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_trimesh_sees_the_texture_the_right_way_up(tmp_path: Path, kind: str) -> None:
    export(quad(), tmp_path / f"q.{kind}", kind)
    mesh = trimesh.load_scene(tmp_path / f"q.{kind}").to_geometry()
    colors = mesh.visual.to_color().vertex_colors[:, :3]
    corner = int(np.argmin(np.linalg.norm(mesh.vertices - [-0.5, 0.5, 0], axis=-1)))
    assert colors[corner].tolist() == [255, 0, 0]


def shiny(mesh: Mesh) -> Mesh:
    """With metallic and roughness beside its colours or its texture."""
    draws = torch.Generator().manual_seed(0)
    size = (4, 8, 2) if mesh.texture is not None else (len(mesh.vertices), 2)
    return replace(mesh, material=(torch.rand(size, generator=draws) * 255).round() / 255)


def test_material_maps_round_trip(tmp_path: Path) -> None:
    mesh = shiny(quad())
    write_glb(mesh, tmp_path / "q.glb")
    back = load_mesh(tmp_path / "q.glb")
    assert back.material is not None and mesh.material is not None
    torch.testing.assert_close(back.material, mesh.material, atol=1e-6, rtol=0)
    write_glb(quad(), tmp_path / "plain.glb")
    assert load_mesh(tmp_path / "plain.glb").material is None


def test_trimesh_finds_roughness_in_green_and_metallic_in_blue(tmp_path: Path) -> None:
    metal = torch.zeros(4, 8, 2)
    metal[..., 0], metal[..., 1] = 1.0, 0.2
    write_glb(replace(quad(), material=metal), tmp_path / "q.glb")
    (piece,) = trimesh.load_scene(tmp_path / "q.glb").geometry.values()
    found = piece.visual.material
    assert (found.metallicFactor, found.roughnessFactor) == (1.0, 1.0)
    assert np.asarray(found.metallicRoughnessTexture)[0, 0].tolist() == [255, 51, 255]
    assert header(glb_bytes(quad()))["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0


def test_material_of_vertices_is_its_mean_in_glb() -> None:
    mesh = shiny(ball())
    (material,) = header(glb_bytes(mesh))["materials"]
    assert mesh.material is not None
    metallic, roughness = mesh.material.mean(0).tolist()
    found = material["pbrMetallicRoughness"]
    assert found["metallicFactor"] == pytest.approx(metallic, abs=1e-6)
    assert found["roughnessFactor"] == pytest.approx(roughness, abs=1e-6)


def test_obj_names_a_picture_for_each_map(tmp_path: Path) -> None:
    from PIL import Image

    mesh = shiny(quad())
    write_obj(mesh, tmp_path / "my quad.obj")
    lines = next(tmp_path.glob("*.mtl")).read_text().split("\n")
    maps = dict(line.split(" ", 1) for line in lines if line.startswith("map_"))
    assert set(maps) == {"map_Kd", "map_Pr", "map_Pm"} and {"Pr 1", "Pm 1", "Kd 1 1 1"} < set(lines)
    assert mesh.material is not None
    for key, channel in (("map_Pm", 0), ("map_Pr", 1)):
        stored = torch.from_numpy(np.asarray(Image.open(tmp_path / maps[key])).copy())
        assert torch.equal(stored, (mesh.material[..., channel] * 255).round().byte())
    write_obj(quad(), tmp_path / "plain.obj")
    plain = (tmp_path / "plain.mtl").read_text()
    assert "map_Pr" not in plain and "Pr 0.9" in plain and len(list(tmp_path.glob("plain*.png"))) == 1


def test_ply_of_a_textured_mesh_has_its_colours(tmp_path: Path) -> None:
    write_ply(quad(), tmp_path / "q.ply")
    colors = load_mesh(tmp_path / "q.ply").colors
    assert colors is not None and colors.tolist() == [[0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_khronos_validator_has_nothing_to_say(tmp_path: Path) -> None:
    plain = replace(ball(), normals=None, colors=None)
    shining = prepare(shiny(ball(16)), 500, texture=64)
    assert shining.texture is not None and shining.material is not None
    meshes = {"painted ball": ball(), "quad": quad(), "plain": plain, "雪": prepare(ball(), 500), "maps": shining}
    meshes |= {"shiny quad": shiny(quad()), "shiny ball": shiny(ball()), "two": two_objects()}
    meshes["two with maps"] = prepare(two_objects(), 400, texture=64)
    for name, mesh in meshes.items():
        write_glb(mesh, tmp_path / f"{name}.glb", EXTRAS)
    reports = gltf_reports(*sorted(tmp_path.iterdir()))
    assert len(reports) == len(meshes)
    for report in reports:
        assert report["issues"]["messages"] == []
        assert report["info"]["totalTriangleCount"] > 0


def test_the_validator_is_really_asked(tmp_path: Path) -> None:
    data = glb_bytes(ball())
    (tmp_path / "bad.glb").write_bytes(data.replace(b'"type":"VEC3"', b'"type":"VEC2"', 1))
    assert gltf_reports(tmp_path / "bad.glb")[0]["issues"]["numErrors"] > 0


def test_a_missing_tool_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool(True, "there")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        require_tool(None, "no node")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no node"):
        require_tool(None, "no node")


# --- the content of the files ---------------------------------------------------------------------------------------


def test_glb_material_axes_and_provenance() -> None:
    document = header(glb_bytes(ball(), EXTRAS))
    assert document["asset"]["generator"].startswith("dreamforge ")
    assert document["asset"]["extras"] == document["nodes"][0]["extras"] == EXTRAS
    (material,) = document["materials"]
    assert material["alphaMode"] == "OPAQUE" and material["doubleSided"] is False
    assert material["pbrMetallicRoughness"] == {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    assert not {"matrix", "rotation", "scale", "translation"} & set(document["nodes"][0])
    assert "extras" not in header(glb_bytes(ball()))["asset"]


def test_glb_colours_are_linear(tmp_path: Path) -> None:
    colors = torch.tensor([[0.5, 0.0, 1.0], [0.02, 0.1, 0.9], [1.5, -1.0, 0.25]])
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), colors=colors)
    write_glb(mesh, tmp_path / "a.glb")
    (geometry,) = trimesh.load_scene(tmp_path / "a.glb").geometry.values()
    stored = geometry.visual.vertex_attributes["color"] / 65535
    assert stored[0] == pytest.approx([0.21404, 0.0, 1.0, 1.0], abs=2e-5)  # IEC 61966-2-1 at one half
    back = load_mesh(tmp_path / "a.glb").colors
    assert back is not None
    torch.testing.assert_close(back, colors.clamp(0, 1), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("count", "component"), [(65535, 5123), (65536, 5125)])
def test_glb_index_type(tmp_path: Path, count: int, component: int) -> None:
    vertices = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    faces = torch.tensor([[0, 1, 2], [count - 3, count - 2, count - 1]])
    write_glb(Mesh(vertices, faces), tmp_path / "a.glb")
    document = header((tmp_path / "a.glb").read_bytes())
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["indices"]]
    assert accessor["componentType"] == component
    assert torch.equal(load_mesh(tmp_path / "a.glb").faces, faces)


@pytest.mark.parametrize("write", [write_glb, write_obj, write_ply])
@pytest.mark.parametrize("make", [ball, quad, lambda: shiny(quad())])
def test_equal_arguments_give_equal_bytes(tmp_path: Path, write: Callable[..., None], make: Callable[[], Mesh]) -> None:
    for folder, extras in {"a": EXTRAS, "b": dict(reversed(EXTRAS.items()))}.items():
        (tmp_path / folder).mkdir()
        write(make(), tmp_path / folder / "x", extras)
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in "ab")
    assert a == b


def test_text_formats_keep_the_notes_in_comments(tmp_path: Path) -> None:
    write_obj(ball(), tmp_path / "a.obj", EXTRAS)
    write_ply(ball(), tmp_path / "a.ply", EXTRAS)
    for name, start in (("a.obj", b"# "), ("a.ply", b"comment ")):
        lines = (tmp_path / name).read_bytes().split(b"\n")
        (line,) = [line for line in lines if line.startswith(start + b'"prompt"')]
        assert json.loads(line.split(b'"prompt" ', 1)[1]) == EXTRAS["prompt"]
        assert b"metres, +Y up, front +Z" in b"".join(lines[:3])


def test_obj_material_names_have_no_spaces_and_do_not_clash(tmp_path: Path) -> None:
    write_obj(quad(), tmp_path / "a b.obj")
    write_obj(quad(), tmp_path / "a_b.obj")
    materials = sorted(path.name for path in tmp_path.glob("*.mtl"))
    assert len(materials) == 2 and "a_b.mtl" in materials and not any(" " in name for name in materials)


# --- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), "no triangles"),
        (Mesh(torch.eye(3), torch.zeros(0, 3, dtype=torch.int64)), "no triangles"),
        (Mesh(torch.eye(3) * torch.nan, torch.tensor([[0, 1, 2]])), "vertices hold values that are not finite"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 3]])), "faces name vertices 0 to 3, expected 0 to 2"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), colors=torch.zeros(2, 3)), "2 colors, expected"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), uv=torch.zeros(3, 2)), "only one of uv and texture"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), material=torch.zeros(2, 2)), "2 material, expected"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), material=torch.zeros(3, 3)), r"a material \[3, 3\], expected"),
        (replace(quad(), material=torch.zeros(4, 2)), r"a material \[4, 2\], expected"),
        (replace(ball(), material=torch.zeros(4, 4, 2)), r"a material \[4, 4, 2\], expected"),
        (replace(quad(), material=torch.full((1, 1, 2), torch.nan)), "material hold values that are not finite"),
    ],
)
@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_a_broken_mesh_is_refused_and_nothing_written(tmp_path: Path, mesh: Mesh, words: str, kind: str) -> None:
    with pytest.raises(DreamforgeError, match=words):
        export(mesh, tmp_path / "a", kind)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("given", "near"), [("gbl", "'glb'"), (".GLB", "'glb'"), ("gltf", "'glb'"), ("fbx", "one of")])
def test_unknown_format_names_the_nearest(tmp_path: Path, given: str, near: str) -> None:
    with pytest.raises(DreamforgeError, match=r"expected one of glb, obj, ply; .*" + near.strip("'")):
        export(ball(), tmp_path / "a", given)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_a_damaged_file_gets_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    export(ball(), path, kind)
    whole = path.read_bytes()
    for damaged in (b"", b"\0" * 100, b"hello", whole[: len(whole) // 3]):
        path.write_bytes(damaged)
        with pytest.raises(DreamforgeError, match="damaged"):
            load_mesh(path)


def test_faces_that_point_nowhere_are_damage(tmp_path: Path) -> None:
    write_ply(quad(), tmp_path / "a.ply")
    data = (tmp_path / "a.ply").read_bytes()
    for index in (9, -1):
        (tmp_path / "a.ply").write_bytes(data[:-4] + struct.pack("<i", index))
        with pytest.raises(DreamforgeError, match="damaged"):
            load_mesh(tmp_path / "a.ply")


def test_several_objects_are_read_as_one_and_none_is_refused(tmp_path: Path) -> None:
    pair = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere()])
    pair.export(tmp_path / "two.glb")
    assert len(load_mesh(tmp_path / "two.glb").faces) == sum(len(one.faces) for one in pair.geometry.values())
    (tmp_path / "points.ply").write_bytes(trimesh.PointCloud(np.eye(3)).export(file_type="ply"))
    with pytest.raises(DreamforgeError, match="not a mesh"):
        load_mesh(tmp_path / "points.ply")
    repeating = quad()
    assert repeating.uv is not None
    apart = [replace(quad(), uv=repeating.uv * 3), replace(quad(), texture=torch.rand(2, 2, 3))]
    scene = trimesh.Scene()
    for number, one in enumerate(apart):
        write_glb(one, tmp_path / f"{number}.glb")
        scene.add_geometry(trimesh.load_mesh(tmp_path / f"{number}.glb"))
    scene.export(tmp_path / "apart.glb")
    with pytest.raises(DreamforgeError, match="cannot be read as one mesh: the 2 pieces have textures"):
        load_mesh(tmp_path / "apart.glb")


def test_reading_obeys_the_place_of_the_mesh_in_its_scene(tmp_path: Path) -> None:
    scene, place = trimesh.Scene(), trimesh.transformations.rotation_matrix(np.pi / 2, [0, 1, 0], [0.1, 0, 0])
    box = trimesh.creation.box([1, 2, 3])
    scene.add_geometry(box, transform=place)
    scene.export(tmp_path / "a.glb")
    mesh = load_mesh(tmp_path / "a.glb")
    expected = torch.tensor(trimesh.transform_points(box.vertices, place), dtype=torch.float32)
    torch.testing.assert_close(mesh.vertices, expected, atol=1e-6, rtol=0)
    assert mesh.normals is not None and ((mesh.normals * (mesh.vertices - mesh.vertices.mean(0))).sum(-1) > 0).all()


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DreamforgeError, match="there is no file"):
        load_mesh(tmp_path / "a.glb")
    with pytest.raises(DreamforgeError, match=r"ends in \.glb, \.obj, \.ply"):
        load_mesh(tmp_path / "a.blend")
