"""What a mesh file of a stranger may read beside itself: files of its own folder, and pictures of a known kind."""

import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from dreamforge.types import DreamforgeError

MOST_BYTES = 1 << 29  # of a file
MOST_PIXELS = 1 << 26  # of a picture, 8192 x 8192
PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TGA")  # others bring decoders that run programs or read further files
_PLAIN = (".mtl", ".bin")


@dataclass
class Beside:
    """A resolver for trimesh: reads names below ``folder`` and nothing else, and notes what it did not read.

    ``folder`` None: there is nothing beside the mesh. An OSError of ``get`` is what trimesh takes for a missing file.
    """

    folder: Path | None
    outside: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def get(self, name: str) -> bytes:
        path = self._within(str(name))
        if path is None:
            self.outside.append(str(name))
            raise FileNotFoundError(name)
        try:
            content = read_bytes(path)
        except (OSError, DreamforgeError, ValueError) as error:
            self.absent.append(str(name))
            raise FileNotFoundError(name) from error
        if path.suffix.lower() not in _PLAIN and not _is_picture(content):
            self.damaged.append(str(name))
            raise FileNotFoundError(name)
        return content

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def _within(self, name: str) -> Path | None:
        """The file of a name as a mesh writes it, or None where that leads out of the folder."""
        plain = PurePosixPath(unquote(name.strip().strip('"')).replace("\\", "/"))
        climbs = plain.is_absolute() or ".." in plain.parts or re.match(r"[A-Za-z][\w+.-]*:", str(plain))
        if self.folder is None or climbs or "\0" in name:
            return None
        path, folder = (self.folder / plain).resolve(), self.folder.resolve()
        return path if path.is_relative_to(folder) else None  # a link may lead out, too

    def warnings(self) -> list[str]:
        """A sentence for each kind of thing that was not read."""
        kinds = (
            ("not read, because only files of the mesh's own folder are", self.outside),
            ("not read, because there is no such file that can be read", self.absent),
            (f"not read, because only {', '.join(PICTURES)} up to {MOST_PIXELS} pixels are", self.damaged),
        )
        return [f"{_listed(names)} {'were' if len(set(names)) > 1 else 'was'} {why}" for why, names in kinds if names]


def read_bytes(path: Path) -> bytes:
    """The file, up to ``MOST_BYTES``. Raises DreamforgeError for a larger one, OSError for one that is not there."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DreamforgeError(f"{str(path)!r} is larger than {MOST_BYTES >> 20} MiB: make it smaller")
    return content


def texels(image: Any) -> Tensor | None:
    """A PIL image as ``[H,W,3]`` in [0, 1]; None where it is too large, of another kind, or damaged."""
    if not _fits(image):
        return None
    try:
        levels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Exception:  # decoders raise what they like: OSError, SyntaxError, struct.error, ValueError
        return None
    return torch.from_numpy(levels.astype(np.float32) / np.float32(255)) if levels.size else None


def _is_picture(content: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            return _fits(image)
    except Exception:  # also DecompressionBombError
        return False


def _fits(image: Any) -> bool:
    return image.format in PICTURES and image.width * image.height <= MOST_PIXELS


def _listed(names: list[str]) -> str:
    """Up to three names, shortened, and how many more there are."""
    unique = list(dict.fromkeys(names))
    shown = ", ".join(repr(name if len(name) < 60 else name[:57] + "...") for name in unique[:3])
    return shown + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
