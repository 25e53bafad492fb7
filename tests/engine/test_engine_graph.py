from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.config import BuildConfig
from sls_deploy.engine.graph import check_shapes, check_weights, fit_shapes, read_graph
from sls_deploy.errors import SlsError

Maker = Callable[..., onnx.ModelProto]
Options = Callable[..., BuildConfig]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is an empty file"), (b"hello world" * 20, "is not an ONNX file")],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SlsError, match=reason):
        read_graph(path)


def test_half_a_file_is_refused(tmp_path: Path, make_network: Maker) -> None:
    path = tmp_path / "model.onnx"
    make_network(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SlsError, match="is not an ONNX file"):
        read_graph(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"nowhere\.onnx: cannot be read"):
        read_graph(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "infinite values")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, make_network: Maker, precision: str, value: float, kind: str
) -> None:
    model = make_network(tmp_path / "model.onnx", precision)
    weight = numpy_helper.to_array(model.graph.initializer[1]).copy()
    weight[3, 2, 1, 1] = value
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "network.1.weight"))
    with pytest.raises(SlsError, match=rf"weight 'network\.1\.weight' holds {kind}"):
        check_weights(model, "model.onnx")


def test_sound_weights_pass(tmp_path: Path, make_network: Maker) -> None:
    model = make_network(tmp_path / "model.onnx")
    check_weights(model, "model.onnx")
    assert len(model.graph.initializer) > 1


def test_shapes_that_fit_give_the_inputs_name(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    assert check_shapes(model, build_options(), "model.onnx") == "input"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("min_shape", (1, 3, 33, 16)),
        ("opt_shape", (1, 3, 32, 65)),
        ("max_shape", (0, 3, 64, 64)),
        ("min_shape", (0, 3, 16, 16)),
    ],
)
def test_shapes_must_grow_from_smallest_to_largest(
    tmp_path: Path,
    make_network: Maker,
    build_options: Options,
    name: str,
    shape: tuple[int, ...],
) -> None:
    model = make_network(tmp_path / "model.onnx")
    with pytest.raises(SlsError, match="must be positive and within"):
        check_shapes(model, build_options(**{name: shape}), "model.onnx")


def test_channels_that_the_graph_does_not_take_are_refused(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx", layers=((1, 8, 1),))
    with pytest.raises(SlsError, match=r"takes 1 as channels, but build\.min_shape says 3"):
        check_shapes(model, build_options(), "model.onnx")


def test_sizes_become_those_that_the_network_takes(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    assert fit_shapes(model, build_options()) == build_options()
    about = {"name": "mine", "least_side": 16, "multiple": 8, "frames": 3}
    onnx.helper.set_model_props(model, {"sls_deploy.model": json.dumps(about)})
    asked = {
        "min_shape": (1, 3, 2, 9),
        "opt_shape": (1, 3, 180, 320),
        "max_shape": (2, 9, 360, 640),
    }
    fitted = fit_shapes(model, build_options(**asked))
    assert fitted.min_shape == (1, 9, 16, 16)
    assert fitted.opt_shape == (1, 9, 184, 320)
    assert fitted.max_shape == (2, 9, 360, 640)


def test_a_graph_with_two_inputs_is_refused(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    extra = helper.make_tensor_value_info("noise", TensorProto.FLOAT, [1, 1, 1, 1])
    model.graph.input.append(extra)
    with pytest.raises(SlsError, match="inputs: input, noise"):
        check_shapes(model, build_options(), "model.onnx")
