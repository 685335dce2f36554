"""The GPU command's rehearsal on a CPU, so that it cannot rot, and its judgement of figures and failures."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from dreamforge.assembly import Priors
from dreamforge.priors.estimate import OVERHEAD
from dreamforge.priors.loading import place
from dreamforge.priors.sizes import SIZES
from dreamforge.types import Query
from tests.gpu import measure, priors, random_prior
from tests.gpu.measure import CASES, Case, rows
from tests.gpu.random_prior import RandomPrior, thin

TINY = ["--tiny", "--device", "cpu"]
CHECKOUT = Path(__file__).parent.parent


def bare(
    site: Path, names: Sequence[str], *arguments: str, module: str = "tests.gpu.priors"
) -> subprocess.CompletedProcess[str]:
    """The command where nothing is installed but the distributions ``names``, which ``site`` gets links to."""
    site.mkdir()
    for name in names:
        one = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-m", module, *arguments]  # -S: without the usual site-packages
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment)


def torch_alone() -> list[str]:
    """torch and what it needs, CUDA's libraries where they are among it."""
    found, waiting = list[str](), [Requirement("torch")]
    while waiting:
        one = waiting.pop()
        if one.name not in found:
            needs = map(Requirement, importlib.metadata.requires(one.name) or [])
            asked = [{"extra": extra} for extra in ("", *one.extras)]
            waiting += [need for need in needs if need.marker is None or any(map(need.marker.evaluate, asked))]
            found.append(one.name)
    return found


def test_what_a_bare_machine_lacks_is_said_before_anything_starts(tmp_path: Path) -> None:
    arguments = [*TINY, "--out", str(tmp_path / "out")]
    without = bare(tmp_path / "torch", torch_alone(), *arguments)
    assert without.returncode == 2 and not without.stdout and not (tmp_path / "out").exists()
    assert len(without.stderr.splitlines()) == 1 and ", ".join(priors.required()) in without.stderr
    assert "`pip download --no-deps " in without.stderr and " -m pip install --no-index --no-deps " in without.stderr
    nothing = bare(tmp_path / "nothing", [], *arguments)
    assert nothing.returncode == 2 and nothing.stderr.startswith("torch>=2.10 ")


@pytest.mark.slow
def test_torch_and_the_listed_packages_are_enough(tmp_path: Path) -> None:
    """A scene in 3D with an estimator, the case that imports most."""
    names = [*torch_alone(), *(line.partition(">=")[0] for line in priors.required())]
    arguments = [*TINY, "--only", "sd15-vsd-3d", "--out", str(tmp_path / "out")]
    done = bare(tmp_path / "site", names, *arguments)
    assert done.returncode == 0 and done.stdout.startswith("network"), done.stdout + done.stderr


def test_the_listed_versions_are_the_least_that_the_package_takes() -> None:
    lines = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    least = {line.partition(">=")[0]: line for line in lines}
    for line in [priors.TORCH, *priors.required()]:
        assert line == least.get(line.partition(">=")[0], line)
    assert priors.missing([priors.TORCH, *priors.required()]) == []
    assert priors.missing(["torch>=99.0", "no-such-package", "torch"]) == ["torch>=99.0", "no-such-package"]


def test_a_prior_without_files_is_not_hashed(tmp_path: Path) -> None:
    """Nor the folder that the command runs in, which an empty path would mean."""
    spec = RandomPrior("sd15", size=64, thin=True)
    priors = Priors(torch.device("cpu"))
    priors.of(spec)
    assert priors.folders() == []
    priors.built.append(("with files", type("OfFiles", (), {"folder": tmp_path})()))
    assert priors.folders() == [tmp_path]


@pytest.mark.slow
def test_the_rehearsal_goes_through_all_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert priors.main([*TINY, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "priors.json").read_text())
    assert list(found["cases"]) == [case.name for case in CASES]
    asked = {name: (round(one["asked"]), round(one["learnt"])) for name, one in found["cases"].items()}
    assert asked == {case.name: (3, 1) if "vsd" in case.name else (2, 0) for case in CASES}
    assert all(json.loads((tmp_path / f"{case.name}.json").read_text())["ms"] for case in CASES)
    printed = capsys.readouterr().out
    assert all(row["what"] in printed and row["asked"] in printed for row in found["rows"])
    limits = {row["what"]: row["asked"] for row in found["rows"] if row["what"].endswith("memory")}
    assert {name.split(":")[0] for name, asked in limits.items() if "GB" in asked} == {"sd15-sds-3d", "sd15-vsd-3d"}


