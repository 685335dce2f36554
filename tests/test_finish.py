"""The asset of a run: where the colours of its texture come from, and what is said of its triangles."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamforge import config
from dreamforge.config import Recipe
from dreamforge.export.read import load_mesh
from dreamforge.finish import finish, finished_mesh
from dreamforge.scenes.textured import Textured
from dreamforge.types import HasColors, Mesh
from tests.meshes import ball


class Ball:
    """As much of a scene as an export asks for."""

    def extract(self, resolution: int) -> Mesh:
        return ball(24)


class ColoredBall(Ball):
    """Blue, whatever the colours of its vertices."""

    def colors_at(self, position: Tensor, normal: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, 1.0]).expand(len(position), 3)


def recipe(**export: object) -> Recipe:
    return config.load("smoke", values={"prompt": "a ball", "export": {"delight": False, "triangles": 500, **export}})


def test_colours_are_the_scenes_where_it_says_them_and_else_the_meshs() -> None:
    assert isinstance(ColoredBall(), HasColors) and not isinstance(Ball(), HasColors)
    blue, other = (finished_mesh(one, recipe(texture=64)).texture for one in (ColoredBall(), Ball()))  # type: ignore[arg-type]
    assert blue is not None and other is not None and blue.shape == other.shape == (64, 64, 3)
    assert torch.equal(blue[0, 0], torch.tensor([0.0, 0.0, 1.0])) and float(blue.std((0, 1)).max()) == 0
    assert other.std((0, 1)).min() > 0.1
    plain = finished_mesh(ColoredBall(), recipe())  # type: ignore[arg-type]
    assert plain.texture is None and plain.colors is not None and plain.colors[:, 0].std() > 0.1


@pytest.mark.parametrize("budget", [20, 5000])
def test_a_textured_scene_is_written_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr("dreamforge.finish.write_turntable", lambda mesh, path: None)
    monkeypatch.setattr("dreamforge.finish.report", lambda folder, recipe, facts: "")
    scene = Textured(size=64).build(0)
    said: list[str] = []
    finish(tmp_path, recipe(triangles=budget), scene, torch.device("cpu"), said.append)
    mesh, before = load_mesh(tmp_path / "asset.glb"), scene.extract(8)
    assert len(mesh.faces) == len(before.faces) == 1280 and mesh.texture is not None and mesh.uv is not None
    assert before.uv is not None
    torch.testing.assert_close(mesh.uv, before.uv, atol=1e-6, rtol=0)
    assert any("keeps its 1280 triangles" in text for text in said) == (budget == 20)
