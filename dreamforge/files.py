"""Writing files so that a reader sees the old content or the new content, never a half of it."""

import errno
import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dreamforge.types import DreamforgeError

PARTIAL = ".dreamforge-*.part"  # what an interrupted write may leave behind

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "it is larger than the file system or a limit allows; choose another folder",
    errno.EACCES: "there is no permission to write there; change the permissions or choose another folder",
    errno.EPERM: "there is no permission to write there; change the permissions or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "its folder does not exist; create the folder or choose another",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another path",
    errno.EISDIR: "a folder of that name is already there; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, replacing a file that is there; see ``atomic_write_all``."""
    atomic_write_all({Path(path): data})


def atomic_write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together; name the file that refers to the others last.

    Every byte is on the disk under a temporary name in the same folder before the first name changes, so a full disk
    leaves the old files as they were and nothing new. A process killed in between can leave files named ``PARTIAL``;
    ``remove_partial`` clears them away. Folders are not created.

    Raises DreamforgeError where the user can help it (no permission, full disk, no such folder); OSError otherwise.
    """
    written: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in contents.items():
            if path.is_dir():  # os.replace would find out too late, after a neighbour was replaced
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            written[path] = path.parent / PARTIAL.replace("*", secrets.token_hex(8))
            _write(written[path], data)
        for path, partial in written.items():
            os.replace(partial, path)
    except OSError as error:
        if error.errno in _REASONS:
            raise DreamforgeError(f"cannot write {str(path)!r}: {_REASONS[error.errno]}") from error
        raise
    finally:
        for partial in written.values():  # after success their names are gone already
            with suppress(OSError):
                partial.unlink()


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Delete what writers killed in mid-write left in ``folder``. Call it only when no other process writes there."""
    for partial in Path(folder).glob(PARTIAL):
        partial.unlink(missing_ok=True)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of the files below a folder, by their relative path; of a single file, by its name."""
    found = {}
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
        if path.is_file():
            name = path.name if path == folder else path.relative_to(folder).as_posix()
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write(path: Path, data: bytes) -> None:
    # 0o666 under the user's umask, unlike the private mode of tempfile; O_BINARY exists on Windows only.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
