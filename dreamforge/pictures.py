"""Pictures as files: PNG, strips of views, animated WebP."""

import io

import torch
from torch import Tensor

from dreamforge.cameras import turntable
from dreamforge.types import Mesh, Scene

PREVIEW_VIEWS = 4
TURNTABLE_VIEWS = 24
TURNTABLE_SIZE = 224  # pixels
PAPER = (0.93, 0.93, 0.93)  # sRGB behind the asset


def png(rgb: Tensor) -> bytes:
    """``[H,W,3]`` in [0, 1] -> a PNG file; the same picture, the same bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_bytes(rgb).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def webp(frames: Tensor, seconds: float) -> bytes:
    """``[N,H,W,3]`` in [0, 1] -> an endless animation of ``seconds`` a round."""
    from PIL import Image

    first, *rest = [Image.fromarray(frame.numpy()) for frame in _bytes(frames)]
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 * seconds / len(frames)),
        loop=0,
        quality=85,
        method=2,
    )
    return buffer.getvalue()


@torch.no_grad()
def preview(scene: Scene, resolution: int, device: torch.device) -> Tensor:
    """The scene from four sides in one strip ``[H, 4W, 3]``; one that looks the same from everywhere once."""
    cameras = turntable(PREVIEW_VIEWS, height=resolution, width=resolution, device=device)
    background = torch.tensor(PAPER, device=device)
    views = scene.render(cameras, background, seed=0).rgb
    alike = all(torch.equal(view, views[0]) for view in views)
    return views[0] if alike else torch.cat(list(views), 1)


@torch.no_grad()
def front(scene: Scene, resolution: int, device: torch.device) -> Tensor:
    """The scene from the front over its own background, ``[H,W,3]``."""
    cameras = turntable(1, elevation=0.0, height=resolution, width=resolution, device=device)
    return scene.render(cameras, None, seed=0).rgb[0]


def spin(mesh: Mesh) -> Tensor:
    """A turntable of a mesh, ``[N,H,W,3]``."""
    from dreamforge.render.raster import render_mesh

    cameras = turntable(TURNTABLE_VIEWS, height=TURNTABLE_SIZE, width=TURNTABLE_SIZE, device=mesh.vertices.device)
    return render_mesh(mesh, cameras, torch.tensor(PAPER), antialias=2).rgb


def _bytes(rgb: Tensor) -> Tensor:
    return (rgb.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
