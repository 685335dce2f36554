"""The folder of a run: when a run may be written to it, what it begins with, what a killed process left in it."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamforge.files import atomic_write, remove_partial
from dreamforge.types import DreamforgeError

FILES = ("recipe.yaml", "result.json", "manifest.json", "metrics.jsonl", "report.html", "turntable.webp", "splats.ply")
FOLDERS = ("previews", "checkpoints")
START = re.compile(r"start-[0-9a-f]{12}\.(glb|ply)")  # what a run started from, under the hash of its content


def holds(path: Path, recipe: str) -> bool:
    """Whether the folder holds a run of this very recipe (prompt and seed are part of its text)."""
    file = path / "recipe.yaml"
    return file.is_file() and file.read_text("utf-8") == recipe


def check_free(path: Path, overwrite: bool) -> None:
    """Raise DreamforgeError unless a new run may be written to ``path``."""
    if not path.exists():
        return
    if not path.is_dir():
        raise DreamforgeError(f"The output '{path}' is a file, but a folder is expected: choose another --out.")
    if overwrite or not _foreign(path):
        return
    what = "another run" if (path / "recipe.yaml").is_file() else "files"
    raise DreamforgeError(
        f"The output folder '{path}' already holds {what}: choose another --out, or replace it with --overwrite."
    )


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Make the folder and keep other processes from working on the run in it; the system lets go when this one ends.

    Raises DreamforgeError where another process has claimed it. Nothing is kept out where the system has no ``flock``
    (Windows) or the file system refuses it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DreamforgeError(
            f"The output folder '{path}' cannot be made ({error.strerror}): choose another --out."
        ) from error
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DreamforgeError(
                    f"Another process is working on the run in '{path}': wait for it, or choose another --out."
                ) from error
        yield
    finally:
        os.close(descriptor)


def begin(path: Path, recipe: str, manifest: bytes, start: Mapping[str, bytes]) -> None:
    """Clear away what an earlier run wrote, nothing else, and write what a run starts with; the folder is there.

    ``start`` holds the file that it starts from, if there is one, under its name. ``recipe.yaml`` is the first to go
    and the last to come: a folder that has it is a run that can be resumed.
    """
    for file in [*(path / name for name in FILES), *path.glob("asset.*"), *_starts(path)]:
        file.unlink(missing_ok=True)
    for name in FOLDERS:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
    (path / "previews").mkdir()
    keep(path, start)
    atomic_write(path / "manifest.json", manifest)
    atomic_write(path / "recipe.yaml", recipe.encode())


def keep(path: Path, start: Mapping[str, bytes]) -> None:
    """Write what the run starts from, where it is not there."""
    for name, content in start.items():
        if not (path / name).is_file():
            atomic_write(path / name, content)


def take_back(path: Path) -> None:
    """Undo ``begin`` where no step was saved: a run that was refused must not keep the corrected one out."""
    if not any((path / "checkpoints").glob("*")):
        for file in [*(path / name for name in ("recipe.yaml", "manifest.json", "metrics.jsonl")), *_starts(path)]:
            file.unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(path / name, ignore_errors=True)


def cut_back(path: Path, done: int) -> None:
    """Drop what a killed process wrote after step ``done``: lines of the log, partial files, the mark of the end."""
    for folder in (path, path / "previews"):
        remove_partial(folder)
    (path / "result.json").unlink(missing_ok=True)
    kept = [line for line in logged(path) if line["step"] <= done]
    atomic_write(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept).encode())


def logged(path: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``; a last line that was torn by a kill is left out."""
    log = path / "metrics.jsonl"
    lines = log.read_text("utf-8", errors="replace").split("\n")[:-1] if log.is_file() else []
    return [json.loads(line) for line in lines]


def _foreign(path: Path) -> bool:
    """Whether the folder holds anything but what a run leaves that was killed before ``recipe.yaml`` was written."""
    remove_partial(path)
    left = {entry.name for entry in path.iterdir()} - {"manifest.json", *(file.name for file in _starts(path))}
    previews = path / "previews"
    return bool(left - {"previews"}) or (previews.is_dir() and any(previews.iterdir()))


def _starts(path: Path) -> list[Path]:
    return [file for file in path.glob("start-*") if START.fullmatch(file.name)]
