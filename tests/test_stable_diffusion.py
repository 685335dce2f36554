"""Stable Diffusion as a prior against the stock pipeline: predictions, latents, gradients, and what a user adds."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.cameras import orbit
from dreamforge.priors.parametrisation import DiscreteSchedule
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.priors.stock import StockPrior, StudentSchedule, silent
from dreamforge.prompts import ViewPrompts
from dreamforge.types import DreamforgeError, Prior, Query
from tests import samplers
from tests import tiny_pipelines as tiny

PROMPT, NEGATIVE = "a red mushroom", "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("sd") / "eps")


@pytest.fixture(scope="module")
def prior(folder: Path) -> StockPrior:
    return open_(folder)


def open_(folder: Path, **options: Any) -> StockPrior:
    return StableDiffusion(str(folder), **{"precision": "float32", **options}).build()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(views: int = 2) -> tuple[Tensor, Tensor]:
    return draw(views, 4, 16, 16), torch.linspace(0.2, 0.9, views)


def picture(views: int = 2, side: int = 20) -> Tensor:
    return torch.rand(views, side, side, 3, generator=torch.Generator().manual_seed(1))


def asked(prior: Prior, *texts: str, views: int = 2) -> list[Query]:
    return [Query(prior.embed([text] * views)) for text in texts]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_our_steps_are_the_stock_pipelines(kind: str, tmp_path: Path) -> None:
    """DDIM in the stock pipeline, step by step: x_t' = alpha' x0 + sigma' eps with CFG, for eps- and v-prediction."""
    folder = tiny.stable_diffusion(tmp_path / kind, prediction=kind)
    pipeline, prior, states = tiny.stock(folder), open_(folder), [draw(1, 4, 16, 16)]
    pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=4.0, latents=states[0],
        output_type="latent", callback_on_step_end=lambda _p, _i, _t, got: states.append(got["latents"]) or got,
    )  # fmt: skip
    times = [int(step) / 1000 for step in pipeline.scheduler.timesteps]
    assert times == [0.801, 0.601, 0.401, 0.201, 0.001]
    assert max(samplers.follow(prior, asked(prior, NEGATIVE, PROMPT, views=1), 4.0, times, states)) < 1e-4
    assert prior.convention.prediction == {"epsilon": "eps", "v_prediction": "v"}[kind]


def test_all_questions_are_one_call_of_the_network(prior: StockPrior) -> None:
    calls: list[int] = []
    hook = prior.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    x_t, t = noisy()
    together = prior.predict_noise(x_t, t, asked(prior, "", PROMPT, NEGATIVE))
    assert calls == [6] and all(eps.shape == x_t.shape and eps.dtype == torch.float32 for eps in together)
    hook.remove()
    for text, eps in zip(("", PROMPT, NEGATIVE), together, strict=True):
        alone = [prior.predict_noise(x_t[k : k + 1], t[k : k + 1], asked(prior, text, views=1))[0] for k in range(2)]
        torch.testing.assert_close(torch.cat(alone), eps, rtol=1e-4, atol=1e-5)


def test_a_memory_preset_asks_in_pieces_and_answers_the_same(folder: Path, prior: StockPrior) -> None:
    small, calls = open_(folder, vram=8), []
    small.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    x_t, t = noisy(3)
    pieces = small.predict_noise(x_t, t, asked(small, "", PROMPT, views=3))
    assert calls == [4, 2]
    whole = prior.predict_noise(x_t, t, asked(prior, "", PROMPT, views=3))
    torch.testing.assert_close(pieces[1], whole[1], rtol=1e-4, atol=1e-5)


