"""Every family of models: found by its configuration, a prior, trained, resumed, and with LoRA files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamforge import runs
from dreamforge.config import load
from dreamforge.priors.pretrained import Pretrained
from dreamforge.priors.stock import StockPrior
from dreamforge.runs import Interrupted, Listener
from dreamforge.types import Prior, Query
from tests import tiny_pipelines as tiny

pytestmark = pytest.mark.usefixtures("no_network")
SECRET = "a red mushroom"


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_every_family_is_found_by_its_configuration_and_is_a_prior(name: str, folders: dict[str, Path]) -> None:
    prior = Pretrained(str(folders[name]), precision="float32").build()
    assert isinstance(prior, Prior) and isinstance(prior, StockPrior)
    assert prior.family.use.startswith(name.removesuffix("_pixel")) and prior.folder == folders[name]
    rgb = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text, nothing = prior.embed([SECRET] * 2), prior.embed([""] * 2)
    assert all(len(tensor) == 2 for tensor in text.tensors.values())
    x = prior.encode(rgb, 0)
    eps = prior.predict_noise(x.detach(), torch.tensor([0.3, 0.8]), [Query(nothing), Query(text)])
    assert [one.shape for one in eps] == [x.shape] * 2 and all(one.isfinite().all() for one in eps)
    assert not eps[0].equal(eps[1]), "the text is heard"
    torch.autograd.backward(x, eps[0].detach())
    assert rgb.grad is not None and float(rgb.grad.abs().sum()) > 0
    assert prior.decode(x.detach()).shape == (2, prior.size, prior.size, 3)


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_every_family_has_trainable_twins_that_start_as_it(name: str, folders: dict[str, Path]) -> None:
    from dreamforge.cameras import orbit

    prior = Pretrained(str(folders[name]), precision="float32").build()
    text, cameras = prior.embed([SECRET] * 2), orbit(torch.tensor([0.0, 2.0]), torch.zeros(2), 3.0, 0.7, 8, 8)
    x_t = prior.encode(torch.rand(2, 24, 24, 3), 0)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        (before,) = prior.predict_noise(x_t, t, [Query(text)])
    for mode in ("lora", "full"):
        twin = prior.trainable(mode)
        (start,) = twin.predict_noise(x_t, t, [Query(text, cameras)])
        torch.testing.assert_close(start, before, rtol=1e-4, atol=1e-4)
        start.square().mean().backward()
        learnt = [p for group in twin.param_groups() for p in group["params"]]
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt)


@pytest.mark.parametrize("name", list(tiny.FAMILIES))
def test_no_family_waits_for_the_device(name: str, folders: dict[str, Path]) -> None:
    """One step of SDS on the meta device, where no value can be read; see ``priors/estimate.py``."""
    from dreamforge.priors.estimate import Load, cost

    found = cost(Pretrained(str(folders[name])), torch.device("cpu"), Load(views=2, texts=2, learnt=1, resolution=24))
    assert found.flops > 0 and found.activations > 0 and found.weights > 0


RUN = [
    "steps=2", "views=2", "resolution=16", "preview_every=0", "checkpoint_every=1", "prior.use=pretrained.Pretrained",
    "prior.precision=float32", "negative=blurry",
]  # fmt: skip
SCENES = {
    "canvas": ["scene.size=16", "scene.pictures=2"],
    "smoke": ["export.resolution=16", "export.triangles=200"],  # a hash-grid NeRF
}


@pytest.mark.parametrize(
    ("name", "recipe", "guidance"),
    [("stable_diffusion", "smoke", "sds.SDS"), *((name, "canvas", "vsd.VSD") for name in tiny.FAMILIES)],
)
def test_a_run_that_was_stopped_ends_in_the_same_bytes(
    name: str, recipe: str, guidance: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """SDS, and VSD with its estimator on the family's own network."""
    given = [*RUN, *SCENES[recipe], f"prior.model={folders[name]}", f"guidance.use={guidance}"]
    made = load(recipe, given, {"prompt": SECRET, "device": "cpu"})
    whole = runs.generate(made, tmp_path / "whole")
    steps: list[int] = []
    stopper = Listener(step=lambda progress: steps.append(progress.done), stop=lambda: len(steps) < 1)
    with pytest.raises(Interrupted):
        runs.generate(made, tmp_path / "parts", listener=stopper)
    parts = runs.resume(tmp_path / "parts")
    assert steps == [1] and len(parts.metrics()) == 2
    assert parts.asset.read_bytes() == whole.asset.read_bytes()
    last = "checkpoints/step_000002.safetensors"
    assert (parts.path / last).read_bytes() == (whole.path / last).read_bytes()
    if guidance == "vsd.VSD":  # what starts as zero has moved, but for what SD3's last block leaves unused
        state = load_file(whole.path / last)
        moved = [bool(tensor.any()) for key, tensor in state.items() if "lora_B" in key]
        assert moved and sum(moved) >= 0.8 * len(moved) and state["guidance0/camera.outer.weight"].any()
    manifest = json.loads((whole.path / "manifest.json").read_text())
    assert any(key.endswith("diffusion_pytorch_model.safetensors") for key in manifest["prior"][str(folders[name])])


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "sd3", "deepfloyd"])
def test_lora_files_change_a_family_by_their_scale(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """W + scale B A in every layer of a file that the family's own pipeline wrote; scale 0 is the base."""
    file = tiny.lora_file(folders[name], tmp_path / "style.safetensors")
    spec = Pretrained(str(folders[name]), precision="float32")
    half = replace(spec, lora=(str(file),), lora_scale=0.5)
    base, style, none = (one.build() for one in (spec, half, replace(half, lora_scale=0.0)))
    tensors = load_file(file)
    for key in [key for key in tensors if "lora_A" in key]:
        layer = key.partition(".")[2].removesuffix(".lora_A.weight")
        before, after = (prior.network.get_submodule(layer).weight for prior in (base, style))
        torch.testing.assert_close(after, before + 0.5 * tensors[key.replace("lora_A", "lora_B")] @ tensors[key])
    query, t = Query(base.embed([SECRET])), torch.tensor([0.5])
    x_t = base.encode(torch.rand(1, 24, 24, 3, generator=torch.Generator().manual_seed(0)), 0)
    with torch.no_grad():
        plain, changed, same = (prior.predict_noise(x_t, t, [query])[0] for prior in (base, style, none))
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-5)
