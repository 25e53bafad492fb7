from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sls_deploy.sparsity.masks import MAX_SCORE, keep_table, look_up, masked_weights
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units
from tests.sparsity.oracle import pruning_units, sparse_weight

DTYPES = (torch.float32, torch.float64)


def layer(channels: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, channels, 2, 2, generator=generator, dtype=dtype)
    picture = torch.randn(2, channels, 6, 5, generator=generator, dtype=dtype)
    return weight.requires_grad_(), picture


def ours(weight: Tensor, scores: Tensor, pattern: Pattern) -> Tensor:
    table = keep_table(scores[None])
    units = [rank_units(weight, pattern)]
    (used,) = masked_weights([weight], table, units, look_up(table, units))
    return used


def compare_with_oracle(
    size: int, channels: int, dtype: torch.dtype, scores: Tensor, seed: int
) -> None:
    """Outputs and weight gradients equal bit for bit, score gradients to 1e-6 relative."""
    pattern = Pattern.parse(f"n:{size}")
    results = []
    for build in ("ours", "oracle"):
        weight, picture = layer(channels, dtype, seed)
        learnt = scores.to(dtype).clone().requires_grad_()
        if build == "ours":
            used = ours(weight, learnt, pattern)
        else:
            masks = pruning_units(weight, size, quads_first=size > 4)
            # The oracle in float64: only so can it judge the seventh digit.
            used = sparse_weight(weight.double(), learnt.double(), [m.double() for m in masks])
            used = used.to(dtype)
        output = torch.nn.functional.conv2d(picture, used)
        (output.square() * torch.linspace(-1, 2, output.numel()).view_as(output)).sum().backward()
        results.append((output.detach(), weight.grad, learnt.grad))
    (output, weight_grad, score_grad), (output_o, weight_grad_o, score_grad_o) = results
    assert torch.equal(output, output_o)
    assert torch.equal(weight_grad, weight_grad_o)
    scale = score_grad_o.abs().max().clamp_min(1e-12)
    assert ((score_grad - score_grad_o).abs() <= 1e-6 * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [32, 50, 7, 64])
@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_equals_the_oracle(size: int, channels: int, dtype: torch.dtype) -> None:
    scores = torch.linspace(1, 0.9, size - 1)
    compare_with_oracle(size, channels, dtype, scores, seed=size + channels)


LEAST = 1.4e-45  # the least float32 above zero


@pytest.mark.parametrize(
    "scores",
    [
        [0.5, 1.0, 1.8038218833790097e-41],  # failed where a gradient was divided by a score
        [LEAST, 1.0, 0.9],
        [0.9, LEAST, LEAST],
        [1e-30, 1e-30, MAX_SCORE],
        [0.0, 0.9, 0.9],
        [0.9, 0.0, 0.0],
        [0.9, LEAST, 0.0],
    ],
)
def test_equals_the_oracle_for_scores_of_nearly_nothing(scores: list[float]) -> None:
    compare_with_oracle(4, 4, torch.float32, torch.tensor(scores), seed=1)


@pytest.mark.parametrize(
    ("channels", "scores", "seed"),
    [
        (31, [0.0] * 3, 0),
        (6, [0.0, 1.01171875, 0.5], 1),
        (19, [0.0, 1.0, 0.65625, 0.5] + [0.0] * 3, 7),
    ],
)
def test_equals_the_oracle_where_gradients_cancel(
    channels: int, scores: list[float], seed: int
) -> None:
    compare_with_oracle(len(scores) + 1, channels, torch.float32, torch.tensor(scores), seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_oracle_where_the_kept_set_is_no_prefix(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.7, 0.7, 1.03, 0.6, 1.03, 1.03, 1.03])
    assert keep_table(scores[None])[0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    compare_with_oracle(8, 20, dtype, scores, seed=1)


@settings(max_examples=40)
@given(
    size=st.sampled_from([4, 8, 16]),
    channels=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_equals_the_oracle_for_any_scores(
    size: int, channels: int, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    values = st.floats(0, MAX_SCORE)
    scores = torch.tensor(data.draw(st.lists(values, min_size=size - 1, max_size=size - 1)))
    compare_with_oracle(size, channels, dtype, scores, seed)


def test_first_unit_is_kept_whatever_the_scores() -> None:
    assert keep_table(torch.zeros(3, 7)).tolist() == [[1] + [0] * 7] * 3


@pytest.mark.parametrize("score", [0.4, 0.9, 1.0])
def test_2_4_is_the_oracle_whose_first_mask_is_half_of_the_group(score: float) -> None:
    weight, _ = layer(40, torch.float64, 5)
    masks = pruning_units(weight, 16, quads_first=True)
    stacked = [torch.stack(masks[:8]).sum(0), *masks[8:]]
    scores = torch.full((8,), score, dtype=torch.float64)
    used = ours(weight, scores, Pattern.parse("2:4"))
    assert torch.equal(used, sparse_weight(weight, scores, stacked))


def test_pruned_weight_gets_no_gradient() -> None:
    weight, _ = layer(8, torch.float32, 0)
    used = ours(weight, torch.zeros(8), Pattern.parse("2:4"))
    used.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad != 0, used != 0)
    assert (used == 0).float().mean() == 0.5


def test_layers_of_several_shapes_do_not_mix() -> None:
    pattern = Pattern.parse("n:8")
    scores = torch.tensor([[0.9] * 7, [0.7] * 7]).requires_grad_()
    weights = [layer(20, torch.float32, 1)[0], layer(8, torch.float32, 2)[0]]
    units = [rank_units(weight, pattern) for weight in weights]
    table = keep_table(scores)
    used = masked_weights(weights, table, units, look_up(table, units))
    sum(part.square().sum() for part in used).backward()
    assert scores.grad is not None
    for weight, part, row, grad in zip(weights, used, scores, scores.grad, strict=True):
        alone = row.detach().clone().requires_grad_()
        expected = ours(weight, alone, pattern)
        expected.square().sum().backward()
        assert torch.equal(part, expected)
        torch.testing.assert_close(grad, alone.grad, rtol=1e-6, atol=0)


def test_fixed_table_gets_no_gradient_and_weights_do() -> None:
    weight, _ = layer(8, torch.float32, 0)
    used = ours(weight, torch.ones(7), Pattern.parse("n:8"))
    used.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
