"""The end of a run: from the optimised scene to the files that a user opens."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dreamforge import pictures
from dreamforge.config import Recipe
from dreamforge.export.splats import write_splats
from dreamforge.files import atomic_write
from dreamforge.report import report
from dreamforge.start_file import place
from dreamforge.types import HasColors, HasSplats, Mesh, NoMesh, Scene

FLAT_SIZE = 512  # pixels of the picture of a scene without a surface


def finish(folder: Path, recipe: Recipe, scene: Scene, device: torch.device, say: Callable[[str], None]) -> None:
    """Write asset, turntable and report; ``result.json`` last, as the mark that all is there."""
    say("extracting the surface")
    try:
        mesh = finished_mesh(scene, recipe)
        if mesh.texture is not None and len(mesh.faces) > recipe.export.triangles:
            say(f"the mesh keeps its {len(mesh.faces)} triangles, which its texture lies on")
        facts = _write_mesh(folder, recipe, mesh, say)
    except NoMesh:
        facts = _write_picture(folder, scene, device)
    if isinstance(scene, HasSplats):
        splats, given = scene.splats(), place(recipe)
        splats = splats if given is None else given.splats_outside(splats)
        write_splats(splats, folder / "splats.ply", extras=_origin(recipe))
        facts["splats"] = "splats.ply"
    asset = (folder / facts["asset"]).read_bytes()
    facts |= {"sha256": hashlib.sha256(asset).hexdigest(), "bytes": len(asset), "steps": recipe.steps}
    atomic_write(folder / "report.html", report(folder, recipe, facts).encode())
    atomic_write(folder / "result.json", (json.dumps(facts, indent=1) + "\n").encode())


def finished_mesh(scene: Scene, recipe: Recipe) -> Mesh:
    """The mesh as it is exported. Raises NoMesh."""
    from dreamforge.export.prepare import prepare

    wanted = recipe.export
    colors = scene.colors_at if isinstance(scene, HasColors) else None
    return prepare(scene.extract(wanted.resolution), wanted.triangles, wanted.delight, wanted.texture, colors)


def write_asset(mesh: Mesh, path: Path, recipe: Recipe, format: str) -> None:
    """The mesh as a file that says where it comes from; at the size and place of the file that the run started from."""
    from dreamforge.export.write import export

    given = place(recipe)
    export(mesh if given is None else given.mesh_outside(mesh), path, format, _origin(recipe))


def _origin(recipe: Recipe) -> dict[str, Any]:
    return {"prompt": recipe.prompt, "recipe": recipe.name, "seed": recipe.seed}


def write_turntable(mesh: Mesh, path: Path) -> None:
    atomic_write(path, pictures.webp(pictures.spin(mesh), seconds=3.0))


def _write_mesh(folder: Path, recipe: Recipe, mesh: Mesh, say: Callable[[str], None]) -> dict[str, Any]:
    asset = folder / f"asset.{recipe.export.format}"
    write_asset(mesh, asset, recipe, recipe.export.format)
    say("rendering the turntable")
    write_turntable(mesh, folder / "turntable.webp")
    return {"asset": asset.name, "vertices": len(mesh.vertices), "triangles": len(mesh.faces)}


def _write_picture(folder: Path, scene: Scene, device: torch.device) -> dict[str, Any]:
    picture = pictures.front(scene, FLAT_SIZE, device)
    atomic_write(folder / "asset.png", pictures.png(picture))
    return {"asset": "asset.png"}
