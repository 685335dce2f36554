"""The judge: a small convolutional network that says what is in a picture of a toy. Used only to measure."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamforge.files import atomic_write_all
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.types import DreamforgeError

SIZE = 64  # side of the pictures it looks at, in pixels
WIDTHS = (40, 72, 128, 256)  # channels at 1/2, 1/4, 1/8 and 1/16 of SIZE
WEIGHTS, LABELS = "judge.safetensors", "judge.json"


@dataclass(frozen=True)
class Labels:
    """The names behind the numbers of the heads; "nothing" and "no accessory" come last and have no name here."""

    kinds: tuple[str, ...]
    accessories: tuple[str, ...]
    colors: tuple[str, ...]

    @staticmethod
    def of_toybox() -> "Labels":
        return Labels(tuple(KINDS), tuple(ACCESSORIES), tuple(COLORS))

    @property
    def nothing(self) -> int:
        """The class of a picture with no toy in it."""
        return len(self.kinds)

    @property
    def bare(self) -> int:
        """The class of a toy without accessory."""
        return len(self.accessories)

    def heads(self) -> dict[str, int]:
        """Outputs of each head, in the order of ``Scores``."""
        colors = len(self.colors)
        return {
            "kind": len(self.kinds) + 1,
            "color": colors,
            "second": colors,
            "accessory": len(self.accessories) + 1,
            "azimuth": 2,
            "front": 1,
        }


@dataclass(frozen=True)
class Scores:
    """What the network answers for B pictures; logits, except ``azimuth``.

    ``kind [B,K+1]`` (last: nothing), ``color [B,C]``, ``second [B,C]`` (of the accessory), ``accessory [B,A+1]``
    (last: none), ``azimuth [B,2]`` a vector along (sin, cos), ``front [B,1]``: seen within 60 degrees of the front.
    """

    kind: Tensor
    color: Tensor
    second: Tensor
    accessory: Tensor
    azimuth: Tensor
    front: Tensor


class Judge(nn.Module):
    """Pictures ``[B,3,64,64]`` in [0, 1] -> ``Scores``. ``labels`` are its own: a toybox that grows leaves it valid."""

    def __init__(self, labels: Labels, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.labels, self.widths = labels, widths
        layers: list[nn.Module] = [_convolution(12, widths[0])]
        for last, width in pairwise(widths):
            layers += [_convolution(last, width, stride=2), _Residual(width)]
        self.body = nn.Sequential(*layers, _Residual(widths[-1]))
        self.heads = nn.Linear(2 * widths[-1], sum(labels.heads().values()))
        nn.init.zeros_(self.heads.weight)  # the features start large: anything else begins far from even odds
        nn.init.zeros_(self.heads.bias)

    def forward(self, pictures: Tensor) -> Scores:
        scores = self.heads(self.features(pictures)).float()
        return Scores(*scores.split(list(self.labels.heads().values()), 1))

    def features(self, pictures: Tensor) -> Tensor:
        """What the heads look at, ``[B, 2 widths[-1]]``: mean and largest value of every channel."""
        # Two by two pixels become channels: half the side without losing what a stride would skip.
        squeezed = nn.functional.pixel_unshuffle(pictures * 2 - 1, 2)
        found = self.body(squeezed.contiguous(memory_format=torch.channels_last))
        return torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.block(x)
        return x + added


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def save(folder: Path, judge: Judge, facts: dict[str, Any]) -> None:
    """Write the weights in float16 and a JSON with labels, widths and ``facts``, together."""
    from safetensors.torch import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in _kept(judge).items()}
    content = {**asdict(judge.labels), "widths": list(judge.widths), **facts}
    text = json.dumps(content, indent=1) + "\n"
    atomic_write_all({folder / WEIGHTS: to_bytes(weights), folder / LABELS: text.encode()})


def load(folder: Path) -> Judge:
    """The judge of a folder, in float32, for evaluation. Raises DreamforgeError for a missing or damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    part = LABELS
    try:
        content = json.loads((folder / part).read_text("utf-8"))
        judge = Judge(_labels(content), tuple(content["widths"]))
        part = WEIGHTS
        weights = {name: value.float() for name, value in from_bytes((folder / part).read_bytes()).items()}
        if set(weights) != set(_kept(judge)):
            raise KeyError("weights and labels are not of one judge")
        judge.load_state_dict(weights, strict=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, DreamforgeError):
            raise
        reason = " ".join(str(error).split())
        raise DreamforgeError(
            f"The evaluator's {folder / part} is missing or damaged ({reason}): install dreamforge3d again, or train "
            "one with 'python -m dreamforge.evaluation.training'."
        ) from error
    return judge.eval().requires_grad_(False)


def _labels(content: dict[str, Any]) -> Labels:
    """The stored labels; every one of them must still mean something."""
    labels = Labels(*(tuple(content[name]) for name in ("kinds", "accessories", "colors")))
    now = Labels.of_toybox()
    strange = [
        name
        for own, known in (
            (labels.kinds, now.kinds),
            (labels.accessories, now.accessories),
            (labels.colors, now.colors),
        )
        for name in own
        if name not in known
    ]
    if strange:
        raise DreamforgeError(
            f"The evaluator was trained on {', '.join(map(repr, strange))}, which this toybox does not have: train it "
            "again with 'python -m dreamforge.evaluation.training'."
        )
    return labels


def _kept(judge: Judge) -> dict[str, Tensor]:
    """The state without BatchNorm's counters of batches, which nothing reads."""
    return {name: value for name, value in judge.state_dict().items() if not name.endswith("num_batches_tracked")}
