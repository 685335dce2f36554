"""The mixture prior against the autograd score of torch.distributions, and as a prior like any other."""

from itertools import pairwise

import pytest
import torch
from torch import distributions as D

from dreamforge.cameras import orbit
from dreamforge.priors.mixture import Components, Mixture, MixturePrior, gaussian, known
from dreamforge.priors.parametrisation import DiscreteSchedule, alpha_sigma
from dreamforge.types import DreamforgeError, Prior, Query, TrainablePrior

SIZE = 2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def components(count: int, seed: int) -> Components:
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, SIZE, SIZE, generator=g)
    stds = 0.2 + torch.rand(count, 3, SIZE, SIZE, generator=g)
    return Components(means, stds, torch.rand(count, generator=g) + 0.1)


def world() -> MixturePrior:
    return MixturePrior(known({"a cat": components(3, 1), "a dog": components(1, 2)}), SIZE)


def log_density(part: Components, x_t, alpha, sigma):
    stds = (alpha**2 * part.stds.double() ** 2 + sigma**2).sqrt()
    normal = D.Independent(D.Normal(alpha * part.means.double(), stds), 3)
    return D.MixtureSameFamily(D.Categorical(part.weights.double()), normal).log_prob(x_t)


@pytest.mark.parametrize("prompt", ["a cat", "a dog", ""])
@pytest.mark.parametrize("t", [0.03, 0.5, 0.97])
def test_eps_is_minus_sigma_times_the_score(prompt, t):
    """eps(x_t) = -sigma grad log p_t(x_t), p_t the mixture of N(alpha m, alpha^2 s^2 + sigma^2)."""
    prior = world()
    x_t = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    time = torch.full((4,), t, dtype=torch.float64)
    alpha, sigma = prior.schedule.alpha(time[0]), prior.schedule.sigma(time[0])
    x_t.requires_grad_()
    (score,) = torch.autograd.grad(log_density(prior.components(prompt), x_t, alpha, sigma).sum(), x_t)
    text = prior.embed(["a cat", prompt, ""])[[1] * 4]  # padded rows: 3, 1 and 4 components
    (eps,) = prior.predict_noise(x_t.detach(), time, [Query(text)])
    torch.testing.assert_close(eps, -sigma * score, rtol=1e-5, atol=1e-5)


def test_the_empty_prompt_is_all_prompts_equally():
    """p(x) = mean over prompts of p(x | prompt), however many components each has and whatever its weights sum to."""
    prior = MixturePrior(known({"a cat": components(3, 1), "a dog": components(1, 2)}), SIZE)
    weights = prior.embed([""]).tensors["weights"][0]
    assert weights.sum().item() == pytest.approx(1.0) and weights[3].item() == pytest.approx(0.5)
    cat = prior.embed(["a cat"]).tensors["weights"][0]
    torch.testing.assert_close(weights[:3], cat / 2)


def test_one_answer_per_query_and_float32():
    prior = world()
    x_t = normal(2, 3, SIZE, SIZE).to(torch.bfloat16)
    queries = [Query(prior.embed([p, p])) for p in ("a cat", "a dog", "")]
    answers = prior.predict_noise(x_t, torch.tensor([0.3, 0.6]), queries)
    assert [a.dtype for a in answers] == [torch.float32] * 3
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


def test_a_point_knows_the_noise():
    """N(m, 0): eps(alpha m + sigma n) = n, whatever t and schedule."""
    mean = normal(3, SIZE, SIZE)
    prior = MixturePrior(known({"p": gaussian(mean, 0.0)}), SIZE, DiscreteSchedule.scaled_linear())
    t, noise = torch.tensor([0.02, 0.5, 0.98]), normal(3, 3, SIZE, SIZE, seed=1)
    alpha, sigma = alpha_sigma(prior.schedule, t, noise)
    (eps,) = prior.predict_noise(alpha * mean + sigma * noise, t, [Query(prior.embed(["p"] * 3))])
    torch.testing.assert_close(eps, noise, rtol=1e-3, atol=1e-3)


def test_gradient_flows_through_the_prediction():
    """One Gaussian: eps = sigma (x_t - alpha m) / v, so d eps / d x_t = sigma / v with v = alpha^2 s^2 + sigma^2."""
    prior = MixturePrior(known({"p": gaussian(torch.zeros(3, SIZE, SIZE), 0.5)}), SIZE)
    x_t, t = normal(1, 3, SIZE, SIZE).requires_grad_(), torch.tensor([0.4])
    (eps,) = prior.predict_noise(x_t, t, [Query(prior.embed(["p"]))])
    (grad,) = torch.autograd.grad(eps.sum(), x_t)
    alpha, sigma = prior.schedule.alpha(t), prior.schedule.sigma(t)
    expected = sigma / (alpha**2 * 0.25 + sigma**2)
    torch.testing.assert_close(grad, expected.expand_as(grad))


