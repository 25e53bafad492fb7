from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

PATTERNS = ("2:4", "n:4", "n:8", "n:16", "n:32")


def test_units_of_2_4_are_pairs_of_ranks() -> None:
    assert Pattern.parse("2:4") == Pattern(group=4, step=2)
    assert Pattern.parse("2:4").units == 2


@pytest.mark.parametrize("text", ["1:4", "n:3", "n:64", "", "4:2", "n:M"])
def test_unknown_pattern_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SlsError, match="n:32"):
        Pattern.parse(text)


@given(channels=st.integers(1, 300), text=st.sampled_from(PATTERNS))
def test_shares_sum_to_one_and_half_of_the_units_cost_a_half(channels: int, text: str) -> None:
    pattern = Pattern.parse(text)
    shares = pattern.unit_shares(channels)
    assert shares.sum().item() == pytest.approx(1)
    assert shares[: pattern.units // 2].sum().item() == pytest.approx(0.5)


@given(quads=st.integers(1, 60), text=st.sampled_from(PATTERNS), seed=st.integers(0, 99))
def test_shares_are_those_of_the_ranked_weights(quads: int, text: str, seed: int) -> None:
    pattern = Pattern.parse(text)
    weight = torch.randn(2, 4 * quads, 1, 1, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(rank_units(weight, pattern).flatten().int(), minlength=pattern.units)
    assert torch.allclose(pattern.unit_shares(4 * quads), counts.double() / weight.numel())
