"""From one kind of scene to another: geometry against closed forms, and pictures that stay alike."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import trimesh

from dreamforge.conversion import TARGETS
from dreamforge.geometry.distance import signed_distance
from dreamforge.geometry.points import face_areas, on_surface
from dreamforge.render.splat import rotations
from dreamforge.scenes import convert as conversions
from dreamforge.scenes.canvas import Canvas
from dreamforge.scenes.convert import (
    AROUND,
    Effort,
    Pictures,
    agreement,
    convert,
    gaussians_on,
    mesh_around,
    turned_to,
    usual,
)
from dreamforge.scenes.gaussians import Gaussians
from dreamforge.scenes.hash_nerf import HashNerf, HashNerfScene
from dreamforge.scenes.mesh import SdfMesh
from dreamforge.scenes.textured import Textured, TexturedScene
from dreamforge.slots import make
from dreamforge.types import DreamforgeError, Mesh, NoMesh, Scene

CPU = torch.device("cpu")
SMALL = Effort(points=100, batch=1 << 13, steps=60, views=1, pictures=40, resolution=96)
SPECS: dict[str, Any] = {
    "nerf": HashNerf(
        levels=4, log2_entries=13, finest=48, samples=64, occupancy_cells=24, hidden=16, density_scale=5.0
    ),
    "gaussians": Gaussians(count=1500, capacity=1500, strategy="none"),
    "mesh": SdfMesh(resolution=24, levels=4, log2_entries=13, finest=32, hidden=16),
}


def ball(radius: float = 0.5) -> Mesh:
    """A sphere, red where x > 0 and green elsewhere."""
    mesh = SdfMesh(resolution=32, radius=radius).build(0).extract(64)
    color = torch.where(mesh.vertices[:, :1] > 0, torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.7, 0.2]))
    return replace(mesh, colors=color)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Conversions here start on a coarse surface, and learn colours at few points of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversions, "EXTRACTION", 48)
        patch.setattr(
            conversions, "on_surface", lambda mesh, count, draws: on_surface(mesh, min(count, 1 << 12), draws)
        )
        yield


@pytest.fixture(scope="module")
def sources() -> dict[str, Scene]:
    """The same ball as each kind of scene; the field has learnt pictures of the Gaussians."""
    gaussians = gaussians_on(ball(), SPECS["gaussians"], 0, CPU)
    mesh = mesh_around(ball(), SPECS["mesh"], 0, CPU)
    return {"gaussians": gaussians, "mesh": mesh, "nerf": convert(mesh, SPECS["nerf"], 0, CPU, SMALL)}


@pytest.mark.parametrize(
    ("source", "target"),
    [("nerf", "mesh"), ("nerf", "gaussians"), ("gaussians", "mesh"), ("mesh", "gaussians"), ("mesh", "nerf")],
)
def test_pictures_stay_alike(source: str, target: str, sources: dict[str, Scene]) -> None:
    """A short conversion; with the full effort see ``python -m tests.conversions``."""
    heard: list[tuple[int, int]] = []
    made = convert(sources[source], SPECS[target], 1, CPU, SMALL, lambda done, steps: heard.append((done, steps)))
    assert agreement(sources[source], made, 3, 96, 0, CPU).union > 20
    total = SMALL.pictures + SMALL.steps + (SMALL.points if target == "nerf" else 0)
    assert heard == [(done, total) for done in range(1, total + 1)]


def test_the_start_on_the_surface_is_alike_already(sources: dict[str, Scene]) -> None:
    rough = agreement(sources["mesh"], sources["gaussians"], 3, 96, 0, CPU).union
    assert rough > 12
    better = convert(sources["mesh"], SPECS["gaussians"], 1, CPU, SMALL)
    assert agreement(sources["mesh"], better, 3, 96, 0, CPU).union > rough + 5, "pictures teach more"


def test_a_scene_of_the_same_kind_and_sizes_is_taken_over_as_it_is(sources: dict[str, Scene]) -> None:
    """The stage of texture keeps the shape that the stage of geometry has found, to the bit."""
    heard: list[tuple[int, int]] = []
    painted = replace(SPECS["mesh"], learn="texture", lr_mlp=1e-3)
    made = convert(sources["mesh"], painted, 1, CPU, SMALL, lambda done, steps: heard.append((done, steps)))
    own, given = made.state(), sources["mesh"].state()
    assert all(torch.equal(own[name], given[name]) for name in given) and heard == []
    assert {group["name"] for group in made.param_groups()} == {"encoding", "mlp"}
    made.color.table.detach().zero_()  # its tensors are its own
    assert not torch.equal(made.state()["color.table"], sources["mesh"].state()["color.table"])
    other = convert(sources["mesh"], replace(painted, resolution=20), 1, CPU, replace(SMALL, steps=1))
    assert len(other.state()["distance"]) == 21**3, "of other sizes it is converted"


@pytest.mark.parametrize("other", [{"density_scale": 50.0}, {"blob_scale": 2.0}, {"background": "learned"}])
def test_a_field_that_reads_the_same_numbers_otherwise_learns_them(
    other: dict[str, Any], sources: dict[str, Scene]
) -> None:
    spec = replace(SPECS["nerf"], **other)
    made = convert(sources["nerf"], spec, 1, CPU, SMALL)
    assert agreement(sources["nerf"], made, 3, 96, 0, CPU).union > 20
    rates = convert(sources["nerf"], replace(SPECS["nerf"], lr_mlp=1e-3), 1, CPU, SMALL).state()
    assert all(torch.equal(rates[name], one) for name, one in sources["nerf"].state().items())


def test_colors_in_another_grid_of_the_same_size_are_learnt() -> None:
    """Tables as large as they may be have the same size for any grid."""
    full = replace(SPECS["mesh"], coarsest=24)
    mesh = mesh_around(ball(), full, 0, CPU)
    made = convert(mesh, replace(full, finest=48), 1, CPU, SMALL)
    assert agreement(mesh, made, 3, 96, 0, CPU).union > 20


def test_a_mesh_of_its_own_coordinates_is_made_of_any_scene(sources: dict[str, Scene]) -> None:
    made = convert(sources["mesh"], Textured(size=64), 1, CPU, replace(SMALL, steps=5))
    assert isinstance(made, TexturedScene) and made.extract(16).texture is not None
    assert agreement(sources["mesh"], made, 3, 96, 0, CPU).union > 20


@pytest.mark.parametrize("radius", [0.48, 0.52])
def test_a_mesh_starts_within_the_outlines_of_its_source(radius: float) -> None:
    """A surface that is found 2 cm too far inside or outside is moved back."""
    start = mesh_around(ball(radius), SPECS["mesh"], 0, CPU)
    before = start.distance.detach().clone()
    conversions._match_outlines(mesh_around(ball(0.5), SPECS["mesh"], 0, CPU), start, 0)
    moved = before - start.distance.detach()
    assert moved.std() < 1e-6 and float(moved.mean()) == pytest.approx(0.5 - radius, abs=0.0041)


def test_a_conversion_to_a_mesh_begins_by_matching_outlines(
    sources: dict[str, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversions, "mesh_around", lambda mesh, *rest: mesh_around(ball(0.48), *rest))
    made = convert(sources["gaussians"], SPECS["mesh"], 0, CPU, replace(SMALL, steps=0))
    plain = mesh_around(ball(0.48), SPECS["mesh"], 0, CPU)
    assert float((plain.distance - made.state()["distance"]).mean().detach()) > 0.01


@pytest.mark.parametrize("half", [False, True])
def test_a_field_learns_what_stands_where_it_had_nothing(half: bool) -> None:
    """A ball at the side, outside of the blob that the field starts with."""
    aside = ball(0.25)
    aside = replace(aside, vertices=aside.vertices + torch.tensor([0.65, 0.0, 0.0]))
    source = mesh_around(aside, SPECS["mesh"], 0, CPU)
    spec = replace(SPECS["nerf"], half_table=half)
    made = convert(source, spec, 1, CPU, SMALL)
    assert isinstance(made, HashNerfScene)
    assert agreement(source, made, 3, 96, 0, CPU).union > 18
    assert made.half is None or torch.equal(made.half, made.table.half())


def test_the_rate_falls_to_a_tenth(sources: dict[str, Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def heard(target: Scene, wanted: Pictures, optimiser: torch.optim.Optimizer, seed: int) -> None:
        rates.append(optimiser.param_groups[0]["lr"])

    monkeypatch.setattr(conversions, "descend", heard)
    convert(sources["mesh"], SPECS["gaussians"], 1, CPU, Effort(steps=100, pictures=2, resolution=16))
    assert rates == pytest.approx([rates[0] * 0.1 ** (step / 100) for step in range(100)])


@pytest.mark.parametrize(("steps", "views", "pictures", "taken"), [(6, 2, 5, 5), (3, 1, 40, 3), (4, 3, 1, 1)])
def test_each_picture_is_taken_once_and_looked_at_in_turn(
    steps: int, views: int, pictures: int, taken: int, sources: dict[str, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is learnt from are the source's own pictures, over what is told to be behind them; no more than are used."""
    seen: list[Pictures] = []
    monkeypatch.setattr(conversions, "descend", lambda target, wanted, *rest: seen.append(wanted))
    effort = Effort(steps=steps, views=views, pictures=pictures, resolution=24)
    convert(sources["mesh"], SPECS["gaussians"], 1, CPU, effort)
    poses = torch.cat([one.cameras.camera_to_world for one in seen])
    _, looks = poses.view(len(poses), -1).unique(dim=0, return_counts=True)
    assert len(looks) == taken and int(looks.sum()) == steps * views and int(looks.max() - looks.min()) <= 1
    with torch.no_grad():
        own = sources["mesh"].render(seen[-1].cameras, seen[-1].behind, 0)
    torch.testing.assert_close(seen[-1].rgb, own.rgb)
    torch.testing.assert_close(seen[-1].alpha, own.alpha)


