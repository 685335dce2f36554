"""Recipes: YAML in, typed objects out. No table of names: a slot names a file and a class.

A recipe is flat. Its top level describes a stage with one term; a stage of ``stages`` is the top level overridden by
the stage's own keys, a term of ``terms`` its stage overridden by the term's own keys. A slot restated with the same
``use`` keeps the other values; with another ``use`` it starts from that class's defaults; everything else restated is
replaced whole. A recipe can import any class, so a recipe is code: run only recipes that you trust.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dreamforge import data, losses
from dreamforge.overrides import assign, merge, parse
from dreamforge.scenes.convert import Effort
from dreamforge.scenes.placing import chosen
from dreamforge.schedule import check_curve
from dreamforge.slots import SLOTS, make, nearest, spell, typed
from dreamforge.types import DreamforgeError

FILES = (".glb", ".gltf", ".obj", ".ply")  # that a run may start from


@dataclass(frozen=True)
class Optimiser:
    """Adam. ``lr_scale`` multiplies the scene's own learning rates: a number or ``[[progress, value], ...]``."""

    lr_scale: Any = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15

    def __post_init__(self) -> None:
        check_curve("optimiser.lr_scale", self.lr_scale)
        for beta in self.betas:
            _within("optimiser.betas", beta, 0.0, 0.999999)
        _within("optimiser.eps", self.eps, 0.0, 1.0)


@dataclass(frozen=True)
class Export:
    """What ``generate`` writes at the end."""

    triangles: int = 20_000  # at most
    resolution: int = 128  # samples along an edge of the extraction grid
    delight: bool = True  # take the light out of the colours; False for a scene whose colours are albedo
    format: Literal["glb", "obj", "ply"] = "glb"
    texture: int = 0  # texels along an edge of the maps that colours are baked into; 0: colours at the vertices

    def __post_init__(self) -> None:
        if self.texture != 0 and self.texture not in (64, 128, 256, 512, 1024, 2048, 4096):
            raise DreamforgeError(
                f"'export.texture' was given {self.texture}, but expects 0 or a power of two from 64 to 4096."
            )
        if self.texture and self.format == "ply":
            raise DreamforgeError(
                "'export.texture' was given with 'export.format' ply, which has none: use glb or obj."
            )
        _within("export.triangles", self.triangles, 4, 5_000_000)
        _within("export.resolution", self.resolution, 8, 1024)


@dataclass(frozen=True)
class Term:
    """One summand of a step. The slots hold the frozen spec objects that their classes made of the YAML."""

    prompt: str = ""
    negative: str = ""
    views: int = 4
    resolution: int = 64
    background: Any = "random"  # "random", "scene" or (r, g, b) in [0, 1]
    image: Literal["rgb", "normal", "depth"] = "rgb"
    parts: tuple[str, ...] | None = None
    weight: float = 1.0
    every: int = 1
    offset: int = 0
    losses: dict[str, Any] = field(default_factory=dict)  # name -> number or knots over progress
    prior: Any = None
    guidance: Any = None
    timesteps: Any = None
    noise: Any = None
    cameras: Any = None
    prompts: Any = None

    def __post_init__(self) -> None:
        _within("views", self.views, 1, 64)
        _within("resolution", self.resolution, 8, 1024)
        _within("every", self.every, 1, 1_000_000)
        _within("offset", self.offset, 0, self.every - 1)
        _within("weight", self.weight, -1e6, 1e6)
        object.__setattr__(self, "background", _background(self.background))
        losses.check(self.losses)


