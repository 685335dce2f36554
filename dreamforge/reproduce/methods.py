"""What is compared, as data: the setting that all methods share, each method's own, and what each was tuned over.

Everything is a recipe's dotted keys on top of ``COMMON``. Views are pictures of one flat canvas, one for each seed.
Nobody is told a camera, and the prompts get no view words.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from dreamforge import data
from dreamforge.overrides import assign
from dreamforge.types import DreamforgeError

Values = dict[str, Any]  # dotted keys of a recipe

# From 0.1: below it the embedded pixel prior, which predicts x0, knows no noise; the papers' 0.02 is for eps networks.
WIDE: Values = {"use": "schedule.Uniform", "low": 0.1, "high": 0.98}  # DreamFusion's
FALLING: Values = {"use": "schedule.Uniform", "low": 0.1, "high": [[0.0, 0.98], [1.0, 0.5]]}  # MVDream's and others'
ALONG = [[0.0, 0.98], [1.0, 0.2]]
FLOW: Values = {"use": "schedule.Uniform", "low": ALONG, "high": ALONG, "shared": True}  # CFD's: no chance in t
COMMON: Values = {
    "name": "canvas-claims",
    "device": "auto",
    "resolution": 64,
    "background": "scene",
    "scene": {"use": "canvas.Canvas", "size": 64, "init": "grey", "lr": 0.05},
    "optimiser": {"lr_scale": [[0.0, 1.0], [0.5, 1.0], [1.0, 0.02]]},  # so that Adam's own noise is gone at the end
    "timesteps": WIDE,
    "noise": {"use": "noise.Gaussian"},
    "cameras": {"use": "cameras.OrbitSampler"},
    "prompts": {"use": "prompts.ViewPrompts", "enabled": False},
}


@dataclass(frozen=True)
class Method:
    """``values`` on top of COMMON; what is chosen for the one method ``tuned`` of a ``family`` holds for all of it.

    ``apart``: every seed has a run of its own. Else all seeds are pictures of one canvas, which is cheaper and, where
    nothing is learnt, the same: each has its own t and noise, and Adam works element by element. What learns from the
    renders learns from all pictures of its canvas, so there one canvas is a set of particles.
    """

    name: str
    title: str
    family: str
    values: Values = field(default_factory=dict)
    apart: bool = False
    tuned: bool = True


def _sds(scale: float) -> Values:
    return {"guidance": {"use": "sds.SDS", "cfg_scale": scale, "use_camera": False}}


def _vsd() -> Values:
    # rank and loss as the class has them; an estimator that never sees a camera, as the prior does not
    estimator = {"camera": False, "camera_dropout": 0.0, "low": WIDE["low"]}
    return {"guidance": {"use": "vsd.VSD", "cfg_scale": 7.5, "use_camera": False, "estimator": estimator}}


def _balanced(kappa: float) -> Values:
    return {"guidance": {"use": "balanced.Balanced", "kappa": kappa, "use_camera": False}}


KAPPAS = (5.0, 15.0, 30.0, 60.0)
PUBLISHED_KAPPA = 15.0  # in the authors' code
METHODS = (
    Method("sds", "SDS, CFG 7.5", "sds", _sds(7.5)),
    Method("sds-large", "SDS, large CFG", "sds-large", _sds(30.0)),
    Method("vsd", "VSD, CFG 7.5", "vsd", _vsd(), apart=True),
    Method("vsd-particles", "VSD, CFG 7.5, 4 particles", "vsd", _vsd(), tuned=False),
    *(
        Method(
            f"balanced-{kappa:g}", f"Balanced, kappa {kappa:g}", "balanced", _balanced(kappa),
            tuned=kappa == PUBLISHED_KAPPA,
        )
        for kappa in KAPPAS
    ),
    Method("ism", "ISM, CFG 7.5", "ism", {"guidance": {"use": "ism.ISM", "cfg_scale": 7.5, "use_camera": False}}),
    Method(
        "consistent", "SDS, CFG 7.5, consistent noise", "consistent",
        {**_sds(7.5), "noise": {"use": "noise.Consistent"}},
    ),
)  # fmt: skip

# The budget of every family is four settings: two rates of Adam times two values of the knob that matters most to it.
# A method with little noise in its gradient arrives sooner, and at a rate too large for it goes on into the absurd.
RATES = (0.05, 0.02)
TIMES: tuple[Values, Values] = ({"timesteps": WIDE}, {"timesteps": FALLING})
KNOBS: dict[str, tuple[Values, Values]] = {
    "sds": TIMES,
    "sds-large": ({"guidance.cfg_scale": 30.0}, {"guidance.cfg_scale": 100.0}),
    "vsd": ({"guidance.estimator.lr": 1e-3}, {"guidance.estimator.lr": 3e-3}),
    "balanced": TIMES,
    "ism": TIMES,
    "consistent": ({"timesteps": WIDE}, {"timesteps": FLOW}),
}
TRIED: dict[str, tuple[Values, ...]] = {
    family: tuple({"scene.lr": rate, **knob} for rate in RATES for knob in knobs) for family, knobs in KNOBS.items()
}

# Settings of the noise whose gradient's variance is measured: noises per render, and whether in pairs +n, -n.
DRAWS = {f"draws-{draws}": (draws, False) for draws in (1, 2, 4, 8)} | {
    f"antithetic-{draws}": (draws, True) for draws in (2, 8)
}


def drawing(name: str) -> Values:
    """The setting of this name."""
    draws, antithetic = DRAWS[name]
    return {**_sds(7.5), "noise": {"use": "noise.Gaussian", "draws": draws, "antithetic": antithetic}}


def content(prompt: str, seed: int, steps: int, pictures: int, *layers: Values) -> dict[str, Any]:
    """A recipe as YAML holds it, later layers over earlier ones; it lacks its prior."""
    found: dict[str, Any] = {}
    for layer in (COMMON, *layers):
        assign(found, deepcopy(layer))  # what is assigned later goes into the blocks assigned before
    own = {"prompt": prompt, "seed": seed, "steps": steps, "views": pictures, "scene.pictures": pictures}
    assign(found, own)
    return found


def by_name(name: str) -> Method:
    return next(method for method in METHODS if method.name == name)


@dataclass(frozen=True)
class NamedPrior:
    """``values``: its slot in a recipe; ``folder``: its weights below ``assets/``, "" where it needs none.

    ``own``: what a family of methods must be told for this prior, as nobody's choice.
    """

    name: str
    title: str
    values: Values
    folder: str
    own: dict[str, Values] = field(default_factory=dict)


PRIORS = (
    # ISM starts where there is hardly noise; a prior that predicts x0 knows none below 0.1
    NamedPrior("toybox", "pixel prior", {"use": "toybox.ToyboxPrior"}, "prior", {"ism": {"guidance.start": 0.1}}),
    NamedPrior(
        "latent", "latent prior", {"use": "stable_diffusion.StableDiffusion", "model": "toybox-latent"}, "latent"
    ),
)


def spec(named: NamedPrior) -> Values:
    """Its slot in a recipe. Raises DreamforgeError, one sentence, where its weights are not there."""
    try:
        if named.folder:
            data.asset(named.folder)
    except DreamforgeError as error:
        raise DreamforgeError(
            f"The prior '{named.name}' is not there: this installation has no assets/{named.folder}; take another "
            "--prior, or a version of the package that carries it."
        ) from error
    return dict(named.values)
