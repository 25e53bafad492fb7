from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

PATTERNS = ("2:4", "n:4", "n:8", "n:16", "n:32")


def test_2_4_always_keeps_half_of_its_group_and_ends_there_or_dense() -> None:
    pattern = Pattern.parse("2:4")
    assert (pattern.group, pattern.first, pattern.units, pattern.stride) == (16, 8, 9, 8)
    assert [pattern.ratio(count) for count in (1, 9)] == [(2, 4), (4, 4)]


def test_n_m_keeps_any_number_of_ranks() -> None:
    pattern = Pattern.parse("n:8")
    assert (pattern.units, pattern.stride, pattern.ratio(3)) == (8, 1, (3, 8))


@pytest.mark.parametrize("text", ["1:4", "n:3", "n:64", "", "4:2", "n:M"])
def test_unknown_pattern_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SlsError, match="n:32"):
        Pattern.parse(text)


@given(channels=st.integers(1, 300), text=st.sampled_from(PATTERNS))
def test_shares_sum_to_one_and_half_of_the_units_cost_a_half(channels: int, text: str) -> None:
    pattern = Pattern.parse(text)
    shares = pattern.unit_shares(channels)
    assert shares.sum().item() == pytest.approx(1)
    half = pattern.group // 2 - pattern.first + 1
    assert shares[:half].sum().item() == pytest.approx(0.5)


@given(quads=st.integers(1, 60), text=st.sampled_from(PATTERNS), seed=st.integers(0, 99))
def test_shares_are_those_of_the_ranked_weights(quads: int, text: str, seed: int) -> None:
    pattern = Pattern.parse(text)
    weight = torch.randn(2, 4 * quads, 1, 1, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(rank_units(weight, pattern).flatten().int(), minlength=pattern.units)
    assert torch.allclose(pattern.unit_shares(4 * quads), counts.double() / weight.numel())