@dataclass(frozen=True)
class Stage:
    """``origin`` (the key ``from``): "previous" goes on with the scene before it, converted where ``scene`` is another
    one; "scratch" starts a new one; the first stage may name a file with a mesh, points or Gaussians. A stage of 0
    steps only converts. ``conversion``: how much work that is; None: ``scenes.convert.usual``."""

    steps: int = 1000
    origin: str = "scratch"
    optimiser: Optimiser = field(default_factory=Optimiser)
    conversion: Effort | None = None
    scene: Any = None
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        _within("steps", self.steps, 1 if self.origin == "scratch" else 0, 1_000_000)
        if self.file is None and self.origin not in ("scratch", "previous"):
            raise DreamforgeError(
                f"'from' was given '{self.origin}', but expects scratch, previous or the name of a file that ends in "
                f"{', '.join(FILES)}."
            )
        names = getattr(self.scene, "part_names", None)  # a scene that does not say them checks what it is asked for
        if names is not None and self.steps:
            for term in self.terms:
                chosen(term.parts, names)

    @property
    def file(self) -> Path | None:
        """The file that the stage starts from, where it does."""
        path = Path(self.origin)
        return path if path.suffix.lower() in FILES else None


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. Equal recipes make equal bytes (one machine, one thread count)."""

    name: str = "unnamed"
    seed: int = 0
    device: str = "auto"
    preview_every: int = 0  # steps; 0 = never
    checkpoint_every: int = 200  # steps
    export: Export = field(default_factory=Export)
    stages: tuple[Stage, ...] = ()
    paper: dict[str, Any] = field(default_factory=dict)  # title, arxiv, departures: data for readers

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("preview_every", self.preview_every, 0, 1_000_000)
        _within("checkpoint_every", self.checkpoint_every, 1, 1_000_000)

    @property
    def prompt(self) -> str:
        return self.stages[0].terms[0].prompt

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


def available() -> dict[str, Path]:
    """The shipped recipes, name -> file."""
    return {path.stem: path for path in sorted(data.configs().glob("*.yaml"))}


def load(
    source: str | Path,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
    start: str | Path | None = None,
) -> Recipe:
    """The recipe of a shipped name or a YAML file.

    ``overrides`` are ``key=value`` texts as of the command line, ``values`` the same as Python values with dotted or
    nested keys (these win). ``start`` is a file that the first stage starts from, whatever the recipe says; a file
    that the recipe itself names is looked for in the recipe's folder. Raises DreamforgeError, one sentence, for
    anything that is not right.
    """
    path = _find(source)
    content = _read(path)
    _look_beside(content, path.parent)
    given = {**parse(overrides), **(values or {})}
    assign(content, given)
    if start is not None:
        content["from"] = str(start)
        _first(content).pop("from", None)
    recipe = build(content)
    prompts = [term.prompt for stage in recipe.stages for term in stage.terms]
    if "prompt" in given and given["prompt"] not in prompts:
        raise DreamforgeError(
            f"The prompt {given['prompt']!r} was given, but every term of this recipe has its own: "
            f"{', '.join(map(repr, prompts))}; leave it out, or change one, for example 'terms[0].prompt=a blue car'."
        )
    return recipe


def build(content: Mapping[str, Any]) -> Recipe:
    """The typed recipe of a flat mapping as YAML holds it."""
    spell("recipe", content, [*_keys(Recipe), *_keys(Stage), *_keys(Term)])
    common = {key: value for key, value in content.items() if key not in _keys(Recipe)}
    stages = []
    for number, own in enumerate(_list("stages", content.get("stages"))):
        spell(f"stages[{number}]", own, [*_keys(Stage), *_keys(Term)])
        stages.append(_stage(number, merge({**common, **({"from": "previous"} if number else {})}, own)))
    plain = {key: content[key] for key in _keys(Recipe) if key in content and key not in ("stages", "export")}
    recipe: Recipe = typed(Recipe, plain, "")
    export: Export = typed(Export, content.get("export") or {}, "export")
    return replace(recipe, export=export, stages=tuple(stages))


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default spelled out; ``build`` of it gives an equal recipe."""
    first = recipe.stages[0]
    content = _plain(recipe, skip=("stages",)) | _plain(first, skip=("terms", "origin")) | _plain(first.terms[0])
    content["export"] = _plain(recipe.export)
    if first.file is not None:
        content["from"] = first.origin
    stages = [_stage_content(stage, content) for stage in recipe.stages]
    if len(stages) > 1:
        content["stages"] = stages
    elif "terms" in stages[0]:
        content["terms"] = stages[0]["terms"]
    return OmegaConf.to_yaml(OmegaConf.create(content))


