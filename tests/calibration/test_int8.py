from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sls_deploy.calibration.int8 import bias_shift, dequantize_weight, half_scale, quantize_weight
from sls_deploy.sparsity.legality import is_2_4


def random_weight(shape: tuple[int, ...], size: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (size * rng.standard_normal(shape)).astype(np.float32)


@given(st.floats(0, 8e6))
def test_a_scale_reaches_its_magnitude_and_hardly_more(largest: float) -> None:
    step = float(half_scale(largest))
    assert step * 127 >= largest
    if largest:
        assert step <= largest / 127 * (1 + 2**-10) + 2**-24
    else:
        assert step == 1


@given(st.floats(1e-6, 1e3), st.integers(0, 1), st.integers(0, 9))
def test_a_weight_comes_back_within_half_a_step(size: float, axis: int, seed: int) -> None:
    weight = random_weight((5, 6, 3, 3), size, seed)
    integers, scales = quantize_weight(weight, axis)
    steps = scales.astype(np.float64).reshape([-1 if index == axis else 1 for index in range(4)])
    error = np.abs(dequantize_weight(integers, scales, axis) - weight)
    assert integers.min() >= -127
    assert scales.shape == (weight.shape[axis],)
    assert np.all(error <= steps * 0.5000001)


def test_every_filter_uses_all_levels() -> None:
    weight = random_weight((4, 8, 3, 3)) * np.array([1, 10, 0.01, 1e3]).reshape(4, 1, 1, 1)
    integers, _ = quantize_weight(weight, 0)
    assert np.all(np.abs(integers).max((1, 2, 3)) == 127)


@given(st.integers(0, 50))
def test_2_4_weights_are_2_4_integers(seed: int) -> None:
    weight = random_weight((8, 16, 3, 3), seed=seed)
    quads = weight.reshape(8, 4, 4, 3, 3)
    quads[np.abs(quads).argsort(2).argsort(2) < 2] = 0
    integers, _ = quantize_weight(weight, 0)
    assert is_2_4(weight)
    assert is_2_4(integers)
    assert not integers[weight == 0].any()


def test_a_filter_of_zeros_has_a_step_of_one() -> None:
    integers, scales = quantize_weight(np.zeros((2, 4, 1, 1), np.float32), 0)
    assert not integers.any()
    assert np.all(scales == 1)


@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_the_shift_is_what_flat_channels_lose(transposed: bool, groups: int) -> None:
    import torch
    from torch.nn import functional

    kind = functional.conv_transpose2d if transposed else functional.conv2d
    shape = (8, 6 // groups, 3, 3) if transposed else (6, 8 // groups, 3, 3)
    error = random_weight(shape)
    means = random_weight((8,), seed=1)
    flat = torch.from_numpy(means).reshape(1, 8, 1, 1).expand(1, 8, 7, 7)
    lost = kind(flat, torch.from_numpy(error), groups=groups)[0, :, 3, 3].numpy()
    assert np.allclose(bias_shift(error, means, int(transposed), 6, groups), lost, atol=1e-4)


def test_the_shift_of_a_product() -> None:
    error, means = random_weight((8, 6)), random_weight((8,), seed=1)
    assert np.allclose(bias_shift(error, means, 1, 6, 1), means @ error, atol=1e-5)
