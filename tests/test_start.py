"""Runs that start from a file: what the scene begins as, what the folder keeps, and the same bytes every time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

import dreamforge
from dreamforge import config, conversion, run_folder, runs
from dreamforge.config import Recipe
from dreamforge.export.gltf import write_glb
from dreamforge.export.read import load_mesh
from dreamforge.export.splats import write_splats
from dreamforge.geometry.cloud import Cloud, cloud_of, ply_kind
from dreamforge.geometry.splats import read_splats
from dreamforge.runs import Interrupted, Listener
from dreamforge.scenes import convert
from dreamforge.scenes.gaussians import Gaussians, GaussianScene
from dreamforge.scenes.mesh import SdfMesh
from dreamforge.scenes.start import Start, place_of, scene_from, splats_at
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.start_file import read_start
from dreamforge.types import DreamforgeError, Mesh, Splats
from tests.kill_and_resume import fingerprint
from tests.meshes import ball, quad
from tests.splats import some
from tests.test_cli import ask  # noqa: F401
from tests.test_runs import stop_after

CPU = torch.device("cpu")
CENTER, SIZE = torch.tensor([100.0, -20.0, 7.0]), 40.0
TINY: dict[str, object] = {
    "prior": {"use": "mixture.Mixture", "size": 16},
    "scene": {"use": "gaussians.Gaussians", "count": 50, "capacity": 500},
    "losses": {},
    "resolution": 16,
    "views": 2,
    "steps": 4,
    "checkpoint_every": 2,
    "preview_every": 2,
    "export.resolution": 24,
    "prompt": "a red mushroom",
}


def points(folder: Path) -> Path:
    """A dense ball of red points, 40 wide, far from the origin."""
    draws = np.random.default_rng(0)
    at = draws.normal(size=(300, 3))
    at *= SIZE / 2 * draws.random((300, 1)) ** (1 / 3) / np.linalg.norm(at, axis=1, keepdims=True)
    cloud = trimesh.PointCloud(at + CENTER.numpy(), colors=np.tile(np.uint8([200, 0, 0, 255]), (300, 1)))
    (folder / "points.ply").write_bytes(cloud.export(file_type="ply"))
    return folder / "points.ply"


def moved(mesh: Mesh) -> Mesh:
    return replace(mesh, vertices=mesh.vertices * SIZE + CENTER)


def tiny(start: Path, **changes: object) -> Recipe:
    return config.load("smoke", values={**TINY, **changes}, start=start)


# ---- the scene


@pytest.mark.parametrize("make", [ball, lambda: Cloud(ball().vertices), lambda: some(200)])
def test_the_unit_volume_and_back(make: Callable[[], Start]) -> None:
    given = make()
    own = given.means if isinstance(given, Splats) else given.points if isinstance(given, Cloud) else given.vertices
    at = own * torch.tensor([1.0, 2.0, 0.5]) * SIZE + CENTER
    name = {Splats: "means", Cloud: "points", Mesh: "vertices"}[type(given)]
    place = place_of(replace(given, **{name: at}))
    inside = place.inside(at)
    torch.testing.assert_close((inside.amin(0) + inside.amax(0)) / 2, torch.zeros(3), atol=1e-5, rtol=0)
    assert float(inside.norm(dim=1).max()) == pytest.approx(0.9)
    torch.testing.assert_close(inside - inside[0], (at - at[0]) / place.unit, atol=1e-5, rtol=0)
    torch.testing.assert_close(place.outside(inside), at, atol=1e-4, rtol=0)


def test_points_become_gaussians_as_3dgs_starts() -> None:
    """On a grid the three nearest of a point are one step away: so large is a Gaussian."""
    axis = torch.arange(4.0)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    colors = grid / 3
    found = splats_at(Cloud(grid, colors), 1.5)
    torch.testing.assert_close(found.log_scales, torch.zeros(64, 3))
    torch.testing.assert_close(0.5 + 0.28209479177387814 * found.sh[:, 0], colors)
    assert found.logit_opacities.tolist() == [1.5] * 64
    uneven = splats_at(Cloud(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])), 1.5)
    torch.testing.assert_close(uneven.log_scales[0].exp(), torch.full((3,), ((1 + 4 + 9) / 3) ** 0.5))
    scene = scene_from(Cloud(grid, colors), Gaussians(count=10, capacity=100, sh_degree=2, opacity=0.2), 0, CPU)
    assert isinstance(scene, GaussianScene) and int(scene.alive.sum()) == 64
    own = scene.splats()
    torch.testing.assert_close(own.logit_opacities.sigmoid(), torch.full((64,), 0.2))
    torch.testing.assert_close(own.log_scales.exp(), torch.full((64, 3), 0.9 / float(torch.tensor(6.75).sqrt())))
    assert own.sh.shape == (64, 9, 3)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_gaussians_start_as_they_are(degree: int) -> None:
    given = some(30, degree=2)
    scene = scene_from(given, Gaussians(count=10, capacity=40, sh_degree=degree), 0, CPU)
    assert isinstance(scene, GaussianScene)
    own, place = scene.splats(), place_of(given)
    torch.testing.assert_close(place.splats_outside(own).means, given.means)
    torch.testing.assert_close(place.splats_outside(own).log_scales, given.log_scales)
    kept = min(own.sh.shape[1], 9)
    assert torch.equal(own.sh[:, :kept], given.sh[:, :kept]) and not own.sh[:, kept:].any()


def test_too_many_gaussians_and_no_extent_are_sentences() -> None:
    with pytest.raises(DreamforgeError, match=r"30 points or Gaussians.*room for 20: give scene.capacity=30"):
        scene_from(some(30), Gaussians(count=10, capacity=20), 0, CPU)
    with pytest.raises(DreamforgeError, match="expected a size"):
        place_of(Cloud(torch.ones(5, 3)))


def test_a_textured_scene_keeps_the_faces_and_the_picture() -> None:
    scene = scene_from(moved(quad()), Textured(size=16), 0, CPU)
    assert isinstance(scene, TexturedScene)
    mesh = scene.extract(8)
    assert torch.equal(mesh.faces, quad().faces)
    torch.testing.assert_close(mesh.vertices, quad().vertices * 0.9 / 0.5**0.5)
    assert mesh.uv is not None and torch.equal(mesh.uv, quad().uv)


@pytest.mark.parametrize(
    "spec", [Gaussians(count=3000, strategy="none"), SdfMesh(resolution=20, log2_entries=12)], ids=["gaussians", "mesh"]
)
def test_other_scenes_start_as_a_mesh_looks(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball with a red and a green half: pictures agree with it, and far less with the ball turned around."""
    few = convert.Effort(steps=20, views=1, resolution=48)
    monkeypatch.setattr(convert, "SPLATS", few)
    monkeypatch.setattr(convert, "MESH", replace(few, steps=2))
    halves = replace(ball(20), colors=torch.where(ball(20).vertices[:, :1] > 0, *torch.eye(3)[:2]))
    turned = replace(halves, vertices=halves.vertices * torch.tensor([-1.0, 1, -1]))
    found = scene_from(moved(halves), spec, 0, CPU)
    right, wrong = (scene_from(moved(mesh), Textured(size=64), 0, CPU) for mesh in (halves, turned))
    one, other = (convert.agreement(found, scene, 2, 48, 0, CPU).union for scene in (right, wrong))
    assert one > 12 and one > other + 6


