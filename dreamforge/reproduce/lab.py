"""One prior, the judge and true renders: from a job, which is plain data, to a row of measurements."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dreamforge import config, data
from dreamforge.assembly import Priors, build_stage
from dreamforge.cameras import turntable
from dreamforge.engine import fit
from dreamforge.evaluation import picture_metrics as metrics
from dreamforge.evaluation.judge import shipped
from dreamforge.evaluation.samples import judged
from dreamforge.evaluation.suites import Prompt
from dreamforge.evaluation.truths import true_renders
from dreamforge.evaluation.verdict import judge_pictures
from dreamforge.evaluation.wanted import right
from dreamforge.files import hashes
from dreamforge.rng import derive
from dreamforge.schedule import curve
from dreamforge.slots import make
from dreamforge.stopwatch import (
    Step,
    Stopwatch,
    backward_and_optimisers,
    followed_by,
    watch_learned,
    watch_prior,
    watch_scene,
)
from dreamforge.types import LearnedGuidance, Prior

SEED = 2026
SEEDS = 4  # pictures of a prompt and method, and particles
SIZE = 64
TRUE = "true renders"  # judged like a method: what is right, sharp and diverse enough
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One row to be made. ``runs`` are recipes without their prior: one canvas of all pictures, or one a seed."""

    stage: Literal["tuning", "judging", "variance"]
    method: str
    prompt: Prompt
    runs: tuple[dict[str, Any], ...] = ()
    setting: int = 0  # which of those tried

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.method}/{self.setting}/{self.prompt.prompt}"


@dataclass(frozen=True)
class Painted:
    """``pictures [B,64,64,3]`` of a run, its ``seconds`` in all, and what each step cost."""

    pictures: Tensor
    seconds: float
    steps: list[Step]

    @property
    def evaluations(self) -> int:
        """One for every text and picture, those that a twin learns from too."""
        return sum(step.asked + step.learnt for step in self.steps)