def test_an_effort_has_its_rate(sources: dict[str, Scene]) -> None:
    """Adam's first step is as long as the rate."""

    def moved(rate: float) -> float:
        effort = Effort(steps=1, views=1, resolution=48, rate=rate)
        start = convert(sources["mesh"], SPECS["gaussians"], 1, CPU, replace(effort, steps=0)).state()
        end = convert(sources["mesh"], SPECS["gaussians"], 1, CPU, effort).state()
        return float((end["colors"] - start["colors"]).abs().max())

    assert moved(0.25) == pytest.approx(0.25 * moved(1.0), rel=1e-3)


def test_gaussians_are_larger_in_small_pictures_so_meshes_learn_them_from_large_ones(sources: dict[str, Scene]) -> None:
    def covered(scene: Scene, size: int) -> float:
        cameras = AROUND.sample(2, size, 0.0, 0)
        with torch.no_grad():
            return float((scene.render(cameras, torch.zeros(3), 0).alpha > 0.5).float().mean())

    assert covered(sources["gaussians"], 48) > 1.02 * covered(sources["gaussians"], 384)
    assert covered(sources["mesh"], 48) == pytest.approx(covered(sources["mesh"], 384), rel=0.015)
    assert usual(sources["gaussians"], SPECS["mesh"]).resolution > usual(sources["nerf"], SPECS["mesh"]).resolution
    assert usual(sources["nerf"], Textured(size=64)) == usual(sources["nerf"], SPECS["mesh"])
    assert usual(sources["gaussians"], SPECS["nerf"]).resolution < usual(sources["mesh"], SPECS["gaussians"]).resolution


