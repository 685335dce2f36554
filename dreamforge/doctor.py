"""``dreamforge doctor``: what this installation can do, what is slow or wrong, and why."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import packages_distributions

import torch

import dreamforge
from dreamforge import data, devices
from dreamforge.config import Recipe
from dreamforge.files import hashes
from dreamforge.forecast import TIMED, WARM, Forecast, advice, at_hand, forecasts, timed
from dreamforge.manifest import PACKAGES, describe, installed
from dreamforge.ops.dispatch import backends
from dreamforge.priors.estimate import Cost
from dreamforge.priors.known import EMBEDDED
from dreamforge.priors.memory import total_memory, used_memory
from dreamforge.priors.toybox import network_dtype
from dreamforge.types import DreamforgeError

DISTRIBUTION = "dreamforge3d"
OPTIONAL = {
    "nerfacc": "compositing on CUDA",
    "tinycudann": "the hash grid on CUDA",
    "gsplat": "Gaussians on CUDA",
    "xatlas": "unwrapping of textures",
}


@dataclass(frozen=True)
class Finding:
    """One line of the answer; ``wrong`` means that something should be mended."""

    name: str
    text: str
    wrong: bool = False


def examine() -> list[Finding]:
    """Everything worth knowing about this installation."""
    owners = packages_distributions().get("dreamforge", [])
    files = [prior_files(name) for name in ("prior", *EMBEDDED.values())]
    return [_versions(), package_name(owners), _device(), _precision(), *_kernels(), *files, *_optional()]


def examine_recipe(recipe: Recipe, device: torch.device) -> list[Finding]:
    """What a recipe takes in memory and time: tried where its priors come along, else about, and if they are here."""
    if at_hand(recipe):
        return _tried(recipe, device)
    limit = max((getattr(term.prior, "vram", 0) for stage in recipe.stages for term in stage.terms), default=0)
    return [finding for one in forecasts(recipe, device) for finding in _forecast(one, recipe, device, limit)]


def _tried(recipe: Recipe, device: torch.device) -> list[Finding]:
    """A few real steps under the present load."""
    try:
        seconds = timed(recipe, device)
    except DreamforgeError as error:
        return [Finding("recipe", str(error), True)]
    total = sum(stage.steps * step for stage, step in zip(recipe.stages, seconds, strict=True))
    step = total / recipe.steps
    used = used_memory(device)
    whose = "of GPU memory" if device.type == "cuda" else "with the program itself"
    memory = "not known on this system" if used is None else f"{_gb(used)} at most in these steps, {whose}"
    time = (
        f"about {_long(total)} for {recipe.steps} steps on {describe(device)}: {step:.2g} s a step, the mean of "
        f"{TIMED} or more after {WARM} that warm up, timed now with whatever else is running; previews, checkpoints "
        "and the export come on top"
    )
    return [
        Finding("weights", f"'{recipe.name}' needs no model beside those of the package"),
        Finding("memory", memory),
        Finding("time", time),
    ]


def _forecast(one: Forecast, recipe: Recipe, device: torch.device, limit: int) -> list[Finding]:
    """One large prior; ``limit``: GB that it was told to keep to, 0 for none."""
    there, peak = total_memory(device), one.cost.peak(device.type)
    most = min(there or peak, limit * 10**9 if limit else there or peak)
    memory = (
        f"about {_gb(peak)} of {_gb(most)} on {describe(device)} for {one.model}: {_parts(one.cost)}; the scene comes "
        "on top"
    )
    if peak > most:
        memory += f"; too little: {advice(one.cost)}"
    step = one.seconds / max(recipe.steps, 1)
    time = (
        f"about {_long(one.seconds)} for {recipe.steps} steps of {one.model} alone: {step:.2g} s a step, from "
        f"{one.cost.flops / 1e12:.2g} TFLOP and the speed of a matrix product here; the scene's own time is not in it"
    )
    return [
        Finding("weights", one.missing or f"'{one.model}' is on this machine", bool(one.missing)),
        Finding("memory", memory, peak > most),
        Finding("time", time),
    ]


def _parts(cost: Cost) -> str:
    """What is in memory, and when."""
    text = f"{_gb(cost.text)} text encoder"
    where = "in the computer's own memory" if cost.text_apart else "beside them, gone before the first step"
    copy = [f"{_gb(cost.estimator)} the estimator's copy with gradients and moments"] if cost.copied else []
    parts = [f"{_gb(cost.weights)} weights", f"{text} {where}", *copy, f"{_gb(cost.activations)} for a step"]
    return ", ".join([*parts, "the rest the libraries'"])


def _long(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _versions() -> Finding:
    versions = ", ".join(f"{name} {installed(name) or 'missing'}" for name in PACKAGES)
    missing = any(installed(name) is None for name in PACKAGES)
    text = f"dreamforge {dreamforge.__version__}, Python {platform.python_version()}, {versions}"
    return Finding("versions", text, missing)


def package_name(owners: list[str]) -> Finding:
    """Who else owns the import name ``dreamforge``: on PyPI it is also a stranger's."""
    strangers = sorted({owner for owner in owners if owner.lower().replace("_", "-") != DISTRIBUTION})
    if not strangers:
        return Finding("package", f"imported from {dreamforge.__path__[0]}")
    others = " ".join(strangers)
    cure = f"pip uninstall {others}, then install {DISTRIBUTION} again with --force-reinstall"
    return Finding("package", f"another distribution owns the import name 'dreamforge' too: {others}; {cure}", True)


def _device() -> Finding:
    device = devices.pick("auto")
    return Finding("device", f"{describe(device)}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")


def _precision() -> Finding:
    device = devices.pick("auto")
    name = str(network_dtype("auto", device)).removeprefix("torch.")
    if device.type != "cpu":
        return Finding("precision", f"{name} for the embedded prior")
    why = (
        "bfloat16 instructions are there"
        if name == "bfloat16"
        else "no AMX or AVX512-BF16, so bfloat16 would be slower"
    )
    return Finding("precision", f"{name} for the embedded prior ({torch.backends.cpu.get_cpu_capability()}; {why})")


def _kernels() -> list[Finding]:
    """What computes the operations, alike ones in one line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in backends():
        alike.setdefault((one.device, one.backend, one.why), []).append(one.op)
    return [
        Finding("kernels", f"{', '.join(ops)} on {device}: {backend} ({why})")
        for (device, backend, why), ops in alike.items()
    ]


def prior_files(name: str) -> Finding:
    """An embedded prior's files, in ``assets/<name>``, against the hashes stored beside them."""
    cure = f"install {DISTRIBUTION} again"
    try:
        folder = data.asset(name)
    except DreamforgeError as error:
        return Finding("prior", str(error), True)
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return Finding("prior", f"{folder} has no list of hashes (SHA256SUMS): {cure}", True)
    lines = [line.split(maxsplit=1) for line in sums.read_text("utf-8").splitlines() if line.strip()]
    found = hashes(folder)
    damaged = [name for sha, name in lines if found.get(name) != sha]
    if damaged:
        return Finding("prior", f"missing or damaged in {folder}: {', '.join(damaged)}; {cure}", True)
    return Finding("prior", f"{len(lines)} files in {folder.name} are as they were shipped")


def _optional() -> list[Finding]:
    return [Finding(name, f"{installed(name) or 'not installed'} (optional: {use})") for name, use in OPTIONAL.items()]