def test_points_and_gaussians_become_other_scenes_through_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamforge.scenes import start

    monkeypatch.setattr(start, "convert", lambda source, spec, seed, device, effort: source)
    solid = scene_from(Cloud(ball(12).vertices, ball(12).colors), SdfMesh(), 0, CPU)
    assert isinstance(solid, GaussianScene) and len(solid.splats().means) == len(ball(12).vertices)
    assert float(solid.splats().logit_opacities.detach().sigmoid().min()) > 0.95
    same = scene_from(some(30, degree=2), SdfMesh(), 0, CPU)
    assert isinstance(same, GaussianScene) and torch.equal(same.splats().sh, some(30, degree=2).sh)


# ---- the file


def test_what_a_ply_holds(tmp_path: Path) -> None:
    from dreamforge.export.ply import write_ply

    write_ply(quad(), tmp_path / "mesh.ply")
    write_splats(some(5), tmp_path / "splats.ply")
    points(tmp_path)
    (tmp_path / "text.ply").write_bytes(trimesh.PointCloud(np.eye(4, 3)).export(file_type="ply", encoding="ascii"))
    kinds = {path.stem: ply_kind(path.read_bytes()) for path in tmp_path.iterdir()}
    assert kinds == {"mesh": "mesh", "splats": "splats", "points": "points", "text": "points"}
    assert ply_kind(b"") == "mesh"


