from __future__ import annotations

import numpy as np
import pytest

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.passes.half import Half
from tests.export.exported_graphs import exported
from tests.export.half_graphs import (
    FLOAT,
    HALF,
    LAYERS,
    convert,
    graph,
    initializer_types,
    operators,
    run,
    words,
)


def test_kept_operators_stay_fp32_with_casts_around_them() -> None:
    proto = convert(graph(*LAYERS), keep=["second"])
    assert operators(proto) == words("Cast Conv Relu Cast Conv Cast Add Conv Cast")
    assert initializer_types(proto) == {"weight": FLOAT, "weight.float16": HALF}


def test_no_cast_stands_between_kept_operators() -> None:
    proto = convert(graph(*LAYERS), keep=["act", "second", "sum"])
    assert operators(proto) == words("Cast Conv Cast Relu Conv Add Cast Conv Cast")


def test_a_value_goes_through_one_cast_for_all_that_read_it() -> None:
    proto = convert(graph(*LAYERS), keep=["second", "sum"])
    assert operators(proto) == words("Cast Conv Relu Cast Conv Add Cast Conv Cast")


def test_kept_ends_need_no_cast() -> None:
    proto = convert(graph(*LAYERS), keep=["first", "third"])
    assert operators(proto) == words("Conv Cast Relu Conv Add Cast Conv")


def test_with_everything_kept_nothing_changes() -> None:
    keep = ["first", "act", "second", "sum", "third"]
    assert not Half("fp16", keep)(graph(*LAYERS)).modified


def test_keeping_twice_changes_nothing_more() -> None:
    once = Half("fp16", ["second"])(graph(*LAYERS)).model
    before = to_bytes(once)
    assert not Half("fp16", ["second"])(once).modified
    assert to_bytes(once) == before


def test_refuses_to_keep_what_is_not_there() -> None:
    with pytest.raises(SlsError, match="fourth: is no operator of the graph"):
        convert(graph(*LAYERS), keep=["first", "fourth"])


def test_a_kept_operator_may_hold_what_fp16_cannot() -> None:
    body = "[act] act = Relu (input) [add] output = Add (act, big)"
    model = graph(body, "float[1] big = {1e6}")
    expected = run(model)
    assert np.array_equal(run(convert(model, keep=["act", "add"])), expected)


def test_kept_operators_compute_what_fp32_does() -> None:
    model = exported("residual")
    names = [node.name for node in model.graph if node.name]
    exact, half = run(model), run(convert(model.clone()))
    mostly = run(convert(model.clone(), keep=names[:-2]))
    assert 0 < np.abs(mostly - exact).max() < np.abs(half - exact).max()
