import errno
import os
import stat
from pathlib import Path

import pytest

from dreamforge.files import PARTIAL, atomic_write, atomic_write_all, remove_partial
from dreamforge.types import DreamforgeError


def test_writes_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a name with spaces, ünïcode, 雪.bin"
    atomic_write(path, b"old")
    atomic_write(path, b"new\r\n\n")
    assert path.read_bytes() == b"new\r\n\n"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_obeys_the_umask_not_a_private_mode(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_longest_name_still_has_a_temporary_one(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("n" * 255), b"x")
    assert os.listdir(tmp_path) == ["n" * 255]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_failing_disk_leaves_the_old_file_and_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    path = tmp_path / "asset.glb"
    atomic_write(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DreamforgeError, match=word) as caught:
        atomic_write(path, b"new")
    assert "asset.glb" in str(caught.value)
    assert os.listdir(tmp_path) == ["asset.glb"]
    assert path.read_bytes() == b"old"


def test_a_bug_is_not_dressed_up_as_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output"):
        atomic_write(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == []


def test_a_real_limit_is_reported(tmp_path: Path) -> None:
    """A file size limit of the system stops the write half-way, as a full disk does."""
    resource = pytest.importorskip("resource")
    import signal

    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
        with pytest.raises(DreamforgeError, match="cannot write"):
            atomic_write(tmp_path / "a", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert os.listdir(tmp_path) == []


def test_wrong_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for path, word in {
        tmp_path / "absent" / "a": "folder does not exist",
        tmp_path / "file" / "a": "not a folder" if os.name != "nt" else "cannot write",
        tmp_path / "folder": "folder of that name",
        tmp_path / ("n" * 300): "too long" if os.name != "nt" else "cannot write",
    }.items():
        with pytest.raises(DreamforgeError, match=word):
            atomic_write(path, b"y")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_files_that_belong_together_come_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").mkdir()
    with pytest.raises(DreamforgeError, match="b"):
        atomic_write_all({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_remove_partial_takes_only_what_a_killed_writer_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.part").write_bytes(b"x")
    monkeypatch.setattr(os, "replace", lambda a, b: None)  # killed after the write, before the rename
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    atomic_write(tmp_path / "a", b"y")
    monkeypatch.undo()
    assert len(list(tmp_path.glob(PARTIAL))) == 1
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["mine.part"]
