from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sls_deploy.calibration.ranges import Peak, measure_peaks
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.half_choice import choose_half
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.half_types import HalfPrecision
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.validate.metrics import psnr
from tests.export.exported_graphs import exported

PICTURES = np.random.default_rng(0).random((2, 3, 8, 12), dtype=np.float32)
IDENTITY = "{1, 0, 0, 0, 1, 0, 0, 0, 1}"


def free(keep: frozenset[str]) -> float:
    """A network that loses nothing."""
    return 0.0


def graph(body: str, constants: str) -> ir.Model:
    ends = "(float[n, 3, h, w] input) => (float[n, 3, h, w] output)"
    text = f'<ir_version: 10, opset_import: ["": 18]> net {ends} <{constants}> {{ {body} }}'
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def peaks(model: ir.Model) -> list[Peak]:
    return measure_peaks(to_bytes(model), [PICTURES])


def large(factor: float) -> ir.Model:
    """Activations grow by a factor in 'up' and shrink again in 'down'."""
    up = f"float[3, 3, 1, 1] grow = {IDENTITY.replace('1', str(factor))}"
    down = f"float[3, 3, 1, 1] shrink = {IDENTITY.replace('1', str(1 / factor))}"
    body = """
        [first] a = Relu (input) [up] b = Conv (a, grow) [act] c = Relu (b)
        [cut] d, e = Split <num_outputs = 2, axis = 3> (c) [join] f = Concat <axis = 3> (d, e)
        [down] g = Conv (f, shrink) [last] output = Sigmoid (g)
    """
    return graph(body, f"{up}, {down}")


def test_everything_is_half_where_nothing_is_lost() -> None:
    choice = choose_half(large(100), "fp16", peaks(large(100)), free, 0.01)
    assert choice.keep == {}
    assert (choice.loss_db, choice.loss_all_db, choice.single_db) == (0, 0, {})
    assert choice.largest == pytest.approx(100, rel=0.02)
    assert (choice.node, choice.limit) == ("up", 65504)


def test_large_values_are_computed_and_read_in_fp32() -> None:
    choice = choose_half(large(1e6), "fp16", peaks(large(1e6)), free, 0.01)
    assert list(choice.keep) == ["up", "act", "cut", "join", "down"]
    assert choice.keep["up"].startswith("holds 1e+06") or "reaches" in choice.keep["up"]
    assert choice.keep["down"].startswith("reads 9")
    assert choice.keep["down"].endswith("from join")
    assert choice.largest < 2


def test_no_infinity_is_left_in_the_graph() -> None:
    model = large(1e6)
    expected = OnnxRunner(to_bytes(model)).run(PICTURES)
    keep = choose_half(model, "fp16", peaks(model), free, 0.01).keep
    got = OnnxRunner(to_bytes(Half("fp16", keep)(model).model)).run(PICTURES)
    assert np.abs(got - expected).max() < 1e-3


def test_the_margin_is_a_factor_of_two() -> None:
    ceiling = float(PICTURES.max())
    below, above = (large(65504 / 2 / ceiling * factor) for factor in (0.999, 1.001))
    assert not choose_half(below, "fp16", peaks(below), free, 0.01).keep
    assert "up" in choose_half(above, "fp16", peaks(above), free, 0.01).keep


def test_bf16_holds_them() -> None:
    assert not choose_half(large(1e6), "bf16", peaks(large(1e6)), free, 0.01).keep


def test_a_constant_that_does_not_fit_stays_with_what_reads_it() -> None:
    model = graph("[act] a = Relu (input) [cap] output = Min (a, most)", "float[1] most = {1e9}")
    keep = choose_half(model, "fp16", peaks(model), free, 0.01).keep
    assert keep == {"cap": "holds 1e+09; fp16 ends at 65504"}
    Half("fp16", keep)(model)


def test_what_stays_fp32_anyway_is_not_listed() -> None:
    body = "[scale] a = Mul (input, white) [act] b = Relu (a) [back] output = Div (b, white)"
    model = graph(body, "float white = {60000}")
    assert list(choose_half(model, "fp16", peaks(model), free, 0.01).keep) == ["act"]


def test_refuses_nan() -> None:
    with pytest.raises(SlsError, match="up: gives NaN on calibration pictures"):
        choose_half(large(1), "fp16", [Peak("b", "up", math.nan)], free, 0.01)


def costs(**layers: float) -> Callable[[frozenset[str]], float]:
    """A loss that is the sum of the given operators' where they are not kept."""
    return lambda keep: sum(db for name, db in layers.items() if name not in keep)


def test_the_worst_layers_stay_fp32_until_the_limit_holds() -> None:
    model = large(10)
    choice = choose_half(model, "fp16", peaks(model), costs(up=0.5, down=0.02), 0.05)
    assert list(choice.keep) == ["up", "act", "cut", "join"]
    assert choice.keep["join"] == "layer up alone loses 0.500 dB in fp16"
    assert choice.loss_db == pytest.approx(0.02)
    assert choice.loss_all_db == pytest.approx(0.52)
    assert choice.single_db["down"] == pytest.approx(0.02)
    assert choice.single_db["first"] == 0


def test_what_overflows_is_kept_in_every_measurement() -> None:
    model, asked = large(1e6), []

    def loss(keep: frozenset[str]) -> float:
        asked.append(keep)
        return 0.0 if "last" in keep else 1.0

    choice = choose_half(model, "fp16", peaks(model), loss, 0.1)
    assert all({"up", "act", "cut", "join", "down"} <= keep for keep in asked)
    assert list(choice.keep) == ["up", "act", "cut", "join", "down", "last"]


def test_where_branches_meet_the_later_layer_has_it() -> None:
    body = """
        [one] a = Conv (input, w) [two] b = Conv (a, w) [act] c = Relu (b)
        [sum] d = Add (c, a) [skip] e = Neg (a) [end] output = Add (d, e)
    """
    model = graph(body, f"float[3, 3, 1, 1] w = {IDENTITY}")
    choice = choose_half(model, "fp16", peaks(model), costs(two=1), 0.1)
    assert list(choice.keep) == ["two", "act", "sum", "end"]


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.02), ("bf16", 0.05)])
def test_a_real_network_comes_within_its_limit(precision: HalfPrecision, limit: float) -> None:
    model = exported("residual")
    exact = OnnxRunner(to_bytes(model), threads=1).run(PICTURES)
    noise = np.random.default_rng(1).normal(0, 3e-3, exact.shape).astype(np.float32)
    truth = exact + noise

    def measure(keep: frozenset[str]) -> float:
        rounded = RoundedFloat32()(Half(precision, keep)(model.clone()).model).model
        output = OnnxRunner(to_bytes(rounded), threads=1).run(PICTURES)
        return psnr(exact, truth, peak=1) - psnr(output, truth, peak=1)

    choice = choose_half(model, precision, peaks(model), measure, limit)
    assert measure(frozenset(choice.keep)) == choice.loss_db <= limit
    assert bool(choice.keep) == (choice.loss_all_db > limit)
    assert len(choice.keep) < len(model.graph)
