"""What every prior promises. Those of ``dreamforge/priors`` that need no file from elsewhere are tested as they are."""

import pytest
import torch

from dreamforge.cameras import turntable
from dreamforge.forecast import is_pretrained
from dreamforge.slots import SLOTS
from dreamforge.types import DreamforgeError, Prior, Query

VIEWS = 2
CPU = torch.device("cpu")
EXACT = {"toybox.ToyboxPrior": {"precision": "float32"}}  # half precision rounds a batch otherwise than its rows


def found() -> dict[str, type]:
    """Every prior by ``file.Class`` whose weights are here, if it has any."""
    return {use: cls for use, cls in SLOTS["prior"].choices().items() if not is_pretrained(cls)}


every_prior = pytest.mark.parametrize("name", sorted(found()))


def make(name: str) -> Prior:
    return found()[name](**EXACT.get(name, {})).build(CPU)


def asked(prior: Prior, *texts: str) -> list[Query]:
    cameras = turntable(VIEWS)
    return [Query(prior.embed([text] * VIEWS), cameras) for text in texts]


def noisy(prior: Prior) -> torch.Tensor:
    x = prior.encode(torch.full((VIEWS, 16, 16, 3), 0.5), 0)
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3))


def test_the_folder_is_searched():
    assert {"toybox.ToyboxPrior", "mixture.Mixture"} <= set(found())


@every_prior
def test_it_is_a_frozen_spec_of_a_prior(name):
    assert found()[name].__dataclass_params__.frozen, f"{name} must be @dataclass(frozen=True)"
    prior, t = make(name), torch.linspace(0.01, 0.99, 9)
    assert isinstance(prior, Prior) and isinstance(prior.knows_cameras, bool)
    torch.testing.assert_close(prior.schedule.alpha(t) ** 2 + prior.schedule.sigma(t) ** 2, torch.ones(9))


@every_prior
def test_pictures_of_any_size_go_in_with_a_gradient_and_come_out(name):
    prior, shapes = make(name), set()
    for side in (16, 80):
        rgb = torch.full((VIEWS, side, side, 3), 0.3, requires_grad=True)
        x = prior.encode(rgb, 0)
        x.square().sum().backward()
        assert rgb.grad is not None and rgb.grad.any()
        back = prior.decode(x.detach())
        assert back.shape[0] == VIEWS and back.shape[-1] == 3 and back.min() >= 0 and back.max() <= 1
        torch.testing.assert_close(back.mean((1, 2)), torch.full((VIEWS, 3), 0.3), atol=0.1, rtol=0)
        shapes.add(x.shape)
    assert len(shapes) == 1


@every_prior
def test_a_row_for_each_text(name):
    prior = make(name)
    rows = prior.embed(["a red owl", "", "a red owl", "a blue car"])
    assert len(rows) == 4
    same, other = ([one[0].equal(one[k]) for one in rows.tensors.values()] for k in (2, 3))
    assert all(same) and not all(other)


@every_prior
def test_every_answer_is_of_its_view_and_question_alone(name):
    prior = make(name)
    x_t, t = noisy(prior), torch.tensor([0.3, 0.8])
    texts = ("a red owl", "", "a blue car")
    together = prior.predict_noise(x_t, t, asked(prior, *texts))
    assert len(together) == 3 and all(eps.shape == x_t.shape and eps.dtype == torch.float32 for eps in together)
    assert not torch.equal(together[0], together[2])
    for text, eps in zip(texts, together, strict=True):
        (alone,) = prior.predict_noise(x_t, t, asked(prior, text))
        torch.testing.assert_close(alone, eps, rtol=1e-3, atol=1e-3)
    (query,) = asked(prior, texts[0])
    last = Query(query.text[1:], None if query.cameras is None else query.cameras[1:])
    torch.testing.assert_close(prior.predict_noise(x_t[1:], t[1:], [last])[0], together[0][1:], rtol=1e-3, atol=1e-3)


@every_prior
@pytest.mark.parametrize("t", [0.001, 0.999])
def test_answers_are_finite_at_both_ends(name, t):
    prior = make(name)
    answers = prior.predict_noise(noisy(prior), torch.full((VIEWS,), t), asked(prior, "a red owl", ""))
    assert all(eps.isfinite().all() for eps in answers)


@every_prior
def test_a_twin_starts_as_the_prior_and_learns_or_says_why_there_is_none(name):
    prior = make(name)
    try:
        twin = prior.trainable("lora", camera=False)
    except DreamforgeError as error:
        assert str(error).endswith(".")
        return
    x_t, t, queries = noisy(prior), torch.full((VIEWS,), 0.5), asked(prior, "a red owl")
    plain = [Query(query.text) for query in queries]
    with torch.no_grad():
        before, start = prior.predict_noise(x_t, t, plain)[0], twin.predict_noise(x_t, t, plain)[0]
    torch.testing.assert_close(start, before, rtol=1e-3, atol=1e-3)
    optimiser = torch.optim.Adam([{**group, "lr": 1e-2} for group in twin.param_groups()])
    twin.predict_noise(x_t, t, plain)[0].square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        assert not torch.equal(twin.predict_noise(x_t, t, plain)[0], start)
        assert torch.equal(prior.predict_noise(x_t, t, plain)[0], before), "the prior itself stays"
