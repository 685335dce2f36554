"""What a step with a pretrained prior costs, found without weights: the step itself runs on torch's meta device.

Tensors there have shapes but no numbers, so the genuine network, autoencoder and backward pass run in seconds on any
machine. What they would allocate is added up and freed as they go; the fused attention kernel, which keeps no matrix
of all pairs, is stood in for. Allocators and libraries take more than that: ``OVERHEAD``.
"""

import copy
import math
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dreamforge.priors import pretrained, weights
from dreamforge.priors.known import KNOWN, known
from dreamforge.priors.loading import place
from dreamforge.priors.memory import dtype_of, preset, text_device
from dreamforge.priors.parametrisation import DiscreteSchedule, FlowSchedule
from dreamforge.priors.sizes import SIZES, T5_XXL, Sizes
from dreamforge.priors.stock import Convention, Family, Loaded, Options, StockPrior, silent
from dreamforge.priors.weights import Source
from dreamforge.types import DreamforgeError, Embedding, Query

OVERHEAD = {"cuda": int(0.8e9), "cpu": int(0.5e9)}  # context, kernels and the libraries themselves
FRAGMENTATION = 1.1  # what an allocator rounds up and cannot give out
EFFICIENCY = 0.5  # of a large matrix product's speed that a network reaches, about
META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Bytes and floating point operations of one step, and bytes of the time before it, when texts are embedded."""

    parameters: int  # of the network
    weights: int  # bytes of network and autoencoder
    text: int  # bytes of the text encoders, let go before the first step
    activations: int  # bytes at the fullest moment of a step, weights and estimator apart
    flops: float
    text_apart: bool = False  # the text encoders are not on the device but in the computer's own memory
    copied: int = 0  # weights of an estimator that is a full copy of the network

    @property
    def estimator(self) -> int:
        """Bytes of a full copy from its first step on: float32 weights, their gradients, Adam's two moments."""
        return 16 * self.copied

    @property
    def embedding(self) -> int:
        """Bytes on the device while the prompts are embedded, after an estimator's copy was made."""
        return self.weights + 4 * self.copied + (0 if self.text_apart else self.text)

    @property
    def least(self) -> int:
        """Bytes on the device without which a run is impossible."""
        return max(self.embedding, self.weights + self.estimator + self.activations)

    def peak(self, device: str) -> int:
        """Bytes at the fullest moment, on a device of this type, about."""
        return int(self.least * FRAGMENTATION) + OVERHEAD.get(device, OVERHEAD["cpu"])


@dataclass(frozen=True)
class Load:
    """One step: ``views`` at ``resolution`` pixels, ``texts`` questions a view in one call, ``draws`` calls.

    ``learnt`` predictions of an estimator get a backward pass besides, in ``lessons`` batches of newly encoded
    pictures; it is an adapter on the same network, or with ``full`` a float32 copy of it.
    """

    views: int
    texts: int = 2
    draws: int = 1
    learnt: int = 0
    lessons: int = 1
    full: bool = False
    resolution: int = 64


def cost(spec: Any, device: torch.device, load: Load) -> Cost:
    """One step of a pretrained prior on ``device``.

    Raises DreamforgeError where the model is neither on this machine nor one whose sizes are known.
    """
    options = Options(**{one.name: getattr(spec, one.name) for one in fields(spec)})
    dtype = dtype_of(options.precision, options.vram, device)
    prior, text = _on_meta(options, dtype)
    network, autoencoder = prior.network, prior.vae
    estimator = _copy(network) if load.full else network
    meter, before = Meter(), 0.0
    with silent(), meter, fused_attention() as attention:
        rgb = torch.rand(load.views, load.resolution, load.resolution, 3, device=META).requires_grad_()
        x = prior.encode(rgb, 0)
        with torch.no_grad():
            for _ in range(load.draws):
                prior.predict_noise(x.detach(), _times(load.views), [_query(prior, load.views)] * load.texts)
        torch.autograd.backward(x, torch.empty_like(x))
        shape = x.shape[1:]
        del x, rgb
        before = meter.flops + sum(attention)
        if load.learnt:
            rows = load.learnt // load.lessons
            with torch.no_grad():
                prior.encode(torch.rand(rows, load.resolution, load.resolution, 3, device=META), 0)
            x = torch.empty(rows, *shape, device=META).requires_grad_()
            (eps,) = prior.ask(estimator, estimator, x, _times(rows), [_query(prior, rows)])
            torch.autograd.backward(eps, torch.empty_like(eps))
    lesson = meter.flops + sum(attention) - before
    stored = sum(p.numel() * p.element_size() for part in (network, autoencoder) if part for p in part.parameters())
    count = sum(p.numel() for p in network.parameters())
    return Cost(
        parameters=count,
        weights=stored,
        text=int(text * dtype.itemsize),
        activations=meter.peak,
        flops=before + load.lessons * lesson,
        text_apart=text_device(prior.family.big_text, prior.limits, device).type != device.type,
        copied=count if load.full else 0,
    )


def speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a large matrix product on this device, measured."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        took.append(time.perf_counter() - began)
    return 2 * side**3 / min(took)


def _on_meta(options: Options, dtype: torch.dtype) -> tuple[StockPrior, float]:
    """The prior without numbers, and how many weights its text encoders have."""
    try:
        family, found = local_sizes(options, weights.find(options.model, options.config))
    except DreamforgeError:
        if (published := published_sizes(options.model)) is None:
            raise
        family, found = published
        found = found if options.t5 else replace(found, text=found.text - T5_XXL)
    vae = found.vae
    if options.tiny_vae and vae is not None:
        vae = {"_class_name": "AutoencoderTiny", "latent_channels": vae["latent_channels"]}
    with silent(), META:
        network = place(_build(found.network, found.shape), dtype, META)
        autoencoder = None if vae is None else place(_build(vae.get("_class_name", "AutoencoderKL"), vae), dtype, META)
    meaning = Convention(DiscreteSchedule(torch.empty(1000, device=META)), "eps")
    if found.network.startswith(("PRX", "SD3")):
        meaning = Convention(FlowSchedule(), "flow")
    loaded = Loaded(network, autoencoder, meaning, options.size or found.size, None, lambda: None)
    return StockPrior(family, options, loaded, META, preset(options.vram)), found.text


def published_sizes(model: str) -> tuple[Family, Sizes] | None:
    """Family and sizes of a model by its short name or repository; None where they are not known."""
    name = next((name for name, one in KNOWN.items() if one is known(model)), None)
    if name not in SIZES:
        return None
    return next(family for family in pretrained.FAMILIES if family.use == KNOWN[name].use), SIZES[name]


def local_sizes(options: Options, source: Source) -> tuple[Family, Sizes]:
    """Family and sizes of a model on this machine, by its configurations and the headers of its files."""
    family = pretrained.family_of(source)
    index = weights.read_json(source.folder / "model_index.json", options.model)
    shape = weights.read_json(source.folder / family.network / "config.json", options.model)
    vae = None
    if index.get("vae") not in (None, [None, None]):
        vae = weights.read_json(source.folder / "vae" / "config.json", options.model)
    encoders = [part for part in family.text if part.startswith("text") and (options.t5 or not part.endswith("_3"))]
    text = _text_in(source.path) if source.single else sum(weights.parameters(source, part) for part in encoders)
    blocks = [] if vae is None else vae.get("block_out_channels") or vae["encoder_block_out_channels"]
    size = index.get("default_sample_size") or shape["sample_size"] * 2 ** max(len(blocks) - 1, 0)
    return family, Sizes(shape["_class_name"], shape, vae, text, size)


def _text_in(file: Path) -> int:
    """Weights of the text encoders in a single file: all but the network and the autoencoder."""
    from safetensors import safe_open

    other = ("model.diffusion_model.", "model_ema.", "first_stage_model.", "vae.")
    with safe_open(file, "pt") as content:
        names = [name for name in content.keys() if not name.startswith(other)]  # noqa: SIM118
        return sum(math.prod(content.get_slice(name).get_shape()) for name in names)


def _copy(network: Any) -> Any:
    """An estimator's full copy in float32, with the gradients that it keeps from its step before."""
    twin = copy.deepcopy(network).float().requires_grad_(True)
    for weight in twin.parameters():
        weight.grad = torch.empty_like(weight)
    return twin


def _build(name: str, shape: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, name).from_config(shape)


def _times(rows: int) -> Tensor:
    return torch.empty(rows, device=META)


def _query(prior: StockPrior, rows: int) -> Query:
    shapes = prior.family.blank(prior.network)
    kinds = {name: torch.bool if name == "mask" else torch.float32 for name in shapes}
    tensors = {name: torch.empty(rows, *shape, dtype=kinds[name], device=META) for name, shape in shapes.items()}
    return Query(Embedding(tensors))


class Meter(TorchDispatchMode):
    """Bytes of the tensors that operations make, as long as they live (``peak``: the most at once), and ``flops``."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.flops = 0, 0, 0.0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += 0 if count is None else count(*args, **(kwargs or {}), out_val=result)
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in given:  # no view, not in place
                self._add(one)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@contextmanager
def fused_attention() -> Iterator[list[float]]:
    """Stands in for torch's fused attention, which takes its plain form on the meta device; collects its operations."""
    operations: list[float] = []

    def stand_in(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Tensor:
        products = 2.0 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        backward = torch.is_grad_enabled() and query.requires_grad
        operations.append(products * (3.5 if backward else 1.0))  # two products forward, five backward
        attended: Tensor = _Attention.apply(query, key, value)
        return attended

    genuine = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = stand_in
    try:
        yield operations
    finally:
        F.scaled_dot_product_attention = genuine


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
