"""Trainable twins of a prior's network: low-rank adapters, full copies, and cameras for networks that know none.

A low-rank adapter (LoRA, Hu et al., arXiv 2106.09685) learns A and B beside the weights W of the attention layers:

    W x  ->  W x + B A x,    A [rank, in] ~ N(0, 1/rank^2),    B [out, rank] = 0 at the start

A twin is a second tree of modules over the *same* weight tensors. Adapters and hooks go into the twin, so the prior's
own network stays as it is, to the bit, and no weight lies in memory twice.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamforge.rng import generator
from dreamforge.types import Cameras, DreamforgeError, ParamGroup, Query, State

# (network, its float32 twin or the network itself, x_t, t, queries) -> eps per query. The network must be called once,
# with the rows of the first query, then those of the second, and so on.
Predict = Callable[[Any, Any, Tensor, Tensor, Sequence[Query]], list[Tensor]]

NAME = "estimator"  # of the adapter inside the network, and of its group of parameters
LEARNING_RATE = 1e-4  # ProlificDreamer's, for its adapter


def trainable(
    network: nn.Module,
    predict: Predict,
    mode: Literal["lora", "full"] = "lora",
    *,
    camera: bool = True,
    rank: int = 4,
    seed: int = 0,
    half: nn.Module | None = None,
    time_embedding: str | None = None,
) -> "Trainable":
    """A trainable twin of ``network`` that predicts as the prior does, with ``predict``.

    ``half`` is a copy of the network in half precision that ``predict`` prefers. ``time_embedding`` names the module
    that embeds the time in a network that knows no cameras (``"time_embedding"`` in UNet2DConditionModel, ``"time_in"``
    in PRX, ``"time_text_embed"`` in SD3); what is learnt of the camera is added to what it answers. None: ``predict``
    itself tells the network the cameras. Raises DreamforgeError where the network has no such module or no attention.
    """
    draws = generator(seed, "adapter")
    if mode == "full":
        exact: nn.Module = copy.deepcopy(network).float().requires_grad_(True)
        low = exact
    else:
        exact = _shared(network)
        _inject(exact, rank, draws)
        low = exact if half is None or half is network else _shared(exact, _counterparts(network, half))
    learnt = {name: weight for name, weight in exact.named_parameters() if weight.requires_grad}
    if not camera or time_embedding is None:
        return Trainable(exact, low, predict, camera, learnt)
    embedding = CameraEmbedding(_width(exact, time_embedding), draws).to(next(exact.parameters()).device)
    for one in {id(twin): twin for twin in (exact, low)}.values():
        one.get_submodule(time_embedding).register_forward_hook(embedding.add)
    learnt |= {f"camera.{name}": weight for name, weight in embedding.named_parameters()}
    return Trainable(exact, low, predict, camera, learnt, embedding)


class Trainable:
    """A ``TrainablePrior``: the twin of a network, and what of it learns (``learnt``, by name)."""

    def __init__(
        self,
        exact: nn.Module,
        half: nn.Module,
        predict: Predict,
        camera: bool,
        learnt: dict[str, nn.Parameter],
        embedding: "CameraEmbedding | None" = None,
    ) -> None:
        self.exact, self.half, self.predict, self.camera = exact, half, predict, camera
        self.learnt, self.embedding = learnt, embedding

    def predict_noise(self, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
        """eps per query; without ``camera`` every query's cameras are dropped."""
        asked = [query if self.camera else Query(query.text, None, query.control) for query in queries]
        if self.embedding is None:
            return self.predict(self.half, self.exact, x_t, t, asked)
        self.embedding.look([query.cameras for query in asked], len(x_t))
        return self.predict(self.half, self.exact, x_t, t, [Query(query.text, None, query.control) for query in asked])

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": list(self.learnt.values()), "lr": LEARNING_RATE, "name": NAME}]

    def state(self) -> State:
        return {name: weight.detach().clone() for name, weight in self.learnt.items()}

    def load_state(self, state: State) -> None:
        """Raises DreamforgeError for the state of another network or rank."""
        load_parameters(self.learnt, state)


