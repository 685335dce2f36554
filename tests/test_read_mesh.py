"""Meshes of strangers: what is in them, what they may not do, and what is said of what is wrong."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from dreamforge.export.gltf import write_glb
from dreamforge.export.obj import write_obj
from dreamforge.geometry import beside, gltf_header, read
from dreamforge.geometry.join import shelves
from dreamforge.geometry.read import read_mesh
from dreamforge.ops.raster import texture
from dreamforge.types import DreamforgeError, Mesh
from tests.meshes import ball, quad
from tests.test_repair import volume

SHARED = {"red": (255, 0, 0), "green": (0, 255, 0)}


def box(color: str | None = None, at: tuple[float, float, float] = (0, 0, 0), repeat: float = 1.0, **more: Any) -> Any:
    """A cube with a picture of one colour."""
    solid = trimesh.creation.box()
    if color is not None:
        more["baseColorTexture"] = Image.fromarray(np.full((8, 8, 3), SHARED[color], np.uint8))
    uv = (solid.vertices[:, :2] + 0.5) * repeat
    solid.visual = trimesh.visual.TextureVisuals(uv=uv, material=trimesh.visual.material.PBRMaterial(**more))
    return solid.apply_translation(at)


def saved(path: Path, *pieces: Any) -> Path:
    trimesh.Scene(list(pieces)).export(path)
    return path


def shown(mesh: Mesh) -> Tensor:
    """The colour of each face's middle."""
    if mesh.texture is not None and mesh.uv is not None:
        return texture(mesh.texture, mesh.uv[mesh.faces].mean(1))
    assert mesh.colors is not None
    return mesh.colors[mesh.faces].mean(1)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A .glb with its JSON changed."""
    content = path.read_bytes()
    size = struct.unpack_from("<I", content, 12)[0]
    document = json.loads(content[20 : 20 + size])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    path.write_bytes(struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)
    return path


def test_pieces_stand_where_their_nodes_put_them_and_mirrored_ones_look_outwards(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(box(), node_name="parent", transform=trimesh.transformations.scale_matrix(2))
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 5
    scene.add_geometry(box(), node_name="child", parent_node_name="parent", transform=mirror)
    scene.export(tmp_path / "a.glb")
    mesh, said = read_mesh(tmp_path / "a.glb")
    assert said == [] and len(mesh.faces) == 24
    assert mesh.vertices.amin(0).tolist() == [-1, -1, -1] and mesh.vertices.amax(0).tolist() == [11, 1, 1]
    assert volume(mesh) == pytest.approx(16)


@pytest.mark.parametrize("kind", ["glb", "gltf", "obj"])
def test_several_textures_become_one_picture(kind: str, tmp_path: Path) -> None:
    plain = box(None, (4, 0, 0), baseColorFactor=[0, 0, 255, 255])
    pieces = [box("red"), box("green", (2, 0, 0)), *([plain] if kind != "obj" else [])]
    mesh, said = read_mesh(saved(tmp_path / f"a.{kind}", *pieces))
    assert said == [] and mesh.texture is not None and mesh.colors is None
    middle = mesh.vertices[mesh.faces].mean(1)[:, 0]
    for index, color in enumerate([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)][: len(pieces)]):
        here = shown(mesh)[(middle - 2 * index).abs() < 0.6]
        assert len(here) == 12
        torch.testing.assert_close(here, torch.tensor(color).expand(12, 3))


def test_one_texture_may_repeat_and_several_become_colours(tmp_path: Path) -> None:
    mesh, said = read_mesh(saved(tmp_path / "one.glb", box("red", repeat=3)))
    assert said == [] and mesh.uv is not None and float(mesh.uv.amax()) == 3
    mesh, said = read_mesh(saved(tmp_path / "two.glb", box("red", repeat=3), box("green", (2, 0, 0))))
    assert mesh.texture is None and len(said) == 1 and "their vertices took the colours" in said[0]
    middle = mesh.vertices[mesh.faces].mean(1)[:, 0]
    torch.testing.assert_close(shown(mesh)[middle > 1.4], torch.tensor([0, 1.0, 0]).expand(12, 3))


def test_shelves_do_not_overlap() -> None:
    sizes = [(8, 8), (8, 3), (2, 30), (16, 16), (1, 1), (9, 4)]
    places, height, width = shelves(sizes)
    used = np.zeros((height, width), int)
    for (top, left), (tall, wide) in zip(places, sizes, strict=True):
        used[top : top + tall, left : left + wide] += 1
    assert used.max() == 1 and used.sum() == sum(a * b for a, b in sizes)


def test_a_base_colour_is_linear_and_multiplies_the_picture(tmp_path: Path) -> None:
    half = [0.5, 1.0, 1.0, 1.0]  # 128 of 255 where trimesh keeps it; IEC 61966-2-1 says 0.735 of one half
    mesh, _ = read_mesh(saved(tmp_path / "a.glb", box("red", baseColorFactor=half)))
    torch.testing.assert_close(shown(mesh)[0], torch.tensor([0.7365, 0, 0]), atol=2e-3, rtol=0)
    mesh, _ = read_mesh(saved(tmp_path / "b.glb", box(None, baseColorFactor=half)))
    torch.testing.assert_close(shown(mesh)[0], torch.tensor([0.7365, 1, 1]), atol=2e-3, rtol=0)


def test_colours_of_faces_and_of_an_obj_without_a_picture(tmp_path: Path) -> None:
    solid = trimesh.creation.box()
    solid.visual.face_colors = np.arange(48, dtype=np.uint8).reshape(12, 4)
    solid.export(tmp_path / "a.ply")
    mesh, said = read_mesh(tmp_path / "a.ply")
    assert said == []
    torch.testing.assert_close(shown(mesh)[3], torch.tensor([12, 13, 14]) / 255)
    (tmp_path / "b.mtl").write_text("newmtl paint\nKd 0.2 0.4 0.6\n")
    (tmp_path / "b.obj").write_text("mtllib b.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl paint\nf 1 2 3\n")
    torch.testing.assert_close(shown(read_mesh(tmp_path / "b.obj")[0])[0], torch.tensor([0.2, 0.4, 0.6]))


@pytest.mark.parametrize(
    "name",
    [
        "../out.mtl",
        "{out}/out.mtl",
        "sub/../../out.mtl",
        "..\\out.mtl",
        "link.mtl",
        "file://{out}/out.mtl",
        "C:/out.mtl",
    ],
)
def test_nothing_outside_of_its_folder_is_read(name: str, tmp_path: Path) -> None:
    """The file outside is a good one: read, it would show."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write_obj(quad(), tmp_path / "out.obj")
    (folder / "link.mtl").symlink_to(tmp_path / "out.mtl")
    lines = (tmp_path / "out.obj").read_text().replace("mtllib out.mtl", f"mtllib {name.format(out=tmp_path)}")
    (folder / "a.obj").write_text(lines)
    mesh, said = read_mesh(folder / "a.obj")
    assert mesh.texture is None and len(mesh.faces) == 2
    assert any("own folder" in text for text in said)
    picture = (tmp_path / "out.mtl").read_text().replace("map_Kd out.png", f"map_Kd {name.format(out=tmp_path)}")
    (folder / "own.mtl").write_text(picture.replace("mtl\n", "png\n").replace("out.mtl", "out.png"))
    (folder / "a.obj").write_text((tmp_path / "out.obj").read_text().replace("out.mtl", "own.mtl"))
    assert read_mesh(folder / "a.obj")[0].texture is None


