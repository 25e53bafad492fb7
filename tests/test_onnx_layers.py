from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sls_deploy.export.stored_layers import stored_layers
from sls_deploy.onnx_layers import weight_uses

SPARSE = np.tile(np.float32([1, 0, 0, 2]), (8, 2))
"""2:4 along its rows, dense along its columns."""
KERNEL = SPARSE.reshape(8, 8, 1, 1)


def graph(nodes: Sequence[NodeProto], **tensors: np.ndarray) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return helper.make_model(helper.make_graph(nodes, "net", [], [], stored))


def node(operator: str, *inputs: str, name: str = "", **options: object) -> NodeProto:
    """An operator that gives 'out', or its own name where it has one."""
    return helper.make_node(operator, inputs, [name or "out"], name, **options)


def test_names_that_differ_by_a_suffix_are_two_layers() -> None:
    tensors = {"a": KERNEL, "a.weight": KERNEL + 1}
    nodes = [node("Conv", "x", "a", name="y"), node("Conv", "y", "a.weight", name="z")]
    layers = stored_layers(graph(nodes, **tensors))
    assert [(layer.name, layer.eligible) for layer in layers] == [("a", True), ("a.weight", False)]


def test_nodes_without_names_are_numbered() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["v"]),
        helper.make_node("Conv", ["x", "v"], ["y"]),
        helper.make_node("Conv", ["y", "v"], ["z"]),
    ]
    assert [layer.name for layer in stored_layers(graph(nodes, w=KERNEL))] == ["Conv 1", "Conv 2"]


@pytest.mark.parametrize(
    ("operator", "inputs", "options", "legal"),
    [
        ("MatMul", "wx", {}, True),
        ("MatMul", "xw", {}, False),
        ("Gemm", "wx", {}, True),
        ("Gemm", "wx", {"transA": 1}, False),
        ("Gemm", "wx", {"transB": 1}, True),
        ("Gemm", "xw", {"transB": 1}, True),
    ],
)
def test_what_a_product_sums_along_is_what_must_be_sparse(
    operator: str, inputs: str, options: dict[str, int], legal: bool
) -> None:
    (layer,) = stored_layers(graph([node(operator, *inputs, **options)], w=SPARSE))
    assert (layer.name, layer.shape, layer.legal_2_4) == ("w", (8, 8), legal)


def test_a_product_of_what_the_picture_gives_has_no_weight() -> None:
    nodes = [node("Mul", "w", "x", name="y"), node("MatMul", "x", "y")]
    assert stored_layers(graph(nodes, w=SPARSE)) == ()


@pytest.mark.parametrize("shape", ["fixed", "x"])
@pytest.mark.parametrize("inputs", [("x", "r"), ("r", "x")])
def test_a_constant_that_is_not_followed_is_named(shape: str, inputs: tuple[str, str]) -> None:
    nodes = [node("Reshape", "w", shape, name="r"), node("MatMul", *inputs, name="product")]
    (layer,) = stored_layers(graph(nodes, w=SPARSE, fixed=np.array([8, 8])))
    assert (layer.name, layer.shape) == ("product", ())
    assert layer.reason == "its weights come through Reshape, which is not followed"


def test_layers_inside_of_operators_are_named() -> None:
    inner = helper.make_graph(
        [node("Conv", "x", "w", name="hidden"), node("MatMul", "x", "x", name="attention")],
        "then",
        [],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None)],
    )
    choice = node("If", "c", name="choice", then_branch=inner, else_branch=inner)
    uses = list(weight_uses(graph([choice], w=KERNEL)))
    assert [use.node for use in uses] == ["hidden", "hidden"]
    assert uses[0].reason == "it stands inside of If, which is not looked into"
