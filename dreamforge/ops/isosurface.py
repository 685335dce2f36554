"""Meshes of the surface s = 0 of signed distances on a regular grid, with gradients: FlexiCubes, marching tetrahedra.

A grid of ``resolution`` (rx, ry, rz) cubes has ``(rx + 1)(ry + 1)(rz + 1)`` vertices, z fastest; so have its cubes. The
vertices may be moved. Inside is where s < 0: exactly 0 is outside. Faces turn to the left seen from outside. The mesh
ends at the grid's border: where s < 0 on it, there is a hole; for a closed mesh keep s > 0 there. Which vertices and
faces there are, and in which order, is whole-number arithmetic on the signs: it is the same for the reference and the
core, for every number of threads, and on a GPU. (But for a quad whose diagonals weigh the same within rounding.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamforge.ops.dispatch import Backend, choose
from dreamforge.ops.isosurface_native import flexicubes_native, tetrahedra_native
from dreamforge.ops.isosurface_reference import Weights, cube_corners, flexicubes_reference, tetrahedra_reference
from dreamforge.types import DreamforgeError

LARGEST = 1e18  # of signed distances and coordinates: squares of their differences stay finite
MOST = 2**28  # vertices of a grid: 32-bit numbers count its edges
Resolution = int | Sequence[int]


def grid(
    resolution: Resolution, bound: float = 1.0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The vertices ``[n, 3]`` of the grid over ``[-bound, bound]^3`` and the corners ``[cubes, 8]`` int64 of its cubes.

    Corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2) of it. Raises DreamforgeError for no resolution.
    """
    size = checked_size(resolution)
    axes = [torch.linspace(-bound, bound, count + 1, device=device, dtype=dtype) for count in size]
    points = torch.empty(*(count + 1 for count in size), 3, device=device, dtype=dtype)
    for axis, places in enumerate(axes):
        points[..., axis] = places.view([-1 if one == axis else 1 for one in range(3)])
    return points.view(-1, 3), cube_corners(size, points.device)


