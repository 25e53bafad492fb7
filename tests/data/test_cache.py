from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.cache import PairCache


def pair(size: int) -> tuple[Picture, Picture]:
    return np.zeros((1, 1, size), np.uint8), np.zeros((1, 1, 2 * size), np.uint8)


def test_the_pair_not_used_for_longest_makes_room() -> None:
    cache, pairs = PairCache(60), [pair(10), pair(10), pair(10)]
    cache.put(Path("0"), pairs[0])
    cache.put(Path("1"), pairs[1])
    assert cache.get(Path("0")) is pairs[0]
    cache.put(Path("2"), pairs[2])
    assert cache.get(Path("0")) is pairs[0]
    assert cache.get(Path("1")) is None
    assert cache.get(Path("2")) is pairs[2]


def test_a_pair_above_the_limit_drives_nothing_out() -> None:
    cache, small = PairCache(60), pair(10)
    cache.put(Path("small"), small)
    cache.put(Path("large"), pair(21))
    assert cache.get(Path("large")) is None
    assert cache.get(Path("small")) is small


@given(st.lists(st.integers(1, 40)), st.integers(1, 100))
def test_the_limit_holds_after_every_pair(sizes: list[int], limit: int) -> None:
    cache = PairCache(limit)
    for number, size in enumerate(sizes):
        cache.put(Path(str(number)), pair(size))
        kept = [found for k in range(number + 1) if (found := cache.get(Path(str(k))))]
        assert cache.used == sum(lr.nbytes + hr.nbytes for lr, hr in kept) <= limit
        assert len(kept) > 0 or 3 * size > limit
