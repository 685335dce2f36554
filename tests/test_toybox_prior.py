"""The embedded prior: the stock pipeline and ours are one model, and it has learnt what it was shown."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamforge import data
from dreamforge.cameras import orbit
from dreamforge.priors.parametrisation import FlowSchedule, alpha_sigma, to_x0
from dreamforge.priors.sampling import sample
from dreamforge.priors.toybox import LOW_T, MAX_TOKENS, ToyboxModel, ToyboxPrior
from dreamforge.toybox.colors import COLORS
from dreamforge.toybox.objects import make
from dreamforge.toybox.pictures import FOV, compose, toy_layers
from dreamforge.types import Cameras, DreamforgeError, Query

PROMPTS = ["a red mushroom", "a blue car with a white stripe, seen from the front"]


@pytest.fixture(scope="module")
def prior() -> ToyboxModel:
    return ToyboxPrior(precision="float32").build()


def noisy(views: int, t: float) -> tuple[Tensor, Tensor]:
    return torch.randn(views, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.full((views,), t)


def around(*azimuth: float) -> Cameras:
    return orbit(torch.tensor(azimuth), torch.full((len(azimuth),), 0.25), 3.2, FOV, 64, 64)


def test_plain_diffusers_loads_it_and_predicts_the_same(prior: ToyboxModel) -> None:
    """x0 of the stock pipeline's transformer on z = (1-t) x + t n is ours of eps; a masked camera is no camera."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(data.asset("prior"), dtype=torch.float32)
    assert type(pipeline).__name__ == "PRXPixelPipeline" and pipeline.config.noise_scale == 1.0
    text, mask, _, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    x_t, t = noisy(2, 0.6)
    alpha, sigma = alpha_sigma(FlowSchedule(), t, x_t)
    with torch.no_grad():
        stock = pipeline.transformer(x_t / (alpha + sigma), t, text, mask, return_dict=False)[0]
        (eps,) = prior.predict_noise(x_t, t, [Query(prior.embed(PROMPTS))])
    assert torch.allclose(to_x0(eps, x_t, alpha, sigma), stock, atol=2e-4)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(PROMPTS[0], num_inference_steps=2, use_resolution_binning=False, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)


def test_the_camera_is_told_by_one_token(prior: ToyboxModel) -> None:
    x_t, t = noisy(2, 0.8)
    text = prior.embed(PROMPTS)
    with torch.no_grad():
        front, back, blind = prior.predict_noise(
            x_t, t, [Query(text, around(0.0, 0.0)), Query(text, around(3.1, 3.1)), Query(text)]
        )
        (alone,) = prior.predict_noise(x_t, t, [Query(text, around(3.1, 3.1))])
    assert torch.allclose(back, alone, atol=1e-5), "queries are batched, not mixed"
    assert (front - back).abs().mean() > 1e-4 and (front - blind).abs().mean() > 1e-4


def test_views_do_not_see_each_other(prior: ToyboxModel) -> None:
    x_t, t = noisy(2, 0.5)
    text = prior.embed(PROMPTS)
    with torch.no_grad():
        (both,) = prior.predict_noise(x_t, t, [Query(text, around(0.3, 2.0))])
        (second,) = prior.predict_noise(x_t[1:], t[1:], [Query(text[1:], around(2.0))])
    assert torch.allclose(both[1:], second, atol=1e-5)


def test_half_precision_is_left_below_low_t() -> None:
    """The error of a rounded x0 grows as alpha / sigma in eps: below LOW_T the forward is float32."""
    half, exact = ToyboxPrior(precision="bfloat16").build(), ToyboxPrior(precision="float32").build()
    text = half.embed(PROMPTS[:1])
    for t, equal in ((LOW_T - 0.01, True), (LOW_T + 0.01, False)):
        x_t, times = noisy(1, t)
        with torch.no_grad():
            a, b = (p.predict_noise(x_t, times, [Query(text)])[0] for p in (half, exact))
        assert a.dtype == torch.float32 and a.equal(b) == equal
        assert torch.nn.functional.mse_loss(a, b) < 0.01


def test_gradients_pass_through_network_and_encoder(prior: ToyboxModel) -> None:
    rgb = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(rgb, seed=0)
    (eps,) = prior.predict_noise(x, torch.tensor([0.5]), [Query(prior.embed(PROMPTS[:1]))])
    eps.square().sum().backward()
    assert x.shape == (1, 3, 64, 64) and rgb.grad is not None and rgb.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in prior.transformer.parameters())


