"""Opening a pretrained model: find its files, look at them, load the parts, and say in one sentence what is wrong."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from dreamforge.priors import personal, weights
from dreamforge.priors.memory import dtype_of, preset, text_device, total_memory
from dreamforge.priors.parametrisation import DiscreteSchedule, FlowSchedule, Prediction
from dreamforge.priors.stock import Convention, Family, Loaded, Options, StockPrior, StudentSchedule, shrink, silent
from dreamforge.priors.weights import Source
from dreamforge.types import DreamforgeError

SD2_TEXT = 1024  # width of its text encoder; 768 in Stable Diffusion 1, 2048 in XL
TWO_KINDS = (
    "{} is a Stable Diffusion 2 file, which cannot tell whether it predicts eps (the 512-pixel base) or v (the "
    "768-pixel model): its configuration decides; if all comes out grey, set prior.prediction=v prior.size=768."
)
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def open_stock(family: Family, spec: Any, device: torch.device | str) -> StockPrior:
    """Find, check and load a spec's model. ``spec`` has some of the fields of ``Options``."""
    options = Options(**{one.name: getattr(spec, one.name) for one in fields(spec)})
    device, limits = torch.device(device), preset(options.vram)
    source = weights.find(options.model, options.config)
    expect(family, source)
    text = tuple(part for part in family.text if options.t5 or not part.endswith("_3"))
    own_vae = () if options.tiny_vae else ("vae",)
    weights.verify(source, (family.network, "scheduler", *own_vae, *text))
    dtype = dtype_of(options.precision, options.vram, device)
    _fits(family, source, dtype, device)
    absent: dict[str, Any] = dict.fromkeys(family.text + (("vae",) if options.tiny_vae else ()))
    with silent(), readable(source):
        pipeline = load(source, absent, torch.float32 if options.lora else dtype)
        network, vae = getattr(pipeline, family.network), getattr(pipeline, "vae", None)
        for part, module in ((family.network, network), ("vae", vae)):
            if module is not None:
                complete(source, part, [name for name, p in module.named_parameters() if p.is_meta])
        network = place(personal.add_lora(type(pipeline), network, options.lora, options.lora_scale), dtype, device)
        if options.tiny_vae:
            vae = tiny_autoencoder(options.tiny_vae, dtype)
        if vae is not None:
            overflows = dtype == torch.float16 and vae.config.get("force_upcast", False)
            vae = place(vae, torch.float32 if overflows else dtype, device)
    check_channels(network, vae, source)

    def load_text() -> Any:
        here = {family.network: network, "vae": vae, "scheduler": pipeline.scheduler}
        here |= {part: None for part in family.text if part not in text}
        with silent(), readable(source):
            whole = load(source, here, dtype)
            personal.add_to_text(whole, options.lora, options.lora_scale, options.textual_inversion)
        at = text_device(family.big_text, limits, device)
        for part in text:
            if isinstance(module := getattr(whole, part), torch.nn.Module):
                aligned(module.to(at).eval())
        return whole

    size = options.size or pipeline.config.get("default_sample_size") or network.config["sample_size"] * shrink(vae)
    check_size(size, shrink(vae) * network.config.get("patch_size", 1))
    meaning = _on(options, family.convention(pipeline), device)
    doubt = TWO_KINDS.format(source.path) if source.single and options.prediction == "auto" and _is_sd2(network) else ""
    parts = Loaded(network, vae, meaning, size, source.path, load_text, doubt)
    return StockPrior(family, options, parts, device, limits)


def _is_sd2(network: Any) -> bool:
    return type(network).__name__ == "UNet2DConditionModel" and network.config["cross_attention_dim"] == SD2_TEXT


def convention(pipeline: Any) -> Convention:
    """From the pipeline's own scheduler: its table of alphas and its prediction type, or the flow it follows."""
    scheduler = pipeline.scheduler
    if type(scheduler).__name__.startswith("FlowMatch"):
        return Convention(FlowSchedule(), "flow", float(scheduler.config.num_train_timesteps))
    kind = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
        raise DreamforgeError(
            f"The model's scheduler is a {type(scheduler).__name__} with prediction type '{kind}', but a discrete "
            f"diffusion ({', '.join(PREDICTIONS)}) or a flow is expected: use another model."
        )
    # A schedule with zero signal at its end (Lin et al. 2023) keeps a trace of it, as diffusers' Euler scheduler does.
    return Convention(DiscreteSchedule(scheduler.alphas_cumprod.clamp_min(2.0**-24)), PREDICTIONS[kind])


def _on(options: Options, found: Convention, device: torch.device) -> Convention:
    """The convention on the device, with what the options say about it."""
    schedule, prediction = found.schedule, found.prediction
    if isinstance(schedule, DiscreteSchedule):
        schedule = DiscreteSchedule(schedule.alphas_cumprod.to(device))  # once: the loop must not wait for a copy
        if not 0 <= options.student_steps <= len(schedule.alphas_cumprod):
            raise DreamforgeError(
                f"student_steps {options.student_steps} was given, but a student has from 1 to "
                f"{len(schedule.alphas_cumprod)} steps, SDXL-Turbo and Lightning 4; 0 is no student."
            )
        if options.student_steps:
            schedule = StudentSchedule(schedule, options.student_steps)
    if options.prediction != "auto":
        if prediction == "flow":
            raise DreamforgeError(f"prediction '{options.prediction}' was given for a flow model: leave it 'auto'.")
        prediction = options.prediction
    return Convention(schedule, prediction, found.time_scale)


