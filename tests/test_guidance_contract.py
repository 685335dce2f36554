"""What every guidance promises. Each file of ``dreamforge/guidance`` is found and tested with its default settings."""

import dataclasses
import importlib
import pkgutil

import pytest
import torch

from dreamforge import guidance
from dreamforge.cameras import orbit
from dreamforge.noise import Gaussian
from dreamforge.priors.mixture import Mixture, MixturePrior, gaussian
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.prompts import ViewPrompts
from dreamforge.types import Gradient, Guidance, LearnedGuidance, View

SIZE, VIEWS = 8, 3
NOT_ZERO_AT_A_POINT: dict[str, str] = {}  # "file.Class": why its gradient need not vanish on a prior that is a point


def found() -> dict[str, type]:
    """Every frozen dataclass with ``grad`` or ``build`` that a file of the folder defines, by ``file.Class``."""
    specs = {}
    for info in pkgutil.iter_modules(guidance.__path__):
        module = importlib.import_module(f"{guidance.__name__}.{info.name}")
        for name, cls in vars(module).items():
            own = isinstance(cls, type) and cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls)
            if own and (hasattr(cls, "grad") or hasattr(cls, "build")) and not name.startswith("_"):
                specs[f"{info.name}.{name}"] = cls
    return specs


every_guidance = pytest.mark.parametrize("name", sorted(found()))


def make(name, prior):
    """The guidance with default settings, built where it is a spec of something with weights."""
    spec = found()[name]()
    return spec.build(prior, 0) if hasattr(spec, "build") else spec


def view_of(prior, x, t, perp_neg=False, dtype=torch.float32, seed=0) -> View:
    """A view from ``len(x)`` directions as the engine makes it."""
    x = x.to(dtype)
    t = torch.as_tensor(t, dtype=torch.float32).expand(len(x)).contiguous()
    azimuth = torch.linspace(0.0, 2.5, len(x))
    cameras = orbit(azimuth, torch.zeros(len(x)), 3.0, 0.7, SIZE, SIZE)
    noise = Gaussian().sample(x, cameras, None, seed)
    alpha, sigma = alpha_sigma(prior.schedule, t, x)
    condition = ViewPrompts(perp_neg=perp_neg).build("a red mushroom", prior).at(cameras, len(x))
    x_t = (alpha * x + sigma * noise).to(dtype)
    return View(x, x_t, noise, t, condition, cameras, None, progress=0.9, seed=seed)


def renders(views=VIEWS):
    return torch.rand(views, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7)) * 2 - 1


def one_row(view: View, k: int) -> View:
    """View ``k`` alone."""
    rows, c = [k], view.condition
    alone = dataclasses.replace(
        c, text=c.text[rows], plain=c.plain[rows], uncond=c.uncond[rows], cameras=c.cameras[rows],
        negatives=tuple((text[rows], weight[rows]) for text, weight in c.negatives),
    )  # fmt: skip
    picked = {name: getattr(view, name)[rows] for name in ("x", "x_t", "noise", "t", "cameras")}
    return dataclasses.replace(view, condition=alone, **picked)


def test_the_folder_is_searched():
    assert "sds.SDS" in found()


@every_guidance
def test_it_is_a_frozen_spec_of_a_guidance(name):
    cls = found()[name]
    assert cls.__dataclass_params__.frozen, f"{name} must be @dataclass(frozen=True)"
    made = make(name, Mixture(size=SIZE).build())
    assert isinstance(made, Guidance)
    assert not hasattr(cls, "build") or isinstance(made, LearnedGuidance)


@every_guidance
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype_are_those_of_x(name, dtype):
    prior = Mixture(size=SIZE).build()
    view = view_of(prior, renders(), 0.5, dtype=dtype)
    gradient = make(name, prior).grad(view, prior)
    assert isinstance(gradient, Gradient)
    assert gradient.x.shape == view.x.shape and gradient.x.dtype == dtype
    assert not gradient.x.requires_grad
    assert all(torch.as_tensor(value).shape == () for value in gradient.stats.values())


@every_guidance
@pytest.mark.parametrize("schedule", ["flow", "scaled_linear"])
@pytest.mark.parametrize("t", [0.001, 0.02, 0.98, 0.999])
@pytest.mark.parametrize("perp_neg", [False, True])
def test_finite_at_both_ends_of_t(name, schedule, t, perp_neg):
    prior = Mixture(size=SIZE, schedule=schedule).build()
    gradient = make(name, prior).grad(view_of(prior, renders(), t, perp_neg), prior)
    assert torch.isfinite(gradient.x).all()


@every_guidance
def test_same_draw_same_result_and_another_draw_another(name):
    prior = Mixture(size=SIZE).build()
    made, view = make(name, prior), view_of(prior, renders(), 0.5)
    first, again = made.grad(view, prior).x, made.grad(view, prior).x
    assert torch.equal(first, again), "grad keeps no state between calls"
    assert torch.equal(first, make(name, prior).grad(view, prior).x)
    assert not torch.equal(first, made.grad(view_of(prior, renders(), 0.5, seed=1), prior).x)


@every_guidance
def test_nothing_in_the_view_is_modified(name):
    prior = Mixture(size=SIZE).build()
    view = view_of(prior, renders(), 0.5, perp_neg=True)
    tensors = [view.x, view.x_t, view.noise, view.t, *view.condition.text.tensors.values()]
    before = [tensor.clone() for tensor in tensors]
    make(name, prior).grad(view, prior)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@every_guidance
@pytest.mark.parametrize("perp_neg", [False, True])
def test_a_batch_is_its_views_one_by_one(name, perp_neg):
    """The gradient of a view does not depend on how many others share its step: nothing is divided by B."""
    prior = Mixture(size=SIZE).build()
    made, view = make(name, prior), view_of(prior, renders(), torch.tensor([0.2, 0.5, 0.9]), perp_neg)
    together = made.grad(view, prior).x
    for k in range(VIEWS):
        alone = made.grad(one_row(view, k), prior).x
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-4, atol=1e-5)


@every_guidance
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_zero_where_the_prior_is_a_point_at_x(name, t):
    """p = N(x, 0) for every text answers eps itself, so that neither text nor denoising asks for a change."""
    if name in NOT_ZERO_AT_A_POINT:
        pytest.skip(NOT_ZERO_AT_A_POINT[name])
    x = renders(1)
    prior = MixturePrior(lambda prompt: gaussian(x[0], 0.0), SIZE)
    gradient = make(name, prior).grad(view_of(prior, x.expand(VIEWS, -1, -1, -1), t), prior)
    torch.testing.assert_close(gradient.x, torch.zeros_like(gradient.x), rtol=0, atol=1e-4)
