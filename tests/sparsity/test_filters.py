from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sls_deploy.sparsity.filters import Layout
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units, rank_weights

N4 = Pattern.parse("n:4")


def weights(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1


@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=2),
    transposed=st.booleans(),
)
def test_a_weight_comes_back_as_it_was(
    groups: int, inputs: int, outputs: int, kernel: list[int], transposed: bool
) -> None:
    layout = Layout(groups, transposed)
    first, second = (inputs * groups, outputs) if transposed else (outputs * groups, inputs)
    weight = weights(first, second, *kernel)
    filters = layout.filters(weight)
    assert filters.shape[:2] == (outputs * groups, inputs)
    assert torch.equal(layout.weight(filters, weight.shape), weight)


def test_a_linear_layer_has_one_tap() -> None:
    assert Layout().filters(weights(5, 8)).shape == (5, 8, 1)


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_those_of_its_outputs(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    filters = Layout(groups, transposed=True).filters(layer.weight.detach())
    with torch.no_grad():
        pixel = torch.zeros(1, 4, 1, 1)
        pixel[0, 3] = 1.0
        seen = layer(pixel)[0].flatten(1)
    last = slice(6 // groups * (groups - 1), None)
    assert torch.equal(seen[last], filters[last, -1])


def test_ranks_run_along_the_inputs_of_a_transposed_convolution() -> None:
    weight, layout = weights(8, 3, 2, 2), Layout(transposed=True)
    ranks = rank_weights(weight, N4, layout)
    assert ranks.shape == weight.shape
    assert torch.equal(layout.filters(ranks), rank_units(layout.filters(weight), N4))
    kept = weight * (ranks < 2)
    assert bool(((kept != 0).view(2, 4, 3, 2, 2).sum(1) == 2).all())


def test_ranks_of_a_plain_convolution_are_those_of_its_weight() -> None:
    weight = weights(3, 8, 3, 3)
    assert torch.equal(rank_weights(weight, N4, Layout()), rank_units(weight, N4))


def test_ranks_of_a_linear_layer_run_along_its_inputs() -> None:
    weight = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    assert rank_weights(weight, N4, Layout()).tolist() == [[3, 0, 1, 2]]


def test_grouped_convolution_is_solved_by_group() -> None:
    x, weight = weights(1, 4, 5, 5), weights(6, 2, 3, 3)
    filters = Layout(2).filters(weight)
    columns = functional.unfold(x, 3).view(2, 18, 9)
    expected = functional.conv2d(x, weight, groups=2).view(2, 3, 9)
    torch.testing.assert_close(filters.view(2, 3, 18) @ columns, expected)