def flexicubes(
    x: Tensor,
    s: Tensor,
    resolution: Resolution,
    *,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    training: bool = False,
    weight_scale: float = 0.99,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Dual marching cubes with weights (Shen et al. 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh
    Optimization"): ``x [n, 3]`` and ``s [n]`` at the grid's vertices -> vertices ``[V, 3]``, faces ``[F, 3]`` int64,
    and the deviations ``[E]`` whose mean is the regulariser L_dev.

    Every loop that the surface draws on a cube has a dual vertex v = sum of beta_e u_e / sum of beta_e over the edges
    it crosses, with u_e = (x_a alpha_b s_b - x_b alpha_a s_a) / (alpha_b s_b - alpha_a s_a) (section 4.2). ``alpha
    [cubes, 8]`` for corners, ``beta [cubes, 12]`` for edges, ``gamma [cubes]`` are raw: the weights are
    1 + w tanh(alpha), 1 + w tanh(beta) and 1/2 + w (sigmoid(gamma) - 1/2) with w = ``weight_scale``, and 1 where none
    are given. Edge 4 a + p + 2 q of a cube runs along axis a at the offsets p and q along the others, the lower first.

    Each crossed edge inside the grid has a quad of four dual vertices (section 4.3). ``training``: four triangles
    around its centre, a mean of the diagonals' middles weighted by the products of their ends' gamma, so that gamma has
    gradients; the centres come after the V' dual vertices. Else the diagonal with the greater product splits it.
    Deviations, one for each cube and crossed edge: | |v - u| - mean of these over the loop | without alpha (eq. 8).

    Gradients reach x, s and the weights; second ones for ``backend="torch"`` only. Away from the grid's border every
    edge has two faces and every vertex one fan, whatever the signs are. A NaN in a weight goes on into vertices of its
    cube. Raises DreamforgeError for shapes that do not fit, and for s or x that are not finite.
    """
    size = checked_size(resolution)
    weights = Weights(alpha, beta, gamma, training, weight_scale)
    check(x, s, size, alpha=alpha, beta=beta, gamma=gamma)
    if not 0 <= weight_scale < 1:
        raise DreamforgeError(f"weight_scale {weight_scale} was given, but weights above 0 need one in [0, 1).")
    able = all(one.dtype == torch.float32 for one in (x, s, alpha, beta, gamma) if one is not None)
    if choose("isosurface", x.device, backend, able, agrees) == "torch":
        return flexicubes_reference(x, s, size, weights)
    return flexicubes_native(x, s, size, weights)


def marching_tetrahedra(
    x: Tensor, s: Tensor, resolution: Resolution, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """``x [n, 3]`` and ``s [n]`` at the grid's vertices -> vertices ``[V, 3]``, faces ``[F, 3]`` int64.

    Every cube is cut into six tetrahedra around its diagonal from corner 0 to corner 7, alike everywhere (Kuhn 1960).
    A vertex lies on each of their edges that the surface crosses, at x_a + (x_b - x_a) s_a / (s_a - s_b); vertices are
    ordered by the edge's lower end and its direction, faces by cube. Inside the grid the mesh is a manifold whatever
    the signs are. A distance of exactly 0 may give faces without area. Gradients reach x and s; second ones for
    ``backend="torch"`` only. Raises DreamforgeError for shapes that do not fit, and for s or x that are not finite.
    """
    size = checked_size(resolution)
    check(x, s, size)
    if choose("isosurface", x.device, backend, x.dtype == s.dtype == torch.float32, agrees) == "torch":
        return tetrahedra_reference(x, s, size)
    return tetrahedra_native(x, s, size)


def checked_size(resolution: Resolution) -> tuple[int, int, int]:
    """Cubes along each axis. Raises DreamforgeError."""
    size = tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * 3
    whole = len(size) == 3 and all(isinstance(count, int) and count > 0 for count in size)
    if not whole or (size[0] + 1) * (size[1] + 1) * (size[2] + 1) > MOST:
        raise DreamforgeError(
            f"resolution {resolution} was given, but one whole number of cubes above 0, or three, with at most {MOST} "
            "vertices together are expected: choose another."
        )
    return size[0], size[1], size[2]


def check(x: Tensor, s: Tensor, size: tuple[int, int, int], **weights: Tensor | None) -> None:
    """Raises DreamforgeError unless ``x`` and ``s`` are numbers at a grid's vertices, the weights at its cubes."""
    cubes, count = size[0] * size[1] * size[2], (size[0] + 1) * (size[1] + 1) * (size[2] + 1)
    shapes = {"x": (count, 3), "s": (count,), "alpha": (cubes, 8), "beta": (cubes, 12), "gamma": (cubes,)}
    given = {name: one for name, one in {"x": x, "s": s, **weights}.items() if one is not None}
    for name, one in given.items():
        if one.shape != shapes[name] or one.device != x.device:
            raise DreamforgeError(
                f"{name} {list(one.shape)} on {one.device} was given, but a grid of {size[0]} x {size[1]} x {size[2]} "
                f"cubes with x on {x.device} needs {list(shapes[name])} there: use isosurface.grid."
            )
    low_x, high_x, low_s, high_s = torch.stack([*x.detach().aminmax(), *s.detach().aminmax()]).tolist()
    for name, low, high in (("x", low_x, high_x), ("s", low_s, high_s)):
        if not (low >= -LARGEST and high <= LARGEST):
            wrong = int((~(given[name].detach().abs() <= LARGEST)).sum())
            raise DreamforgeError(
                f"{name} has {wrong} numbers that are NaN, infinite or beyond {LARGEST:g}, but finite ones are "
                "expected: find the step that made them."
            )


def agrees(device: torch.device) -> bool:
    """Whether the core's kernels on a device answer a small case as the reference does."""
    draws, size = torch.Generator().manual_seed(0), (5, 4, 6)
    points, cubes = grid(size)
    x = points + 0.03 * torch.randn(points.shape, generator=draws)
    s = torch.randn(len(x), generator=draws)
    raw = [torch.randn(shape, generator=draws) for shape in ((len(cubes), 8), (len(cubes), 12), (len(cubes),))]
    given = [one.to(device).requires_grad_() for one in (x, s, *raw)]
    answers = []
    for flexi, tetra in ((flexicubes_native, tetrahedra_native), (flexicubes_reference, tetrahedra_reference)):
        found = [
            flexi(given[0], given[1], size, Weights(given[2], given[3], given[4], training))
            for training in (False, True)
        ]
        outputs = [*found[0], *found[1], *tetra(given[0], given[1], size)]
        loss = sum((one.square().sum() for one in outputs if one.requires_grad), x.new_zeros((), device=device))
        answers.append([*(one.detach() for one in outputs), *torch.autograd.grad(loss, given)])
    return all(
        one.shape == two.shape and torch.allclose(one.float(), two.float(), rtol=1e-3, atol=1e-3)
        for one, two in zip(*answers, strict=True)
    )
