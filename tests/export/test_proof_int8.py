from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from sls_deploy.errors import SlsError
from sls_deploy.export.proof import prove
from tests.export.one_layer import (
    INTEGERS,
    LEGAL,
    NAME,
    PRUNED,
    SCALE,
    prove_one,
    write,
    write_int8,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_int8_is_proved_on_its_integers(path: Path) -> None:
    proof = prove_one(write_int8(path, zero=np.zeros(2, np.int8)), LEGAL, [PRUNED])
    assert (proof.precision, proof.nonzero, proof.eligible) == ("int8", 0.5, True)
    small = np.where(LEGAL == 1.5, np.float32(0.004), LEGAL)
    coarse = np.rint(small / SCALE.reshape(2, 1, 1, 1)).astype(np.int8)
    assert prove_one(write_int8(path, coarse), small).rounded_to_zero == 4


@pytest.mark.parametrize("change", [1, -1, 64])
@pytest.mark.parametrize("place", range(8))
def test_a_flipped_integer_is_found(path: Path, place: int, change: int) -> None:
    integers = INTEGERS.astype(np.int16)
    integers[1, place] += change
    what = "zeros" if LEGAL[1, place] == 0 else "more than half a step"
    with pytest.raises(SlsError, match=rf"layer\.weight: .*{what}"):
        prove_one(write_int8(path, integers.clip(-128, 127).astype(np.int8)), LEGAL)


@pytest.mark.parametrize(
    ("weight", "integer", "sound"),
    [(99.0, 127, True), (-99.0, -127, True), (-99.0, -128, True), (-3.81, -128, False)],
)
def test_what_the_scale_cannot_reach_ends_at_the_limit(
    path: Path, weight: float, integer: int, sound: bool
) -> None:
    source, integers = LEGAL.copy(), INTEGERS.copy()
    source[1, 0], integers[1, 0] = weight, integer
    write_int8(path, integers)
    if sound:
        assert prove_one(path, source).precision == "int8"
    else:
        with pytest.raises(SlsError, match="more than half a step"):
            prove_one(path, source)


def test_a_flipped_scale_is_found(path: Path) -> None:
    with pytest.raises(SlsError, match="more than half a step"):
        prove_one(write_int8(path, scale=SCALE * np.float32([1, 2])), LEGAL)


@pytest.mark.parametrize("scale", [0, -1])
def test_refuses_a_scale_that_is_not_above_zero(path: Path, scale: float) -> None:
    write_int8(path, scale=SCALE * np.float32([1, scale]))
    with pytest.raises(SlsError, match=r"'dq' has a scale that is not above zero"):
        prove_one(path, LEGAL)


def test_refuses_a_zero_point(path: Path) -> None:
    with pytest.raises(SlsError, match=r"layer\.weight: has a zero point other than 0"):
        prove_one(write_int8(path, zero=np.array([0, 3], np.int8)), LEGAL)


def test_refuses_scales_that_do_not_fit(path: Path) -> None:
    with pytest.raises(SlsError, match=r"'dq' cannot be applied to 'layer\.weight'"):
        prove_one(write_int8(path, scale=np.ones(3, np.float32)), LEGAL)


def test_a_weight_that_is_quantised_in_the_graph_counts_as_int8(path: Path) -> None:
    pair = [
        helper.make_node("QuantizeLinear", [NAME, "scale", "zero"], ["q"], "q", axis=0),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["end"], "dq", axis=0),
    ]
    tensors = {NAME: LEGAL, "scale": SCALE, "zero": np.zeros(2, np.int8)}
    proof = prove_one(write(path, tensors, before=pair, inputs=["end"]), LEGAL)
    assert (proof.precision, proof.eligible) == ("int8", True)


BIAS = np.array([1, 3], np.float32)
SOURCE = {NAME: LEGAL, "layer.bias": BIAS}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_corrected_bias_is_proved_exactly(path: Path, dtype: type) -> None:
    corrected = np.array([1.0001, 2.5003])
    write_int8(path, **{"layer.bias": corrected.astype(dtype)})
    assert len(prove(path, SOURCE, [PRUNED], {"layer.bias": corrected})) == 1
    changed = corrected.astype(dtype)
    changed[1] = np.nextafter(changed[1], dtype(9))
    write_int8(path, **{"layer.bias": changed})
    with pytest.raises(SlsError, match=r"layer\.bias: differs"):
        prove(path, SOURCE, [PRUNED], {"layer.bias": corrected})


def test_a_bias_without_correction_is_the_searchs(path: Path) -> None:
    write_int8(path, **{"layer.bias": BIAS})
    assert len(prove(path, SOURCE, [PRUNED], {})) == 1
    write_int8(path, **{"layer.bias": BIAS + 1})
    assert len(prove(path, SOURCE, [PRUNED])) == 1
    with pytest.raises(SlsError, match=r"layer\.bias: differs"):
        prove(path, SOURCE, [PRUNED], {})


def test_a_corrected_bias_must_be_there(path: Path) -> None:
    write_int8(path)
    with pytest.raises(SlsError, match=r"does not hold the layers other\.bias"):
        prove(path, SOURCE, [PRUNED], {"other.bias": BIAS})


def test_only_int8_may_correct_a_bias(path: Path) -> None:
    changed = BIAS + np.float32(1)
    write(path, {NAME: LEGAL, "layer.bias": changed}, inputs=[NAME, "layer.bias"])
    for corrected in (None, {"layer.bias": changed}):
        with pytest.raises(SlsError, match=r"layer\.bias: differs"):
            prove(path, SOURCE, [], corrected)
