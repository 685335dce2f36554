"""Memory presets and the cost of a step: counted on shapes alone, compared with what is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dreamforge.priors import estimate
from dreamforge.priors.deepfloyd import DeepFloyd
from dreamforge.priors.estimate import Load, Meter, cost
from dreamforge.priors.memory import PRESETS, limited, preset, text_device, used_memory
from dreamforge.priors.pretrained import Pretrained
from dreamforge.priors.sd3 import SD3
from dreamforge.priors.sdxl import SDXL
from dreamforge.priors.sizes import SIZES
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.priors.toybox import ToyboxPrior
from dreamforge.types import DreamforgeError
from tests import tiny_pipelines as tiny

pytestmark = pytest.mark.usefixtures("empty_cache")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # no GPU is touched: costs are counted on shapes
HALF: dict[str, Any] = {"precision": "bfloat16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("memory") / "sd")


# Counts of the published weights, in millions; IF-I-XL's authors say 4.3 billion, PixArt's 0.6.
PUBLISHED = {
    "sd15": 859.52, "sd21": 865.91, "sd21-base": 865.91, "sdxl": 2567.46, "sdxl-turbo": 2567.46, "sd3-medium": 2028.33,
    "if-xl": 4304.70, "pixart-alpha": 610.86,
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_shapes_are_those_of_the_published_networks(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        network = getattr(diffusers, SIZES[name].network).from_config(SIZES[name].shape)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.005)


def test_the_cost_of_stable_diffusion_is_what_is_known_of_it() -> None:
    """Network 860 M and autoencoder 84 M weights in 2 bytes; 0.68 TFLOP a prediction (339 G multiplications)."""
    two = cost(StableDiffusion("sd15", **HALF), CPU, Load(views=1, texts=2))
    four = cost(StableDiffusion("sd15", **HALF), CPU, Load(views=1, texts=4))
    assert two.weights == pytest.approx(2 * (859.5e6 + 83.65e6), rel=1e-3)
    assert (four.flops - two.flops) / 2 == pytest.approx(2 * 339e9, rel=0.2)
    assert two.text == pytest.approx(2 * 123e6, rel=0.01)
    assert 4e9 < two.peak("cuda") < 7e9


def test_a_preset_keeps_stable_diffusion_within_six_gigabytes() -> None:
    """Four views with CFG: with vram 6 in 6 GB, without a limit far from it; an adapter's backward pass in 10 GB."""
    load = Load(views=4, texts=2)
    assert cost(StableDiffusion("sd15", vram=6, **HALF), CPU, load).peak("cuda") < 6e9
    assert cost(StableDiffusion("sd15", **HALF), CPU, load).peak("cuda") > 9e9
    vsd = Load(views=1, texts=4, learnt=1)
    assert cost(StableDiffusion("sd21-base", vram=8, **HALF), CPU, vsd).peak("cuda") < 10e9


def test_a_text_encoder_lies_beside_the_network_before_the_first_step_or_on_the_cpu() -> None:
    """IF-I-XL 4.305 and T5-XXL 4.76 billion weights of 2 bytes; a frugal preset leaves T5 to the CPU, where one is."""
    whole = cost(DeepFloyd("if-xl", **HALF), CUDA, Load(views=1))
    assert whole.text == pytest.approx(2 * 4.76e9) and not whole.text_apart
    assert whole.least == whole.embedding == pytest.approx(2 * (4.3047e9 + 4.76e9), rel=1e-4)
    frugal = cost(DeepFloyd("if-xl", vram=12, **HALF), CUDA, Load(views=1))
    assert frugal.text_apart and frugal.text == whole.text
    assert frugal.least == frugal.weights + frugal.activations and frugal.peak("cuda") < 12e9
    assert not cost(DeepFloyd("if-xl", vram=12, **HALF), CPU, Load(views=1)).text_apart, "there it is the same memory"
    assert not cost(StableDiffusion("sd15", vram=6, **HALF), CUDA, Load(views=1)).text_apart, "CLIP is small"


def test_a_frugal_preset_embeds_with_t5_on_the_cpu() -> None:
    for vram, big, expected in ((12, True, CPU), (12, False, CUDA), (24, True, CUDA), (0, True, CUDA)):
        assert text_device(big, preset(vram), CUDA) == expected


def test_without_t5_a_model_is_smaller() -> None:
    """SD3's two other text encoders: 0.123 and 0.695 billion weights."""
    assert cost(SD3(t5=False, **HALF), CUDA, Load(views=1)).text == pytest.approx(2 * (0.123e9 + 0.695e9))


