"""The split of a step: every part of a recipe whose parts take known times on a made clock, and nothing changed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge import bench, bench_kernels, checkpoints, cli, config, runs
from dreamforge.bench import LEAST, split
from dreamforge.bench_kernels import Row
from dreamforge.config import Recipe
from dreamforge.priors.mixture import Mixture
from dreamforge.runs import Interrupted, Listener
from dreamforge.scenes.canvas import Canvas
from dreamforge.stopwatch import PARTS
from dreamforge.types import DreamforgeError

STEPS, WARMUP = LEAST + 2, 2
NOW = [0.0]  # seconds on the made clock, which goes on only where somebody is said to work


def works(seconds: float) -> None:
    NOW[0] += seconds


class Way(torch.autograd.Function):
    """The identity; its gradient takes ``seconds`` to come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        works(ctx.seconds)
        return gradient, None


@dataclass(frozen=True)
class SlowPrior:
    """Predictions take 1 s for all questions together, encoding 2 s there and 3 s back."""

    size: int = 8

    def build(self, device: torch.device) -> Any:
        prior = Mixture(size=self.size).build(device)
        predict, encode, trainable = prior.predict_noise, prior.encode, prior.trainable

        def slow_predict(x_t: Tensor, t: Tensor, queries: Any) -> list[Tensor]:
            works(1.0)
            return predict(x_t, t, queries)

        def slow_encode(rgb: Tensor, seed: int) -> Tensor:
            works(2.0)
            return Way.apply(encode(rgb, seed), 3.0)

        def slow_twin(*given: Any) -> Any:
            twin = trainable(*given)
            learnt = twin.predict_noise

            def answer(x_t: Tensor, t: Tensor, queries: Any) -> list[Tensor]:
                works(5.0)
                return [Way.apply(eps, 7.0) if eps.requires_grad else eps for eps in learnt(x_t, t, queries)]

            twin.predict_noise = answer
            return twin

        prior.predict_noise, prior.encode, prior.trainable = slow_predict, slow_encode, slow_twin
        return prior


@dataclass(frozen=True)
class SlowScene:
    """A render takes 11 s and 13 s back, adapting 17 s, its state (for a checkpoint) 100 s."""

    size: int = 8

    def build(self, seed: int, device: torch.device) -> Any:
        scene = Canvas(size=self.size).build(seed, device)
        render, state = scene.render, scene.state

        def slow_render(*given: Any, **more: Any) -> Any:
            works(11.0)
            seen = render(*given, **more)
            rgb = Way.apply(seen.rgb, 13.0) if seen.rgb.requires_grad else seen.rgb
            return type(seen)(rgb, seen.alpha, seen.depth)

        def slow_state() -> Any:
            works(100.0)
            return state()

        scene.render, scene.state, scene.adapt = slow_render, slow_state, lambda step, seed: works(17.0)
        return scene


@dataclass(frozen=True)
class SlowTimes:
    """Drawing t takes 19 s: the rest."""

    def sample(self, views: int, progress: float, seed: int) -> Tensor:
        works(19.0)
        return torch.full((views,), 0.5)


def recipe(**changes: Any) -> Recipe:
    here = {slot: {"use": f"{__name__}.{name}"} for slot, name in (
        ("prior", "SlowPrior"), ("scene", "SlowScene"), ("timesteps", "SlowTimes"))}  # fmt: skip
    values = {"resolution": 8, "views": 3, "preview_every": 50, "checkpoint_every": 20, "losses": {"sparsity": 0.1}}
    return config.load("canvas", values={**here, **values, **changes})


def measured(given: Recipe, **more: Any) -> bench.Split:
    (one,) = split(given, STEPS, WARMUP, clock=lambda: NOW[0], **more)
    return one


def test_every_second_belongs_to_its_part() -> None:
    """rest: 19 s, a checkpoint of 100 s every 20 steps, a preview of 11 s every 50."""
    found = measured(recipe())
    rest = 19 + 100 / 20 + 11 / 50
    assert found.ms == pytest.approx({"network": 1e3, "encode": 5e3, "scene": 41e3, "rest": 1e3 * rest})
    assert (found.checkpoint, found.preview) == pytest.approx((100e3, 11e3))
    assert (found.asked, found.learnt, found.steps) == (2, 0, STEPS - WARMUP - 1)
    assert found.total == pytest.approx(1e3 * (47 + rest))


def test_a_step_with_both_tells_of_neither() -> None:
    """Steps 17 to 27: a checkpoint alone after 24, a preview alone after 25, both after 20."""
    (found,) = split(recipe(), 28, 16, clock=lambda: NOW[0])
    assert (found.checkpoint, found.preview) == pytest.approx((100e3, 11e3))


def test_an_estimator_is_of_the_network_and_looks_for_itself() -> None:
    """It asks the prior below it: 5 + 1 s for the gradient, 5 + 1 + 7 s to learn, on a render and a t of its own."""
    found = measured(recipe(guidance={"use": "vsd.VSD"}, preview_every=0))
    seconds = {"network": 1 + 6 + 13, "encode": 5 + 2, "scene": 41 + 11, "rest": 2 * 19 + 100 / 20}
    assert found.ms == pytest.approx({part: 1e3 * s for part, s in seconds.items()})
    assert (found.asked, found.learnt, found.preview) == (3, 1, 0)