def test_files_in_its_folder_and_below_are_read(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    write_obj(quad(), tmp_path / "a.obj")
    (tmp_path / "a.png").rename(tmp_path / "maps" / "a.png")
    (tmp_path / "a.mtl").write_text((tmp_path / "a.mtl").read_text().replace("a.png", "maps\\a.png"))
    assert read_mesh(tmp_path / "a.obj")[0].texture is not None
    (tmp_path / "maps" / "a.png").unlink()
    mesh, said = read_mesh(tmp_path / "a.obj")
    assert mesh.texture is None and any("no such file" in text for text in said)


def test_the_numbers_of_a_gltf_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    saved(tmp_path / "a.gltf", box())
    document = json.loads((tmp_path / "a.gltf").read_text())
    for buffer in document["buffers"]:
        buffer["uri"] = "../" + buffer["uri"]
    (tmp_path / "mine" / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(DreamforgeError, match="own folder"):
        read_mesh(tmp_path / "mine" / "a.gltf")


def test_a_picture_that_is_missing_or_none_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.glb", box("red"))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x89PNG", b"\x00PNG"))
    mesh, said = read_mesh(path)
    assert mesh.texture is None and any("1 texture left out" in text for text in said)
    write_obj(quad(), tmp_path / "a.obj")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # a program would run it
    mesh, said = read_mesh(tmp_path / "a.obj")
    assert mesh.texture is None and any("only PNG, JPEG" in text for text in said)


