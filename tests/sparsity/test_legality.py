from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.sparsity.legality import is_2_4


@pytest.mark.parametrize(
    ("row", "legal"),
    [
        ([1, 1, 0, 0], True),
        ([1, 0, 1, 1], False),
        ([0, 0, 1, 1, 1, 1, 0, 0], True),
        ([0, 1, 1, 1, 0, 0, 0, 0], False),
        ([1, 1, 0, 0, 1, 1], True),
        ([1, 1, 0, 0, 1, 1, 1], False),
    ],
)
def test_quads_of_input_channels_hold_at_most_two(row: list[int], legal: bool) -> None:
    assert is_2_4(np.array(row, np.float32).reshape(1, -1, 1, 1)) is legal


def test_every_tap_is_a_group_of_its_own() -> None:
    weight = np.zeros((1, 4, 1, 2), np.float32)
    weight[0, :2, 0, 0] = weight[0, 2:, 0, 1] = 1
    assert is_2_4(weight)


def test_one_bad_filter_is_found() -> None:
    weight = np.zeros((8, 16, 3, 3), np.float16)
    weight[7, 4:7, 2, 2] = 1
    assert not is_2_4(weight)