def test_points_that_are_no_numbers_and_too_few(tmp_path: Path) -> None:
    at = np.float32(np.random.default_rng(0).normal(size=(6, 3)))
    at[2, 1] = np.nan
    content = trimesh.PointCloud(at, colors=np.full((6, 4), 255, np.uint8)).export(file_type="ply")
    cloud, said = cloud_of(content, "a.ply")
    assert said == ["a.ply: 1 of 6 points are not finite and left out"]
    assert len(cloud.points) == 5 and cloud.colors is not None and len(cloud.colors) == 5
    with pytest.raises(DreamforgeError, match="has 3 points, expected 4"):
        cloud_of(trimesh.PointCloud(np.eye(3)).export(file_type="ply"), "a.ply")


@pytest.mark.parametrize("make", [ball, quad])
def test_a_kept_mesh_is_kept_as_it_is(make: Callable[[], Mesh], tmp_path: Path) -> None:
    write_glb(moved(make()), tmp_path / "mine.glb")
    first = read_start(tmp_path / "mine.glb")
    (tmp_path / first.name).write_bytes(first.content)
    again = read_start(tmp_path / first.name)
    assert (again.name, again.content, again.warnings) == (first.name, first.content, [])
    assert isinstance(first.start, Mesh) and isinstance(again.start, Mesh)
    assert torch.equal(again.start.vertices, first.start.vertices)
    (tmp_path / first.name).write_bytes(first.content[:-4] + b"\1\1\1\1")
    with pytest.raises(DreamforgeError, match="was changed since a run kept it"):
        read_start(tmp_path / first.name)


# ---- the recipe


def test_where_the_file_of_a_recipe_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text(f"{config.available()['smoke'].read_text()}\nfrom: mesh.glb\n")
    path = tmp_path / "sub" / "mine.yaml"
    assert config.load(path).stages[0].file == tmp_path / "sub" / "mesh.glb"
    assert config.load(path, ["from=other.ply"]).stages[0].file == Path("other.ply")
    assert config.load(path, start="other.obj").stages[0].file == Path("other.obj")
    assert config.load(path, ["from=scratch"]).stages[0].file is None
    staged = {"stages": [{"from": "mesh.glb"}, {"steps": 2}]}
    recipe = config.load("smoke", values=staged, start="other.glb")
    assert [stage.origin for stage in recipe.stages] == ["other.glb", "previous"]
    assert config.build(dict(config._read(_written(tmp_path, config.dump(recipe))))) == recipe


def _written(folder: Path, text: str) -> Path:
    (folder / "dumped.yaml").write_text(text)
    return folder / "dumped.yaml"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"from": "mesh.fbx"}, r"'mesh.fbx', but expects scratch, previous or .*\.glb, \.gltf, \.obj, \.ply"),
        ({"stages": [{}, {"from": "mesh.glb"}]}, r"stages\[1\] says 'from: mesh.glb', but only the first stage"),
    ],
)
def test_what_is_no_start_is_a_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(DreamforgeError, match=words):
        config.load("smoke", values=values)


