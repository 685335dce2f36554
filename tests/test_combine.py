"""Classifier-free guidance and Perp-Neg as equations."""

import torch

from dreamforge.guidance.combine import Predictions, cfg, empty_text, perp, predict, steering
from dreamforge.guidance.sds import SDS
from dreamforge.types import Condition


def draw(count: int):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 5, 5, generator=g, dtype=torch.float64) for _ in range(count)]


def test_cfg_is_uncond_at_0_and_cond_at_1():
    """uncond + s (cond - uncond)."""
    uncond, cond = draw(2)
    torch.testing.assert_close(cfg(uncond, cond, 0.0), uncond)
    torch.testing.assert_close(cfg(uncond, cond, 1.0), cond)
    torch.testing.assert_close(cfg(uncond, cond, 3.0), 3 * cond - 2 * uncond)


def test_the_other_convention_is_one_more():
    """cond + s (cond - uncond) = uncond + (s + 1) (cond - uncond)."""
    uncond, cond = draw(2)
    torch.testing.assert_close(cond + 7.5 * (cond - uncond), cfg(uncond, cond, 8.5))


def test_perp():
    """<perp(a, b), b> = 0 for every view by itself; perp(b, b) = 0; a vector already perpendicular stays."""
    a, b = draw(2)
    p = perp(a, b)
    torch.testing.assert_close((p * b).flatten(1).sum(1), torch.zeros(4, dtype=a.dtype), rtol=0, atol=1e-10)
    torch.testing.assert_close(perp(b, b), torch.zeros_like(b))
    torch.testing.assert_close(perp(p, b), p)
    torch.testing.assert_close(perp(a, torch.zeros_like(b)), a)  # no direction, nothing to remove


def perp_neg(uncond, pos, negatives, scale):
    return Predictions(uncond, pos, steering(uncond, pos, negatives)).guided(scale)


def test_perp_neg_is_cfg_without_negatives_or_weight():
    uncond, pos, neg = draw(3)
    assert torch.equal(perp_neg(uncond, pos, [], 7.5), cfg(uncond, pos, 7.5))
    none = torch.zeros(4, dtype=pos.dtype)
    torch.testing.assert_close(perp_neg(uncond, pos, [(neg, none)], 7.5), cfg(uncond, pos, 7.5))


def test_perp_neg_by_hand():
    """eps_hat = uncond + s (e_pos + sum_i w_i perp(e_i, e_pos)); along e_pos it moves exactly as CFG does."""
    uncond, pos, one, two = draw(4)
    w1, w2 = torch.tensor([-1.0, -2.0, 0.0, -0.5]).double(), torch.tensor([0.0, -1.0, -3.0, 0.5]).double()
    got = perp_neg(uncond, pos, [(one, w1), (two, w2)], 2.0)
    for k in range(4):
        e = (pos - uncond)[k].flatten()
        expected = uncond[k].flatten() + 2 * e
        for negative, w in ((one, w1), (two, w2)):
            n = (negative - uncond)[k].flatten()
            expected = expected + 2 * w[k] * (n - (n @ e) / (e @ e) * e)
        torch.testing.assert_close(got[k].flatten(), expected)
        torch.testing.assert_close((got - uncond)[k].flatten() @ e, 2 * e @ e)


class Listening:
    """A prior that answers each query with its number and remembers the cameras it was told."""

    def predict_noise(self, x_t, t, queries):
        self.asked = [(query.text, query.cameras) for query in queries]
        return [torch.full_like(x_t, float(k)) for k in range(len(queries))]


def test_one_batched_question_for_all_texts():
    """Unconditional, text, negatives; switches leave out cameras and negatives; another uncond may take its place."""
    x_t, camera = torch.zeros(2, 3, 4, 4), object()
    condition = Condition("text", "plain", "uncond", ((("far"), torch.tensor([0.0, -1.0])),), camera, empty="empty")
    for spec, expected in [
        (SDS(), [("uncond", camera), ("text", camera), ("far", camera)]),
        (SDS(uncond_camera=False), [("uncond", None), ("text", camera), ("far", camera)]),
        (SDS(use_camera=False), [("uncond", None), ("text", None), ("far", None)]),
        (SDS(perp_neg=False), [("uncond", camera), ("text", camera)]),
    ]:
        listening = Listening()
        eps = predict(spec, listening, x_t, torch.zeros(2), condition)
        assert listening.asked == expected
        assert eps.uncond.eq(0).all() and eps.text.eq(1).all() and eps.strength() == 1.0
        torch.testing.assert_close(eps.guided(3.0), torch.full_like(x_t, 3.0))  # "far" is parallel: nothing to add
    predict(SDS(perp_neg=False), listening, x_t, torch.zeros(2), condition, uncond=empty_text(condition))
    assert listening.asked == [("empty", camera), ("text", camera)]
    assert empty_text(Condition("text", "plain", "uncond")) == "uncond"
