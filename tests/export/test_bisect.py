from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection, bisect_graphs, bisect_pytorch, first_departure
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.parity import Batch, comparison_batches
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.slim import Slim
from sls_deploy.models.restoration import RestorationModel
from tests.export.exported_graphs import exported as graph_of
from tests.export.exported_graphs import folded

Change = Callable[[onnx.ModelProto], None]


@cache
def exported(name: str) -> tuple[RestorationModel, bytes, tuple[Batch, ...]]:
    model = folded(name)
    return model, to_bytes(graph_of(name)), tuple(comparison_batches(model.description))


def changed(content: bytes, change: Change) -> bytes:
    model = onnx.load_model_from_string(content)
    change(model)
    return model.SerializeToString()


def passed(content: bytes, *passes: ir.passes.PassBase) -> bytes:
    model = ir.from_proto(onnx.load_model_from_string(content))
    for item in passes:
        model = item(model).model
    return to_bytes(model)


def scaled(name: str, factor: float) -> Change:
    """Multiply an initialiser."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [item for item in model.graph.initializer if item.name == name]
        array = (numpy_helper.to_array(tensor) * factor).astype(numpy_helper.to_array(tensor).dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def other_operator(name: str, operator: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (node,) = [node for node in model.graph.node if node.name == name]
        node.op_type = operator

    return change


def names(found: Bisection) -> list[str]:
    return [item.node for item in found.values]


@pytest.mark.parametrize("name", ["residual", "batch_norm", "u_shape"])
def test_a_right_export_departs_nowhere(name: str) -> None:
    model, content, batches = exported(name)
    found = bisect_pytorch(model, content, batches, "fp32")
    assert found.first is None
    assert len(found.values) >= 6
    assert min(item.psnr_db for item in found.values) > 120


def test_every_layer_of_the_network_is_compared() -> None:
    model, content, batches = exported("residual")
    assert names(bisect_pytorch(model, content, batches, "fp32")) == [
        "entry.Conv", "body.0.first.Conv", "body.0.second.Conv", "body.0.Add",
        "body.1.first.Conv", "body.1.second.Conv", "body.1.Add", "exit.Conv", "Add",
    ]  # fmt: skip


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_halves_stay_within_their_limit_and_show_their_rounding(half: str) -> None:
    model, content, batches = exported("residual")
    rounded = passed(content, Half(half))  # type: ignore[arg-type]
    found = bisect_pytorch(model, rounded, batches, half)  # type: ignore[arg-type]
    assert found.first is None
    least = min(item.psnr_db for item in found.values)
    assert (60 < least < 90) if half == "fp16" else (40 < least < 65)


def test_names_the_layer_whose_weight_was_changed() -> None:
    model, content, batches = exported("residual")
    wrong = changed(content, scaled("body.1.first.weight", 1.01))
    found = bisect_pytorch(model, wrong, batches, "fp32")
    assert found.first is not None
    assert found.first is found.worst
    assert found.first.node == "body.1.first.Conv"
    assert found.first.before_db > 120
    assert found.first.psnr_db == pytest.approx(46, abs=8)
    assert [item.psnr_db < 80 for item in found.values] == [False] * 4 + [True] * 5


def test_names_the_block_whose_operator_is_another() -> None:
    model, content, batches = exported("residual")
    wrong = changed(content, other_operator("body.0.Add", "Sub"))
    found = bisect_pytorch(model, wrong, batches, "fp32")
    assert found.first is not None
    assert found.first.node == "body.0.Add"


def test_tells_the_calls_of_a_shared_layer_apart() -> None:
    model, content, batches = exported("shared")
    wrong = changed(content, other_operator("block.Add_2", "Sub"))
    found = bisect_pytorch(model, wrong, batches, "fp32")
    assert found.first is not None
    assert found.first.node == "block.Add_2"
    assert {"block.first.Conv", "block.first.Conv_2", "block.first.Conv_3"} <= set(names(found))


def test_still_finds_the_layers_of_a_slimmed_graph() -> None:
    model, content, batches = exported("shared")
    slim = passed(content, Slim())
    assert names(bisect_pytorch(model, slim, batches, "fp32")) == names(
        bisect_pytorch(model, content, batches, "fp32")
    )


def test_small_errors_before_the_large_one_are_not_the_worst() -> None:
    model, content, batches = exported("residual")
    wrong = changed(content, scaled("body.0.first.weight", 1.0005))
    wrong = changed(wrong, scaled("body.1.second.weight", 1.5))
    found = bisect_pytorch(model, wrong, batches, "fp32")
    assert found.first is not None
    assert found.worst is not None
    assert (found.first.node, found.worst.node) == ("body.0.first.Conv", "body.1.second.Conv")


def test_one_sentence_names_both() -> None:
    model, content, batches = exported("residual")
    assert first_departure(model, content, batches, "fp32") == (
        "layer by layer none of 9 values lies below 80 dB when each is kept, so look at fused "
        "operators"
    )
    wrong = changed(content, scaled("body.0.first.weight", 1.0005))
    wrong = changed(wrong, scaled("body.1.second.weight", 1.5))
    sentence = first_departure(model, wrong, batches, "fp32")
    assert sentence.startswith("layer by layer 'body.0.first.Conv' is the first below 80 dB (")
    assert "'body.1.second.Conv' adds the most error (from " in sentence


def test_infinity_departs_and_has_a_place() -> None:
    model, content, batches = exported("residual")
    wrong = changed(content, scaled("body.0.first.bias", 5e5))
    wrong = passed(changed(wrong, scaled("body.0.second.weight", 300)), Half("fp16"))
    found = bisect_pytorch(model, wrong, batches, "fp16")
    assert found.first is not None
    assert found.first.node == "body.0.first.Conv"
    assert any(item.max_error is None and item.psnr_db == -200 for item in found.values)


def test_finds_where_one_file_departs_from_another() -> None:
    _, content, batches = exported("residual")
    half = passed(content, Half("fp16"))
    sound = bisect_graphs(content, half, batches, 50)
    assert sound.first is None
    assert len(sound.values) == 11
    wrong = changed(half, other_operator("body.1.Relu", "Neg"))
    found = bisect_graphs(content, wrong, batches, 50)
    assert found.first is not None
    assert (found.first.node, found.first.operator) == ("body.1.Relu", "Neg")


def test_two_graphs_with_nothing_in_common_are_refused() -> None:
    _, content, batches = exported("residual")
    _, other, _ = exported("pixel_shuffle")
    renamed = changed(other, lambda model: rename_values(model, "other."))
    with pytest.raises(SlsError, match="have no value of the same name and shape"):
        bisect_graphs(content, renamed, batches, 50)


def rename_values(model: onnx.ModelProto, prefix: str) -> None:
    kept = {"input", "output"} | {item.name for item in model.graph.initializer}
    for node in model.graph.node:
        node.input[:] = [name if name in kept else prefix + name for name in node.input]
        node.output[:] = [name if name in kept else prefix + name for name in node.output]
    del model.graph.value_info[:]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_graph_of_one_size_gets_pictures_of_it(batch: int) -> None:
    model, content, batches = exported("residual")

    def fix(proto: onnx.ModelProto) -> None:
        sizes = (batch, 3, 70, 33)
        for axis, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
            axis.dim_value = size

    found = bisect_pytorch(model, changed(content, fix), batches, "fp32")
    assert found.first is None
    assert len(found.values) == 9


def test_sides_are_those_that_the_network_takes() -> None:
    model, content, batches = exported("u_shape")
    assert model.description.multiple == 8
    assert bisect_graphs(content, content, batches[:1], 80, (8, 8)).first is None


def test_a_graph_of_bytes_is_refused() -> None:
    model, content, batches = exported("residual")

    def take_bytes(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
        cast = helper.make_node("Cast", ["input"], ["floats"], to=1)
        for node in proto.graph.node:
            node.input[:] = ["floats" if name == "input" else name for name in node.input]
        proto.graph.node.insert(0, cast)

    with pytest.raises(SlsError, match="takes pictures as bytes"):
        bisect_pytorch(model, changed(content, take_bytes), batches, "fp32")


def test_equal_infinities_are_no_error() -> None:
    mask = np.array([0, -np.inf], np.float32)
    nodes = [
        helper.make_node("Add", ["input", "mask"], ["masked"], "masked"),
        helper.make_node("Max", ["masked", "zero"], ["output"], "last"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [1, 3, None, 2]) for name in ("input", "output")]
    tensors = [
        numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(np.float32(0), "zero")
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    opset = helper.make_opsetid("", 18)
    content = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    batch = Batch(("any",), np.full((1, 3, 4, 2), 0.5, np.float32))
    found = bisect_graphs(content, content, [batch], 80)
    assert [item.psnr_db for item in found.values] == [200, 200]
    assert found.values[0].peak == 0.5