@pytest.mark.parametrize("size", [48, 256])
def test_gaussians_of_a_conversion_fit_pictures_of_other_sizes(size: int, sources: dict[str, Scene]) -> None:
    """They learn from 96 pixels. Widened by a part of a pixel, as 3DGS has it, they would be too large or too small."""
    spec = replace(make("scene", TARGETS["gaussians"]), count=1500, capacity=1500)
    made, widened = (
        convert(sources["mesh"], replace(spec, antialiased=antialiased), 1, CPU, SMALL)
        for antialiased in (spec.antialiased, False)
    )
    one, other = (agreement(sources["mesh"], scene, 3, size, 0, CPU).union for scene in (made, widened))
    assert one > other + 3


def test_agreement_is_the_psnr_over_both_foregrounds(sources: dict[str, Scene]) -> None:
    one = sources["mesh"]
    assert agreement(one, one, 2, 32, 0, CPU).union == 100.0
    grey, lighter = SPECS["mesh"].build(0), SPECS["mesh"].build(0)
    lighter.color.weights[-1].detach().zero_()
    grey.color.weights[-1].detach().zero_()
    lighter.color.base = lambda position: torch.full_like(position, 0.6)
    grey.color.base = lambda position: torch.full_like(position, 0.5)
    found = agreement(grey, lighter, 2, 64, 0, CPU)
    assert found.union == pytest.approx(20.0, abs=0.3), "the edges, over white, differ less"
    assert found.solid == pytest.approx(20.0, abs=1e-3)


