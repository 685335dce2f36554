"""CSD: what CFG multiplies, alone; and away from a negative text."""

from dataclasses import replace

import pytest
import torch

from dreamforge.guidance.csd import CSD
from dreamforge.guidance.sds import SDS
from dreamforge.priors.mixture import MixturePrior, gaussian
from dreamforge.priors.parametrisation import alpha_sigma
from dreamforge.prompts import ViewPrompts
from dreamforge.types import DreamforgeError, Query, View
from tests.test_sds import SHAPE, SIZE, make_view, renders, two_gaussians

MEANS = {"c": renders(3)[0], "": renders(3)[1], "bad": renders(3)[2]}


def world() -> MixturePrior:
    return MixturePrior(lambda prompt: gaussian(MEANS[prompt], 1.0), SIZE)


def with_negative(prior: MixturePrior, t: torch.Tensor, progress: float = 0.0) -> View:
    view = make_view(prior, renders(2), t, uncond="bad", progress=progress)
    return replace(view, condition=replace(view.condition, empty=prior.embed(["", ""])))


def test_it_is_the_steering_of_sds() -> None:
    """SDS(s) = SDS(0) + s CSD, and for unit Gaussians w sigma alpha (m_u - m_c), whatever x and noise."""
    prior, m_c, m_u = two_gaussians()
    view = make_view(prior, renders(3), torch.tensor([0.1, 0.5, 0.9]))
    csd = CSD().grad(view, prior).x
    torch.testing.assert_close(
        SDS(30.0).grad(view, prior).x, SDS(0.0).grad(view, prior).x + 30 * csd, rtol=1e-3, atol=1e-4
    )
    alpha, sigma = alpha_sigma(prior.schedule, view.t, view.x)
    torch.testing.assert_close(csd, sigma**3 * alpha * (m_u - m_c).expand(3, *SHAPE), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_the_negative_form(omega: float) -> None:
    """w [eps_text + (omega - 1) eps_empty - omega eps_negative]; omega 0 does not see the negative text."""
    prior = world()
    view = with_negative(prior, torch.tensor([0.3, 0.7]))
    texts = [Query(prior.embed([text] * 2)) for text in ("c", "", "bad")]
    text, empty, bad = prior.predict_noise(view.x_t, view.t, texts)
    _, sigma = alpha_sigma(prior.schedule, view.t, view.x)
    wanted = sigma**2 * (text + (omega - 1) * empty - omega * bad)
    torch.testing.assert_close(CSD(omega).grad(view, prior).x, wanted, rtol=1e-4, atol=1e-5)


def test_omega_is_annealed() -> None:
    prior = world()
    spec = CSD([[0.0, 1.0], [1.0, 0.5]])
    for progress, omega in [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)]:
        view = with_negative(prior, torch.tensor([0.3, 0.7]), progress)
        assert torch.equal(spec.grad(view, prior).x, CSD(omega).grad(view, prior).x)


def test_the_prompts_make_the_empty_text_where_there_is_a_negative_one() -> None:
    prior = world()
    plain = ViewPrompts(enabled=False, side="", front="", back="", overhead="").build("c", prior).at(None, 2)
    assert plain.empty is None
    both = ViewPrompts(enabled=False, side="", front="", back="", overhead="").build("c", prior, "bad").at(None, 2)
    assert both.empty is not None and len(both.empty) == 2
    assert torch.equal(both.empty.tensors["means"], plain.uncond.tensors["means"])
    assert torch.equal(both.uncond.tensors["means"][0, 0], MEANS["bad"])


def test_negatives_of_perp_neg_turn_it() -> None:
    """With Perp-Neg the text's direction is e_pos + sum w_i perp(e_i, e_pos), as SDS has it."""
    prior = world()
    view = make_view(prior, renders(2), 0.5, uncond="")
    negative = (prior.embed(["bad"] * 2), torch.tensor([-1.0, -0.5]))
    view = replace(view, condition=replace(view.condition, negatives=(negative,)))
    csd = CSD().grad(view, prior).x
    torch.testing.assert_close(csd, SDS(1.0).grad(view, prior).x - SDS(0.0).grad(view, prior).x, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(csd, CSD(perp_neg=False).grad(view, prior).x)


def test_wrong_settings() -> None:
    with pytest.raises(DreamforgeError, match=r"omega of CSD is -0\.5, but every value must be at least 0"):
        CSD(-0.5)
    prior = world()
    with pytest.raises(DreamforgeError, match=r"CSD got omega 1\.0, but the term has no negative text"):
        CSD(1.0).grad(make_view(prior, renders(1), 0.5, uncond=""), prior)
