"""A mesh that learns its texture: what it starts as, fitting, what stays, states of other meshes, export."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.export.gltf import write_glb
from dreamforge.export.prepare import prepare
from dreamforge.export.read import load_mesh
from dreamforge.ops.raster import texture
from dreamforge.optimiser import SceneAdam
from dreamforge.render.light import delight, linear_to_srgb, shading, srgb_to_linear
from dreamforge.render.raster import render_mesh
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.toybox.objects import make
from dreamforge.types import Cameras, DreamforgeError, Mesh
from tests.meshes import ball, quad
from tests.test_hash_nerf import around

SPEC = Textured(size=128, levels=4, log2_entries=12, finest=32, hidden=16)
KINDS = pytest.mark.parametrize("kind", ["texels", "field"])
BLACK = torch.zeros(3)


def front(size: int = 48, distance: float = 3.0) -> Cameras:
    return orbit(torch.tensor([0.0]), torch.tensor([0.0]), distance, 0.8, size, size)


def scene_of(mesh: Mesh, **more) -> TexturedScene:
    return TexturedScene(replace(SPEC, **more), mesh, 0, "cpu")


def marble() -> Mesh:
    return ball(16)


def cube() -> Mesh:
    """Of side 0.8, its corners split, so that every side has normals of its own."""
    import trimesh

    box = trimesh.creation.box([0.8, 0.8, 0.8])
    vertices = torch.from_numpy(box.triangles.reshape(-1, 3).copy()).float()
    normals = torch.from_numpy(box.face_normals.repeat(3, 0)).float()
    return Mesh(vertices, torch.arange(36).view(12, 3), normals, colors=(vertices + 1) / 2)


def psnr(one: Tensor, two: Tensor, where: Tensor) -> float:
    return -10 * math.log10(float((one - two)[where].detach().square().mean()))


@KINDS
def test_it_starts_as_a_grey_sphere(kind: str) -> None:
    out = Textured(texture=kind, size=64).build(0).render(front(65), BLACK)
    assert out.depth[0, 32, 32, 0].item() == pytest.approx(3.0 - 0.6, abs=0.01)
    assert out.normal is not None and out.surface is not None
    torch.testing.assert_close(out.normal[0, 32, 32], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(out.rgb[0, 32, 32], torch.full((3,), 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("make_mesh", [marble, cube, quad])
def test_it_starts_as_the_mesh_was(make_mesh) -> None:
    """Vertex colours, colours at seams, a picture: as the renderer of values shows them."""
    mesh = make_mesh()
    wanted = render_mesh(mesh, front(), BLACK, None, antialias=4)
    got = scene_of(mesh, oversample=4).render(front(), BLACK)
    inside = (wanted.alpha > 0.999)[..., 0]
    assert (got.alpha - wanted.alpha).abs().mean() < 2e-3
    assert psnr(got.rgb, wanted.rgb, inside) > (28 if make_mesh is quad else 38)  # a picture has sharp borders


def test_its_own_coordinates_and_picture_stay() -> None:
    mesh = quad()
    assert mesh.uv is not None and mesh.texture is not None
    out = scene_of(mesh, size=16).extract(8)
    for name in ("vertices", "faces", "uv"):
        assert torch.equal(getattr(out, name), getattr(mesh, name)), name
    assert out.texture is not None
    at = (torch.arange(2, 14) + 0.5) / 16
    at = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    wanted = linear_to_srgb(texture(srgb_to_linear(mesh.texture), at))
    torch.testing.assert_close(out.texture[2:14, 2:14], wanted, atol=1 / 254, rtol=0)
    same = scene_of(out, size=16).extract(8)
    assert same.texture is not None
    torch.testing.assert_close(same.texture, out.texture, atol=1e-3, rtol=0)


def test_a_mesh_that_is_painted_anew_starts_grey_on_its_own_coordinates() -> None:
    mesh = quad()
    assert mesh.uv is not None and mesh.texture is not None and mesh.texture.std() > 0.1
    made = scene_of(mesh, size=16, start="grey").extract(8)
    assert made.uv is not None and made.texture is not None
    torch.testing.assert_close(made.texture, torch.full((16, 16, 3), 0.5))
    assert torch.equal(made.uv, mesh.uv) and torch.equal(made.vertices, mesh.vertices)
    painted = replace(cube(), colors=torch.rand(36, 3, generator=torch.Generator().manual_seed(0)))
    assert scene_of(painted, start="grey").picture().std() == 0


def test_a_picture_that_repeats_gets_coordinates_without_repetition() -> None:
    mesh = quad()
    assert mesh.uv is not None
    tiled = replace(mesh, uv=3 * mesh.uv - 1)
    wanted = render_mesh(tiled, front(), BLACK, None, antialias=4)
    scene = scene_of(tiled, size=256, oversample=4)
    out, mesh = scene.render(front(), BLACK), scene.extract(8)
    assert psnr(out.rgb, wanted.rgb, (wanted.alpha > 0.999)[..., 0]) > 22
    assert mesh.uv is not None and mesh.uv.min() >= 0 and mesh.uv.max() <= 1


def test_what_is_finer_than_a_pixel_is_shown_as_its_mean() -> None:
    """Stripes of one texel from afar: grey, not what a few look-ups happen to hit."""
    stripes = torch.zeros(256, 256, 3)
    stripes[:, ::2] = 1.0
    wall = replace(quad(), texture=stripes)
    out = scene_of(wall, size=256, oversample=1).render(front(32, 3.0), BLACK)
    inside = out.rgb[0, 14:18, 14:18]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=0.01, rtol=0)


@KINDS
def test_a_few_views_are_fitted(kind: str) -> None:
    """Of the same ball, red on one side and blue on the other."""
    red = marble().vertices[:, :1] > 0
    painted = replace(marble(), colors=torch.where(red, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])))
    cameras = around(6, size=24)
    wanted = scene_of(painted).render(cameras, BLACK).rgb.detach()
    scene = scene_of(replace(marble(), colors=None), texture=kind)
    optimiser = SceneAdam(scene.param_groups(), (0.9, 0.99), 1e-15)
    errors = []
    for step in range(60):
        error = (scene.render(cameras, BLACK, step).rgb - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        scene.adapt(step, step)
        errors.append(float(error.detach()))
    assert errors[-1] < 0.03 * errors[0]
    mesh = scene.extract(16)
    assert mesh.texture is not None and mesh.uv is not None
    color = mesh.texture.flatten(0, 1).index_select(0, scene.shape.texels.number)
    place = scene.shape.texels.mix(mesh.vertices, mesh.faces)
    side = (place[:, 0].abs() > 0.15) & (place[:, 1].abs() < 0.3)
    assert ((color[:, 0] > color[:, 2]) == (place[:, 0] > 0))[side].float().mean() > 0.97


@KINDS
def test_the_texture_alone_learns(kind: str) -> None:
    scene = scene_of(marble(), texture=kind)
    names = {group["name"] for group in scene.param_groups()}
    assert names == ({"texels"} if kind == "texels" else {"encoding", "mlp"})
    out = scene.render(front(), BLACK, 1)
    assert out.rgb.requires_grad and not (out.alpha.requires_grad and out.alpha.grad_fn is None)
    out.rgb.sum().backward()
    mesh = scene.shape.mesh
    assert mesh.normals is not None and mesh.uv is not None
    assert not any(one.requires_grad for one in (mesh.vertices, mesh.normals, mesh.uv, scene.shape.joined.vertices))


def test_a_gradient_reaches_the_texels_that_are_seen_and_no_other() -> None:
    scene = scene_of(quad(), size=64)
    half = torch.zeros(1, 48, 48, 3)
    half[:, :, :20] = 1.0
    (scene.render(front(), BLACK).rgb * half).sum().backward()
    assert scene.texels is not None and scene.texels.grad is not None
    assert scene.texels.grad[8:56, 8:24].abs().sum() > 0
    assert not scene.texels.grad[:, 40:].any()


@KINDS
def test_what_is_between_charts_continues_them(kind: str) -> None:
    """Whatever the texels there hold: they are never seen alone."""
    scene = scene_of(marble(), texture=kind)
    with torch.no_grad():
        for group in scene.param_groups():
            for one in group["params"]:
                one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(0)))
    picture, texels = scene.extract(8).texture, scene.shape.texels
    assert picture is not None and picture.std() > 0.05
    flat = picture.flatten(0, 1)
    assert torch.equal(flat, flat[texels.source.flatten()])
    if scene.texels is not None:
        assert torch.equal(flat[texels.number], scene.texels.detach().sigmoid().flatten(0, 1)[texels.number])


@KINDS
def test_a_state_brings_its_mesh(kind: str) -> None:
    """Into a scene that was built with another one, whose parameters stay the same tensors: an optimiser holds them."""
    scene = scene_of(make("mug", None, 3).mesh((0.8, 0.1, 0.1)), texture=kind)
    with torch.no_grad():
        for group in scene.param_groups():
            for one in group["params"]:
                one.add_(torch.rand(one.shape, generator=torch.Generator().manual_seed(0)))
    other = replace(SPEC, texture=kind).build(3)
    held = [one for group in other.param_groups() for one in group["params"]]
    other.load_state(scene.state())
    assert all(a is b for a, b in zip(held, (p for g in other.param_groups() for p in g["params"]), strict=True))
    assert torch.equal(other.render(front(), None, 1).rgb, scene.render(front(), None, 1).rgb)
    one, two = scene.extract(8), other.extract(8)
    for name in ("vertices", "faces", "normals", "uv", "texture"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_albedo_is_lit_by_the_meshs_own_normals() -> None:
    """The front of a cube, to its edges: smooth normals would turn away there."""
    scene = scene_of(replace(cube(), colors=None), shading="soft")
    out = scene.render(front(65), BLACK)
    grey = srgb_to_linear(torch.tensor(0.5)) * shading(torch.tensor([0.0, 0.0, 1.0]))
    inside = (out.alpha > 0.999)[..., 0] & (out.depth[..., 0] < 2.61)
    assert inside.sum() > 300
    torch.testing.assert_close(out.rgb[inside], linear_to_srgb(grey).expand(int(inside.sum()), 3), atol=1e-3, rtol=0)


def test_the_density_is_a_wall_in_the_colours_of_the_texture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamforge.scenes.textured.CELLS", 16)  # quick
    field = scene_of(marble()).density_field()
    place = torch.tensor([[0.4, 0.0, 0.0], [0.0, 0.0, 0.75], [0.0, 0.59, 0.0]])
    density, color = field(place)
    assert density[0] > 150 and density[1] < 1e-3
    torch.testing.assert_close(color[2], (place[2] + 1) / 2, atol=0.03, rtol=0)


def test_export_keeps_the_mesh_and_takes_the_light_out(tmp_path: Path) -> None:
    scene = scene_of(replace(marble(), colors=None))
    mesh = scene.extract(16)
    kept = prepare(mesh, 100, delight=False)
    for name in ("vertices", "faces", "normals", "uv", "texture"):
        assert torch.allclose(getattr(kept, name), getattr(mesh, name), atol=1e-6), name
    assert mesh.normals is not None and mesh.uv is not None and mesh.texture is not None
    texels = scene.shape.texels
    normal = torch.nn.functional.normalize(texels.mix(mesh.normals, mesh.faces), dim=-1)
    bright = prepare(mesh).texture
    assert bright is not None
    albedo = bright.flatten(0, 1).index_select(0, texels.number)
    torch.testing.assert_close(albedo, delight(torch.full_like(normal, 0.5), normal), atol=1e-3, rtol=0)
    write_glb(kept, tmp_path / "a.glb")
    back = load_mesh(tmp_path / "a.glb")
    assert torch.equal(back.faces, mesh.faces) and back.texture is not None and back.uv is not None
    torch.testing.assert_close(back.uv, mesh.uv, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.texture, mesh.texture, atol=0.003, rtol=0)


@pytest.mark.parametrize("wrong", [{"size": 100}, {"size": 8}, {"size": 8192}, {"radius": 1.5}, {"oversample": 0}])
def test_a_spec_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(DreamforgeError, match="power of two"):
        Textured(**wrong)  # type: ignore[arg-type]


def test_wrong_input_is_refused_in_a_sentence() -> None:
    scene = SPEC.build(0)
    with pytest.raises(DreamforgeError, match="parts"):
        scene.render(front(9), None, 0, ["hat"])
    for wrong in (replace(SPEC, size=64), replace(SPEC, texture="field")):
        with pytest.raises(DreamforgeError, match="do not fit this Textured"):
            scene.load_state(wrong.build(0).state())
    state = scene.state()
    del state["uv"]
    with pytest.raises(DreamforgeError, match="uv in the given state"):
        scene.load_state(state)