def test_agreement_counts_what_one_of_both_covers() -> None:
    """Balls of two sizes, both mid-grey: their rims differ from white by 1/2, what both cover not at all."""
    small, large = (replace(SPECS["mesh"], radius=radius).build(0) for radius in (0.4, 0.5))
    for scene in (small, large):
        scene.color.weights[-1].detach().zero_()
    found = agreement(small, large, 4, 96, 0, CPU)
    assert found.solid > 60
    assert found.union == pytest.approx(-10 * math.log10(0.25 * (1 - 0.4**2 / 0.5**2)), abs=0.3)


def test_points_on_a_surface_are_even_and_know_its_normal_and_color() -> None:
    mesh = ball()
    place, normal, color = on_surface(mesh, 4000, torch.Generator().manual_seed(0))
    assert (place.norm(dim=1) - 0.5).abs().max() < 6e-3  # the grid's cubes are 6 cm wide
    assert (normal * place / 0.5).sum(1).min() > 0.97
    assert ((color[:, 0] > color[:, 1]) == (place[:, 0] > 0)).float().mean() > 0.97
    assert place.mean(0).abs().max() < 0.01 and torch.cov(place.t()).diag().sub(0.25 / 3).abs().max() < 3e-3
    assert float(face_areas(mesh).sum()) == pytest.approx(math.pi, rel=0.02)


