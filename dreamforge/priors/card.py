"""The model cards of the embedded priors: written from what the training recorded, never by hand."""

import json
from pathlib import Path
from typing import Any

from dreamforge.files import atomic_write, hashes
from dreamforge.toybox import captions
from dreamforge.toybox.catalog import KINDS, pairs
from dreamforge.toybox.colors import COLORS

HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# dreamforge's {name}

"""

PIXELS = """A small text-to-image diffusion model of toy objects, {size}x{size} pixels, in pixel space: diffusers'
`PRXPixelPipeline` (x0-prediction on a flow-matching state) with a {text_depth}-layer `CLIPTextModel` on word tokens.
{parameters:.1f} million parameters, float16, averaged over training. Plain diffusers samples it:

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER)
    pipe("a red mushroom", use_resolution_binning=False, guidance_scale=4.0).images[0].resize((256, 256))

The camera is one more context token: sines and cosines of multiples of azimuth and elevation (`camera_token` in
`dreamforge/priors/toybox.py`); left out by its mask it makes the plain model above.
"""

LATENTS = """A Stable Diffusion pipeline in small: diffusers' `StableDiffusionPipeline` with an `AutoencoderKL` (latents
of {latent_channels} channels, a quarter of {size}x{size} pixels), a `UNet2DConditionModel` (eps-prediction, Stable
Diffusion's schedule) and a {text_depth}-layer `CLIPTextModel` on word tokens. {parameters:.1f} million parameters,
float16, averaged over training. Plain diffusers samples it:

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER)
    pipe("a red mushroom", guidance_scale=4.0).images[0].resize((256, 256))

It goes through the same code as Stable Diffusion, `prior={{use: stable_diffusion.StableDiffusion, model:
toybox-latent}}`, and like it knows no cameras: views are words of the prompt.
"""

REST = """
## Data

Pictures of the project's own procedural toys: {kinds} kinds, {colors} colours, {trained} (kind, colour) pairs
trained and {held} held out (`assets/toybox/held_out.json`). {toys} toys were drawn from two views each; colours,
backgrounds and mirror images anew in every batch. Views lean to the front; 45 % of the captions name the view.
{dropout} No other data, no other weights.

## Training

    {command}

{steps_done}, {hours:.1f} hours, seed {seed}; log in `log.jsonl`, all
settings in `training.json`. An interrupted training goes on where it stopped.
{history}{figures}
## Limits

It knows these words and nothing else: {words}.

It draws toys on plain backgrounds, one at a time, lit from above, at {size}x{size} pixels. It is a laboratory for
score distillation, not a picture generator. {precision}
"""


def write_card(folder: Path) -> None:
    """(Re)write ``folder/README.md`` from training.json, log.jsonl and, if measured, figures.json."""
    training = json.loads((folder / "training.json").read_text())
    settings: dict[str, Any] = training["settings"]
    latent = "latent_channels" in settings
    lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
    weights = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    where = "--model latent --out assets/latent" if latent else "--out assets/prior"
    names = ("vae_steps", "steps", "toys", "lr")
    changed = " ".join(f"{name}={settings[name]}" for name in names if name in settings)
    text = (HEAD + (LATENTS if latent else PIXELS) + REST).format(
        **settings,
        **(_of_latents(training) if latent else _of_pixels(training)),
        parameters=weights / 2 / 1e6,
        kinds=len(KINDS),
        colors=len(COLORS),
        trained=len(pairs(held=False)),
        held=len(pairs(held=True)),
        hours=sum(json.loads(line)["seconds"] for line in lines) / 3600,
        command=f"dreamforge prior train {where} {changed}",
        history="".join(f"\n- {line}" for line in training.get("history", [])) + "\n",
        figures=_figures(folder),
        words=", ".join(word for word in captions.words() if word.isalnum()),
    )
    atomic_write(folder / "README.md", text.encode())
    write_hashes(folder)


def _of_pixels(training: dict[str, Any]) -> dict[str, str]:
    settings = training["settings"]
    text, camera = (f"{settings[f'{name}_dropout']:.0%}" for name in ("text", "camera"))
    return {
        "name": "embedded prior",
        "steps_done": f"{training['step']} steps of {settings['batch']} pictures",
        "dropout": f"Text and camera are dropped independently (text {text}, camera {camera}).",
        "precision": "Use it at t >= 0.1 in bfloat16 and below that in float32: the error of a\n"
        "rounded x0 grows as alpha/sigma. Magnified, borders of its patches of "
        f"{settings['patch']} pixels can be seen here and there.",
    }


def _of_latents(training: dict[str, Any]) -> dict[str, str]:
    settings = training["settings"]
    return {
        "name": "embedded latent prior",
        "steps_done": f"{training.get('vae', 0)} steps of the autoencoder and {training.get('network', 0)} of the "
        f"network, of {settings['vae_batch']} and {settings['batch']} pictures",
        "dropout": f"The text is dropped from {settings['text_dropout']:.0%} of them.",
        "precision": "Its latents are four pixels wide each: what is smaller is the\nautoencoder's guess.",
    }


def write_hashes(folder: Path) -> None:
    """(Re)write ``folder/SHA256SUMS`` of everything that belongs to the pipeline; ``dreamforge doctor`` checks it."""
    working = ("pictures-", "state", "log.", "SHA256SUMS")  # files of the training itself
    lines = [f"{sha}  {name}\n" for name, sha in hashes(folder).items() if not name.startswith(working)]
    atomic_write(folder / "SHA256SUMS", "".join(lines).encode())


def _figures(folder: Path) -> str:
    if not (folder / "figures.json").exists():
        return ""
    rows = json.loads((folder / "figures.json").read_text())
    return "\n## Figures\n\n" + "\n".join(f"- {name}: {value}" for name, value in rows.items()) + "\n"
