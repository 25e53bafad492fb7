from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.sums import Calibration, dense_sums, input_sums
from sls_deploy.search.trace import Trace, trace

ALL = 10**9
aten = torch.ops.aten
MIB = 2**20


def explicit(
    x: Tensor, output: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """X'X and X'Y, one position after the other; `padding` is (top, down, left, right)."""
    top, down, left, right = padding
    padded = np.pad(x.double().numpy(), [(0, 0), (0, 0), (top, down), (left, right)])
    filters, channels, height, width = weight.shape
    size, per_group = channels * height * width, filters // groups
    hessian, target = np.zeros((groups, size, size)), np.zeros((groups, per_group, size))
    for n, _, i, j in np.ndindex(len(x), 1, *output.shape[2:]):
        rows = i * stride[0] + np.arange(height) * dilation[0]
        columns = j * stride[1] + np.arange(width) * dilation[1]
        for g in range(groups):
            seen = padded[n, g * channels : (g + 1) * channels][:, rows][:, :, columns].ravel()
            wanted = output[n, g * per_group : (g + 1) * per_group, i, j].double().numpy()
            hessian[g] += np.outer(seen, seen)
            target[g] += np.outer(wanted, seen)
    return hessian, target


def call(operation: Any, arguments: Sequence[Any]) -> fx.Node:
    """A node that calls an operation with these arguments."""
    graph = fx.Graph()
    given = (graph.placeholder("value") if isinstance(item, Tensor) else item for item in arguments)
    return graph.call_function(operation, tuple(given))


def conv_sums(arguments: Sequence[Any], *rest: Any) -> tuple[Tensor, Tensor]:
    """Sums of a two-dimensional convolution."""
    named = len(arguments) > 4 and isinstance(arguments[4], str)
    operation = aten.conv2d.padding if named else aten.conv2d.default
    return input_sums(call(operation, arguments), tuple(arguments), *rest)


CONV = call(aten.conv2d.default, ())


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.integers(1, 2),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sums_are_those_over_all_positions(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    biased: bool,
    seed: int,
) -> None:
    x, weight = uniform(2, 4, 7, 6, seed=seed), uniform(6, 4 // groups, *kernel, seed=seed + 1)
    bias = uniform(6, seed=seed + 2) if biased else None
    arguments = (x, weight, bias, list(stride), list(padding), list(dilation), groups)
    output = functional.conv2d(*arguments)
    plain = output if bias is None else output - bias.view(1, -1, 1, 1)
    sides = (padding[0], padding[0], padding[1], padding[1])
    expected = explicit(x, plain, weight, stride, sides, dilation, groups)
    for found, wanted in zip(conv_sums(arguments, output, ALL), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-4)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["same", "valid"]),
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_sums_of_dense_weights_give_their_outputs_with_named_padding(
    kernel: tuple[int, int], dilation: tuple[int, int], padding: str
) -> None:
    x, weight = uniform(1, 2, 8, 9), uniform(3, 2, *kernel)
    arguments = (x, weight, None, [1, 1], padding, list(dilation))
    hessian, target = conv_sums(arguments, functional.conv2d(*arguments), ALL)
    product = weight.double().view(1, 3, -1) @ hessian
    torch.testing.assert_close(product, target, rtol=1e-4, atol=1e-4)


def test_arguments_left_out_are_those_of_a_plain_convolution() -> None:
    x, weight = uniform(1, 2, 5, 5), uniform(3, 2, 3, 3)
    short = conv_sums((x, weight), None, ALL)[0]
    whole = conv_sums((x, weight, None, [1, 1], [0, 0], [1, 1], 1), None, ALL)[0]
    assert torch.equal(short, whole)


@given(crops=st.integers(1, 9), side=st.integers(1, 12), positions=st.integers(1, 300))
def test_positions_taken_are_as_many_as_asked_for(crops: int, side: int, positions: int) -> None:
    ones = torch.ones(crops, 1, side, side)
    hessian, _ = conv_sums((ones, torch.ones(1, 1, 1, 1)), None, positions)
    there = crops * side * side
    # Every k-th position of each crop, k a whole number: up to twice as many.
    assert float(hessian) <= 2 * min(there, positions) + crops
    if positions >= there:
        assert float(hessian) == there


def test_sampled_sums_are_near_the_whole_ones() -> None:
    arguments = (uniform(8, 2, 40, 40), uniform(3, 2, 1, 1))
    some = conv_sums(arguments, None, 3200)[0] / 3200
    whole = conv_sums(arguments, None, ALL)[0] / 12800
    torch.testing.assert_close(some, whole, rtol=0.05, atol=0)


class Shared(nn.Module):
    """A convolution that runs three times between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = self.shared(x)
        return self.last(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def shared() -> tuple[Trace, RestorationModel]:
    torch.manual_seed(0)
    model = RestorationModel(Shared(), Description("mine", {}, 1, 1.0)).eval()
    return trace(model, 9), model


def seen(model: RestorationModel, layer: str, pictures: Tensor) -> list[Tensor]:
    """X'X of each run of a layer."""
    found = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        arguments = (inputs[0], module.weight, module.bias, module.stride, module.padding)
        found.append(conv_sums(arguments, None, ALL)[0])

    hook = model.network.get_submodule(layer).register_forward_pre_hook(record)
    with torch.no_grad():
        model(pictures)
    hook.remove()
    return found


@pytest.mark.parametrize("later", [False, True])
def test_sums_of_a_shared_layer_are_over_its_uses(
    shared: tuple[Trace, RestorationModel], later: bool
) -> None:
    pictures = uniform(2, 3, 9, 9)
    graph, model = shared
    with torch.no_grad():
        found = dict(
            dense_sums(graph, model, ["shared"], Calibration(pictures, MIB), later_uses=later)
        )
    expected = torch.stack(seen(model, "shared", pictures)[later:]).sum(0)
    torch.testing.assert_close(found["shared"], expected)


def test_later_uses_of_layers_used_once_are_none(shared: tuple[Trace, RestorationModel]) -> None:
    calibration = Calibration(uniform(2, 3, 9, 9), MIB)
    with torch.no_grad():
        assert not list(dense_sums(*shared, ["first", "last"], calibration, later_uses=True))


def test_layers_come_in_the_order_of_their_last_use(
    shared: tuple[Trace, RestorationModel],
) -> None:
    calibration = Calibration(uniform(2, 3, 9, 9), MIB)
    with torch.no_grad():
        found = dense_sums(*shared, ["last", "shared", "first"], calibration)
        assert [name for name, _ in found] == ["first", "shared", "last"]


def test_sums_are_added_over_processes() -> None:
    def of_both(part: Tensor) -> Tensor:
        return 2 * part

    arguments, output = (uniform(1, 2, 5, 5), uniform(3, 2, 3, 3)), uniform(1, 3, 3, 3)
    alone = Calibration(arguments[0], MIB).sums("a", CONV, arguments, output)
    both = Calibration(arguments[0], MIB, of_both).sums("a", CONV, arguments, output)
    assert all(torch.equal(2 * one, two) for one, two in zip(alone, both, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["input", "output"])
def test_values_that_are_not_finite_name_the_layer(value: float, place: str) -> None:
    x, output = uniform(1, 2, 5, 5), uniform(1, 3, 5, 5)
    (x if place == "input" else output)[0, 1, 2, 3] = value
    with pytest.raises(SlsError, match=r"^body\.0: activations are NaN or infinite"):
        Calibration(x, MIB).sums("body.0", CONV, (x, uniform(3, 2, 1, 1)), output)


def test_crops_are_as_many_as_the_memory_holds(shared: tuple[Trace, RestorationModel]) -> None:
    pictures = uniform(32, 3, 64, 64)
    # Two values of four channels are held at once: 128 KiB a crop.
    most = 2 * 4 * 64 * 64 * 4
    calibration = Calibration(pictures, 4 * most * 20).within_memory(*shared, 32)
    assert torch.equal(calibration.pictures, pictures[:20])
    assert len(Calibration(pictures, 4 * most * 99).within_memory(*shared, 32).pictures) == 32


def test_too_little_memory_names_the_flag_and_how_much_is_enough(
    shared: tuple[Trace, RestorationModel],
) -> None:
    pictures = uniform(32, 3, 64, 64)
    with pytest.raises(SlsError, match=r"^--memory: 3 MiB .* Give 4 or more") as caught:
        Calibration(pictures, 3 * MIB).within_memory(*shared, 32)
    assert "--patch" in caught.value.fix
    assert len(Calibration(pictures, 4 * MIB).within_memory(*shared, 32).pictures) == 8
