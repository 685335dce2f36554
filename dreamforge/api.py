"""The Python interface: ``dreamforge.generate(...)`` and ``dreamforge.load_run(...)``."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from dreamforge import config, runs
from dreamforge.runs import Listener, Run

__all__ = ["Run", "generate", "load_run"]


def generate(
    prompt: str | None,
    recipe: str | Path = "default",
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    start: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Make a 3D asset of ``prompt`` and return its run.

    ``recipe`` is a shipped name or a YAML file; ``overrides`` maps dotted keys of it to values, for example
    ``{"guidance.cfg_scale": 30.0}``; ``out`` is the run's folder, by default ``runs/<prompt>-<seed>``. What is None
    is left as the recipe has it. ``start`` is a file to start from: a mesh (.glb, .gltf, .obj, .ply), points or
    Gaussians (.ply), +Y up, the front to +Z, of any size and in any place; the asset keeps both. A run that was
    stopped in ``out`` is continued. Raises DreamforgeError, one sentence, for anything wrong in the arguments.
    """
    given = {"prompt": prompt, "seed": seed, "device": device}
    values = {**(overrides or {}), **{key: value for key, value in given.items() if value is not None}}
    resolved = config.load(recipe, values=values, start=start)
    listener = listener or Listener(warn=lambda text: warnings.warn(text, stacklevel=2))
    return runs.generate(resolved, out or runs.default_folder(resolved), overwrite=overwrite, listener=listener)


def load_run(path: str | Path) -> Run:
    """The run in a folder. Raises DreamforgeError where there is none."""
    return runs.load(path)