# ---- the run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The file, and what a run from it leaves."""
    folder = tmp_path_factory.mktemp("start")
    run = runs.generate(tiny(points(folder)), folder / "whole")
    return folder, fingerprint(run.path)


def test_the_folder_keeps_the_file_and_says_so(whole: tuple[Path, dict[str, str]]) -> None:
    folder, _ = whole
    (kept,) = (folder / "whole").glob("start-*")
    assert kept.read_bytes() == (folder / "points.ply").read_bytes()
    lines = (folder / "whole" / "recipe.yaml").read_text().splitlines()
    assert f"from: {kept.name}" in lines and not any(str(folder) in line for line in lines)


def test_the_asset_stands_where_the_file_stood(whole: tuple[Path, dict[str, str]]) -> None:
    folder, _ = whole
    run = dreamforge.load_run(folder / "whole")
    own, mesh = load_mesh(run.asset), run.mesh()
    assert float(mesh.vertices.norm(dim=1).max()) < 1.5  # for pictures
    assert float((own.vertices - CENTER).norm(dim=1).max()) < 0.8 * SIZE
    assert float((own.vertices.mean(0) - CENTER).norm()) < 0.2 * SIZE
    means = read_splats(run.path / "splats.ply").means
    assert float((means.median(0).values - CENTER).norm()) < 0.2 * SIZE


