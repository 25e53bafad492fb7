from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser, shape_inference

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.slim import Slim
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.validate.metrics import psnr

TEXT = """
<ir_version: 10, opset_import: ["": 18]>
net (float[n, 3, h, w] input) => (float[n, 3, h, w] output) <float[3, 1, 1] c = {1, 2, 3}>
{ [act] a = Relu (input) [same] b = Identity (a) [add] output = Add (b, c) }
"""
PICTURES = np.random.default_rng(0).random((1, 3, 6, 8), dtype=np.float32)


def graph(text: str = TEXT) -> ir.Model:
    return ir.from_proto(shape_inference.infer_shapes(parser.parse_model(text)))


def against(reference: ir.Model) -> Callable[[ir.Model], float]:
    """PSNR to what a graph computes, as the export measures it."""
    expected = OnnxRunner(to_bytes(reference)).run(PICTURES)
    return lambda model: psnr(OnnxRunner(to_bytes(model)).run(PICTURES), expected, peak=1)


class Change(ir.passes.InPlacePass):
    """Does to a graph what a function does."""

    def __init__(self, change: Callable[[ir.Graph], object]) -> None:
        super().__init__()
        self._change = change

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self._change(model.graph)
        return ir.passes.PassResult(model, modified=True)


def test_says_what_each_pass_changed() -> None:
    model, (slim, half) = run_passes(graph(), [("slim", Slim()), ("fp16", Half("fp16"))])
    assert (slim.name, slim.modified, slim.nodes_before, slim.nodes_after) == ("slim", True, 3, 2)
    assert (slim.added, slim.removed) == ({}, {"Identity": 1})
    assert (half.added, half.removed) == ({"Cast": 2}, {})
    assert (half.bytes_before, half.bytes_after) == (12, 6)
    assert [node.op_type for node in model.graph] == ["Cast", "Relu", "Add", "Cast"]


def test_passes_over_what_changes_nothing() -> None:
    _, (_, again) = run_passes(graph(), [("slim", Slim()), ("slim", Slim())])
    assert (again.modified, again.added, again.removed) == (False, {}, {})


def test_measures_parity_after_each_pass() -> None:
    passes = [("slim", Slim()), ("fp16", Half("fp16"))]
    _, (slim, half) = run_passes(graph(), passes, against(graph()))
    assert slim.parity_db == float("inf")
    assert half.parity_db is not None
    assert 50 < half.parity_db < 90


def test_does_not_measure_where_it_is_not_asked_to() -> None:
    assert run_passes(graph(), [("slim", Slim())])[1][0].parity_db is None


def test_the_refusal_of_the_check_gets_through() -> None:
    def check(model: ir.Model) -> float:
        raise SlsError("lies too far from PyTorch")

    with pytest.raises(SlsError, match="too far"):
        run_passes(graph(), [("slim", Slim())], check)


def _reverse(model: ir.Graph) -> None:
    nodes = list(model)
    model.remove(nodes[0])
    model.append(nodes[0])


def _unused(model: ir.Graph) -> None:
    tensor = ir.Tensor(np.zeros(2, np.float32), name="left")
    model.register_initializer(ir.Value(name="left", const_value=tensor))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_reverse, r"reads 'a' in 'same' before it is computed"),
        (_unused, r"holds 'left', which nothing uses"),
        (lambda model: setattr(model[1], "name", "act"), r"has the name 'act' 2 times"),
        (lambda model: setattr(model[1].outputs[0], "name", "a"), r"has the name 'a' 2 times"),
        (
            lambda model: model.outputs.__setitem__(0, ir.Value(name="output")),
            r"does not compute its output 'output'",
        ),
    ],
)
def test_refuses_what_a_pass_broke(change: Callable[[ir.Graph], object], message: str) -> None:
    with pytest.raises(SlsError, match=f"the graph after pass 'broken': {message}"):
        run_passes(graph(), [("slim", Change(lambda model: None)), ("broken", Change(change))])


def test_blames_no_pass_for_a_graph_that_came_broken() -> None:
    model = graph()
    _unused(model.graph)
    with pytest.raises(SlsError, match="the graph before all passes"):
        run_passes(model, [("slim", Slim())])
