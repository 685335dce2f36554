"""Several pieces of a mesh file joined into one mesh: one picture of all their textures, or colours at vertices."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamforge.geometry.beside import MOST_PIXELS
from dreamforge.ops.raster import texture
from dreamforge.render.light import linear_to_srgb, srgb_to_linear
from dreamforge.types import Mesh

MARGIN = 4  # texels around each texture in the picture of all


@dataclass(frozen=True)
class Piece:
    """``vertices [V,3]`` in the world, ``faces [F,3]``, ``normals [V,3]``; ``uv [V,2]`` from the top left, with
    ``texture [H,W,3]``, or ``colors [V,3]``; ``base [3]`` multiplies either, in linear light. Colours are sRGB. A
    texture may have a ``material [H,W,2]`` beside it, see ``types.Mesh``."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: Tensor | None
    uv: Tensor | None = None
    texture: Tensor | None = None
    colors: Tensor | None = None
    base: Tensor | None = None
    material: Tensor | None = None


def join(pieces: list[Piece]) -> tuple[Mesh, list[str]]:
    """One mesh, and what it lost. Textures stay textures unless one of several repeats or stands beside coloured
    vertices; metallic and roughness stay beside one texture alone."""
    if all(piece.texture is None for piece in pieces):
        return _mesh(pieces, colors=_all_colors(pieces)), []
    first = pieces[0]
    same = all(piece.texture is first.texture and _equal(piece.base, first.base) for piece in pieces)
    if same and first.texture is not None:
        joined = _mesh(pieces, uv=torch.cat([_uv(piece) for piece in pieces]), texture=_tile(first))
        return replace(joined, material=first.material), []
    found = atlas(pieces)
    if found is not None:
        return _mesh(pieces, uv=found[0], texture=found[1]), []
    why = f"the {len(pieces)} pieces have textures that do not fit into one picture: their vertices took the colours"
    return _mesh(pieces, colors=_all_colors(pieces)), [why]


def atlas(pieces: list[Piece]) -> tuple[Tensor, Tensor] | None:
    """``uv [V,2]`` of all pieces and one picture: their textures on shelves as wide as the widest.

    None where a piece has colours at its vertices or repeats its texture, or where the picture would be too large.
    """
    tiles: list[Tensor] = []
    number: dict[tuple[int, bytes], int] = {}
    own = []
    for piece in pieces:
        repeats = piece.texture is not None and bool(((_uv(piece) < -1e-3) | (_uv(piece) > 1.001)).any())
        if piece.colors is not None or repeats:
            return None
        key = (id(piece.texture), b"" if piece.base is None else piece.base.numpy().tobytes())
        if key not in number:
            number[key] = len(tiles)
            tiles.append(_tile(piece))
        own.append(number[key])
    places, height, width = shelves([(tile.shape[0] + 2 * MARGIN, tile.shape[1] + 2 * MARGIN) for tile in tiles])
    if height * width > MOST_PIXELS:
        return None
    picture = torch.full((height, width, 3), 0.5)
    for tile, (top, left) in zip(tiles, places, strict=True):
        padded = torch.nn.functional.pad(tile.movedim(-1, 0)[None], [MARGIN] * 4, mode="replicate")[0].movedim(0, -1)
        picture[top : top + padded.shape[0], left : left + padded.shape[1]] = padded
    uv = []
    for piece, index in zip(pieces, own, strict=True):
        (top, left), (rows, columns) = places[index], tiles[index].shape[:2]
        at = _uv(piece).clamp(0, 1) * torch.tensor([columns, rows]) + torch.tensor([left + MARGIN, top + MARGIN])
        uv.append(at / torch.tensor([width, height]))
    return torch.cat(uv), picture


def shelves(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, int]:
    """Where rectangles ``(height, width)`` go, as ``(top, left)``, tall ones first; height and width of the whole."""
    area = sum(height * width for height, width in sizes)
    most = max(int(np.ceil(np.sqrt(area))), *(width for _, width in sizes), 1)
    places = [(0, 0)] * len(sizes)
    top = left = shelf = 0
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i][0], i)):
        height, width = sizes[index]
        if left + width > most:
            top, left, shelf = top + shelf, 0, 0
        places[index] = (top, left)
        left, shelf = left + width, max(shelf, height)
    return places, top + shelf, most


def _mesh(
    pieces: list[Piece], colors: Tensor | None = None, uv: Tensor | None = None, texture: Tensor | None = None
) -> Mesh:
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    faces = np.concatenate([piece.faces + start for piece, start in zip(pieces, starts[:-1], strict=True)])
    normals = [piece.normals for piece in pieces if piece.normals is not None]
    return Mesh(
        torch.from_numpy(np.concatenate([piece.vertices for piece in pieces]).astype(np.float32)),
        torch.from_numpy(faces),
        torch.cat(normals) if len(normals) == len(pieces) else None,
        colors,
        uv,
        texture,
    )


def _all_colors(pieces: list[Piece]) -> Tensor | None:
    if all(piece.colors is None and piece.base is None and piece.texture is None for piece in pieces):
        return None
    return torch.cat([_colors(piece) for piece in pieces])


def _colors(piece: Piece) -> Tensor:
    if piece.texture is not None:
        return linear_to_srgb(texture(srgb_to_linear(_tile(piece)), _uv(piece).nan_to_num().clamp(-1e4, 1e4)))
    colors = torch.ones(len(piece.vertices), 3) if piece.colors is None else piece.colors
    return _times(colors, piece.base)


def _tile(piece: Piece) -> Tensor:
    """The texture under its base colour; one texel of that colour where there is no texture."""
    return _times(torch.ones(1, 1, 3) if piece.texture is None else piece.texture, piece.base)


def _times(colors: Tensor, base: Tensor | None) -> Tensor:
    return colors if base is None else linear_to_srgb(srgb_to_linear(colors) * srgb_to_linear(base))


def _uv(piece: Piece) -> Tensor:
    return torch.full((len(piece.vertices), 2), 0.5) if piece.uv is None or piece.texture is None else piece.uv


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
