from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.errors import SlsError
from sls_deploy.export.parity import (
    Batch,
    Parity,
    compare,
    compare_bytes,
    comparison_batches,
)
from sls_deploy.export.parity import measure as measure_parity
from sls_deploy.models.architecture import Description
from sls_deploy.runtime.runner import Pictures


class Offset:
    """A runner that adds a constant everywhere, or a value at one place."""

    name = "offset"

    def __init__(self, value: float, place: tuple[int, ...] | None = None) -> None:
        self._value, self._place = value, place

    def run(self, pictures: Pictures) -> Pictures:
        output = pictures.copy()
        output[self._place or ...] += np.float32(self._value)
        return output

    def close(self) -> None: ...


BATCH = Batch(("cat", "dog"), np.full((2, 3, 4, 5), 0.5, np.float32))


def measure(runner: Offset, precision: str = "fp16") -> Parity:
    return compare([BATCH.pictures], runner, [BATCH], precision)  # type: ignore[arg-type]


def test_psnr_has_a_peak_of_one() -> None:
    parity = measure(Offset(1e-3))
    assert parity.psnr_db == pytest.approx(60, abs=0.01)
    assert parity.max_error == pytest.approx(1e-3, rel=1e-3)
    assert parity.pictures == 2


def test_names_the_place_of_the_largest_error() -> None:
    parity = measure(Offset(-0.01, (1, 2, 3, 4)), "int8")
    assert parity.place == "dog, channel 2, row 3, column 4"


def test_equal_outputs_have_a_finite_figure() -> None:
    assert measure(Offset(0)).psnr_db == 200


LARGEST = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "int8": 0.3}


@pytest.mark.parametrize("precision", LARGEST)
def test_refuses_one_value_that_no_psnr_sees(precision: str) -> None:
    batch = Batch(("cat",), np.full((1, 3, 200, 200), 0.5, np.float32))

    def one(error: float) -> Parity:
        return compare([batch.pictures], Offset(error, (0, 1, 2, 3)), [batch], precision)  # type: ignore[arg-type]

    assert one(0.9 * LARGEST[precision]).lowest_db > LIMITS[precision]
    with pytest.raises(SlsError, match=r"has an error of .* at cat, channel 1, row 2, column 3"):
        one(1.1 * LARGEST[precision])


def test_the_worst_picture_counts() -> None:
    batch = Batch(tuple("abcdefghij"), np.full((10, 3, 4, 5), 0.5, np.float32))
    error = 10 ** (-49 / 20)
    found = measure_parity([batch.pictures], Offset(error, (6,)), [batch], "fp16")
    assert (found.lowest_db, found.psnr_db) == (pytest.approx(49, 0.01), pytest.approx(59, 0.01))
    with pytest.raises(SlsError, match=r"lies 49\.0 dB from PyTorch, less than 50"):
        compare([batch.pictures], Offset(error, (6,)), [batch], "fp16")


LIMITS = {"fp32": 80, "fp16": 50, "bf16": 35, "int8": 30}


@pytest.mark.parametrize("precision", LIMITS)
def test_refuses_what_lies_too_far_away(precision: str) -> None:
    error = 10 ** (-LIMITS[precision] / 20)
    assert measure(Offset(0.9 * error), precision).psnr_db > LIMITS[precision]
    expected = rf"the {precision} graph: lies .* less than {LIMITS[precision]} \(largest error"
    with pytest.raises(SlsError, match=expected):
        measure(Offset(1.1 * error), precision)


@pytest.mark.parametrize(
    ("precision", "fix"),
    [("fp32", "report it"), ("fp16", "bf16"), ("bf16", "fp16"), ("int8", "export.int8_keep")],
)
def test_says_what_to_do_in_each_precision(precision: str, fix: str) -> None:
    with pytest.raises(SlsError) as caught:
        measure(Offset(0.5), precision)
    assert fix in caught.value.fix


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_outputs_that_are_not_finite(value: float) -> None:
    with pytest.raises(SlsError, match="fp16 graph: gives NaN or infinity on cat and dog"):
        measure(Offset(value, (0, 0, 0, 0)))


def test_refuses_another_shape() -> None:
    with pytest.raises(SlsError, match=r"gives \[2, 3, 4, 5\] where PyTorch gives \[2, 3, 8, 10\]"):
        compare([np.zeros((2, 3, 8, 10), np.float32)], Offset(0), [BATCH], "fp32")


def about(scale: int, **sizes: int) -> Description:
    return Description("mine", {}, scale, 1.0, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_compares_real_pictures_of_odd_size_and_in_threes(scale: int) -> None:
    batches = comparison_batches(about(scale))
    shapes = {batch.pictures.shape for batch in batches}
    assert {(1, 3, 61, 47), (3, 3, 45, 51)} <= shapes
    assert all(batch.pictures.std() > 0.05 for batch in batches)
    assert all(batch.pictures.min() >= 0 and batch.pictures.max() <= 1 for batch in batches)


def test_small_photographs_still_make_a_batch_at_a_large_scale() -> None:
    assert [len(batch.pictures) for batch in comparison_batches(about(16))] == [1, 1, 3]


def test_frames_move_by_a_pixel() -> None:
    (first, *_) = comparison_batches(about(1, frames=3))
    before, now, after = np.split(first.pictures, 3, axis=1)
    assert np.array_equal(before[..., 1:], now[..., :-1])
    assert np.array_equal(now[..., 1:], after[..., :-1])


def test_one_fixed_size_gives_pictures_of_it() -> None:
    (batch,) = comparison_batches(about(8, frames=3), (2, 9, 72, 600))
    assert batch.pictures.shape == (2, 9, 72, 600)
    assert len(set(batch.names)) == 2


def test_measure_refuses_no_distance() -> None:
    assert measure_parity([BATCH.pictures], Offset(0.5), [BATCH], "fp32").psnr_db < 7


GREY = Batch(("cat", "dog"), np.full((2, 3, 4, 5), 128 / 255, np.float32))


@pytest.mark.parametrize("levels", [0, 1, -1])
def test_bytes_may_differ_by_one_level(levels: int) -> None:
    runner = Offset(levels / 255, (1, 2, 3, 4))
    found = compare_bytes([GREY.pictures + np.float32(0.001)], runner, [GREY], "fp16")
    assert found.max_error == pytest.approx(abs(levels) / 255, abs=1e-6)


def test_refuses_bytes_that_differ_by_two_levels() -> None:
    expected = "graph of bytes: differs by 2 levels at dog, channel 2, row 3, column 4"
    with pytest.raises(SlsError, match=expected):
        compare_bytes([GREY.pictures], Offset(2 / 255, (1, 2, 3, 4)), [GREY], "fp16")
