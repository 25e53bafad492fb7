from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units
from tests.sparsity.oracle import pruning_units

PATTERNS = ("2:4", "n:4", "n:8", "n:16", "n:32")


def weights(channels: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, 3, 2, generator=generator, dtype=dtype)


def test_ranks_in_a_group_of_four_follow_magnitude() -> None:
    weight = torch.tensor([0.1, -4.0, 3.0, 0.0]).view(1, 4, 1, 1)
    assert rank_units(weight, Pattern.parse("n:4")).flatten().tolist() == [2, 0, 1, 3]


def test_equal_magnitudes_rank_by_channel() -> None:
    weight = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1)
    assert rank_units(weight, Pattern.parse("n:4")).flatten().tolist() == [0, 1, 2, 3]


def test_two_largest_of_every_quad_come_before_the_rest() -> None:
    weight = torch.tensor([9.0, 8, 7, 6, 1, 2, 3, 4]).view(1, 8, 1, 1)
    assert rank_units(weight, Pattern.parse("n:8")).flatten().tolist() == [0, 1, 4, 5, 7, 6, 3, 2]


def test_padding_ranks_behind_zeros_of_its_half() -> None:
    weight = torch.zeros(1, 6, 1, 1)
    assert rank_units(weight, Pattern.parse("n:8")).flatten().tolist() == [0, 1, 4, 5, 2, 3]


@given(
    channels=st.integers(1, 70),
    text=st.sampled_from(PATTERNS),
    seed=st.integers(0, 99),
    share=st.floats(0, 0.5),
)
def test_up_to_half_of_the_units_is_legal_2_4(
    channels: int, text: str, seed: int, share: float
) -> None:
    pattern = Pattern.parse(text)
    weight = weights(channels, seed)
    count = max(0, int(share * pattern.group) - pattern.first + 1)
    kept = weight * (rank_units(weight, pattern) < count)
    assert is_2_4(kept.numpy())


@given(channels=st.integers(1, 70), text=st.sampled_from(PATTERNS), seed=st.integers(0, 99))
def test_float64_ranks_as_float32(channels: int, text: str, seed: int) -> None:
    weight, pattern = weights(channels, seed), Pattern.parse(text)
    assert torch.equal(rank_units(weight, pattern), rank_units(weight.double(), pattern))


@given(channels=st.integers(1, 70), text=st.sampled_from(PATTERNS), seed=st.integers(0, 99))
def test_scaling_changes_no_rank(channels: int, text: str, seed: int) -> None:
    weight, pattern = weights(channels, seed), Pattern.parse(text)
    assert torch.equal(rank_units(weight, pattern), rank_units(weight * -4, pattern))


@pytest.mark.parametrize("text", PATTERNS)
def test_units_are_uint8_of_the_weights_shape(text: str) -> None:
    units = rank_units(weights(50, 0), Pattern.parse(text))
    assert units.dtype == torch.uint8
    assert units.shape == (3, 50, 3, 2)
    assert int(units.max()) == Pattern.parse(text).units - 1


@given(
    channels=st.integers(1, 70),
    size=st.sampled_from([4, 8, 16, 32]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_ties_and_padding_rank_as_in_the_oracle(
    channels: int, size: int, seed: int, dtype: torch.dtype
) -> None:
    weight = weights(channels, seed, dtype).mul(2).round()
    masks = torch.stack(pruning_units(weight, size, quads_first=size > 4))
    assert torch.equal(rank_units(weight, Pattern.parse(f"n:{size}")), masks.argmax(0).byte())


def test_float64_ranks_by_its_last_bit() -> None:
    weight = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    weight[0, 2] += torch.finfo(torch.float64).eps
    assert rank_units(weight, Pattern.parse("n:4")).flatten().tolist() == [1, 2, 0, 3]


def test_subnormal_weights_rank_by_magnitude() -> None:
    weight = torch.tensor([0.0, 1e-45, -1e-38, 1e-40]).view(1, 4, 1, 1)
    assert rank_units(weight, Pattern.parse("n:4")).flatten().tolist() == [3, 2, 0, 1]


def test_order_of_the_memory_does_not_matter() -> None:
    weight, pattern = weights(50, 0), Pattern.parse("n:16")
    other = weight.to(memory_format=torch.channels_last)
    assert torch.equal(rank_units(other, pattern), rank_units(weight, pattern))