def test_latents_are_the_stock_autoencoders(folder: Path, prior: StockPrior) -> None:
    """mode: x = 0.18215 mean(2 rgb - 1 at 32 pixels); sample: x - mode = 0.18215 std n with n ~ N(0, 1) by the seed."""
    vae, mode = tiny.stock(folder).vae, open_(folder, encode="mode")
    rgb = picture(side=32)
    with torch.no_grad():
        posterior = vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist
        torch.testing.assert_close(mode.encode(rgb, 0), 0.18215 * posterior.mean, rtol=1e-3, atol=1e-5)
        n = (prior.encode(rgb, 7) - mode.encode(rgb, 7)) / (0.18215 * posterior.std)
        assert prior.encode(rgb, 7).equal(prior.encode(rgb, 7)) and not prior.encode(rgb, 8).equal(prior.encode(rgb, 7))
        assert abs(float(n.mean())) < 0.1 and abs(float(n.std()) - 1) < 0.1  # of 2048 numbers: 4 standard errors
        shown = vae.decode(posterior.mean).sample.permute(0, 2, 3, 1) / 2 + 0.5
        torch.testing.assert_close(mode.decode(mode.encode(rgb, 0)), shown.clamp(0, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("vram", [0, 6])
def test_the_gradient_flows_through_the_encoder_only(folder: Path, vram: int) -> None:
    """d (x . g) / d rgb in one direction is its central difference; recomputing blocks (vram 6) changes nothing."""
    prior = open_(folder, encode="mode", vram=vram)
    rgb, g, way = picture().requires_grad_(), draw(2, 4, 16, 16, seed=3), draw(2, 20, 20, 3, seed=4)
    prior.encode(rgb, 0).backward(g)
    assert rgb.grad is not None
    with torch.no_grad():
        step = 1e-2
        moved = [float((prior.encode(rgb + sign * step * way, 0).double() * g).sum()) for sign in (1, -1)]
    assert float((rgb.grad * way).sum()) == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=0.02)
    assert not any(p.requires_grad for part in (prior.network, prior.vae) for p in part.parameters())
    x_t, t = noisy()
    x_t.requires_grad_()
    prior.predict_noise(x_t, t, asked(prior, PROMPT))[0].sum().backward()
    assert x_t.grad is not None and float(x_t.grad.abs().sum()) > 0, "differentiable when grad is enabled"


def test_nothing_waits_for_the_device(prior: StockPrior, folder: Path) -> None:
    """On torch's meta device a value cannot be read: .item(), bool(tensor), .cpu(), nonzero would raise."""
    apart = open_(folder)
    text = apart.embed(["", PROMPT])
    apart.network.to("meta"), apart.vae.to("meta")
    apart.device = torch.device("meta")
    apart.schedule = DiscreteSchedule(apart.schedule.alphas_cumprod.to("meta"))
    meta = [Query(type(text)({k: v.to("meta") for k, v in text.tensors.items()})[[i, i]]) for i in range(2)]
    rgb = picture().to("meta").requires_grad_()
    x = apart.encode(rgb, 0)
    (eps, _) = apart.predict_noise(x.detach(), torch.empty(2, device="meta"), meta)
    torch.autograd.backward(x, eps)
    assert eps.shape == (2, 4, 16, 16) and rgb.grad is not None
    with pytest.raises(RuntimeError):
        bool(eps.sum() > 0)


def test_convolutions_keep_channels_last_and_attention_is_fused(prior: StockPrior) -> None:
    assert prior.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    processors = {type(processor).__name__ for processor in prior.network.attn_processors.values()}
    assert processors == {"AttnProcessor2_0"}, "torch's scaled_dot_product_attention"


def test_texts_are_embedded_once_and_the_encoder_is_let_go(folder: Path) -> None:
    prior = open_(folder)
    first = prior.embed([PROMPT, ""])
    encoder = weakref.ref(prior._text.text_encoder)
    assert encoder() is not None
    x_t, t = noisy()
    prior.predict_noise(x_t, t, asked(prior, PROMPT))
    assert encoder() is None and prior._text is None
    again = prior.embed(["", PROMPT])
    assert prior._text is None and again.tensors["text"][1].equal(first.tensors["text"][0])
    new = prior.embed(["a new text"])
    assert prior._text is not None and not new.tensors["text"].equal(first.tensors["text"][:1])


def test_a_text_cut_short_is_told_with_its_view_words(prior: StockPrior) -> None:
    long = "a very " * 12 + "long description"
    ViewPrompts().build(long, prior)
    (warning,) = prior.warnings(long)
    assert "reads 77" in warning and "view words" in warning
    ViewPrompts().build(PROMPT, prior)
    assert prior.warnings(PROMPT) == []


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_trainable_twin_starts_as_the_prior_and_learns(prior: StockPrior, mode: Any) -> None:
    twin = prior.trainable(mode, camera=True)
    x_t, t = noisy()
    cameras = orbit(torch.tensor([0.0, 2.0]), torch.zeros(2), 3.0, 0.7, 8, 8)
    text = prior.embed([PROMPT] * 2)
    with torch.no_grad():
        (before,) = prior.predict_noise(x_t, t, [Query(text)])
        (start,) = twin.predict_noise(x_t, t, [Query(text, cameras)])
    torch.testing.assert_close(start, before, rtol=1e-5, atol=1e-5)
    optimiser = torch.optim.Adam([{**group, "lr": 1e-3} for group in twin.param_groups()])
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = (twin.predict_noise(x_t, t, [Query(text, cameras)])[0] - draw(2, 4, 16, 16, seed=9)).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert prior.predict_noise(x_t, t, [Query(text)])[0].equal(before), "the prior itself stays"
    fresh = prior.trainable(mode, camera=True)
    fresh.load_state(twin.state())
    with torch.no_grad():
        a, b = (one.predict_noise(x_t, t, [Query(text, cameras)])[0] for one in (twin, fresh))
    torch.testing.assert_close(a, b)


def lora_file(folder: Path, path: Path) -> Path:
    """A LoRA of rank 2 on the attention of network and text encoder, as diffusers' training scripts save it."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = tiny.stock(folder)
    torch.manual_seed(5)
    layers = {"unet": ["to_q", "to_v"], "text_encoder": ["q_proj", "v_proj"]}
    found = {}
    for part, names in layers.items():
        module = getattr(pipeline, part)
        module.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=names, init_lora_weights=False))
        found[part] = get_peft_model_state_dict(module)
    with silent():
        StableDiffusionPipeline.save_lora_weights(
            path.parent, unet_lora_layers=found["unet"], text_encoder_lora_layers=found["text_encoder"],
            weight_name=path.name,
        )  # fmt: skip
    return path


def test_a_lora_file_is_the_stock_pipelines(folder: Path, prior: StockPrior, tmp_path: Path) -> None:
    """W + scale B A in network and text encoder, as ``load_lora_weights`` with the same scale; scale 0 is no LoRA."""
    file = lora_file(folder, tmp_path / "style.safetensors")
    ours, none = (open_(folder, lora=(str(file),), lora_scale=scale) for scale in (0.7, 0.0))
    pipeline = tiny.stock(folder)
    with silent():
        pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="style")
    pipeline.set_adapters("style", 0.7)
    x_t, t = noisy()
    text = pipeline.encode_prompt([PROMPT] * 2, "cpu", 1, False)[0]
    torch.testing.assert_close(ours.embed([PROMPT] * 2).tensors["text"], text, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = pipeline.unet(x_t, ours.schedule.index(t), encoder_hidden_states=text).sample
        (eps,), (plain,) = (p.predict_noise(x_t, t, asked(p, PROMPT)) for p in (ours, prior))
        torch.testing.assert_close(eps, expected, rtol=1e-3, atol=1e-4)
        assert (eps - plain).abs().max() > 1e-2
        torch.testing.assert_close(none.predict_noise(x_t, t, asked(none, PROMPT))[0], plain, rtol=1e-4, atol=1e-5)
    twin = ours.trainable("lora", camera=False)
    with torch.no_grad():
        torch.testing.assert_close(twin.predict_noise(x_t, t, asked(ours, PROMPT))[0], eps, rtol=1e-4, atol=1e-5)


def test_a_textual_inversion_is_the_stock_pipelines(folder: Path, prior: StockPrior, tmp_path: Path) -> None:
    """Two vectors for one word: the embedding of a text with it is that of ``load_textual_inversion``."""
    from safetensors.torch import save_file

    file = tmp_path / "learned_embeds.safetensors"
    save_file({"<toy>": draw(2, tiny.WIDTH)}, file)
    ours, pipeline = open_(folder, textual_inversion=(str(file),)), tiny.stock(folder)
    with silent():
        pipeline.load_textual_inversion(str(tmp_path), weight_name=file.name, use_safetensors=True)
    text = "a photo of <toy>"
    expected = pipeline.encode_prompt([text], "cpu", 1, False)[0]
    torch.testing.assert_close(ours.embed([text]).tensors["text"], expected, rtol=1e-4, atol=1e-5)
    assert not ours.embed([text]).tensors["text"].equal(prior.embed([text]).tensors["text"])
    file = tmp_path / "glow.safetensors"
    save_file({"emb_params": draw(1, tiny.WIDTH)}, file)
    named = open_(folder, textual_inversion=(str(file),)).embed(["a glow", "a gleam"]).tensors["text"]
    plain = prior.embed(["a glow", "a gleam"]).tensors["text"]
    assert not named[0].equal(plain[0]), "the file's name is its word"
    torch.testing.assert_close(named[1], plain[1])


def test_what_a_user_adds_is_never_a_pickle(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    pickle = tmp_path / "style.bin"
    pickle.write_bytes(b"\x80\x02}q\x00.")
    for option, call in (("lora", lambda p: p), ("textual_inversion", lambda p: p.embed([PROMPT]))):
        with pytest.raises(DreamforgeError, match=r"never opens pickles.*\.safetensors"):
            call(open_(folder, **{option: (str(pickle),)}))
        with pytest.raises(DreamforgeError, match="There is no"):
            call(open_(folder, **{option: (str(tmp_path / "none.safetensors"),)}))


def test_a_lora_or_a_word_of_another_model_is_told(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    wrong = tmp_path / "other.safetensors"
    save_file({"unet.nowhere.lora_A.weight": draw(2, 4), "unet.nowhere.lora_B.weight": draw(4, 2)}, wrong)
    with pytest.raises(DreamforgeError, match="made for another"):
        open_(folder, lora=(str(wrong),))
    save_file({"weight": draw(2, 4)}, wrong)
    with pytest.raises(DreamforgeError, match="is not a LoRA file"):
        open_(folder, lora=(str(wrong),))
    save_file({"<toy>": draw(1, 768)}, wrong)
    with pytest.raises(DreamforgeError, match="vectors of 768 numbers, but this model's words have 32"):
        open_(folder, textual_inversion=(str(wrong),)).embed([PROMPT])


def test_a_tiny_autoencoder_takes_the_place_of_the_own(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    tiny_vae = tiny.tiny_vae(tmp_path / "taesd")
    prior, rgb = open_(folder, tiny_vae=str(tiny_vae)), picture(side=32).requires_grad_()
    vae = AutoencoderTiny.from_pretrained(tiny_vae)
    x = prior.encode(rgb, 0)
    with torch.no_grad():
        torch.testing.assert_close(x, vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latents, rtol=1e-4, atol=1e-5)
    x.sum().backward()
    assert rgb.grad is not None and rgb.grad.abs().sum() > 0
    x_t, t = noisy()
    assert prior.predict_noise(x_t, t, asked(prior, PROMPT))[0].shape == x.shape
    assert prior.decode(x.detach()).shape == (2, 32, 32, 3)


def test_half_precision_answers_float32(folder: Path, prior: StockPrior) -> None:
    half = open_(folder, precision="bfloat16")
    x_t, t = noisy()
    with torch.no_grad():
        (a,), (b,) = (p.predict_noise(x_t, t, asked(p, PROMPT)) for p in (half, prior))
    assert half.network.dtype == torch.bfloat16
    assert a.dtype == half.encode(picture(), 0).dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.1


def test_a_students_times_are_its_own_steps(folder: Path) -> None:
    """Of 4 steps of 1000: 249, 499, 749, 999, and alpha, sigma belong to them."""
    prior = open_(folder, student_steps=4)
    assert isinstance(prior.schedule, StudentSchedule)
    t = torch.tensor([0.001, 0.26, 0.37, 0.38, 0.7, 0.999])
    assert prior.schedule.index(t).tolist() == [249, 249, 249, 499, 749, 999]
    base = prior.schedule.base
    torch.testing.assert_close(prior.schedule.alpha(t) ** 2, base.alphas_cumprod[prior.schedule.index(t)])
    torch.testing.assert_close(prior.schedule.alpha(t) ** 2 + prior.schedule.sigma(t) ** 2, torch.ones(6))


def test_a_schedule_without_signal_at_its_end_keeps_a_trace() -> None:
    """rescale_betas_zero_snr makes alpha_999 = 0, where x0 = (x_t - sigma eps)/alpha would be infinite."""
    from diffusers import DDIMScheduler

    from dreamforge.priors.loading import convention

    pipeline = type("Pipeline", (), {"scheduler": DDIMScheduler(rescale_betas_zero_snr=True)})()
    schedule = convention(pipeline).schedule
    assert schedule.alpha(torch.tensor([0.999])).item() == pytest.approx(2.0**-12)


def test_a_control_image_is_refused(prior: StockPrior) -> None:
    x_t, t = noisy()
    with pytest.raises(DreamforgeError, match="takes none"):
        prior.predict_noise(x_t, t, [Query(prior.embed([PROMPT] * 2), None, picture())])
