"""Finding a model's files and looking at them before they are loaded: folders, single files, the local cache.

Nothing is fetched from the network and no pickle is opened. Whatever is wrong is one sentence.
"""

import difflib
import importlib.util
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamforge import data
from dreamforge.priors.known import EMBEDDED, KNOWN, Known, known
from dreamforge.types import DreamforgeError

PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
VOCABULARY = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
GO_ON = "or go on at once with the embedded prior: --recipe default"


@dataclass(frozen=True)
class Source:
    """A model on this disk: ``path`` a pipeline folder or one safetensors file; ``folder`` holds the configurations.

    ``model`` is what the user called it, ``pipeline`` the diffusers class that it says it is.
    """

    model: str
    path: Path
    folder: Path
    pipeline: str

    @property
    def single(self) -> bool:
        return self.path != self.folder


def find(model: str, config: str = "") -> Source:
    """The files of ``model``: a path, a short name of ``known.KNOWN``, or a repository ``owner/name`` in the cache.

    ``config`` is the folder with configurations and tokenizers for a single file, "" the cache's of its family.
    Raises DreamforgeError when it is not there, not complete or not a model.
    """
    path = data.asset(EMBEDDED[model]) if model in EMBEDDED else Path(model).expanduser()
    if path.is_file():
        pipeline, base = recognise(path)
        folder = Path(config).expanduser() if config else cached(base, configs_only=True)
        if not (folder / "model_index.json").is_file():
            raise DreamforgeError(
                f"'{folder}' was given as the configuration of {path}, but it has no model_index.json: give the "
                f"folder of a pipeline of the same family, or fetch one with `{KNOWN[base].command(True)}`."
            )
        return Source(model, path, folder, pipeline)
    folder = path if path.is_dir() else cached(model)
    index = read_json(folder / "model_index.json", model)
    return Source(model, folder, folder, str(index.get("_class_name")))


