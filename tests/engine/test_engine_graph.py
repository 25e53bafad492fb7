from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.config import BuildConfig
from sls_deploy.engine.graph import check_shapes, fit_shapes
from sls_deploy.errors import SlsError
from sls_deploy.onnx_file import read_model

Maker = Callable[..., onnx.ModelProto]
Options = Callable[..., BuildConfig]


def damage(model: onnx.ModelProto, folder: Path, kind: str) -> None:
    """Do to a graph what nobody may do unnoticed."""
    weight = model.graph.initializer[1]
    match kind:
        case "opset 99":
            model.opset_import[0].version = 99
        case "NaN":
            array = numpy_helper.to_array(weight).copy()
            array[3, 2, 1, 1] = np.nan
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        case "gigabytes":
            weight.CopyFrom(TensorProto(name=weight.name, data_type=1, dims=[3 * 2**28]))
        case _:
            (folder.parent / "outside.bin").write_bytes(weight.raw_data)
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=kind)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("opset 99", "uses opset 99, which TensorRT does not read"),
        ("NaN", r"tensor 'network\.1\.weight' holds NaN"),
        ("gigabytes", r"tensor 'network\.1\.weight' is declared with 3 GiB"),
        ("lost.bin", "external data 'lost.bin', which is missing"),
        ("../outside.bin", "external data outside of the file's folder"),
    ],
)
def test_a_tampered_graph_is_not_built(
    tmp_path: Path, make_network: Maker, kind: str, expected: str
) -> None:
    path = tmp_path / "here" / "model.onnx"
    path.parent.mkdir()
    model = make_network(path, "fp32")
    assert read_model(path) == model
    damage(model, path.parent, kind)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SlsError, match=expected) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


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


def test_sizes_that_the_graph_fixes_are_taken(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    batch, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_value, height.dim_value, width.dim_value = 1, 36, 52
    options = fit_shapes(model, build_options())
    assert {options.min_shape, options.opt_shape, options.max_shape} == {(1, 3, 36, 52)}
    assert check_shapes(model, options, "model.onnx") == "input"


@pytest.mark.parametrize("about", ["{", "[]", '{"multiple": 0}', '{"frames": "3"}', "[" * 9999])
def test_damaged_metadata_is_refused(
    tmp_path: Path, make_network: Maker, build_options: Options, about: str
) -> None:
    model = make_network(tmp_path / "model.onnx")
    helper.set_model_props(model, {"sls_deploy.model": about})
    with pytest.raises(SlsError, match="holds damaged metadata"):
        fit_shapes(model, build_options())


def test_a_graph_without_inputs_is_refused(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    del model.graph.input[:]
    with pytest.raises(SlsError, match="inputs: none"):
        check_shapes(model, fit_shapes(model, build_options()), "model.onnx")


def test_a_graph_with_two_inputs_is_refused(
    tmp_path: Path, make_network: Maker, build_options: Options
) -> None:
    model = make_network(tmp_path / "model.onnx")
    extra = helper.make_tensor_value_info("noise", TensorProto.FLOAT, [1, 1, 1, 1])
    model.graph.input.append(extra)
    with pytest.raises(SlsError, match="inputs: input, noise"):
        check_shapes(model, build_options(), "model.onnx")