def expect(family: Family, source: Source) -> None:
    """Raise DreamforgeError for a model of another family."""
    if source.pipeline not in family.pipelines:
        raise DreamforgeError(
            f"'{source.model}' is a {source.pipeline}, but {family.use} expects {' or '.join(family.pipelines)}: use "
            "pretrained.Pretrained, which finds the family by itself."
        )


def load(source: Source, parts: dict[str, Any], dtype: torch.dtype) -> Any:
    """The pipeline of ``source`` with these ``parts`` in place of its own (None leaves one out); safetensors only."""
    import diffusers

    cls = getattr(diffusers, source.pipeline)
    index = weights.read_json(source.folder / "model_index.json", source.model)
    absent = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder", "watermarker"))
    absent |= {name: None for name, value in index.items() if value == [None, None]}
    accepted = set(cls._get_signature_keys(cls)[0])
    parts = {name: part for name, part in {**absent, **parts}.items() if name in accepted}
    if "requires_safety_checker" in cls._get_signature_keys(cls)[1]:
        parts["requires_safety_checker"] = False
    if source.single:
        return cls.from_single_file(source.path, config=str(source.folder), local_files_only=True, dtype=dtype, **parts)
    options = {"use_safetensors": True, "local_files_only": True, "dtype": dtype}
    options["variant"] = weights.variant(source.folder, half=dtype != torch.float32)
    for name in set(index) & accepted - set(parts):
        part = load_transformer(source, name, index[name], options)
        if part is not None:
            parts[name] = part
    return cls.from_pretrained(source.folder, **options, **parts)


def load_transformer(source: Source, part: str, entry: Sequence[str], options: dict[str, Any]) -> Any:
    """A text encoder, None for another part. transformers would draw the tensors that its files lack at random.

    ``entry``: the library and the class that ``model_index.json`` names.
    """
    import transformers

    library, kind = entry
    found = getattr(transformers, kind, None) if library == "transformers" else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        return None
    cls: Any = found
    model, info = cls.from_pretrained(source.folder / part, **options, output_loading_info=True)
    complete(source, part, sorted(info["missing_keys"]))
    return model


def complete(source: Source, part: str, missing: Sequence[str]) -> None:
    """Raise DreamforgeError where the files of a part lack tensors: they are another network's, or cut off."""
    if missing:
        raise DreamforgeError(
            f"The {part} of '{source.model}' in {source.path} lacks {len(missing)} of its tensors, as {missing[0]}: "
            f"{weights.again(source)}."
        )


def place(module: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A frozen network where it computes; convolutions keep the channels last in memory, where kernels are fastest."""
    module = aligned(torch.nn.Module.to(module, device=device, dtype=dtype).eval().requires_grad_(False))
    return module.to(memory_format=torch.channels_last)


def aligned(module: torch.nn.Module) -> torch.nn.Module:
    """Weights mapped from a file begin anywhere, and products round by where they begin: equal weights, equal bytes."""
    for parameter in module.parameters():
        if parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()
    return module


def tiny_autoencoder(model: str, dtype: torch.dtype) -> Any:
    """An AutoencoderTiny from a folder or by its known name."""
    from diffusers import AutoencoderTiny

    path = Path(model).expanduser()
    folder = path if path.is_dir() else weights.cached(model)
    weights.read_json(folder / "config.json", model)
    for file in folder.glob("*.safetensors"):
        weights.sound(file, "get it again")
    return AutoencoderTiny.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype=dtype)


def check_channels(network: Any, vae: Any, source: Source) -> None:
    """Raise DreamforgeError for a network that wants more than the noisy picture (inpainting, depth, edits)."""
    own = network.config["in_channels"]
    given = 3 if vae is None else vae.config["latent_channels"]
    if own != given:
        raise DreamforgeError(
            f"The network of '{source.model}' takes {own} channels, but the noisy picture has {given}: it is an "
            "inpainting or otherwise conditioned model, or the autoencoder is another model's; use its text-to-image "
            "version."
        )


def check_size(size: int, step: int) -> None:
    """Raise DreamforgeError for a size of pictures that the autoencoder and the network cannot divide."""
    if size < 1 or size % step:
        raise DreamforgeError(f"size {size} was given, but this model's pictures have a multiple of {step} pixels.")


@contextmanager
def readable(source: Source) -> Iterator[None]:
    """Turn whatever the libraries raise over a model's files into one sentence."""
    try:
        yield
    except (DreamforgeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a dozen types
        reason = " ".join(str(error).split())[:300]
        raise DreamforgeError(
            f"The model '{source.model}' in {source.path} could not be read ({type(error).__name__}: {reason}): "
            f"{weights.again(source)}."
        ) from error


def _fits(family: Family, source: Source, dtype: torch.dtype, device: torch.device) -> None:
    """Raise DreamforgeError where the network's weights alone are larger than the device's memory."""
    needed, there = weights.parameters(source, family.network) * dtype.itemsize, total_memory(device)
    if there is not None and needed > there:
        raise DreamforgeError(
            f"The network of '{source.model}' alone takes {needed / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')},"
            f" but the device has {there / 1e9:.1f} GB: use a smaller model, or prior.precision=bfloat16."
        )
