"""A mesh in stages with the embedded prior: geometry from pictures of normals, then colours, lit or as albedo."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamforge import config
from dreamforge.assembly import Priors, Workshop, build_stage
from dreamforge.engine import fit, look
from dreamforge.types import State

MESH = {"use": "mesh.SdfMesh", "resolution": 8, "levels": 3, "log2_entries": 9, "finest": 16}
TEXELS = {"use": "textured.Textured", "size": 64}
FIELD = TEXELS | {"texture": "field", "levels": 3, "log2_entries": 9, "finest": 16}
GEOMETRY = {"distance", "moves", "alpha", "beta", "gamma", "vertices", "faces", "normals", "uv"}


@pytest.fixture(scope="module")
def priors() -> Priors:
    return Priors(torch.device("cpu"))


def stage(priors: Priors, scene: dict[str, Any], **more: Any) -> Workshop:
    values = {"prompt": "a red mushroom", "scene": scene, "views": 2, "resolution": 16, "steps": 2, **more}
    return build_stage(replace(config.load("default", values=values), name="stages"), 0, priors)


def moved(work: Workshop) -> set[str]:
    """The tensors of the scene that two steps change, all numbers finite."""
    start: State = work.scene.state()
    fit(work.scene, work.terms, work.optimiser, 2, seed=5)
    end = work.scene.state()
    assert all(value.isfinite().all() for value in end.values())
    return {name for name in start if not torch.equal(start[name], end[name])} - {"age"}


@pytest.mark.parametrize("image", ["normal", "rgb", "depth"])
def test_a_stage_of_geometry_leaves_the_colours(priors: Priors, image: str) -> None:
    found = moved(stage(priors, MESH | {"learn": "geometry", "shading": "soft"}, image=image))
    assert "distance" in found and found <= GEOMETRY


@pytest.mark.parametrize("shading", ["none", "soft", "random"])
@pytest.mark.parametrize(
    ("scene", "white"), [(MESH | {"learn": "texture"}, {"textureless_share": 0.0}), (TEXELS, {}), (FIELD, {})]
)
def test_a_stage_of_texture_leaves_the_geometry(
    priors: Priors, scene: dict[str, Any], white: dict[str, Any], shading: str
) -> None:
    found = moved(stage(priors, scene | {"shading": shading, "lit_share": 1.0} | white))
    assert found and not found & GEOMETRY
    assert found <= {"texels", "color.table", "color.0", "color.1"}


def test_a_stage_of_geometry_shows_the_prior_normals(priors: Priors) -> None:
    """In place of colours: a colour for each direction, grey where there is nothing."""
    work = stage(priors, MESH | {"learn": "geometry"}, image="normal")
    _, render, picture = look(work.scene, work.terms[0], 0.0, 3, "cpu")
    assert render.normal is not None and picture.requires_grad
    inside = (render.alpha > 0.999)[..., 0]
    torch.testing.assert_close(picture[inside], ((render.normal + 1) / 2)[inside], atol=1e-3, rtol=0)
    assert (picture[(render.alpha == 0)[..., 0]] == 0.5).all()


def test_a_lit_texture_is_darker_below_than_its_albedo(priors: Priors) -> None:
    plain, lit = (stage(priors, TEXELS | {"shading": kind}).scene for kind in ("none", "soft"))
    work = stage(priors, TEXELS)
    cameras = work.terms[0].cameras.sample(1, 32, 0.0, 1)
    one, two = (scene.render(cameras, torch.ones(3), 0) for scene in (plain, lit))
    inside = (one.alpha > 0.999)[..., 0]
    assert torch.equal(one.alpha, two.alpha)
    ratio = (two.rgb / one.rgb)[inside].mean(1)
    assert ratio.min() > 0.6 and ratio.max() <= 1.001 and ratio.std() > 0.02