def test_a_case_that_fails_or_hangs_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = iter([(1, "Traceback\nCUDA error: an illegal address"), None, (0, "")])

    def run(command: list[str], timeout: float, **more: Any) -> Any:
        end = next(ends)
        if end is None:
            raise measure.subprocess.TimeoutExpired(command, timeout)
        if end[0] == 0:
            assert command[1:3] == ["-m", "tests.gpu.priors"]
            out = Path(command[command.index("--out") + 1])
            (out / f"{command[command.index('--only') + 1]}.json").write_text(json.dumps(result()))
        return measure.subprocess.CompletedProcess(command, end[0], "", end[1])

    monkeypatch.setattr(measure.subprocess, "run", run)
    monkeypatch.setattr(measure, "CASES", CASES[:3])
    assert priors.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "an illegal address" in lines[0] and "SHORT" in lines[0]
    assert "not done after" in lines[1] and "SHORT" in lines[1]
    assert "5.0%" in lines[2] and "SHORT" not in lines[2]


def result(outside: float = 5.0, step: float = 100.0, reserved: float = 3e9) -> dict[str, Any]:
    parts = {"network": 60.0, "encode": step - 60.0 - outside, "scene": outside / 2, "rest": outside / 2}
    return {"ms": parts, "step_ms": step, "allocated": reserved / 2, "reserved": reserved}


def test_figures_are_judged() -> None:
    sds, vsd = CASES[0], CASES[1]
    limited = Case("small", "sd15", limit=6.0)
    assert [row.short for row in rows(sds, {sds.name: result(9.9)})] == [False, False]
    assert [row.short for row in rows(sds, {sds.name: result(10.1)})] == [True, False]
    assert [row.short for row in rows(vsd, {sds.name: result(), vsd.name: result(step=219.0)})] == [False, False]
    assert [row.short for row in rows(vsd, {sds.name: result(), vsd.name: result(step=221.0)})] == [True, False]
    assert [row.short for row in rows(vsd, {sds.name: {"error": "full"}, vsd.name: result()})] == [True, False]
    for over in (-1e6, 1e6):
        reserved = 6e9 - OVERHEAD["cuda"] + over
        assert rows(limited, {"small": result(reserved=reserved)})[-1].short == (over > 0)
    assert [row.short for row in rows(sds, {sds.name: {"error": "full"}})] == [True]


@pytest.mark.parametrize("network", ["sd15", "sdxl", "sd3-medium"])
def test_half_weights_from_the_start_answer_numbers(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.dtype] = []

    def placed(module: Any, *where: Any) -> Any:
        made.extend(p.dtype for p in module.parameters())
        return place(module, *where)

    monkeypatch.setattr(random_prior, "place", placed)
    prior = RandomPrior(network, size=64, precision="bfloat16", thin=True).build()
    assert set(made) == {torch.bfloat16}, "there never was a float32 copy, which would be counted as memory"
    assert {p.dtype for part in (prior.network, prior.vae) for p in part.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    text = prior.embed(["a", "b", "a"])
    assert all(one[0].equal(one[2]) and len(one) == 3 for one in text.tensors.values())
    rgb = torch.full((1, 64, 64, 3), 0.25, requires_grad=True)
    x = prior.encode(rgb, 0)
    (eps,) = prior.predict_noise(x.detach(), torch.tensor([0.5]), [Query(text[:1])])
    x.backward(eps)
    assert x.shape[-2:] == (8, 8) and eps.isfinite().all()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.any()


@pytest.mark.parametrize("network", ["sd15", "sdxl"])
def test_thin_networks_have_the_blocks_of_the_full_ones(network: str) -> None:
    import diffusers

    with torch.device("meta"):
        both = [diffusers.UNet2DConditionModel.from_config(one.shape) for one in (SIZES[network], thin(SIZES[network]))]
    kinds = [[type(block).__name__ for block in (*one.down_blocks, *one.up_blocks)] for one in both]
    assert kinds[0] == kinds[1]


def test_a_device_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert priors.main(["--device", "cdua", "--out", str(tmp_path / "out")]) == 2
    assert "'cdua'" in capsys.readouterr().err and not (tmp_path / "out").exists()