class CameraEmbedding(nn.Module):
    """What is learnt of a camera, added to the embedding of the time (ProlificDreamer, arXiv 2305.16213, section 5).

    The camera-to-world matrix, 16 numbers, through a hidden layer; a dropped camera is 16 zeros. It starts as zero,
    so that the twin starts as the prior.
    """

    def __init__(self, width: int, draws: torch.Generator) -> None:
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, 16, width)
        self.outer = nn.utils.skip_init(nn.Linear, width, width)
        with torch.no_grad():
            self.inner.weight.normal_(std=0.25, generator=draws)
            for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
                zero.zero_()
        self.rows = torch.zeros(0, 16)

    def look(self, cameras: Sequence[Cameras | None], views: int) -> None:
        """Whose cameras the next forward of the network sees: one entry a query, ``views`` rows each."""
        self.rows = torch.cat([camera_rows(one, views).to(self.inner.weight) for one in cameras])

    def add(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """The hook behind the module that embeds the time; its answer is ``[rows, width]``."""
        assert len(output) == len(self.rows), "the network was asked with other rows than the queries have"
        camera: Tensor = self.outer(nn.functional.silu(self.inner(self.rows)))
        return output + camera.to(output.dtype)


def camera_rows(cameras: Cameras | None, views: int) -> Tensor:
    """``[views, 16]``: the flattened camera-to-world matrices, or zeros, which no camera has."""
    return torch.zeros(views, 16) if cameras is None else cameras.camera_to_world.flatten(1)


def load_parameters(learnt: dict[str, nn.Parameter], state: State) -> None:
    """Copy ``state`` into the parameters of the same names. Raises DreamforgeError where names or shapes differ."""
    wrong = sorted(
        name
        for name in learnt.keys() | state.keys()
        if name not in learnt or name not in state or learnt[name].shape != state[name].shape
    )
    if wrong:
        raise DreamforgeError(
            f"{wrong[0]} and {len(wrong) - 1} others in the given state do not fit this estimator; use the recipe and "
            "the prior that made it."
        )
    with torch.no_grad():
        for name, weight in learnt.items():
            weight.copy_(state[name])


def attention_layers(network: nn.Module) -> list[str]:
    """The names of the linear layers of the attention, which diffusers' classes named ``...Attention`` hold."""
    found = {
        f"{outer}.{inner}" if outer else inner
        for outer, block in network.named_modules()
        if type(block).__name__.endswith("Attention")
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and "lora_" not in inner  # of an adapter that the user gave the prior
    }
    return sorted(found)


def _inject(network: nn.Module, rank: int, draws: torch.Generator) -> None:
    """Put adapters into every linear layer of the attention; everything else is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    names = attention_layers(network)
    if not names:
        raise DreamforgeError(
            f"A low-rank adapter was asked for, but a {type(network).__name__} has no attention layers to adapt: use "
            "the estimator 'full' or 'small'."
        )
    with torch.random.fork_rng(devices=[]):  # peft draws from torch's global generator
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network, NAME)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".lora_" in name:  # float32 whatever the network's: half precision rounds Adam's small steps away
                weight.data = weight.data.float()
            if ".lora_A." in name:
                weight.copy_(torch.randn(weight.shape, generator=draws) / rank)


def _shared(network: nn.Module, instead: dict[int, Tensor] | None = None) -> nn.Module:
    """A copy of the modules over the same tensors; ``instead`` puts other tensors in the place of some, by id."""
    tensors = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
    return copy.deepcopy(network, {**tensors, **(instead or {})})


def _counterparts(network: nn.Module, half: nn.Module) -> dict[int, Tensor]:
    """The id of each tensor of ``network`` with the tensor of the same name in ``half``."""
    names = {**dict(half.named_parameters()), **dict(half.named_buffers())}
    return {id(tensor): names[name] for name, tensor in [*network.named_parameters(), *network.named_buffers()]}


def _width(network: nn.Module, name: str) -> int:
    """How wide the module's answer is: the width of its last linear layer."""
    try:
        layers = [layer for layer in network.get_submodule(name).modules() if isinstance(layer, nn.Linear)]
        return layers[-1].out_features
    except (AttributeError, IndexError) as error:
        raise DreamforgeError(
            f"A camera was to be told to a {type(network).__name__}, but it has no module '{name}' that embeds the "
            "time: use camera false."
        ) from error
