"""Twins of a network: the prior stays as it is to the bit, the twin starts as the prior and learns what it should."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamforge.cameras import orbit
from dreamforge.priors import adapters
from dreamforge.priors.adapters import attention_layers, trainable
from dreamforge.types import Cameras, DreamforgeError, Embedding, Query, TrainablePrior

WIDTH = 16  # of the text


def prx() -> nn.Module:
    from diffusers import PRXTransformer2DModel

    torch.manual_seed(0)
    return PRXTransformer2DModel(
        in_channels=3, patch_size=4, context_in_dim=WIDTH, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8],
    )  # fmt: skip


def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip


def sd3() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
    )  # fmt: skip


FAMILIES = {"prx": (prx, "time_in"), "unet": (unet, "time_embedding"), "sd3": (sd3, "time_text_embed")}
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def predict(network: Any, exact: Any, x_t: Tensor, t: Tensor, queries: Sequence[Query]) -> list[Tensor]:
    """As a prior of a network that knows no cameras predicts: all queries in one batch."""
    text = torch.cat([query.text.tensors["text"] for query in queries])
    dtype = next(network.parameters()).dtype
    x, times = x_t.repeat(len(queries), 1, 1, 1).to(dtype), t.repeat(len(queries))
    more = {"pooled_projections": text[:, 0].to(dtype)} if "SD3" in type(network).__name__ else {}
    answer = network(x, timestep=times, encoder_hidden_states=text.to(dtype), return_dict=False, **more)[0]
    return list(answer.float().chunk(len(queries)))


def frozen(family: str) -> tuple[nn.Module, str]:
    """A network with random weights, and the name of the module that embeds the time."""
    make, time_embedding = FAMILIES[family]
    network, g = make().eval().requires_grad_(False), torch.Generator().manual_seed(1)
    for weight in network.parameters():  # fresh transformers have gates of zero, behind which nothing is seen
        weight.add_(0.2 * torch.randn(weight.shape, generator=g))
    return network, time_embedding


def cameras(count: int) -> Cameras:
    return orbit(torch.linspace(-2.0, 2.0, count), torch.full((count,), 0.2), 3.0, 0.7, 8, 8)


def question(views: int = 2) -> tuple[Tensor, Tensor, Embedding]:
    g = torch.Generator().manual_seed(3)
    x_t = torch.randn(views, 3, 8, 8, generator=g)
    return x_t, torch.tensor([0.3, 0.7])[:views], Embedding({"text": torch.randn(views, 5, WIDTH, generator=g)})


def teach(twin: TrainablePrior) -> None:
    """A few steps of Adam on a loss that asks with and without cameras."""
    x_t, t, text = question()
    optimiser = torch.optim.Adam(twin.param_groups(), lr=0.05)
    for _ in range(4):
        optimiser.zero_grad()
        seeing, blind = twin.predict_noise(x_t, t, [Query(text, cameras(2)), Query(text)])
        (seeing - 1).square().mean().add((blind + 1).square().mean()).backward()
        optimiser.step()


@every_family
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_prior_stays_as_it_is_to_the_bit(family: str, mode: Any) -> None:
    """Its predictions, names and weights are the same while a twin exists, and after the twin has learnt."""
    network, time_embedding = frozen(family)
    x_t, t, text = question()
    before, names = predict(network, network, x_t, t, [Query(text)]), list(network.state_dict())
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    twin = trainable(network, predict, mode, time_embedding=time_embedding)
    teach(twin)
    assert torch.equal(predict(network, network, x_t, t, [Query(text)])[0], before[0])
    assert list(network.state_dict()) == names
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())
    assert not torch.allclose(twin.predict_noise(x_t, t, [Query(text)])[0], before[0], atol=1e-3), "the twin has learnt"


@every_family
def test_an_adapter_adds_no_second_copy_of_the_weights(family: str) -> None:
    network, time_embedding = frozen(family)
    twin = trainable(network, predict, rank=2, time_embedding=time_embedding)
    own = {weight.data_ptr() for weight in network.parameters()}
    added = [weight for weight in twin.exact.parameters() if weight.data_ptr() not in own]
    assert sum(map(torch.numel, added)) == sum(
        2 * (layer.in_features + layer.out_features) for layer in map(network.get_submodule, attention_layers(network))
    )
    (group,) = twin.param_groups()
    learnt = {id(weight) for weight in group["params"]}
    assert {id(weight) for weight in added} <= learnt
    assert all(weight.requires_grad for weight in group["params"])


@every_family
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_it_starts_as_the_prior(family: str, mode: Any) -> None:
    """B = 0 and the camera's last layer = 0: the same answer, whatever the camera."""
    network, time_embedding = frozen(family)
    x_t, t, text = question()
    twin = trainable(network, predict, mode, time_embedding=time_embedding)
    assert isinstance(twin, TrainablePrior)
    exact = predict(network, network, x_t, t, [Query(text)] * 2)
    for ours, theirs in zip(twin.predict_noise(x_t, t, [Query(text, cameras(2)), Query(text)]), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@every_family
def test_it_learns_to_see_cameras(family: str) -> None:
    """After a step its answer depends on the camera, row by row and query by query, and on whether there is one."""
    network, time_embedding = frozen(family)
    x_t, t, text = question()
    twin = trainable(network, predict, time_embedding=time_embedding)
    teach(twin)
    with torch.no_grad():
        seeing, blind, turned = twin.predict_noise(
            x_t, t, [Query(text, cameras(2)), Query(text), Query(text, cameras(2)[[1, 0]])]
        )
        (alone,) = twin.predict_noise(x_t[1:], t[1:], [Query(text[1:], cameras(2)[[1]])])
    torch.testing.assert_close(seeing[1:], alone, rtol=1e-4, atol=1e-5)
    assert (seeing - blind).abs().mean() > 1e-4 and (seeing - turned).abs().mean() > 1e-5
    blinded = trainable(network, predict, camera=False, time_embedding=time_embedding)
    teach(blinded)
    seeing, blind = blinded.predict_noise(x_t, t, [Query(text, cameras(2)), Query(text)])
    assert torch.equal(seeing, blind)


def test_low_rank_update_by_hand() -> None:
    """W x + B A x with every factor as ``state`` holds it."""
    network, _ = frozen("prx")
    twin = trainable(network, predict, rank=3, camera=False)
    teach(twin)
    state = twin.state()
    by_hand, _ = frozen("prx")
    for name in attention_layers(by_hand):
        a, b = (state[f"{name}.lora_{letter}.{adapters.NAME}.weight"] for letter in "AB")
        assert a.shape[0] == b.shape[1] == 3
        by_hand.get_submodule(name).weight += b @ a
    x_t, t, text = question()
    ours, theirs = twin.predict_noise(x_t, t, [Query(text)])[0], predict(by_hand, by_hand, x_t, t, [Query(text)])[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_precision_and_float32_share_one_adapter() -> None:
    """The forward in half precision uses the half weights of the prior and the float32 factors of the adapter."""
    network, _ = frozen("prx")
    half, g = torch.nn.Module.to(frozen("prx")[0], torch.bfloat16), torch.Generator().manual_seed(0)
    twin = trainable(network, predict, camera=False, half=half)
    twin.load_state({name: torch.randn(value.shape, generator=g) for name, value in twin.state().items()})
    x_t, t, text = question()
    with torch.no_grad():
        low = predict(twin.half, twin.exact, x_t, t, [Query(text)])[0]
        high = predict(twin.exact, twin.exact, x_t, t, [Query(text)])[0]
        base = predict(network, network, x_t, t, [Query(text)])[0]
    assert not torch.equal(low, high) and (low - high).abs().mean() < 0.1 * (high - base).abs().mean()
    own = {weight.data_ptr() for weight in half.parameters()}
    assert {w.data_ptr() for w in twin.half.parameters() if w.dtype == torch.bfloat16} == own
    assert all(weight.dtype == torch.float32 for weight in twin.learnt.values())


@every_family
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_state_goes_in_and_out(family: str, mode: Any) -> None:
    network, time_embedding = frozen(family)
    learnt, fresh = (trainable(network, predict, mode, time_embedding=time_embedding) for _ in range(2))
    teach(learnt)
    x_t, t, text = question()
    asked = [Query(text, cameras(2)), Query(text)]
    fresh.load_state(learnt.state())
    for ours, theirs in zip(learnt.predict_noise(x_t, t, asked), fresh.predict_noise(x_t, t, asked), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(DreamforgeError, match="do not fit this estimator"):
        fresh.load_state({})


def test_the_start_is_a_function_of_the_seed_alone() -> None:
    network, time_embedding = frozen("unet")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (trainable(network, predict, seed=s, time_embedding=time_embedding).state() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    a, b = (torch.cat([v.flatten() for name, v in one.items() if f".lora_{letter}." in name]) for letter in "AB")
    assert a.std().item() == pytest.approx(1 / 4, rel=0.1) and not b.any(), "A ~ N(0, 1/rank^2), B = 0"


@every_family
def test_adapters_of_a_half_precision_network_learn_in_float32(family: str) -> None:
    """A step of 1e-4 on a weight of 0.25 is lost in bfloat16, whose neighbours there are 0.001 apart."""
    network, where = frozen(family)
    twin = trainable(network.to(torch.bfloat16), predict, rank=4, time_embedding=where)
    before, (x_t, t, text) = twin.state(), question()
    optimiser = torch.optim.Adam(twin.param_groups())
    for _ in range(2):  # B is 0 at the start, so A has no gradient in the first step
        optimiser.zero_grad()
        (eps,) = twin.predict_noise(x_t, t, [Query(text, cameras(2))])
        eps.square().mean().backward()
        optimiser.step()
    after = twin.state()
    assert all(weight.dtype == torch.float32 for weight in after.values())
    moved = [bool((after[name] - before[name]).abs().max() > 1e-5) for name in after if ".lora_A." in name]
    assert sum(moved) > 0.8 * len(moved), "all but those that the last block leaves unused"


@every_family
def test_adapters_sit_in_the_attention_only(family: str) -> None:
    network, _ = frozen(family)
    names = attention_layers(network)
    assert names and all("attn" in name or "attention" in name for name in names)
    assert all(isinstance(network.get_submodule(name), nn.Linear) for name in names)


def test_what_cannot_be_adapted_is_said() -> None:
    network, _ = frozen("prx")
    with pytest.raises(DreamforgeError, match=r"no module 'time_embedding'.*camera false"):
        trainable(network, predict, time_embedding="time_embedding")
    with pytest.raises(DreamforgeError, match=r"Sequential has no attention.*'full' or 'small'"):
        trainable(nn.Sequential(nn.Linear(2, 2)), predict)