def cached(model: str, configs_only: bool = False) -> Path:
    """The newest snapshot of a model in the local Hugging Face cache. Raises DreamforgeError with how to fetch it."""
    from huggingface_hub import get_token, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    entry = known(model)
    if entry is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        names = [*EMBEDDED, *KNOWN]
        near = difflib.get_close_matches(model, names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known names are {', '.join(names)}."
        raise DreamforgeError(
            f"There is no model '{model}', neither a folder, a .safetensors file, a repository owner/name nor a known "
            f"name: {hint}"
        )
    repository = entry.repository if entry else model
    try:
        return Path(snapshot_download(repository, local_files_only=True))  # looks at the disk only
    except LocalEntryNotFoundError as error:
        raise DreamforgeError(_missing(model, entry, configs_only, signed_in=bool(get_token()))) from error


def _missing(model: str, entry: Known | None, configs_only: bool, signed_in: bool) -> str:
    if entry is None:
        return (
            f"The model '{model}' is not on this machine: its size and licence are at https://huggingface.co/{model}, "
            f"fetch it with `hf download {model}`, {GO_ON}."
        )
    go_on = GO_ON if entry.use else "or leave prior.tiny_vae out"
    about = f"{entry.repository}, about {entry.gigabytes:g} GB, licence {entry.licence}"
    what = "configuration and tokenizer of" if configs_only else "weights of"
    gate = f"accept its licence at https://huggingface.co/{entry.repository}, " if entry.gated else ""
    gate += "sign in with `hf auth login`, " if entry.gated and not signed_in else ""
    fetch = f"{gate}fetch with `{entry.command(configs_only)}`"
    return f"The {what} '{model}' ({about}) are not on this machine: {fetch}, {go_on}."


def verify(source: Source, parts: Sequence[str]) -> None:
    """Raise DreamforgeError unless every one of ``parts`` that the model has is complete, sound and no pickle."""
    index = read_json(source.folder / "model_index.json", source.model)
    if source.single:
        sound(source.path, again(source))
    for part in parts:
        if index.get(part) in (None, [None, None]):
            continue
        folder = source.folder / part
        if part.startswith("tokenizer"):
            _vocabulary(folder, source)
        elif part == "scheduler":
            read_json(folder / "scheduler_config.json", source.model)
        elif not source.single:
            read_json(folder / "config.json", source.model)
            _weights(folder, source)
        elif unsafe(folder):
            raise DreamforgeError(_pickled(folder, source))


def _weights(folder: Path, source: Source) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files and unsafe(folder):
        raise DreamforgeError(_pickled(folder, source))
    shards = [name for path in folder.glob("*.index*.json") for name in _shards(path, files)]
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing or not files:
        name = f"{folder.name}/{missing[0] if missing else '*.safetensors'}"
        raise DreamforgeError(
            f"The model '{source.model}' in {source.path} is not complete, {name} is missing: {again(source)}."
        )
    for path in files:
        sound(path, again(source))


def _shards(index: Path, there: Sequence[Path]) -> list[str]:
    """Names that a shard index lists, if any of them was fetched: a folder may hold several variants."""
    names = sorted(set(read_json(index, index.name).get("weight_map", {}).values()))
    return names if any(path.name in names for path in there) else []


def _vocabulary(folder: Path, source: Source) -> None:
    # Without its files T5's tokenizer would be built with an empty vocabulary, and say nothing.
    found = [name for name in VOCABULARY if (folder / name).is_file()]
    if not found:
        raise DreamforgeError(
            f"The model '{source.model}' in {source.path} is not complete, the vocabulary of {folder.name} is missing: "
            f"{again(source)}."
        )
    if found == ["spiece.model"] and not importlib.util.find_spec("sentencepiece"):
        raise DreamforgeError(
            f"The tokenizer in {folder} is a SentencePiece model, which needs a library that is not installed: "
            "pip install sentencepiece protobuf."
        )


def sound(path: Path, cure: str) -> list[str]:
    """The names of the tensors in a safetensors file; DreamforgeError for a pickle or a damaged file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise DreamforgeError(
            f"'{path}' is not a safetensors file, and dreamforge never opens pickles (.bin, .ckpt, .pt): get the "
            ".safetensors file of the same model."
        )
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DreamforgeError(f"{path} is damaged ({reason}): delete it and {cure}.") from error


def network(cls: Any, folder: Path, cure: str) -> Any:
    """The network in ``folder`` in float32, of a diffusers or transformers class; ``cure`` says what to do without it.

    Raises DreamforgeError unless its weights are sound safetensors files, and ValueError where they lack tensors: the
    libraries would draw those at random.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickle = ", only a pickle, which dreamforge never opens" if folder.is_dir() and unsafe(folder) else ""
        raise DreamforgeError(f"{folder} has no safetensors file{pickle}: {cure}.")
    names = {name for path in files for name in sound(path, cure)}
    options = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    diffusers = cls.__module__.startswith("diffusers.")  # which draws what is missing with this option only, ...
    model, info = cls.from_pretrained(folder, **options, **({"low_cpu_mem_usage": False} if diffusers else {}))
    missing = set(info["missing_keys"])
    if diffusers:  # ... and which believes the index of its shards
        missing |= set(model.state_dict()) - names
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are missing, as {min(missing)}")
    return model


def recognise(path: Path) -> tuple[str, str]:
    """diffusers' pipeline class of a single file in the original layout, and the short name of its base model."""
    keys = set(sound(path, "get it again"))
    if "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.weight" in keys:
        return "StableDiffusion3Pipeline", "sd3-medium"
    if any(key.startswith("conditioner.embedders.1.") for key in keys):
        return "StableDiffusionXLPipeline", "sdxl"
    if any(key.startswith("cond_stage_model.transformer.") for key in keys):
        return "StableDiffusionPipeline", "sd15"
    if any(key.startswith("cond_stage_model.model.") for key in keys):
        return "StableDiffusionPipeline", "sd21-base"
    if any("lora" in key.lower() for key in keys):
        raise DreamforgeError(f"{path} holds a LoRA, not a model: name it in prior.lora, beside prior.model.")
    raise DreamforgeError(
        f"{path} is a single file of no known family (its first tensor is '{min(keys, default='none')}'): Stable "
        "Diffusion 1.x, 2.x, XL and 3 are read from one file, every other model from a diffusers folder."
    )


def variant(folder: Path, half: bool) -> str | None:
    """ "fp16" where the half-precision files of a pipeline folder are to be read, None for the plain ones."""
    parts = [part for part in folder.iterdir() if part.is_dir() and any(part.glob("*.safetensors"))]
    plain = [any("fp16" not in path.name for path in part.glob("*.safetensors")) for part in parts]
    there = any(True for part in parts for _ in part.glob("*fp16*.safetensors"))
    return "fp16" if there and (half or not all(plain)) else None


def parameters(source: Source, part: str) -> int:
    """How many numbers the network ``part`` of a model has, by the headers of its files; DreamforgeError for damage."""
    from safetensors import safe_open

    files = [source.path] if source.single else sorted((source.folder / part).glob("*.safetensors"))
    counts: dict[str, int] = {}  # by name: a folder may hold several variants of the same tensors
    for path in files:
        sound(path, again(source))
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if not source.single or name.startswith("model.diffusion_model."):
                    counts[name] = math.prod(file.get_slice(name).get_shape())
    return sum(counts.values())


def unsafe(folder: Path) -> list[str]:
    """Names of the pickles in ``folder`` where it has no safetensors file."""
    names = [path for path in sorted(folder.glob("*")) if path.is_file()]
    return (
        [] if any(path.suffix == ".safetensors" for path in names) else [p.name for p in names if p.suffix in PICKLES]
    )


def _pickled(folder: Path, source: Source) -> str:
    return (
        f"The {folder.name} of '{source.model}' is there as a pickle only ({unsafe(folder)[0]}), and dreamforge never "
        f"opens pickles: {again(source)}, or convert the folder with diffusers' save_pretrained."
    )


def again(source: Source) -> str:
    """What to do about files that are missing or damaged."""
    entry = known(source.model)
    if entry is not None:
        return f"run `{entry.command()}`, which goes on where it stopped"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source.model) and not Path(source.model).expanduser().exists():
        return f"run `hf download {source.model}`, which goes on where it stopped"
    return "copy or fetch the safetensors files again"


def read_json(path: Path, model: str) -> dict[str, Any]:
    """A configuration file. Raises DreamforgeError where it is missing or not readable."""
    if not path.is_file():
        hint = " and is no diffusers pipeline folder" if path.name == "model_index.json" else ""
        raise DreamforgeError(
            f"The model '{model}' has no {path.parent.name}/{path.name}{hint}: fetch it again completely, or give the "
            "folder that holds model_index.json."
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DreamforgeError(f"{path} is damaged ({error}): delete it and fetch the model again.") from error
    return content
