"""Training of the judge: ``python -m dreamforge.evaluation.training --out assets/judge``. Resumable at any time."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dreamforge import devices
from dreamforge.evaluation import network
from dreamforge.evaluation.examples import IGNORE, Targets, batch
from dreamforge.evaluation.network import Judge, Labels, Scores
from dreamforge.files import atomic_write
from dreamforge.rng import derive
from dreamforge.toybox.pictures import Pictures, draw
from dreamforge.types import DreamforgeError

STATE, LOG = "state.safetensors", "log.jsonl"
WEIGHTS = {"kind": 1.0, "color": 1.0, "second": 0.4, "accessory": 0.7, "azimuth": 0.5, "front": 0.5}


@dataclass(frozen=True)
class Training:
    """All settings of one training."""

    steps: int = 8_000
    toys: int = 16_000  # drawn once, two pictures each; everything else anew every time
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 200
    decay: float = 0.02  # of the weights
    average: float = 0.998  # decay of the moving average of the weights
    every: int = 200  # steps between two checkpoints
    seed: int = 1000  # apart from the prior's and from the measuring's


def train(
    out: Path, drawn: Path, settings: Training, device: str = "auto", report: Callable[[str], None] = print
) -> None:
    """Train a judge into the folder ``out`` on the pictures cached at ``drawn``, going on with what is there.

    A checkpoint every ``settings.every`` steps: averaged weights for use, a line in ``log.jsonl``, and the full state
    to go on from, which is deleted at the end. Stopped and continued training ends in the same weights. Raises
    DreamforgeError when the folder or the cached pictures belong to other settings or another toybox.
    """
    place, labels = devices.pick(device), Labels.of_toybox()
    out.mkdir(parents=True, exist_ok=True)
    pictures = cached_pictures(drawn, settings.toys, settings.seed, report)
    torch.manual_seed(derive(settings.seed, "judge"))
    judge = Judge(labels).to(place).train()
    average = {name: value.clone() for name, value in judge.state_dict().items()}
    optimiser = _optimiser(judge, settings)
    first = _resume(out, judge, average, optimiser, settings)
    total, began = dict.fromkeys(["all", *WEIGHTS], 0.0), time.monotonic()
    for step in range(first, settings.steps):
        shown, answers = batch(pictures, labels, settings.batch, settings.seed, step)
        losses = _step(judge, optimiser, shown.to(place), _moved(answers, place), settings, step)
        _follow(average, judge, min(settings.average, (step + 1) / (step + 10)))
        total = {name: value + losses[name] for name, value in total.items()}
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            count = (step % settings.every) + 1
            seconds, began = time.monotonic() - began, time.monotonic()
            line = {"step": step + 1, **{name: round(value / count, 4) for name, value in total.items()}}
            _save(out, judge, average, optimiser, settings, {**line, "seconds": round(seconds, 1)})
            report(f"{json.dumps(line)}  {seconds / count:.3f} s a step")
            total = dict.fromkeys(total, 0.0)
    (out / STATE).unlink(missing_ok=True)


def cached_pictures(path: Path, toys: int, seed: int, report: Callable[[str], None] = print) -> Pictures:
    """The pictures of ``toys`` toys, drawn into ``path`` at the first call; a JSON beside it says what they show."""
    facts = {"toys": toys, "seed": seed, "size": network.SIZE, **asdict(Labels.of_toybox())}
    content = json.dumps(facts) + "\n"
    note = path.with_suffix(".json")
    if path.exists() and note.exists():
        if note.read_text("utf-8") != content:
            raise DreamforgeError(
                f"The pictures in {path} were drawn with other settings or another toybox: delete the file, or give "
                "another --pictures."
            )
        return Pictures.load(path)
    report(f"drawing {toys} toys from two views each")
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = draw(toys, seed, network.SIZE)
    partial = path.with_suffix(".part")
    pictures.save(partial)
    partial.replace(path)
    atomic_write(note, content.encode())
    return pictures


def loss(scores: Scores, answers: Targets) -> dict[str, Tensor]:
    """The loss of every head, a mean over the rows that are asked; 0 where none is."""
    found = {
        name: _mean(
            functional.cross_entropy(
                getattr(scores, name), getattr(answers, name), ignore_index=IGNORE, reduction="none"
            ),
            getattr(answers, name) != IGNORE,
        )
        for name in ("kind", "color", "second", "accessory")
    }
    turned, faced = answers.azimuth.isfinite(), answers.front.isfinite()
    azimuth, front = answers.azimuth.nan_to_num(), answers.front.nan_to_num()
    missed = (scores.azimuth - torch.stack([azimuth.sin(), azimuth.cos()], -1)).square().sum(-1)
    unsure = functional.binary_cross_entropy_with_logits(scores.front[:, 0], front, reduction="none")
    return {**found, "azimuth": _mean(missed, turned), "front": _mean(unsure, faced)}


def _mean(values: Tensor, asked: Tensor) -> Tensor:
    return (values * asked).sum() / asked.sum().clamp_min(1)


def _step(
    judge: Judge, optimiser: torch.optim.Optimizer, shown: Tensor, answers: Targets, settings: Training, step: int
) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = settings.lr * rate(step, settings)
    with torch.autocast(shown.device.type, torch.bfloat16, enabled=_fast(shown.device)):
        scores = judge(shown.contiguous(memory_format=torch.channels_last))
    losses = loss(scores, answers)
    total = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros((), device=shown.device))
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
    optimiser.step()
    return {"all": float(total.detach()), **{name: float(value.detach()) for name, value in losses.items()}}


def rate(step: int, settings: Training) -> float:
    """Of the learning rate: a linear rise over the warmup, then half a cosine to 0 at the last step."""
    rise = (step + 1) / max(1, settings.warmup)
    return min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _optimiser(judge: Judge, settings: Training) -> torch.optim.Optimizer:
    matrices = [p for p in judge.parameters() if p.ndim > 1]
    rest = [p for p in judge.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def _follow(average: dict[str, Tensor], judge: Judge, decay: float) -> None:
    for name, value in judge.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)


def _fast(device: torch.device) -> bool:
    """Whether bfloat16 is fast here."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda"


