"""A method in a file outside the package, found by a recipe: through the command line and through Python."""

import sys
from pathlib import Path

import pytest
import torch

import dreamforge
from dreamforge import cli, runs
from dreamforge.checkpoints import latest

METHODS = '''
from dataclasses import dataclass

import torch

from dreamforge.guidance.combine import predict
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.types import Gradient


@dataclass(frozen=True)
class Plain:
    """SDS in three lines."""

    scale: float = 3.0
    perp_neg: bool = True
    use_camera: bool = True
    uncond_camera: bool = True

    def grad(self, view, prior):
        eps = predict(self, prior, view.x_t, view.t, view.condition)
        _, sigma = alpha_sigma(prior.schedule, view.t, view.x)
        return Gradient(sigma**2 * (eps.guided(self.scale) - view.noise))


@dataclass(frozen=True)
class Baseline:
    """SDS minus a picture that learns the mean of what is subtracted: weights, an optimiser, a state."""

    lr: float = 0.1

    def build(self, prior, seed):
        return WithBaseline(self, prior)


class WithBaseline:
    learn_steps = 2

    def __init__(self, spec, prior):
        self.spec = spec
        # Channels last in memory, as what is encoded: its optimiser's state must come back in the same order.
        self.mean = torch.zeros_like(prior.encode(torch.zeros(1, 8, 8, 3), 0), requires_grad=True)

    def grad(self, view, prior):
        gradient = Plain().grad(view, prior)
        return Gradient(gradient.x - self.mean.detach())

    def learn(self, view, prior):
        return (Plain().grad(view, prior).x - self.mean).square().mean()

    def param_groups(self):
        return [{"params": [self.mean], "lr": self.spec.lr, "name": "baseline"}]

    def state(self):
        return {"mean": self.mean.detach().clone()}

    def load_state(self, state):
        self.mean.data.copy_(state["mean"])
'''
RECIPE = """# A method from elsewhere on a flat picture
name: elsewhere
steps: 6
views: 2
resolution: 8
checkpoint_every: 2
background: scene
scene: {use: canvas.Canvas, size: 8}
prior: {use: mixture.Mixture, size: 8}
guidance: {use: my_methods.Plain, scale: 5.0}
timesteps: {use: schedule.Uniform}
noise: {use: noise.Gaussian}
cameras: {use: cameras.OrbitSampler}
prompts: {use: prompts.ViewPrompts, perp_neg: true}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, which is the current one, with methods and a recipe."""
    (tmp_path / "my_methods.py").write_text(METHODS)
    (tmp_path / "elsewhere.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    return tmp_path


def test_through_the_command_line(folder: Path) -> None:
    assert cli.main(["generate", "a red mushroom", "--recipe", "elsewhere.yaml", "--out", "run"]) == 0
    assert (folder / "run" / "asset.png").is_file()
    assert "use: my_methods.Plain" in (folder / "run" / "recipe.yaml").read_text()
    assert cli.main(["generate", "a red mushroom", "--recipe", "elsewhere.yaml", "--out", "b", "guidance.scal=1"]) == 2


def test_with_weights_through_python_stopped_and_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    overrides = {"guidance": {"use": "my_methods.Baseline", "lr": 0.2}}
    whole = dreamforge.generate("a red mushroom", recipe="elsewhere.yaml", out="whole", overrides=overrides)
    countdown = iter([False, False, False, True])
    stopping = runs.Listener(stop=lambda: next(countdown, False))
    with pytest.raises(runs.Interrupted):
        dreamforge.generate("a red mushroom", "elsewhere.yaml", "stopped", overrides=overrides, listener=stopping)
    stopped = runs.resume("stopped")
    ends = [latest(run.path / "checkpoints") for run in (whole, stopped)]
    states = [end.state for end in ends if end is not None]
    assert len(states) == 2 and states[0]["guidance0/mean"].abs().sum() > 0
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert whole.asset.read_bytes() == stopped.asset.read_bytes()
