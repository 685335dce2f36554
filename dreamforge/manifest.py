"""Where and with what a run was made: what a later reader needs to repeat it."""

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dreamforge
from dreamforge.files import hashes

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "omegaconf",
    "peft",
    "safetensors",
    "scikit-image",
    "trimesh",
)


def manifest(device: torch.device, folders: Sequence[Path]) -> bytes:
    """``manifest.json``: versions, machine, git state, and the hash of every weights file in ``folders``."""
    facts: dict[str, Any] = {
        "dreamforge": dreamforge.__version__,
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "git": git_state(),
        "prior": {str(folder): hashes(folder) for folder in folders},
    }
    return (json.dumps(facts, indent=1) + "\n").encode()


def thread_warning(folder: Path) -> list[str]:
    """A sentence if a run is continued with another number of threads than it was begun with."""
    path = folder / "manifest.json"
    began = json.loads(path.read_text("utf-8"))["threads"] if path.is_file() else torch.get_num_threads()
    if began == torch.get_num_threads():
        return []
    return [
        f"The run began with {began} threads and goes on with {torch.get_num_threads()}: "
        "the result will be as good, but not the same to the byte."
    ]


def installed(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name()})" if device.type == "cuda" else device.type


def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, where the package runs from a checkout."""
    root = Path(dreamforge.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    if any(answer.returncode for answer in answers):
        return None
    return {"commit": answers[0].stdout.strip(), "changed": bool(answers[1].stdout.strip())}
