"""From a stage of a recipe to the objects that the engine runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from dreamforge.checkpoints import load_optimiser_state, nest, optimiser_state, unnest
from dreamforge.config import Optimiser, Recipe, Term
from dreamforge.engine import BuiltTerm
from dreamforge.optimiser import SceneAdam
from dreamforge.rng import derive
from dreamforge.scenes.convert import convert
from dreamforge.scenes.start import Start, scene_from
from dreamforge.types import LearnedGuidance, ParamGroup, Prior, Scene, State


@runtime_checkable
class Vocabulary(Protocol):
    """A prior that knows which words it knows."""

    def warnings(self, prompt: str) -> list[str]:
        """A sentence for each thing in the prompt that the prior will not understand."""
        ...


@runtime_checkable
class FromFolder(Protocol):
    """A prior whose weights are the files of a folder; None for weights of no file."""

    folder: Path | None


@dataclass(frozen=True)
class Workshop:
    """A stage ready for ``engine.fit(scene, terms, optimiser, ...)``; its whole state goes in and out as tensors."""

    scene: Scene
    terms: list[BuiltTerm]
    optimiser: torch.optim.Optimizer

    def state(self) -> State:
        state = nest("scene", self.scene.state()) | nest("optimiser", optimiser_state(self.optimiser))
        for number, (guidance, learner) in self._learned().items():
            state |= nest(f"guidance{number}", guidance.state())
            state |= nest(f"learner{number}", optimiser_state(learner))
        return state

    def load_state(self, state: State) -> None:
        self.scene.load_state(unnest("scene", state))
        load_optimiser_state(self.optimiser, unnest("optimiser", state))
        for number, (guidance, learner) in self._learned().items():
            guidance.load_state(unnest(f"guidance{number}", state))
            load_optimiser_state(learner, unnest(f"learner{number}", state))

    def _learned(self) -> dict[int, tuple[LearnedGuidance, torch.optim.Optimizer]]:
        return {
            number: (term.guidance, term.learner)
            for number, term in enumerate(self.terms)
            if isinstance(term.guidance, LearnedGuidance) and term.learner is not None
        }


@dataclass
class Priors:
    """The priors of one run, each built once; ``built`` may begin with some that are there already."""

    device: torch.device
    built: list[tuple[Any, Prior]] = field(default_factory=list)

    def of(self, spec: Any) -> Prior:
        for known, prior in self.built:
            if known == spec:
                return prior
        self.built.append((spec, spec.build(self.device)))
        return self.built[-1][1]

    def folders(self) -> list[Path]:
        priors = [prior for _, prior in self.built if isinstance(prior, FromFolder)]
        return [prior.folder for prior in priors if prior.folder is not None]

    def warnings(self, recipe: Recipe) -> list[str]:
        """What the priors built so far will not understand in the recipe's prompts."""
        found: dict[str, None] = {}
        for term in (term for stage in recipe.stages for term in stage.terms):
            for spec, prior in self.built:
                if spec == term.prior and isinstance(prior, Vocabulary):
                    found.update(dict.fromkeys(prior.warnings(term.prompt)))
        return list(found)


def build_scene(recipe: Recipe, stage: int, device: torch.device) -> Scene:
    """A fresh scene of the stage with this number."""
    scene: Scene = recipe.stages[stage].scene.build(derive(recipe.seed, "scene", stage), device)
    return scene


def build_stage(
    recipe: Recipe, number: int, priors: Priors, before: Scene | None = None, start: Start | None = None
) -> Workshop:
    """Everything that stage ``number`` needs; ``before`` is the scene of the stage before it, where there is one, and
    ``start`` what a file holds that the first stage starts from."""
    stage = recipe.stages[number]
    if start is not None:
        scene = scene_from(start, stage.scene, derive(recipe.seed, "scene", number), priors.device, stage.conversion)
    elif before is None or stage.origin == "scratch":
        scene = build_scene(recipe, number, priors.device)
    elif stage.scene == recipe.stages[number - 1].scene:
        scene = before
    else:
        scene = convert(before, stage.scene, derive(recipe.seed, "scene", number), priors.device, stage.conversion)
    terms = []
    if stage.steps:
        seeds = (derive(recipe.seed, "guidance", number, k) for k in range(len(stage.terms)))
        terms = [build_term(term, priors, seed) for term, seed in zip(stage.terms, seeds, strict=True)]
    return Workshop(scene, terms, adam(scene.param_groups(), stage.optimiser))


def build_term(term: Term, priors: Priors, seed: int) -> BuiltTerm:
    """A term with its prior loaded, its prompts embedded and its guidance, if it learns, built."""
    prior = priors.of(term.prior)
    guidance = term.guidance if not hasattr(type(term.guidance), "build") else term.guidance.build(prior, seed)
    learner = adam(guidance.param_groups(), Optimiser()) if isinstance(guidance, LearnedGuidance) else None
    noise = term.noise if not hasattr(type(term.noise), "build") else term.noise.build(derive(seed, "noise"))
    return BuiltTerm(
        prior=prior,
        guidance=guidance,
        prompts=term.prompts.build(term.prompt, prior, term.negative),
        cameras=term.cameras,
        timesteps=term.timesteps,
        noise=noise,
        losses=term.losses,
        views=term.views,
        resolution=term.resolution,
        background=term.background,
        image=term.image,
        parts=term.parts,
        weight=term.weight,
        every=term.every,
        offset=term.offset,
        learner=learner,
    )


def adam(groups: Sequence[ParamGroup], settings: Optimiser) -> torch.optim.Optimizer:
    """The optimiser of a scene's or an estimator's groups, as a recipe sets it."""
    return SceneAdam(groups, settings.betas, settings.eps)