def test_points_are_within_their_faces_and_as_many_as_their_areas() -> None:
    """Two triangles of areas 3/2 and 1/2, apart: of 400 points 300 are on the first, evenly to all of its corners."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 3, 0], [5, 0, 0], [6, 0, 0], [5, 1, 0]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    place, normal, color = on_surface(mesh, 400, torch.Generator().manual_seed(0))
    first = place[:, 0] < 2
    assert abs(int(first.sum()) - 300) <= 1 and torch.equal(color, torch.full((400, 3), 0.5))
    assert torch.equal(normal, torch.tensor([0.0, 0, 1]).expand(400, 3))
    share = torch.stack([place[first, 0], place[first, 1] / 3], 1)
    share = torch.cat([share, 1 - share.sum(1, keepdim=True)], 1)  # of each corner
    assert share.min() >= -1e-6 and (share.mean(0) - 1 / 3).abs().max() < 0.04
    assert (share.square().mean(0) - 1 / 6).abs().max() < 0.04, "the second moment of an even spread"
    torch.testing.assert_close(face_areas(mesh), torch.tensor([1.5, 0.5]))


def test_quaternions_turn_z_to_the_normal() -> None:
    normal = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normal = torch.cat([normal, torch.tensor([[0.0, 0, -1], [0, 0, 1], [1e-5, 0, -1]])])
    torch.testing.assert_close(rotations(turned_to(normal))[:, :, 2], normal, rtol=0, atol=2e-4)


def test_distances_are_signed_and_true() -> None:
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = points.norm(dim=1) - 0.5
    found = signed_distance(ball(), points, 1.05)
    assert (found - exact).abs().max() < 8e-3
    assert ((found < 0) == (exact < 0))[exact.abs() > 6e-3].all()
    mesh = SdfMesh(resolution=32, radius=0.5).build(0).extract(256)  # faces of 7 mm
    found = signed_distance(replace(mesh, faces=mesh.faces[torch.arange(len(mesh.faces)) % 50 != 0]), points, 1.05)
    assert ((found < 0) == (exact < 0))[exact.abs() > 0.03].all(), "small holes let nothing out"


def test_distances_are_fine_near_smooth_faces_and_hold_at_edges() -> None:
    """Of a ball and of a box, which are known."""
    points = torch.rand(30000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    half = torch.tensor([0.5, 0.6, 0.4])
    beyond = points.abs() - half
    box = trimesh.creation.box((2 * half).tolist()).subdivide_to_size(0.05)
    for solid, exact in (
        (trimesh.creation.icosphere(subdivisions=6, radius=0.9), points.norm(dim=1) - 0.9),
        (box, beyond.clamp_min(0).norm(dim=1) + beyond.amax(1).clamp_max(0)),
    ):
        mesh = Mesh(torch.from_numpy(solid.vertices).float(), torch.from_numpy(solid.faces).long())
        wrong = (signed_distance(mesh, points, 1.05) - exact).abs()
        assert torch.quantile(wrong[exact.abs() < 0.01], 0.98) < 2e-4 and wrong.max() < 2e-2


def test_beside_an_edge_the_other_face_says_on_which_side() -> None:
    """The nearest of the points may lie on the face that is seen from its side, which calls the air inside."""
    half, draws = torch.tensor([0.5, 0.6, 0.4]), torch.Generator().manual_seed(0)
    solid = trimesh.creation.box((2 * half).tolist()).subdivide_to_size(0.05)
    box = Mesh(torch.from_numpy(solid.vertices).float(), torch.from_numpy(solid.faces).long())
    points = half * torch.tensor([1.0, 1, 0]) + torch.tensor([0.06, 0.06, 0.7]) * (
        torch.rand(20000, 3, generator=draws) - 0.5
    )
    beyond = points - half * torch.tensor([1.0, 1, 1])
    exact = beyond[:, :2].clamp_min(0).norm(dim=1) + beyond[:, :2].amax(1).clamp_max(0)
    wrong = (signed_distance(box, points, 1.05) < 0) != (exact < 0)
    assert int(wrong[exact.abs() > 5e-3].sum()) <= 3, "16 by the nearest alone"


def test_far_from_a_surface_its_faces_may_look_the_wrong_way() -> None:
    """A ball every tenth face of which is turned inside out: the voxels know."""
    mesh = ball()
    turned = torch.arange(len(mesh.faces)) % 10 == 0
    faces = torch.where(turned[:, None], mesh.faces.flip(1), mesh.faces)
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = points.norm(dim=1) - 0.5
    found = signed_distance(replace(mesh, faces=faces), points, 1.05)
    assert ((found < 0) == (exact < 0))[exact.abs() > 0.08].all()


def test_the_inside_of_a_large_ball_is_inside() -> None:
    """Its surface crosses so many voxels that few points would leave one empty, which lets the air in."""
    vertices = SdfMesh(resolution=32, radius=0.5).build(0).extract(32)
    points = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = points.norm(dim=1) - 0.95
    found = signed_distance(replace(vertices, vertices=vertices.vertices * 1.9), points, 1.05)
    assert ((found < 0) == (exact < 0))[exact.abs() > 0.02].all()


def test_what_cannot_be_converted_is_told() -> None:
    with pytest.raises(NoMesh):
        convert(Canvas(size=8).build(0), SPECS["gaussians"], 0, CPU, SMALL)
    with pytest.raises(DreamforgeError, match="only Gaussians, SdfMesh, Textured and HashNerf"):
        convert(SPECS["mesh"].build(0), Canvas(), 0, CPU, SMALL)
