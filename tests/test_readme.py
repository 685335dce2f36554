"""What the documents say is true: commands and flags exist, files are there, examples run."""

import ast
import importlib.util
import inspect
import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import dreamforge
from dreamforge import cli, config, runs
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS
from tests import test_guidance_contract, test_prior_contract, test_scene_contract

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "CHANGELOG.md")
TEXT = {name: (ROOT / name).read_text("utf-8") for name in DOCUMENTS}
COMMANDS = (
    "generate", "resume", "convert", "export", "render", "eval", "compare", "reproduce", "list", "prior train",
    "prior sample",
    "prior info", "toybox show", "bench", "doctor",
)  # fmt: skip


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT[name], re.DOTALL | re.MULTILINE)


def inline(name: str) -> list[str]:
    """The inline code of a document, outside its fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", TEXT[name], flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands() -> list[str]:
    """Every dreamforge command of the documents, chains of && taken apart."""
    found = []
    for name in ("README.md", "CONTRIBUTING.md"):
        lines = [line for block in blocks(name, "sh") for line in block.splitlines()] + inline(name)
        parts = [part.strip() for line in lines for part in line.split("&&")]
        found += [part for part in parts if re.match(r"(python -m )?dreamforge\s", part)]
    return list(dict.fromkeys(found))


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documents_is_understood(command):
    words = shlex.split(command)
    arguments = words[words.index("dreamforge") + 1 :]
    options = cli.parse(arguments)
    recipe = getattr(options, "recipe", None) or "default"
    files = {block.partition("\n")[0].removeprefix("# ") for block in blocks("CONTRIBUTING.md", "yaml")}
    assert recipe in {*config.available(), *files} or recipe.endswith("/recipe.yaml")


def test_modules_of_the_readme_can_be_run():
    modules = {match for code in inline("README.md") for match in re.findall(r"python -m ([\w.]+)", code)}
    assert "dreamforge" in modules
    for module in modules:
        name = f"{module}.__main__" if module == "dreamforge" else module
        assert importlib.util.find_spec(name) is not None, f"there is no {module}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    text = help_of(command, capsys)
    assert text.startswith(f"usage: dreamforge {command}") and "--json" in text


def test_the_readme_has_every_command_and_flag(capsys):
    top = set(re.findall(r"^    ([a-z]+)\b", help_of("", capsys), re.MULTILINE))
    assert {command.split()[0] for command in COMMANDS} == top
    for command in COMMANDS:
        assert any(one.startswith(f"dreamforge {command}") for one in commands()), f"'{command}' is not in the README"
    known = {flag for command in COMMANDS for flag in re.findall(r"--[a-z]+", help_of(command, capsys))}
    named = {code for code in inline("README.md") if re.fullmatch(r"--[a-z]+", code)}
    assert named and named <= known


def test_the_two_commands_of_the_first_door_stand_as_they_are():
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    assert 'pip install -c constraints.txt . && dreamforge generate "a red mushroom" --out runs/mushroom' in lines
    assert "pip install -c constraints.txt '.[test]' && pytest" in lines


@pytest.mark.parametrize("name", DOCUMENTS)
def test_linked_files_are_there(name):
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT[name])
    for target in (one for one in targets if not one.startswith("http")):
        assert (ROOT / target).is_file(), f"{name} refers to {target}"
    paths = [code for code in inline(name) if re.fullmatch(r"(dreamforge|tests|configs|assets|\.ci)/[\w./]*", code)]
    for path in paths:
        assert (ROOT / path).exists(), f"{name} names {path}"


def test_python_of_the_readme_fits_the_interface():
    (code,) = blocks("README.md", "python")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if ast.unparse(call.func).startswith("dreamforge.")]
    assert ours
    for call in ours:
        function = getattr(dreamforge, ast.unparse(call.func).removeprefix("dreamforge."))
        inspect.signature(function).bind(*call.args, **{one.arg: one.value for one in call.keywords})
    for attribute in re.findall(r"\brun\.(\w+)", code):
        assert hasattr(dreamforge.Run, attribute)
    settings = next(one.value for one in ours[0].keywords if one.arg == "overrides")
    config.load("smoke", values=ast.literal_eval(settings))


def test_numbers_and_words_of_the_vocabulary():
    text = " ".join(TEXT["README.md"].split())
    assert f"{len(KINDS)} kinds of things in {len(COLORS)} colours ({', '.join(COLORS)})" in text
    assert f"{len(ACCESSORIES)} accessories" in text
    assert f"{len(KINDS)} kinds" in TEXT["CHANGELOG.md"]


def test_versions_and_licences_are_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[ ]", requirement)[0]
        assert f"| {name} |" in TEXT["THIRD_PARTY.md"], f"{name} has no licence in THIRD_PARTY.md"
    assert f"## {dreamforge.__version__}" in TEXT["CHANGELOG.md"]
    assert f"{{{dreamforge.__version__}}}" in TEXT["README.md"]


def test_no_install_command_uses_a_strangers_package():
    """The name without the 3d is another project's on PyPI."""
    for text in TEXT.values():
        assert not re.search(r"pip install [^\n&]*\bdreamforge\b", text)


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with every block of the guide under the name in its first line."""
    for block in [*blocks("CONTRIBUTING.md", "python"), *blocks("CONTRIBUTING.md", "yaml")]:
        name = block.partition("\n")[0].removeprefix("# ")
        assert re.fullmatch(r"my_\w+\.(py|yaml)", name), f"the block does not say where it is saved: {name}"
        (tmp_path / name).write_text(block, "utf-8")
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)  # another test may have made one
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["guidance", "prior", "scene"])
def test_the_files_of_the_guide_run(part: str, guide: Path) -> None:
    """By the command beside them, at small sizes; all three together make the picture red."""
    (command,) = [one for one in commands() if f"my_{part}.yaml" in one]
    options = cli.parse(shlex.split(command)[1:])
    values = {"prompt": options.prompt, "steps": 24 if part == "scene" else 2, "views": 2, "resolution": 8}
    recipe = config.load(options.recipe, options.overrides, values)
    assert f"use: my_{part}." in config.dump(recipe)
    run = runs.generate(recipe, options.out)
    assert run.asset.name == "asset.png" and len(run.metrics()) == recipe.steps
    if part == "scene":
        red = torch.tensor(COLORS["red"]) > 0.5
        assert all((color > 0.5).equal(red) for color in run.scene().logits.detach().sigmoid())


@pytest.mark.parametrize(
    ("contract", "name"),
    [
        (test_guidance_contract, "my_guidance.Classifier"),
        (test_prior_contract, "my_prior.OneColor"),
        (test_scene_contract, "my_scene.Sky"),
    ],
)
def test_the_classes_of_the_guide_keep_their_contracts(
    contract: ModuleType, name: str, guide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every test of the contract, with the guide's class in the place of those it finds."""
    module, _, cls = name.partition(".")
    monkeypatch.setattr(contract, "found", lambda: {name: getattr(importlib.import_module(module), cls)})
    held = 0
    for test in vars(contract).values():
        if inspect.isfunction(test) and "name" in inspect.signature(test).parameters and test.__name__[:5] == "test_":
            marks = [mark.args for mark in test.pytestmark if mark.args[0] != "name"]
            for values in itertools.product(*(args[1] for args in marks)):
                test(name=name, **dict(zip((args[0] for args in marks), values, strict=True)))
                held += 1
    assert held >= 6