def test_a_full_estimator_is_a_float32_copy_with_gradients_and_two_moments() -> None:
    """Four numbers of 4 bytes for each weight, beside the network; while the texts are embedded the copy alone."""
    load = Load(views=1, texts=3, learnt=4)
    adapter, full = (cost(StableDiffusion("sd15", **HALF), CUDA, replace(load, full=whole)) for whole in (False, True))
    assert adapter.estimator == 0 and full.estimator == pytest.approx(16 * 859.52e6, rel=1e-4)
    assert full.least == full.weights + full.estimator + full.activations > adapter.least + 13.7e9
    assert full.embedding - adapter.embedding == pytest.approx(4 * 859.52e6, rel=1e-4)
    assert full.activations > 2 * adapter.activations, "they are float32 too, and each layer keeps its input"


def test_lessons_cost_operations_but_no_memory() -> None:
    prior = StableDiffusion("sd15", **HALF)
    none, one, two = (
        cost(prior, CUDA, Load(views=1, texts=3, learnt=lessons, lessons=max(lessons, 1))) for lessons in (0, 1, 2)
    )
    assert one.activations == two.activations >= none.activations
    assert two.flops - one.flops == pytest.approx(one.flops - none.flops)


@pytest.mark.parametrize("vram", [12, 24])
def test_presets_hold_for_sdxl(vram: int) -> None:
    size = {12: 512, 24: 1024}[vram]
    assert cost(SDXL(vram=vram, size=size, **HALF), CPU, Load(views=1)).peak("cuda") < vram * 1e9


def test_a_local_model_is_measured_by_its_files(folder: Path) -> None:
    from dreamforge.priors.weights import find, parameters

    prior = Pretrained(str(folder), precision="float32")
    built, found = prior.build(), cost(prior, CPU, Load(views=2))
    own = sum(p.numel() for p in built.network.parameters())
    assert found.parameters == own == parameters(find(str(folder)), "unet")
    assert found.weights == 4 * (own + sum(p.numel() for p in built.vae.parameters()))
    one, more = (cost(prior, CPU, Load(views=views)) for views in (1, 4))
    assert more.activations > 2 * one.activations and more.flops == pytest.approx(4 * one.flops, rel=0.1)
    assert found.text == 4 * parameters(find(str(folder)), "text_encoder")


def test_the_text_encoder_of_a_single_file_is_counted(folder: Path, tmp_path: Path) -> None:
    file = tiny.single_file(folder, tmp_path / "model.safetensors")
    whole, single = Pretrained(str(folder)), Pretrained(str(file), config=str(folder))
    assert cost(single, CPU, Load(views=1)).text == pytest.approx(cost(whole, CPU, Load(views=1)).text, rel=0.05)


def test_the_meter_counts_what_lives() -> None:
    """a (4 MB) and b = 2 a (4 MB) live together; after a is gone c = b + 1 finds the same 8 MB."""
    with Meter() as meter:
        a = torch.empty(1024, 1024, device="meta")
        b = a * 2
        assert meter.live == meter.peak == 2 * 4 * 2**20
        del a
        assert meter.live == 4 * 2**20
        c = b + 1
        view = c[0]
    assert meter.peak == 2 * 4 * 2**20 and len(view) == 1024
    outside = torch.empty(1024, 1024, device="meta")
    with Meter() as meter:
        outside.t()
    assert meter.peak == 0, "a view of what was there before is no new memory"
    with Meter() as meter:
        torch.empty(8, 16, device="meta") @ torch.empty(16, 4, device="meta")
    assert meter.flops == 2 * 8 * 16 * 4


def test_fused_attention_keeps_no_matrix_of_pairs_and_is_put_back() -> None:
    """Its operations: 2 L L d for q k^T and as many for the sum over v."""
    genuine, q = F.scaled_dot_product_attention, torch.empty(1, 1, 4096, 64, device="meta")
    with Meter() as meter, estimate.fused_attention() as operations:
        F.scaled_dot_product_attention(q, q, q)
    assert meter.peak < 4096 * 4096 and operations == [4.0 * 4096 * 4096 * 64]
    assert F.scaled_dot_product_attention is genuine


def test_the_memory_in_use_is_counted_in_bytes() -> None:
    """torch alone takes 0.1 GB, and no test a terabyte."""
    used = used_memory(CPU)
    assert used is None or 1e8 < used < 1e12


def test_presets_are_told() -> None:
    assert set(PRESETS) == {0, 6, 8, 12, 24, 80} and preset(8).chunk == 4
    with pytest.raises(DreamforgeError, match="6, 8, 12, 24, 80 GB"):
        preset(7)
    assert limited(StableDiffusion(), 6) == StableDiffusion(vram=6)
    assert limited(ToyboxPrior(), 6) == ToyboxPrior()