@dataclass
class Lab:
    """Everything that rows are made with. ``spec`` is the prior's slot in a recipe, ``prompts`` all that are judged.

    ``gradients``: a list that receives every gradient on x, as the engine adds it up; None listens to nothing.
    """

    prior: Prior
    spec: dict[str, Any]
    prompts: Sequence[Prompt]
    truths: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.judge, self.watch = shipped(), Stopwatch(self.device)
        self.gradients: list[Tensor] | None = None
        watch_prior(self.prior, self.watch)
        followed_by(self.prior, "encode", self._listen)
        folders = {"judge": data.asset("judge"), "prior": getattr(self.prior, "folder", None)}
        self.fingerprint = {name: _weights(folder) for name, folder in folders.items() if folder is not None}
        self._truths: dict[str, Tensor] = {}

    @staticmethod
    def open(spec: dict[str, Any], prompts: Sequence[Prompt], truths: int, device: torch.device) -> "Lab":
        return Lab(make("prior", spec).build(device), spec, prompts, truths, device)

    def digest(self, job: Job) -> str:
        """Changes with everything that decides the row, so that a row of other settings is made again."""
        decides = [job.key, job.runs, self.truths, self.fingerprint]
        return hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=8).hexdigest()

    def row(self, job: Job) -> tuple[Row, Tensor | None]:
        """The row, and the pictures ``[B,64,64,3]`` where the job makes some."""
        facts: Row = {"key": job.key, "digest": self.digest(job), "stage": job.stage, "method": job.method}
        facts |= {"setting": job.setting, "prompt": job.prompt.prompt, "group": job.prompt.group}
        if job.stage == "variance":
            return {**facts, "metrics": self.variance(job)}, None
        count = sum(run["views"] for run in job.runs) or SEEDS
        try:
            pictures, costs = self._pictures(job)
        except FloatingPointError as error:  # a method that explodes is wrong; nothing else is known of it
            failed = {"right": [0.0] * count, "r-precision": [0.0] * count}
            return {**facts, "error": str(error), "metrics": failed}, torch.full((count, SIZE, SIZE, 3), 0.5)
        return {**facts, "metrics": {**self.measured(job.prompt, pictures), **costs}}, pictures

    def paint(self, content: dict[str, Any], start: Tensor | None = None) -> Painted:
        """Run one recipe by the engine; ``start [B,64,64,3]`` takes the place of the canvas's own beginning."""
        began = time.perf_counter()
        recipe = config.build({**content, "prior": self.spec})
        (stage,) = recipe.stages
        workshop = build_stage(recipe, 0, Priors(self.device, [(term.prior, self.prior) for term in stage.terms]))
        if start is not None:
            workshop.scene.load_state({"logits": start.clamp(0.002, 0.998).logit().to(self.device)})
        watch_scene(workshop.scene, self.watch)
        for term in workshop.terms:
            if isinstance(term.guidance, LearnedGuidance):
                watch_learned(term.guidance, self.watch)
        steps: list[Step] = []
        self.watch.take()
        with backward_and_optimisers(self.watch):
            fit(
                workshop.scene,
                workshop.terms,
                workshop.optimiser,
                stage.steps,
                derive(recipe.seed, "stage", 0),
                device=self.device,
                lr_scale=lambda progress: curve(stage.optimiser.lr_scale, progress),
                on_step=lambda info: steps.append(self.watch.take()),
            )
        with torch.no_grad():
            cameras = turntable(stage.terms[0].views, height=SIZE, width=SIZE, device=self.device)
            pictures = metrics.as_saved(workshop.scene.render(cameras, None, 0).rgb).cpu()
        return Painted(pictures, time.perf_counter() - began, steps)

    def truth(self, prompt: Prompt) -> Tensor:
        """The true renders that pictures of a prompt are compared with, ``[truths,64,64,3]``."""
        if prompt.prompt not in self._truths:
            drawn = true_renders(prompt.asked, self.truths, derive(SEED, "truths"), SIZE)
            self._truths[prompt.prompt] = metrics.as_saved(drawn)
        return self._truths[prompt.prompt]

    @torch.no_grad()
    def measured(self, prompt: Prompt, pictures: Tensor) -> dict[str, list[float]]:
        """Every metric, a number for each picture; diversity is one of the prompt."""
        truth, votes = self.truth(prompt), judge_pictures(self.judge, pictures)
        (verdicts,) = judged(self.judge, pictures[None])
        asked = [one.asked for one in self.prompts]
        found = {
            "right": torch.tensor([right(verdict, prompt.asked) for verdict in verdicts]),
            **metrics.against(pictures, truth),
        }
        if prompt.asked in asked:
            own = asked.index(prompt.asked)
            found["r-precision"] = metrics.ranks_first(self.judge.labels, votes, own, asked)
        if len(pictures) > 1:
            found["feature diversity"] = torch.tensor([metrics.feature_diversity(self.judge, pictures)])
            found["colour diversity"] = torch.tensor([metrics.color_diversity(pictures)])
        return {name: [round(value, 5) for value in values.float().tolist()] for name, values in found.items()}

    def variance(self, job: Job) -> dict[str, list[float]]:
        """The variance of the gradient on x, over independent steps at pictures that stay; per picture, mean element.

        The pictures are true renders, and the run's learning rate is 0. The engine's division by the number of
        pictures is undone. No logarithm: that of a variance from few steps is too low on average, the fewer the lower.
        """
        (content,) = job.runs
        count = content["views"]
        still = true_renders(job.prompt.asked, count, derive(SEED, "still"), SIZE)
        self.gradients = []
        try:
            painted = self.paint(content, still)
            gradients = torch.stack(self.gradients) * count
        finally:
            self.gradients = None
        variance = gradients.var(0).flatten(1).mean(1).cpu()
        each = content["steps"] * count
        costs = {
            "": 1.0,
            " per evaluation": painted.evaluations / each,
            " per second": sum(step.seconds for step in painted.steps) / each,
        }
        return {f"variance{name}": (variance * cost).tolist() for name, cost in costs.items()}

    def _listen(self, x: Tensor) -> None:
        heard = self.gradients
        if heard is not None and x.requires_grad:
            x.register_hook(lambda gradient: heard.append(gradient.detach().clone()))

    def _pictures(self, job: Job) -> tuple[Tensor, dict[str, list[float]]]:
        if job.method == TRUE:
            return metrics.as_saved(true_renders(job.prompt.asked, SEEDS, derive(SEED, "judged truths"), SIZE)), {}
        runs = [self.paint(content) for content in job.runs]
        pictures = torch.cat([run.pictures for run in runs])
        costs = {
            "evaluations": [sum(run.evaluations for run in runs) / len(pictures)],
            "seconds": [round(sum(run.seconds for run in runs) / len(pictures), 4)],
        }
        return pictures, costs


def _weights(folder: Path) -> dict[str, str]:
    return {name: code for name, code in hashes(folder).items() if name.endswith(".safetensors")}