def test_what_is_huge_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.glb"
    write_glb(ball(12), path)
    good = path.read_bytes()
    claimed = {"componentType": 5126, "count": 10**12, "type": "VEC3"}
    rewritten(path, lambda document: document["accessors"].append(claimed))
    with pytest.raises(DreamforgeError, match="it has 3000000003060 numbers"):
        read_mesh(path)
    path.write_bytes(good)
    monkeypatch.setattr(read, "MOST_FACES", 100)
    with pytest.raises(DreamforgeError, match="but up to 10000000 and 100 are read: simplify it first"):
        read_mesh(path)
    monkeypatch.setattr(beside, "MOST_BYTES", 1000)
    with pytest.raises(DreamforgeError, match="is larger than"):
        read_mesh(path)


def test_a_picture_of_too_many_pixels_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_obj(quad(), tmp_path / "a.obj")
    write_glb(quad(), tmp_path / "a.glb")
    monkeypatch.setattr(beside, "MOST_PIXELS", 31)
    for name in ("a.obj", "a.glb"):
        mesh, said = read_mesh(tmp_path / name)
        assert mesh.texture is None and len(said) == 2
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")  # 51 KB; PIL itself would refuse or warn
    assert read_mesh(tmp_path / "a.obj")[0].texture is None


def test_compressed_vertices_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.glb", box())
    rewritten(path, lambda document: document.update(extensionsRequired=["KHR_draco_mesh_compression"]))
    with pytest.raises(DreamforgeError, match=r"KHR_draco_mesh_compression.*without compression"):
        read_mesh(path)


def test_faces_of_an_obj_that_name_absent_vertices(tmp_path: Path) -> None:
    write_obj(ball(6), tmp_path / "a.obj")
    whole, _ = read_mesh(tmp_path / "a.obj")
    with (tmp_path / "a.obj").open("a") as file:
        file.write("f 1//1 2//2 9999//1\nf 0 1 2\n")
    mesh, said = read_mesh(tmp_path / "a.obj")
    assert said == ["a.obj: 2 faces with absent vertices left out"] and torch.equal(mesh.faces, whole.faces)


@pytest.mark.parametrize("kind", read.KINDS)
@pytest.mark.parametrize("content", [b"", b"Once upon a time there was a mesh.\n", b"{}", b"[" * 100_000, b"ply\n"])
def test_text_that_claims_to_be_a_mesh(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"a.{kind}").write_bytes(content)
    with pytest.raises(DreamforgeError, match=f"'a.{kind}' is not a mesh"):
        read_mesh(tmp_path / f"a.{kind}")


def test_paths_that_lead_to_no_mesh(tmp_path: Path) -> None:
    (tmp_path / "folder.glb").mkdir()
    for name, words in {
        "absent.glb": "there is no file",
        "folder.glb": "Is a directory",
        "a.blend": r"ends in \.glb, \.gltf",
        "a\0b.glb": "there is no file",
    }.items():
        with pytest.raises(DreamforgeError, match=words):
            read_mesh(tmp_path / name)


def test_limits_are_what_they_say() -> None:
    assert beside.MOST_BYTES == 512 * 2**20 and beside.MOST_PIXELS == 8192**2
    assert gltf_header.MOST_NUMBERS * 4 < 2**30
