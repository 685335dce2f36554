"""Outside tools that some tests need."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dreamforge.ops import native

GLTF_VALIDATOR = "2.0.0-dev.3.10"  # the version of the npm package that CI installs


def require_tool(present: object, reason: str) -> None:
    """Skip with ``reason`` when a tool is absent on a user's machine; fail in CI, where every tool must be there."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (the environment variable CI is set, so it must be there)")
    pytest.skip(reason)


def levels() -> list[int]:
    """The levels of instructions that the compiled core has for this machine; none without a core."""
    found = native.loaded()
    return [] if isinstance(found, str) else list(range(found.level + 1))


def gltf_reports(*paths: Path) -> list[dict[str, Any]]:
    """What the Khronos glTF validator says of each file: its ``issues`` (counts and messages) and ``info``."""
    node = shutil.which("node")
    require_tool(node, "node is not installed")
    folder = _validator_folder()
    require_tool(folder, f"gltf-validator is not installed: npm install --no-save gltf-validator@{GLTF_VALIDATOR}")
    script = Path(__file__).with_name("gltf_validate.mjs")
    command = [str(node), str(script), str(folder), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


def _validator_folder() -> Path | None:
    """Where npm put the package: beside this checkout, on NODE_PATH, or in npm's global folder."""
    roots = [Path(__file__).parents[1] / "node_modules"]
    roots += [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
    npm = shutil.which("npm")
    found = [root / "gltf-validator" for root in roots if (root / "gltf-validator" / "package.json").is_file()]
    if not found and npm:
        done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=60, check=False)
        root = Path(done.stdout.strip() or os.devnull) / "gltf-validator"
        found = [root] if (root / "package.json").is_file() else []
    return found[0] if found else None
