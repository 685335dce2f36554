"""What the documents say is true: commands and flags exist, files are there, examples run."""

import ast
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import dreamforge
from dreamforge import cli, config, runs
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "CHANGELOG.md")
TEXT = {name: (ROOT / name).read_text("utf-8") for name in DOCUMENTS}
COMMANDS = (
    "generate", "resume", "export", "render", "eval", "list", "prior train", "prior sample", "prior info",
    "toybox show", "bench", "doctor",
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
    assert recipe in config.available() or recipe.endswith("/recipe.yaml")


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


def test_the_examples_of_contributing_run(tmp_path, monkeypatch):
    """Guidance, prior and scene in one file, through the recipe of the text: the picture becomes red."""
    (tmp_path / "my_lab.py").write_text("\n".join(blocks("CONTRIBUTING.md", "python")), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_lab", raising=False)  # another test may have made one
    (command,) = [one for one in commands() if "my_lab.Classifier" in one]
    options = cli.parse(shlex.split(command)[1:])
    sizes = ["steps=24", "views=2", "resolution=8", "prior.size=8", "preview_every=0"]
    recipe = config.load(options.recipe, [*options.overrides, *sizes], {"prompt": options.prompt})
    run = runs.generate(recipe, tmp_path / "run")
    assert run.asset.name == "asset.png"
    top, bottom = run.scene().logits.detach().sigmoid()
    red = torch.tensor(COLORS["red"])
    for color in (top, bottom):
        assert (color > 0.5).equal(red > 0.5)