def test_its_own_recipe_and_the_same_command_repeat_it(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, expected = whole
    again = runs.generate(config.load(folder / "whole" / "recipe.yaml"), tmp_path / "again")
    assert fingerprint(again.path) == expected
    heard: list[object] = []
    runs.generate(tiny(folder / "points.ply"), folder / "whole", listener=Listener(step=heard.append))
    assert heard == [] and fingerprint(folder / "whole") == expected


@pytest.mark.parametrize("step", [1, 4])
def test_a_stopped_run_goes_on_from_its_own_file_or_the_users(
    step: int, whole: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    own = points(tmp_path)
    with pytest.raises(Interrupted):
        runs.generate(tiny(own), tmp_path / "run", listener=stop_after(step))
    if step == 1:
        own.unlink()
        runs.resume(tmp_path / "run")
    else:  # the same command makes good what was lost
        next((tmp_path / "run").glob("start-*")).unlink()
        runs.generate(tiny(own), tmp_path / "run")
    expected, found = dict(whole[1]), fingerprint(tmp_path / "run")
    if step == 1:
        for content in (expected, found):
            content.pop("files")
            for name in list(content):
                if name.startswith("checkpoints/"):
                    content.pop(name)
    assert found == expected


def test_another_file_is_another_run_and_overwrite_clears_the_old_one(tmp_path: Path) -> None:
    own = points(tmp_path)
    runs.generate(tiny(own, steps=1), tmp_path / "run")
    (tmp_path / "run" / "start-mine.glb").write_text("years of work")
    own.write_bytes(trimesh.PointCloud(np.random.default_rng(1).normal(size=(40, 3))).export(file_type="ply"))
    with pytest.raises(DreamforgeError, match="already holds another run"):
        runs.generate(tiny(own, steps=1), tmp_path / "run")
    runs.generate(tiny(own, steps=1), tmp_path / "run", overwrite=True)
    names = sorted(path.name for path in (tmp_path / "run").glob("start-*"))
    assert names == [read_start(own).name, "start-mine.glb"]


def test_a_refused_run_leaves_nothing_and_what_a_kill_left_is_no_stranger(tmp_path: Path) -> None:
    own = points(tmp_path)
    small = {"use": "gaussians.Gaussians", "count": 50, "capacity": 60}
    with pytest.raises(DreamforgeError, match=r"scene.capacity=300"):
        runs.generate(tiny(own, scene=small), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(DreamforgeError):  # at its first step
        runs.generate(tiny(own, image="normal"), tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []
    kept = read_start(own)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / kept.name).write_bytes(kept.content)
    run_folder.check_free(tmp_path / "c", overwrite=False)
    (tmp_path / "c" / "start-mine.glb").write_text("")
    with pytest.raises(DreamforgeError, match="holds files"):
        run_folder.check_free(tmp_path / "c", overwrite=False)


def test_what_was_repaired_reaches_the_listener_once(tmp_path: Path) -> None:
    at = np.random.default_rng(0).normal(size=(300, 3))
    at[7] = np.inf
    (tmp_path / "a.ply").write_bytes(trimesh.PointCloud(at).export(file_type="ply"))
    heard: list[str] = []
    with pytest.raises(Interrupted):
        runs.generate(tiny(tmp_path / "a.ply"), tmp_path / "run", listener=replace(stop_after(1), warn=heard.append))
    assert heard == ["a.ply: 1 of 300 points are not finite and left out"]
    runs.resume(tmp_path / "run", Listener(warn=heard.append))
    assert len(heard) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    texts = [f"{key}={json.dumps(value)}" for key, value in {**TINY, "from": str(points(tmp_path))}.items()]
    command = [sys.executable, "-m", "tests.kill_and_resume", "--recipe", "smoke", "--moments", "2"]
    done = subprocess.run([*command, *(text for text in texts if "prompt" not in text)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_conversion_takes_the_file_along(
    whole: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dreamforge.load_run(whole[0] / "whole")
    monkeypatch.setattr(runs, "generate", lambda recipe, out, listener: runs.load(out))
    made = conversion.convert(run.path, "mesh", tmp_path / "mesh")
    assert made.recipe.stages[0].file == tmp_path / "mesh" / Path(run.recipe.stages[0].origin).name
    assert read_start(Path(made.recipe.stages[0].origin)).content == (whole[0] / "points.ply").read_bytes()


def test_the_judge_sees_the_mesh_in_the_unit_volume(
    whole: tuple[Path, dict[str, str]],
    ask: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dreamforge.evaluation import judge

    seen: list[Mesh] = []
    real = judge.renders
    monkeypatch.setattr(judge, "renders", lambda mesh: seen.append(mesh) or real(mesh))
    answer = ask("eval", str(whole[0] / "whole"))
    assert answer.code == 0, answer.err
    assert float(seen[0].vertices.norm(dim=1).max()) < 1.5


def test_new_colours_for_a_mesh(tmp_path: Path) -> None:
    """The recipe for it, through the Python interface: the user's faces come back where they stood, repainted."""
    write_glb(moved(ball(8)), tmp_path / "mine.glb")
    few = {"steps": 2, "scene.size": 64, "resolution": 16, "prior": TINY["prior"], "export.texture": 64}
    run = dreamforge.generate(
        "a red mushroom", "retexture", tmp_path / "run", overrides=few, start=tmp_path / "mine.glb"
    )
    given, found = load_mesh(tmp_path / "mine.glb"), load_mesh(run.asset)
    assert len(found.faces) == len(given.faces) and found.texture is not None
    corners = [torch.stack([mesh.vertices.amin(0), mesh.vertices.amax(0)]) for mesh in (found, given)]
    torch.testing.assert_close(*corners, atol=1e-3, rtol=0)
    start = scene_from(given, run.recipe.stages[0].scene, 0, CPU).state()["texels"]
    assert not torch.equal(run.scene("cpu").state()["texels"], start)


def test_the_command_line_starts_from_a_file(ask: Any, tmp_path: Path) -> None:  # noqa: F811
    points(tmp_path)
    texts = [f"{key}={json.dumps(value)}" for key, value in TINY.items() if key != "prompt"]
    answer = ask("generate", "a red mushroom", "--recipe", "smoke", "--from", "points.ply", "--out", "run", *texts)
    assert answer.code == 0, answer.err
    assert len(list((tmp_path / "run").glob("start-*.ply"))) == 1
    for name, words in {"absent.glb": "there is no file", "a.fbx": "'from' was given 'a.fbx'"}.items():
        answer = ask("generate", "a red mushroom", "--recipe", "smoke", "--from", name, "--out", "no", *texts)
        assert answer.code == 2 and words in answer.err and not (tmp_path / "no").exists()
