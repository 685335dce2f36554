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
from dreamforge.forecast import forecasts
from dreamforge.manifest import PACKAGES, describe, installed
from dreamforge.priors.known import EMBEDDED
from dreamforge.priors.memory import total_memory
from dreamforge.priors.toybox import network_dtype
from dreamforge.types import DreamforgeError

DISTRIBUTION = "dreamforge3d"
OPTIONAL = {"nerfacc": "ray marching on CUDA", "gsplat": "Gaussians on CUDA", "xatlas": "unwrapping of textures"}


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
    return [_versions(), package_name(owners), _device(), _precision(), *files, *_optional()]


def examine_recipe(recipe: Recipe, device: torch.device) -> list[Finding]:
    """Whether a recipe's pretrained priors are here, and what memory and time they will take, about."""
    findings = []
    for one in forecasts(recipe, device):
        there, peak = total_memory(device), one.cost.peak(device.type)
        limit = max((getattr(term.prior, "vram", 0) for stage in recipe.stages for term in stage.terms), default=0)
        most = min(there or peak, limit * 10**9 if limit else there or peak)
        parts = f"{_gb(one.cost.weights)} weights, {_gb(one.cost.activations)} for a step, the rest the libraries'"
        text = (
            f"about {_gb(peak)} of {_gb(most)} on {describe(device)} for {one.model}: {parts}; the scene comes on top"
        )
        if peak > most:
            text += "; too little: take a smaller --vram, fewer views, or a smaller prior.size"
        findings.append(Finding("weights", one.missing or f"'{one.model}' is on this machine", bool(one.missing)))
        findings.append(Finding("memory", text, peak > most))
        step, minutes = one.seconds / max(recipe.steps, 1), one.seconds / 60
        how = f"{step:.2g} s a step, from {one.cost.flops / 1e12:.2g} TFLOP and the speed of a matrix product here"
        long = f"{minutes:.1f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"
        findings.append(Finding("time", f"about {long} for {recipe.steps} steps with {one.model}: {how}"))
    return findings or [Finding("recipe", f"'{recipe.name}' uses no pretrained model: a GB of memory is enough")]


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