def test_the_probability_flow_samples_the_mixture():
    """DDIM steps x_s = alpha_s x0_hat + sigma_s eps from noise end in N(m, s^2): signs and scales all at once."""
    prior = MixturePrior(known({"p": gaussian(torch.full((3, SIZE, SIZE), 0.3), 0.2)}), SIZE)
    x = torch.randn(2000, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    text = prior.embed(["p"])[[0] * len(x)]
    times = torch.linspace(0.999, 0.001, 100)
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = (alpha_sigma(prior.schedule, u.expand(len(x)), x) for u in (t, s))
        (eps,) = prior.predict_noise(x, t.expand(len(x)), [Query(text)])
        x = alpha_s * (x - sigma * eps) / alpha + sigma_s * eps
    assert x.mean().item() == pytest.approx(0.3, abs=0.01)
    assert x.std().item() == pytest.approx(0.2, abs=0.01)


def test_encode_and_decode():
    """x = 2 rgb - 1, resized by averaging; decode undoes it."""
    prior = Mixture(size=4).build()
    rgb = normal(2, 4, 4, 3).sigmoid().requires_grad_()
    x = prior.encode(rgb, seed=0)
    assert x.shape == (2, 3, 4, 4)
    torch.testing.assert_close(prior.decode(x), rgb)
    x.sum().backward()
    torch.testing.assert_close(rgb.grad, torch.full_like(rgb, 2.0))
    flat = prior.encode(torch.full((1, 16, 24, 3), 0.75), seed=0)
    torch.testing.assert_close(flat, torch.full((1, 3, 4, 4), 0.5))
    checker = (torch.arange(16) % 2).float().view(1, 1, 16, 1).expand(1, 16, 16, 3)
    assert prior.encode(checker, seed=0).abs().max() < 0.3  # antialiased: a fine pattern becomes grey


def test_the_spec_builds_the_same_world_for_any_text():
    one, two = Mixture(size=8).build(), Mixture(size=8).build()
    assert isinstance(one, Prior)
    texts = ["a red mushroom, front view", "a blue car", ""]
    for name, tensor in one.embed(texts).tensors.items():
        assert torch.equal(tensor, two.embed(texts).tensors[name])
    front, car = (one.embed([text]).tensors["means"] for text in texts[:2])
    assert front.shape == (1, 1, 3, 8, 8) and (front - car).abs().max() > 0.1
    assert front.abs().max() <= 0.9
    everything = one.embed([""]).tensors["means"][0]
    assert (everything - front[0]).abs().flatten(1).sum(1).min() == 0, "each picture is in the mixture over all"
    assert not torch.equal(Mixture(size=8, seed=1).build().embed(texts[:1]).tensors["means"], front)


def test_wrong_input():
    with pytest.raises(DreamforgeError, match="did you mean 'a cat'"):
        world().embed(["a cap"])
    with pytest.raises(DreamforgeError, match="must be positive"):
        Mixture(size=0)


def cameras(count: int):
    azimuth = torch.linspace(-2.0, 2.0, count)
    return orbit(azimuth, torch.full((count,), 0.2), 3.0, 0.7, 8, 8)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_an_estimator_starts_as_the_prior(mode):
    prior = world()
    estimator = prior.trainable(mode)
    assert isinstance(estimator, TrainablePrior)
    x_t, t = normal(3, 3, SIZE, SIZE), torch.tensor([0.1, 0.5, 0.9])
    queries = [Query(prior.embed(["a cat"] * 3), cameras(3)), Query(prior.embed([""] * 3))]
    for ours, exact in zip(estimator.predict_noise(x_t, t, queries), prior.predict_noise(x_t, t, queries), strict=True):
        torch.testing.assert_close(ours, exact)


def test_an_estimator_learns_the_score_of_identical_renders():
    """min E |eps_phi(alpha x + sigma eps) - eps|^2 over Gaussians is the point at x, whose answer is eps itself."""
    prior = MixturePrior(known({"p": gaussian(torch.zeros(3, SIZE, SIZE), 1.0)}), SIZE)
    estimator, g = prior.trainable("full"), torch.Generator().manual_seed(0)
    x, text, views = torch.rand(3, SIZE, SIZE, generator=g), prior.embed(["p"] * 16), cameras(16)

    def loss():
        t, noise = torch.rand(16, generator=g) * 0.9 + 0.05, torch.randn(16, 3, SIZE, SIZE, generator=g)
        alpha, sigma = alpha_sigma(prior.schedule, t, noise)
        (eps,) = estimator.predict_noise(alpha * x + sigma * noise, t, [Query(text, views)])
        return (eps - noise).square().mean()

    before, optimiser = loss().item(), torch.optim.Adam(estimator.param_groups()[0]["params"], lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < 0.3 * before and estimator.log_scale < -1
    shift = torch.zeros_like(estimator.shift)
    shift[0] = x
    estimator.load_state({"shift": shift, "log_scale": torch.tensor(-30.0)})
    assert loss().item() < 1e-8


def test_a_dropped_camera_is_another_question():
    prior = world()
    estimator, again = prior.trainable(), prior.trainable()
    shift = torch.randn(estimator.shift.shape, generator=torch.Generator().manual_seed(0))
    estimator.load_state({"shift": shift, "log_scale": torch.zeros(())})
    again.load_state(estimator.state())
    text, x_t, t = prior.embed(["a cat"] * 2), torch.zeros(2, 3, SIZE, SIZE), torch.full((2,), 0.5)
    with_camera, without = estimator.predict_noise(x_t, t, [Query(text, cameras(2)), Query(text)])
    assert torch.equal(again.predict_noise(x_t, t, [Query(text)])[0], without)
    assert not torch.allclose(with_camera, without) and not torch.allclose(with_camera[0], with_camera[1])
    torch.testing.assert_close(without[0], without[1])
    blind = prior.trainable(camera=False)
    with_camera, without = blind.predict_noise(x_t, t, [Query(text, cameras(2)), Query(text)])
    assert torch.equal(with_camera, without)
