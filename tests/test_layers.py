"""Dependencies point down only: every import is read and compared with the order of the design."""

import ast
from pathlib import Path

import dreamforge

PACKAGE = Path(dreamforge.__file__).parent

# From the bottom to the top; a part may import from the lines above its own and from itself. A part is a file or a
# folder of the package; a file of a folder may have a place of its own.
LAYERS = (
    "types",
    "rng files data devices",
    "schedule noise cameras ops priors.parametrisation",
    "losses prompts render optimiser guidance.combine bench_isosurface bench_gsplat bench_plot",
    "toybox pictures geometry",
    "priors scenes export",
    "guidance evaluation",
    "engine overrides stopwatch",
    "slots checkpoints run_folder manifest",
    "config",
    "assembly report start_file",
    "forecast",
    "finish",
    "runs",
    "bench_meshes bench_splat",
    "api bench bench_growth bench_kernels conversion doctor compare reproduce",
    "commands",
    "cli",
    "__main__",
)
LEVEL = {part: level for level, line in enumerate(LAYERS) for part in line.split()}
NEVER = {("guidance", "scenes")}


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, however deep inside a function; "" is the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the import absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {part_of(name.removeprefix("dreamforge.")) for name in names if name.startswith("dreamforge.")}
    return found


def part_of(name: str) -> str:
    """The part that a dotted name below the package belongs to."""
    first, *rest = name.split(".")
    own = ".".join([first, *rest[:1]])
    return own if own in LEVEL else first


def wrong_arrows(package: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        part = part_of(".".join(path.relative_to(package).with_suffix("").parts))
        if part == "__init__":  # imports lazily, for whoever asks; see test_import
            continue
        for other in imports(path) - {part}:
            if other in LEVEL and (LEVEL[other] >= LEVEL[part] or (part, other) in NEVER):
                wrong.append(f"{path.relative_to(package)} imports {other}")
    return wrong


def test_every_part_has_a_layer() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - set(LEVEL) == {"__init__"}


def test_no_import_points_up() -> None:
    assert wrong_arrows(PACKAGE) == []


def test_an_import_that_points_up_is_found(tmp_path: Path) -> None:
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance" / "bad.py").write_text("def f():\n    from dreamforge.scenes.canvas import Canvas\n")
    (tmp_path / "types.py").write_text("import dreamforge.rng\n")
    assert wrong_arrows(tmp_path) == ["guidance/bad.py imports scenes", "types.py imports rng"]
