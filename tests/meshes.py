"""Small meshes that several tests share."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from dreamforge.geometry.parts import joined
from dreamforge.types import Mesh


@cache
def ball(cells: int = 40, radius: float = 0.6) -> Mesh:
    """A marching-cubes ball whose colour is a function of the place: no two regions look alike."""
    from skimage.measure import marching_cubes

    axis = np.linspace(-1, 1, cells)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    distance = radius - np.linalg.norm(grid, axis=-1)
    vertices, faces, _, _ = marching_cubes(distance, 0.0, gradient_direction="ascent")
    vertices = torch.from_numpy(np.float32(vertices / (cells - 1) * 2 - 1))
    mesh = Mesh(vertices, torch.from_numpy(np.int64(faces)))
    return replace(mesh, normals=vertices / vertices.norm(dim=-1, keepdim=True), colors=(vertices + 1) / 2)


def quad() -> Mesh:
    """A textured square facing +Z. The texture's corners: red top left, green top right, blue and white below."""
    texture = torch.zeros(4, 8, 3)
    texture[:2, :4, 0] = texture[:2, 4:, 1] = texture[2:, :4, 2] = 1.0
    texture[2:, 4:] = 1.0
    vertices = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    uv = torch.tensor([[0.05, 0.95], [0.95, 0.95], [0.95, 0.05], [0.05, 0.05]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv=uv, texture=texture)


def two_objects() -> Mesh:
    """A ball of 300 vertices or so and a smaller one beside it."""
    small = replace(ball(12, 0.4), vertices=ball(12, 0.4).vertices + torch.tensor([1.2, 0, 0]))
    return joined([ball(16), small], ["stone", "pebble"])


def area(mesh: Mesh) -> torch.Tensor:
    """Face normals times twice the area, ``[F,3]``."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return torch.linalg.cross(b - a, c - a)
