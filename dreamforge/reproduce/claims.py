"""The claims, as data, and the rule that decides on them: both written before anything was measured.

    d_p = mean over seeds of (metric of the first - metric of the second method), for every prompt p
    d = mean of d_p,   standard error over prompts: the seeds of a prompt are no independent witnesses
    gain = sign d + margin

    reproduced       gain >  2 standard errors
    reversed         gain < -2 standard errors
    not reproduced   neither

``sign`` is the claimed direction. Without a second method the metric is itself a difference to true renders of the
prompt. The margin is 0 but for claims that something is *kept*: there "no difference seen" must not pass for proof, so
the data have to exclude a loss as large as the margin, which noise and few prompts cannot do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dreamforge.evaluation import statistics

Verdict = Literal["reproduced", "not reproduced", "reversed"]
VERDICTS: dict[statistics.Found, Verdict] = {"yes": "reproduced", "no": "not reproduced", "reversed": "reversed"}
KEPT = 0.25  # octaves of sharpness: a loss of 16 % of the energy is a loss of detail

# name -> unit and meaning of one seed's value, or of one prompt's
METRICS = {
    "right": "share of pictures whose kind and colour the judge names as asked",
    "r-precision": "share of pictures whose own prompt ranks first of all prompts",
    "saturation excess": "mean HSV saturation minus that of true renders",
    "saturation error": "absolute value of the excess",
    "clipped excess": "share of channels at 0 or 1 minus that of true renders",
    "colour distance": "CIELAB, to true renders",
    "sharpness": "log2 of the Laplacian's variance minus that of true renders, octaves",
    "sharpness error": "absolute value of the sharpness, octaves",
    "detail": "the sharpness where it is below that of true renders, else 0, octaves",
    "feature diversity": "mean distance in [0, 2] between the seeds of a prompt, in the judge's features",
    "colour diversity": "mean CIELAB distance between the seeds of a prompt, pixel by pixel",
    "evaluations": "predictions of the network for one picture",
    "seconds": "for one picture",
    "variance": "of an element of the gradient on x, mean over elements",
    "variance per evaluation": "the variance times the network's evaluations that a step takes for a picture",
    "variance per second": "the variance times the seconds that a step takes for a picture",
}


@dataclass(frozen=True)
class Claim:
    """``sign`` 1: the first has more of the metric; -1: less. ``second`` None: more or less than true renders."""

    name: str
    sentence: str
    source: str
    metric: str
    first: str
    second: str | None
    sign: Literal[1, -1]
    margin: float = 0.0


DREAMFUSION = "DreamFusion, arXiv 2209.14988"
PROLIFIC = "ProlificDreamer, arXiv 2305.16213"
PLACID = "PlacidDreamer, arXiv 2407.13976"
LUCID = "LucidDreamer, arXiv 2311.11284"
CONSISTENT = "Consistent Flow Distillation, arXiv 2501.05445"
PROJECT = "this project"

CLAIMS = (
    Claim("sds-cfg", "SDS needs a large CFG scale: with it more pictures are right than with 7.5",
          DREAMFUSION, "right", "sds-large", "sds", 1),
    Claim("sds-saturation", "SDS with a large CFG scale is more saturated than true renders",
          DREAMFUSION, "saturation excess", "sds-large", None, 1),
    Claim("sds-clipping", "SDS with a large CFG scale drives more channels to 0 or 1 than true renders have",
          DREAMFUSION, "clipped excess", "sds-large", None, 1),
    Claim("vsd-right", "VSD works at CFG 7.5: more of its pictures are right than of SDS at 7.5",
          PROLIFIC, "right", "vsd", "sds", 1),
    Claim("vsd-keeps-right", "VSD at 7.5 is right as often as SDS with a large CFG scale, to within 0.1",
          PROLIFIC, "right", "vsd", "sds-large", 1, margin=0.1),
    Claim("vsd-saturation", "VSD at 7.5 has a lower saturation error than SDS with a large CFG scale",
          PROLIFIC, "saturation error", "vsd", "sds-large", -1),
    Claim("vsd-diversity-seeds", "Seeds of VSD differ more in features than seeds of SDS with a large CFG scale",
          PROLIFIC, "feature diversity", "vsd", "sds-large", 1),
    Claim("vsd-diversity-colours", "Seeds of VSD differ more in colour than seeds of SDS with a large CFG scale",
          PROLIFIC, "colour diversity", "vsd", "sds-large", 1),
    Claim("vsd-diversity-particles", "Particles of VSD differ more in features than seeds of SDS with a large CFG "
          "scale", PROLIFIC, "feature diversity", "vsd-particles", "sds-large", 1),
    Claim("vsd-particles-colours", "Particles of VSD differ more in colour than seeds of SDS with a large CFG scale",
          PROLIFIC, "colour diversity", "vsd-particles", "sds-large", 1),
    Claim("balanced-saturation", "Balanced (kappa 15) has a lower saturation error than SDS with a large CFG scale",
          PLACID, "saturation error", "balanced-15", "sds-large", -1),
    Claim("balanced-detail", "Balanced (kappa 15) keeps the detail of SDS with a large CFG scale, to within 0.25 "
          "octaves", PLACID, "detail", "balanced-15", "sds-large", 1, margin=KEPT),
    Claim("balanced-kappa", "A larger kappa of Balanced makes less saturated pictures: 60 against 5",
          PLACID, "saturation excess", "balanced-60", "balanced-5", -1),
    Claim("ism-sharp", "ISM is sharper than SDS at the same CFG scale, 7.5",
          LUCID, "sharpness", "ism", "sds", 1),
    Claim("ism-sharp-truly", "ISM is nearer to the sharpness of true renders than SDS at 7.5: noise is sharp too",
          LUCID, "sharpness error", "ism", "sds", -1),
    Claim("consistent-sharp", "SDS with consistent noise is sharper than SDS at the same CFG scale, 7.5",
          CONSISTENT, "sharpness", "consistent", "sds", 1),
    Claim("consistent-sharp-truly", "SDS with consistent noise is nearer to the sharpness of true renders than SDS",
          CONSISTENT, "sharpness error", "consistent", "sds", -1),
    Claim("draws-evaluations", "8 draws per render lower the gradient's variance per evaluation of the network",
          PROJECT, "variance per evaluation", "draws-8", "draws-1", -1),
    Claim("draws-seconds", "8 draws per render lower the gradient's variance per second, render and encoding shared",
          PROJECT, "variance per second", "draws-8", "draws-1", -1),
    Claim("antithetic-evaluations", "2 antithetic draws lower the gradient's variance per evaluation of the network",
          PROJECT, "variance per evaluation", "antithetic-2", "draws-1", -1),
)  # fmt: skip

# method -> metric -> prompt -> the mean over its seeds
Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


def decide(claim: Claim, measured: Measured) -> dict[str, Any]:
    """The claim with mean, standard error, n and verdict; only prompts that both methods have count."""
    first = measured.get(claim.first, {}).get(claim.metric, {})
    if claim.second is None:
        second: Mapping[str, float] = dict.fromkeys(first, 0.0)
    else:
        second = measured.get(claim.second, {}).get(claim.metric, {})
    both = [prompt for prompt in first if prompt in second]
    found = statistics.paired([first[prompt] for prompt in both], [second[prompt] for prompt in both])
    verdict = judged(found["difference"], found["error"], claim.sign, claim.margin)
    numbers = {name: _finite(found[name]) for name in ("difference", "error")}
    return {**asdict(claim), **numbers, "n": len(both), "verdict": verdict}


def judged(difference: float, error: float, sign: int, margin: float = 0.0) -> Verdict:
    """The rule of the module's head."""
    return VERDICTS[statistics.shown(sign * difference + margin, error)]


def measured(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """From rows, one for each method and prompt with a list of numbers for each metric, to means over seeds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        for metric, values in row["metrics"].items():
            found.setdefault(row["method"], {}).setdefault(metric, {})[row["prompt"]] = sum(values) / len(values)
    return found


def summary(measured: Measured) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """method -> metric -> mean and standard error over prompts, and how many there are."""
    return {
        method: {metric: _mean(list(prompts.values())) for metric, prompts in metrics.items()}
        for method, metrics in measured.items()
    }


def _mean(values: Sequence[float]) -> dict[str, float | int | None]:
    mean, error = statistics.mean(values)
    return {"mean": _finite(mean), "error": _finite(error), "n": len(values)}


def _finite(value: float) -> float | None:
    """None for what JSON cannot hold: the mean of nothing, the error of one value."""
    return value if math.isfinite(value) else None