def _stage_content(stage: Stage, base: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``stage`` that differ from ``base``, its terms likewise."""
    own = _plain(stage, skip=("terms", "origin")) | {"from": stage.origin}
    own = {key: value for key, value in own.items() if base.get(key, MISSING) != value}
    terms = [{k: v for k, v in _plain(term).items() if base[k] != v} for term in stage.terms]
    return own | ({"terms": terms} if terms != [{}] else {})


def _plain(spec: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """A dataclass as YAML types, slots with their ``use``."""
    result: dict[str, Any] = {}
    for one in fields(spec):
        value = getattr(spec, one.name)
        if one.name in SLOTS:
            value = SLOTS[one.name].content(value)
        elif isinstance(value, Optimiser | Effort):
            value = _plain(value)
        if one.name not in skip:
            result[one.name] = list(value) if isinstance(value, tuple) else value
    return result


def _stage(number: int, content: Mapping[str, Any]) -> Stage:
    common = {key: value for key, value in content.items() if key not in _keys(Stage)}
    terms = []
    for index, own in enumerate(_list("terms", content.get("terms"))):
        spell(f"terms[{index}]", own, _keys(Term))
        terms.append(_with_slots(Term, merge(common, own)))
    plain = {"steps": content["steps"]} if "steps" in content else {}
    plain["origin"] = content.get("from", "scratch")
    if number == 0 and plain["origin"] == "previous":
        raise DreamforgeError("The first stage says 'from: previous', but nothing is before it: remove the key.")
    if number > 0 and plain["origin"] not in ("scratch", "previous"):
        raise DreamforgeError(
            f"stages[{number}] says 'from: {plain['origin']}', but only the first stage may start from a file: write "
            "previous or scratch."
        )
    if "scene" in content:
        plain["scene"] = content["scene"]
    optimiser: Optimiser = typed(Optimiser, content.get("optimiser") or {}, "optimiser")
    given = content.get("conversion")
    conversion: Effort | None = None if given is None else typed(Effort, given, "conversion")
    stage: Stage = _with_slots(Stage, plain)
    return replace(stage, optimiser=optimiser, conversion=conversion, terms=tuple(terms))


def _with_slots(cls: type, content: Mapping[str, Any]) -> Any:
    """A dataclass whose plain fields come through their types and whose slots come through their classes."""
    slots = [one.name for one in fields(cls) if one.name in SLOTS]
    base = typed(cls, {key: value for key, value in content.items() if key not in slots}, "")
    return replace(base, **{slot: make(slot, content.get(slot)) for slot in slots})


def _look_beside(content: dict[str, Any], folder: Path) -> None:
    """Make a file that the YAML starts from one of the YAML's own folder."""
    for block in (content, _first(content)):
        origin = block.get("from")
        if isinstance(origin, str) and Path(origin).suffix.lower() in FILES:
            block["from"] = str(folder / origin)


def _first(content: dict[str, Any]) -> dict[str, Any]:
    """The first entry of ``stages``; an empty one where there is none."""
    stages = content.get("stages")
    first = stages[0] if isinstance(stages, list) and stages else None
    return first if isinstance(first, dict) else {}


def _find(source: str | Path) -> Path:
    shipped, path = available(), Path(source)
    if str(source) in shipped:
        return shipped[str(source)]
    if path.is_file():
        return path
    raise DreamforgeError(
        f"There is no recipe '{source}', neither a file nor a shipped name: {nearest(str(source), list(shipped))}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DreamforgeError(f"The recipe {path} is not readable YAML: {reason}.") from error
    if not isinstance(content, dict) or not content:
        raise DreamforgeError(f"The recipe {path} holds no 'key: value' lines: write it like configs/default.yaml.")
    return {str(key): value for key, value in content.items()}


def _keys(cls: type) -> list[str]:
    return ["from" if one.name == "origin" else one.name for one in fields(cls)]


def _list(key: str, value: object) -> list[dict[str, Any]]:
    """The entries of ``stages`` or ``terms``; one empty entry where the key is absent."""
    if value is None:
        return [{}]
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise DreamforgeError(f"'{key}' was given {value!r}, but expects a list with one 'key: value' block per entry.")
    return value


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise DreamforgeError(f"'{key}' was given {value}, but expects a number from {low} to {high}.")


def _background(value: object) -> str | tuple[float, ...]:
    if value in ("random", "scene"):
        return str(value)
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) == 3 and all(isinstance(c, int | float) and 0 <= c <= 1 for c in numbers):
        return tuple(float(c) for c in numbers)
    raise DreamforgeError(
        f"'background' was given {value!r}, but expects 'random', 'scene' or three numbers from 0 to 1 (sRGB)."
    )
