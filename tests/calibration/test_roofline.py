from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.calibration.latency import LayerShape
from sls_deploy.calibration.roofline import GPUS, Gpu, estimate_us, find_gpu
from sls_deploy.errors import SlsError

ROUND = Gpu("round", 100, 200, 1000, "a made-up one")
"""100 TFLOP/s and 1000 GB/s: a million bytes a microsecond."""


def shape(
    inputs: int, outputs: int, kernel: int, height: int = 1000, groups: int = 1
) -> LayerShape:
    return LayerShape(
        "Conv2d", (kernel, kernel), (1, 1), (1, 1), inputs, outputs, groups, height, 1000
    )


def test_a_wide_convolution_takes_as_long_as_it_computes() -> None:
    operations = 2 * 256 * 256 * 9 * 10**6
    assert estimate_us(ROUND, shape(256, 256, 3), sparse=False) == operations / 100e6
    assert estimate_us(ROUND, shape(256, 256, 3), sparse=True) == operations / 200e6


def test_a_narrow_one_takes_as_long_as_its_data() -> None:
    activations, weights = 2 * (16 + 32) * 10**6, 2 * 16 * 32
    assert estimate_us(ROUND, shape(16, 32, 1), sparse=False) == (activations + weights) / 1e6


def test_a_stride_reads_more_than_it_writes_and_a_transposed_one_less() -> None:
    strided = replace(shape(16, 32, 1), stride=(2, 2))
    weights = 2 * 16 * 32
    read, written = 4 * 16 * 10**6, 32 * 10**6
    assert estimate_us(ROUND, strided, sparse=False) == (2 * (read + written) + weights) / 1e6
    up = replace(strided, kind="ConvTranspose2d")
    read, written = 16 * 10**6, 4 * 32 * 10**6
    assert estimate_us(ROUND, up, sparse=False) == (2 * (read + written) + weights) / 1e6


def test_2_4_weights_take_half_of_the_values_and_two_bits_for_each() -> None:
    tiny = LayerShape("Conv2d", (1, 1), (1, 1), (1, 1), 64, 64, 1, 1, 1)
    weights = 64 * 64 // 2
    assert estimate_us(ROUND, tiny, sparse=True) == (weights * 2 + weights / 4 + 256) / 1e6


def test_channels_are_filled_up_to_eight() -> None:
    assert estimate_us(ROUND, shape(50, 25, 1), sparse=False) == estimate_us(
        ROUND, shape(56, 32, 1), sparse=False
    )


@given(
    st.sampled_from(sorted(GPUS)),
    st.integers(1, 512),
    st.integers(1, 512),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2000),
    st.integers(1, 4),
)
def test_2_4_is_never_slower_and_at_most_twice_as_fast(
    name: str, inputs: int, outputs: int, kernel: int, height: int, groups: int
) -> None:
    layer = shape(inputs, outputs, kernel, height, groups)
    dense = estimate_us(GPUS[name], layer, sparse=False)
    sparse = estimate_us(GPUS[name], layer, sparse=True)
    assert dense / 2 * (1 - 1e-9) <= sparse <= dense


@pytest.mark.parametrize("name", ["rtx3090", "RTX 3090", "rtx-3090", "A100-80GB", "Orin"])
def test_names_may_be_written_as_usual(name: str) -> None:
    assert find_gpu(name).name in ("rtx3090", "a100-80gb", "orin")


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(SlsError, match=r"--gpu: .*'t4'.* Known are a100, .*--table"):
        find_gpu("t4")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_vendors_state_twice_the_rate_for_2_4(gpu: Gpu) -> None:
    assert gpu.sparse_tflops == 2 * gpu.dense_tflops


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_every_gpu_says_where_its_rates_stand(gpu: Gpu) -> None:
    assert gpu.source.startswith("NVIDIA, ")


def test_the_gpus_that_users_have_are_known() -> None:
    wanted = "a100 a100-80gb a10 a30 a40 rtx3060 rtx3090 orin l4 rtx4090"
    assert set(wanted.split()) <= GPUS.keys()
