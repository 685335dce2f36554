"""How good the judge is, on toys it never saw: ``python -m dreamforge.evaluation.measure --judge assets/judge``.

Writes ``card.json`` (figures with 95 % intervals, the confusion matrix as counts) and ``confusion.png`` into the
folder of the judge.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamforge.evaluation import augment, network
from dreamforge.evaluation.confusion import confusion, picture_of
from dreamforge.evaluation.examples import IGNORE, Targets, colors, shades, targets
from dreamforge.evaluation.judge import judge_mesh
from dreamforge.evaluation.network import SIZE, Judge, Labels
from dreamforge.evaluation.nothing import MAKERS
from dreamforge.evaluation.statistics import share
from dreamforge.evaluation.verdict import Votes, judge_pictures
from dreamforge.files import atomic_write_all
from dreamforge.render.background import muted
from dreamforge.rng import derive, generator
from dreamforge.toybox.catalog import KINDS
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import make
from dreamforge.toybox.pictures import Pictures, choose_color, compose, compose_clay, draw, shade_of
from dreamforge.types import DreamforgeError, Mesh

SEED = 2000  # apart from every training's
TOYS = 10  # of each kind, seen from two sides each
CHUNK = 256  # pictures judged at once
VISIBLE = 12  # pixels of an accessory; fewer cannot be seen

Figures = dict[str, Any]


def measure(judge: Judge, pictures: Pictures, report: Callable[[str], None] = print) -> Figures:
    """The card of a judge: true renders (no augmentation), clay renders, nothing, and whole toys.

    Raises DreamforgeError for a judge of another toybox.
    """
    if judge.labels != Labels.of_toybox():
        raise DreamforgeError("The judge knows other kinds, accessories or colours than this toybox: train it again.")
    lots = generator(SEED, "measure")
    color, second = colors(len(pictures), lots)
    main, other, behind = shades(color, lots), shades(second, lots), muted(len(pictures), lots)
    kind, accessory = pictures.kind.long(), pictures.accessory.long()
    answers = targets(judge.labels, kind, accessory, color, second, pictures.azimuth)
    votes = _judged(
        judge, lambda rows: compose(pictures.layers[rows], main[rows], other[rows], behind[rows]), len(kind)
    )
    clay = augment.between(0.3, 0.9, (len(kind), 1), lots).expand(-1, 3)
    gray = _judged(judge, lambda rows: compose_clay(pictures.layers[rows], clay[rows], behind[rows]), len(kind))
    found = {
        "toys": len(kind) // 2,
        "pictures": len(kind),
        "seed": SEED,
        **true_renders(votes, answers, _visible(pictures)),
        "kind on clay": share((gray.kind.argmax(-1) == kind).tolist()),
        "nothing": _nothing(judge, pictures, lots),
    }
    report(json.dumps(found))
    found["whole toys"] = whole_toys(judge, list(KINDS))
    report(json.dumps(found["whole toys"]))
    return {**found, "confusion": confusion(judge.labels, votes.kind.argmax(-1), kind)}


def true_renders(votes: Votes, answers: Targets, visible: Tensor) -> Figures:
    """Shares of pictures answered right; ``visible [B]`` says whose accessory can be seen. Azimuths in degrees."""
    said = {name: getattr(votes, name).argmax(-1) for name in ("kind", "color", "second", "accessory")}
    hit = {name: value == getattr(answers, name) for name, value in said.items()}
    worn = answers.second != IGNORE
    faced = answers.front.isfinite()
    turned = (votes.azimuth - answers.azimuth)[faced].remainder(2 * math.pi)
    error = torch.minimum(turned, 2 * math.pi - turned).rad2deg()
    return {
        "kind": share(hit["kind"].tolist()),
        "color": share(hit["color"].tolist()),
        "accessory": share(hit["accessory"].tolist()),
        "accessory that can be seen": share(hit["accessory"][worn & visible].tolist()),
        "second color that can be seen": share(hit["second"][worn & visible].tolist()),
        "front": share(((votes.front > 0.5) == answers.front.bool())[faced].tolist()),
        "azimuth of kinds with a front": {
            "median": round(float(error.median()), 2),
            "within 30 degrees": share((error < 30).tolist()),
        },
    }


def whole_toys(judge: Judge, names: Sequence[str]) -> Figures:
    """One toy of every kind judged as an asset is; and those with a front again, grown together with a copy of itself
    that looks back, where two faces must be counted."""
    kinds, shades_, single, double = [], [], [], []
    for number, kind in enumerate(names):
        rng = np.random.default_rng(derive(SEED, "whole", number))
        color = choose_color(kind, rng, trained_only=False)
        red, green, blue = map(float, shade_of(color, rng))
        mesh = make(kind, None, derive(SEED, "whole toy", number)).mesh((red, green, blue))
        verdict = judge_mesh(mesh, judge)
        kinds.append(verdict.kind == kind)
        shades_.append(verdict.color == color)
        if KINDS[kind].front:
            single.append(verdict.faces == 1)
            double.append(judge_mesh(two_faced(mesh), judge).faces == 2)
    return {
        "kind": share(kinds),
        "color": share(shades_),
        "one face counted": share(single),
        "two faces counted": share(double),
    }


def two_faced(mesh: Mesh) -> Mesh:
    """A mesh and its copy turned by half a turn about the vertical, in one."""
    assert mesh.normals is not None and mesh.colors is not None
    turn = torch.tensor([-1.0, 1.0, -1.0])
    return Mesh(
        torch.cat([mesh.vertices, mesh.vertices * turn]),
        torch.cat([mesh.faces, mesh.faces + len(mesh.vertices)]),
        torch.cat([mesh.normals, mesh.normals * turn]),
        mesh.colors.repeat(2, 1),
    )


def _nothing(judge: Judge, pictures: Pictures, lots: torch.Generator) -> Figures:
    """How much of each sort of nothing is recognised."""
    rows = torch.randperm(len(pictures), generator=lots)[: min(CHUNK, len(pictures))]
    layers, kind = pictures.layers[rows].float() / 255, pictures.kind[rows].long()
    main, other = (shades(color, lots) for color in colors(len(rows), lots))
    behind = augment.backgrounds(len(rows), SIZE, lots)
    different = torch.rand(len(rows), len(rows), generator=lots) * (kind[None] != kind[:, None])
    shown = augment.paint(layers, main, other, behind)
    strangers = augment.paint(layers[different.argmax(1)], main, other, behind)
    found = {}
    for name, maker in MAKERS.items():
        spoiled = maker(shown, behind, strangers, lots).clamp(0, 1)
        said = judge_pictures(judge, spoiled.permute(0, 2, 3, 1)).kind.argmax(-1)
        found[name] = share((said == judge.labels.nothing).tolist())
    return found


def _judged(judge: Judge, shown: Callable[[slice], Tensor], count: int) -> Votes:
    """The votes on ``count`` pictures, made in pieces to spare memory."""
    pieces = [judge_pictures(judge, shown(slice(start, start + CHUNK))) for start in range(0, count, CHUNK)]
    return Votes(*(torch.cat(values) for values in zip(*(vars(piece).values() for piece in pieces), strict=True)))


def _visible(pictures: Pictures) -> Tensor:
    return (pictures.layers[:, 1] > 64).sum((1, 2)) >= VISIBLE


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dreamforge.evaluation.measure", description=__doc__)
    parser.add_argument("--judge", type=Path, default=Path("assets/judge"), help="folder of the judge")
    parser.add_argument("--toys", type=int, default=TOYS * len(KINDS), help="toys to draw, two pictures each")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        judge = network.load(options.judge)
        found = measure(judge, draw(options.toys, SEED, SIZE))
        size = round((options.judge / network.WEIGHTS).stat().st_size / 1e6, 2)
        facts = {
            "command": "python -m dreamforge.evaluation.measure",
            "megabytes": size,
            "colors": list(COLORS),
            **found,
        }
        files = {
            "card.json": (json.dumps(facts, indent=1) + "\n").encode(),
            "confusion.png": picture_of(found["confusion"]),
        }
        atomic_write_all({options.judge / name: content for name, content in files.items()})
    except DreamforgeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