def test_a_small_network_of_its_own_is_found_too() -> None:
    small = {"use": "vsd.VSD", "estimator": {"kind": "small"}}
    found = measured(recipe(guidance=small))
    assert (found.asked, found.learnt) == (3, 1)


def test_optimisers_are_of_whom_they_move(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = measured(recipe(guidance={"use": "vsd.VSD"}))

    genuine = torch.optim.Adam._init_group  # a part of every step, once for each group of parameters

    def slow(optimiser: torch.optim.Adam, group: dict[str, Any], *given: Any) -> Any:
        works(23.0 if group["name"] == "pixels" else 29.0)
        return genuine(optimiser, group, *given)

    monkeypatch.setattr(torch.optim.Adam, "_init_group", slow)
    found = measured(recipe(guidance={"use": "vsd.VSD"}))
    apart = {part: found.ms[part] - moved.ms[part] for part in PARTS}
    assert apart == pytest.approx({"network": 29e3, "encode": 0, "scene": 23e3, "rest": 0})


def test_stages_are_told_apart() -> None:
    stages = [
        {"steps": 5},
        {"steps": 5, "guidance": {"use": "csd.CSD"}, "prior": {"use": "mixture.Mixture", "size": 8}},
    ]
    first, second = split(recipe(stages=stages), STEPS, WARMUP, clock=lambda: NOW[0])
    assert first.ms["network"] == pytest.approx(1e3) and second.ms["network"] == 0
    assert first.ms["scene"] == second.ms["scene"] == pytest.approx(41e3)
    assert first.steps == second.steps and second.asked == 2 and second.checkpoint == pytest.approx(100e3)


def test_a_watched_run_is_the_run(tmp_path: Path) -> None:
    """The same numbers at every step, and torch as it was."""
    values = {"prior": {"use": "mixture.Mixture", "size": 8}, "scene.size": 8, "resolution": 8, "steps": STEPS}
    plain = config.load("canvas", values={**values, "guidance.use": "vsd.VSD", "prompt": bench.PROMPT})
    backward, heard = torch.autograd.backward, []
    split(plain, STEPS, WARMUP, Listener(step=lambda progress: heard.append(progress.metrics)))
    assert torch.autograd.backward is backward
    run = runs.generate(plain, tmp_path / "run")
    names = heard[0].keys()
    assert heard == [{name: line[name] for name in names} for line in run.metrics()]
    assert checkpoints.latest(run.path / "checkpoints") is not None


def test_too_few_steps_and_a_stop_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for steps, warmup in ((LEAST, 1), (50, 0)):
        with pytest.raises(DreamforgeError, match="raise --steps"):
            split(recipe(), steps, warmup)
    with pytest.raises(Interrupted, match="nothing is kept"):
        split(recipe(), STEPS, WARMUP, Listener(stop=lambda: True))
    assert cli.main(["bench", "--prior", "--recipe", "canvas", "--steps", "4", "--json"]) == cli.WRONG_INPUT
    assert "--steps" in json.loads(capsys.readouterr().out)["error"]


def test_rows_of_operations_are_a_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: lambda name: Row(name, "one", 1.0, 2.5, {"theirs": 4.0}) for name in ("a", "b")}
    rows["whole"] = lambda name: Row(name, "all", 5.0, None)
    monkeypatch.setattr(bench_kernels, "ROWS", rows)
    assert cli.main(["bench", "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == ["a", "b", "whole"]
    assert found[0] == {"name": "a", "size": "one", "ours_ms": 1.0, "reference_ms": 2.5, "peers_ms": {"theirs": 4.0}}
    assert cli.main(["bench", "--only", "b"]) == cli.DONE
    shown = capsys.readouterr().out
    assert "b (one): ours 1 ms, torch reference 2.5 ms, theirs 4 ms" in shown and "a (one)" not in shown
    assert "load before" in shown
    assert cli.main(["bench", "--only", "whole"]) == cli.DONE
    assert "whole (all): ours 5 ms\n" in capsys.readouterr().out
    assert cli.main(["bench", "--only", "c"]) == cli.WRONG_INPUT
    assert cli.main(["bench", "steps=3"]) == cli.WRONG_INPUT
    said = capsys.readouterr().err
    assert "--only c was given, but the rows are a, b, whole" in said and "add --prior" in said


def test_the_table_adds_up_and_a_busy_machine_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.75, 0.0, 0.0))
    small = ["prior={use: mixture.Mixture, size: 8}", "scene.size=8", "resolution=8"]
    command = ["bench", "--prior", "--recipe", "canvas", "--steps", str(STEPS), "--warmup", str(WARMUP), *small]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "canvas on cpu" in lines[0] and "load before 0.75" in lines[0] and "measure again" in lines[1]
    rows = [line.split() for line in lines if line.endswith("%")]
    assert [row[0] for row in rows] == list(PARTS)
    assert sum(float(row[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.3)
    (total,) = [float(line.split()[1]) for line in lines if line.startswith("step")]
    assert sum(float(row[1]) for row in rows) == pytest.approx(total, abs=0.03)
    assert any(line.startswith("2 evaluations of the network") for line in lines)
    monkeypatch.setattr("os.getloadavg", lambda: (0.2, 0.0, 0.0))
    assert cli.main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["load"] == 0.2 and facts["prior"][0]["asked"] == 2 and set(facts["prior"][0]["ms"]) == set(PARTS)
