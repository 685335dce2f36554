"""FlexiCubes' gradients by finite differences, and the core against the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamforge.ops import isosurface as ops
from dreamforge.ops import native
from dreamforge.ops.isosurface import agrees, flexicubes
from dreamforge.ops.isosurface_native import flexicubes_native
from dreamforge.ops.isosurface_reference import Size, Weights, flexicubes_reference
from tests.agreement import assert_agrees, assert_same_bits
from tests.surfaces import field, raw
from tests.tools import levels

LEVELS = levels()
pytestmark = pytest.mark.usefixtures("core")
at_every_level = pytest.mark.parametrize("level", LEVELS, ids=lambda level: native.LEVELS[level])


@pytest.mark.parametrize("training", [False, True])
def test_reference_gradients_by_finite_differences(training: bool) -> None:
    size = (2, 2, 2)
    x, s = field(size, 3)
    s = s + 0.2 * s.sign()  # no sign changes within a difference
    given = [one.double().requires_grad_() for one in (x, s, *raw(size))][: 5 if training else 4]

    def compute(x: Tensor, s: Tensor, alpha: Tensor, beta: Tensor, *gamma: Tensor) -> tuple[Tensor, Tensor]:
        made = flexicubes(x, s, size, alpha=alpha, beta=beta, gamma=gamma[0] if gamma else None, training=training)
        return made[0], made[2]

    assert torch.autograd.gradcheck(compute, given, fast_mode=False)
    assert torch.autograd.gradgradcheck(compute, given, fast_mode=True)


def answers(
    compute: Callable[..., Any], dtype: torch.dtype, size: Size, training: bool, which: str, wanted: str = "both"
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients, with the weights whose first letters are in ``which``."""
    (x, s), weights = field(size, 5), raw(size, 6)
    weights = [one if letter in which else None for letter, one in zip("abg", weights, strict=True)]
    given = [None if one is None else one.to(dtype).requires_grad_() for one in (x, s, *weights)]
    vertices, faces, deviation = compute(given[0], given[1], size, Weights(*given[2:], training=training))
    draws = torch.Generator().manual_seed(7)
    pulls = [torch.randn(one.shape, generator=draws).to(dtype) for one in (vertices, deviation)]
    loss = sum((pull * one).sum() for pull, one, name in zip(pulls, (vertices, deviation), "vd", strict=True)
               if wanted in ("both", name))  # fmt: skip
    leaves = [one for one in given if one is not None]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [vertices.detach(), faces, deviation.detach()], list(grads)


@at_every_level
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", ["abg", "", "a", "bg"])
def test_the_core_agrees_with_the_reference(which: str, training: bool, level: int) -> None:
    """The same faces index by index, the same numbers."""
    size = (7, 9, 6)

    def by_core(*given: object) -> object:
        return flexicubes_native(*given, level=level)  # type: ignore[arg-type]

    for wanted in ("both", "v", "d"):
        got, grads = answers(by_core, torch.float32, size, training, which, wanted)
        exact, wanted_grads = answers(flexicubes_reference, torch.float64, size, training, which, wanted)
        assert torch.equal(got[1], exact[1])
        for one, two in zip([got[0], got[2], *grads], [exact[0], exact[2], *wanted_grads], strict=True):
            assert_agrees(one, two, rtol=1e-4, atol=3e-6 * max(float(two.abs().max()), 1e-30))


@at_every_level
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 3, 1), (2, 1, 4), (3, 3, 3)], ids=str)
def test_any_number_of_cubes(size: Size, level: int) -> None:
    """Few cubes fill no vector: each has its own weights even so."""

    def by_core(*given: object) -> object:
        return flexicubes_native(*given, level=level)  # type: ignore[arg-type]

    got, grads = answers(by_core, torch.float32, size, True, "abg")
    exact, wanted = answers(flexicubes_reference, torch.float64, size, True, "abg")
    assert torch.equal(got[1], exact[1]) and len(got[0]) > 0
    for one, two in zip([got[0], got[2], *grads], [exact[0], exact[2], *wanted], strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-5)


def test_only_the_gradients_that_are_asked_for() -> None:
    size = (4, 5, 3)
    given = [*field(size), *raw(size)]
    everything = [one.clone().requires_grad_() for one in given]
    vertices, _, _ = flexicubes_native(*everything[:2], size, Weights(*everything[2:], training=True))
    grads = torch.autograd.grad(vertices.square().sum(), everything)
    for n in range(5):
        alone = [one.clone().requires_grad_(n == m) for m, one in enumerate(given)]
        vertices, _, _ = flexicubes_native(*alone[:2], size, Weights(*alone[2:], training=True))
        assert torch.equal(torch.autograd.grad(vertices.square().sum(), alone[n])[0], grads[n])


def test_strides_do_not_matter_and_inputs_stay() -> None:
    size = (3, 4, 5)
    (x, s), (alpha, beta, gamma) = field(size), raw(size)
    plain = flexicubes(x, s, size, alpha=alpha, beta=beta, gamma=gamma, backend="native")
    turned = [one.t().contiguous().t() for one in (x, alpha, beta)]
    apart = [torch.stack([one, one], 1)[:, 0] for one in (s, gamma)]
    again = flexicubes(turned[0], apart[0], size, alpha=turned[1], beta=turned[2], gamma=apart[1], backend="native")
    assert all(torch.equal(one, two) for one, two in zip(plain, again, strict=True))
    assert torch.equal(x, field(size)[0]) and torch.equal(beta, raw(size)[1])


def test_a_second_derivative_of_the_core_is_refused() -> None:
    x, s = (one.requires_grad_() for one in field((3, 3, 3)))
    vertices, _, _ = flexicubes(x, s, 3, backend="native")
    (first,) = torch.autograd.grad(vertices.square().sum(), s, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiated twice"):
        first.sum().backward()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    size = (12, 11, 13)

    def compute() -> list[Tensor]:
        outputs, grads = answers(flexicubes_native, torch.float32, size, True, "abg")
        return [*outputs, *grads]

    assert_same_bits(compute)


def test_the_comparison_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(torch.device("cpu"))

    def wrong(*given: object) -> tuple[Tensor, Tensor, Tensor]:
        vertices, faces, deviation = flexicubes_reference(*given)  # type: ignore[arg-type]
        return 1.01 * vertices, faces, deviation

    monkeypatch.setattr(ops, "flexicubes_native", wrong)
    assert not agrees(torch.device("cpu"))