def test_pictures_go_in_and_out(prior: ToyboxModel) -> None:
    rgb = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(prior.decode(prior.encode(rgb, 0)), rgb, atol=1e-6)
    assert prior.encode(torch.full((1, 200, 100, 3), 0.75), 0).sub(0.5).abs().max() < 1e-5


def test_it_has_learnt_words_and_views(prior: ToyboxModel) -> None:
    """On toys it never saw the right words and camera explain the picture better than wrong ones."""
    kinds = [("mushroom", "red"), ("car", "blue"), ("clock", "green"), ("snowman", "white")]
    background = torch.tensor([[0.6, 0.6, 0.6]])
    x = []
    for number, (kind, color) in enumerate(kinds):
        layers = toy_layers(make(kind, None, 900 + number), around(0.2))
        x.append(prior.encode(compose(layers, torch.tensor([COLORS[color]]), background, background), 0))
    text = prior.embed([f"a {color} {kind}" for kind, color in kinds])
    clean, t = torch.cat(x), torch.full((4,), 0.9)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    alpha, sigma = alpha_sigma(prior.schedule, t, clean)
    front, back = around(*[0.2] * 4), around(*[3.3] * 4)
    queries = [Query(text, front), Query(text[[1, 2, 3, 0]], front), Query(text, back)]
    with torch.no_grad():
        found = prior.predict_noise(alpha * clean + sigma * noise, t, queries)
    right, wrong_words, wrong_view = (float((eps - noise).square().mean()) for eps in found)
    assert right < 0.8 * wrong_words and right < wrong_view


def test_samples_are_repeatable_and_differ_by_seed(prior: ToyboxModel) -> None:
    one, same, other = (sample(prior, PROMPTS[:1], steps=3, seed=s) for s in (0, 0, 1))
    assert one.shape == (1, 64, 64, 3) and one.equal(same) and not one.equal(other)
    assert float(one.min()) >= 0 and float(one.max()) <= 1


def test_unknown_words_are_named_with_near_ones(prior: ToyboxModel) -> None:
    assert prior.warnings("A red Mushroom") == []
    (warning,) = prior.warnings("a crimson dragon")
    assert "'crimson' (near: red" in warning and "'dragon' (near: dinosaur" in warning
    long = prior.embed(["a red mushroom " * 20]).tensors["text"]
    assert long.shape[1] == MAX_TOKENS


def test_weights_are_small_and_half() -> None:
    from safetensors import safe_open

    for path in data.asset("prior").glob("*/*.safetensors"):
        assert path.stat().st_size < 15 * 2**20
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "tokenizer"])
def test_damaged_weights_are_named(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "prior"
    shutil.copytree(data.asset("prior"), folder)
    pattern = "tokenizer.json" if part == "tokenizer" else "*.safetensors"
    path = next((folder / part).glob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DreamforgeError, match=rf"{part}.* (is|or) damaged.*reinstall") as error:
        ToyboxPrior(str(folder)).build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_weights_with_a_tensor_missing_and_pickles_are_refused(part: str, tmp_path: Path) -> None:
    """The libraries would draw the tensor at random, and open the pickle."""
    folder = tmp_path / "prior"
    shutil.copytree(data.asset("prior"), folder)
    files = sorted((folder / part).glob("*.safetensors"))
    tensors = load_file(files[0])
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, files[0], {"format": "pt"})
    with pytest.raises(DreamforgeError, match=rf"{part} is missing or damaged \(1 of its tensors"):
        ToyboxPrior(str(folder)).build()
    for path in [*files, *(folder / part).glob("*.index.json")]:
        path.unlink()
    torch.save(tensors, folder / part / "pytorch_model.bin")
    with pytest.raises(DreamforgeError, match=rf"{part} has no safetensors file, only a pickle.*never opens"):
        ToyboxPrior(str(folder)).build()


def test_another_familys_folder_is_named() -> None:
    with pytest.raises(DreamforgeError, match="is a StableDiffusionPipeline, but a PRXPixelPipeline was expected"):
        ToyboxPrior(str(data.asset("latent"))).build()