def _moved(answers: Targets, device: torch.device) -> Targets:
    return Targets(*(value.to(device) for value in vars(answers).values()))


def _save(
    out: Path,
    judge: Judge,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    settings: Training,
    line: dict[str, float],
) -> None:
    """The averaged weights, the state, the log. The state names its step, so it goes last."""
    from safetensors.torch import save

    live = {name: value.clone() for name, value in judge.state_dict().items()}
    judge.load_state_dict(average)
    facts = {"step": int(line["step"]), "training": asdict(settings)}
    network.save(out, judge, facts)
    judge.load_state_dict(live)
    state = {f"live.{name}": value for name, value in live.items()}
    state |= {f"average.{name}": value for name, value in average.items()}
    for number, values in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
    log = [*_logged(out, int(line["step"]) - 1), json.dumps(line)]
    atomic_write(out / LOG, ("\n".join(log) + "\n").encode())
    atomic_write(
        out / STATE, save({name: value.contiguous() for name, value in state.items()}, {"facts": json.dumps(facts)})
    )


def _logged(out: Path, last: int) -> list[str]:
    lines = (out / LOG).read_text("utf-8").splitlines() if (out / LOG).exists() else []
    return [line for line in lines if json.loads(line)["step"] <= last]


def _resume(
    out: Path, judge: Judge, average: dict[str, Tensor], optimiser: torch.optim.Optimizer, settings: Training
) -> int:
    """Load what the folder holds, and answer the number of steps done."""
    from safetensors import safe_open

    if not (out / network.LABELS).exists():
        return 0
    known = json.loads((out / network.LABELS).read_text("utf-8"))
    if known.get("training") != asdict(settings) or network.load(out).labels != judge.labels:
        raise DreamforgeError(f"{out} was trained with other settings or another toybox: give another --out.")
    if not (out / STATE).exists():
        if known["step"] == settings.steps:
            return settings.steps
        raise DreamforgeError(f"{out} holds half a training without its {STATE}: give another --out.")
    with safe_open(out / STATE, "pt", device=str(next(judge.parameters()).device)) as file:
        facts = json.loads(file.metadata()["facts"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    judge.load_state_dict({name: state[f"live.{name}"] for name in average})
    average.update({name: state[f"average.{name}"] for name in average})
    stored = optimiser.state_dict()
    for name, value in state.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".")
            stored["state"].setdefault(int(number), {})[key] = value
    optimiser.load_state_dict(stored)
    return int(facts["step"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dreamforge.evaluation.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the judge")
    parser.add_argument(
        "--pictures", type=Path, default=Path("runs/judge-pictures.safetensors"), help="cache to draw into"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    for name in ("steps", "toys", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Training, name))
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Training(steps=options.steps, toys=options.toys, batch=options.batch, seed=options.seed)
    try:
        train(options.out, options.pictures, settings, options.device)
    except DreamforgeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
