"""What the compiled core was made of. The build runs this file by itself: nothing but the standard library here."""

from hashlib import sha256
from pathlib import Path


def hash_of(sources: Path) -> str:
    """The sha256 of the files in ``extensions/`` that the library is compiled from."""
    files = [sources / "CMakeLists.txt", *(sources / "include").glob("*.h"), *(sources / "cpu").glob("*.*")]
    digest = sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
