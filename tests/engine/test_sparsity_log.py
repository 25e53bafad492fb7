from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.engine.sparsity_log import SparsityLog, is_named, nodes_of, read_sparsity_log

LOGS = Path(__file__).parent / "logs"


def lines_of(name: str) -> list[str]:
    """A real log, without the line that names its source."""
    source, *lines = (LOGS / f"{name}.txt").read_text("utf-8").splitlines()
    assert source.startswith("# ")
    return lines


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tensorrt_8.0_issue_1403", SparsityLog(1, 0, ("Conv_0",), ())),
        ("tensorrt_8_torch_tensorrt_1340", SparsityLog(0, 0, (), ())),
        (
            "tensorrt_8_documentation",
            SparsityLog(3, 2, ("conv1", "conv2", "conv3"), ("conv2", "conv3")),
        ),
        ("tensorrt_10.3_orin", SparsityLog(39, 0, (), ())),
        ("tensorrt_10.14_form", SparsityLog()),
    ],
)
def test_counts_and_names_are_read_from_real_logs(name: str, expected: SparsityLog) -> None:
    assert read_sparsity_log(lines_of(name)) == expected


def test_layers_that_tensorrt_fused_are_one_name() -> None:
    log = read_sparsity_log(lines_of("tensorrt_8_issue_4056"))
    assert (log.eligible, log.chosen) == (12, None)
    assert log.eligible_names[0] == "MatMul_401"
    assert log.eligible_names[6] == "Conv_621 + Add_627 + Relu_628"


def test_the_documented_form_of_10_and_11_gives_counts_and_names() -> None:
    found, chose = lines_of("tensorrt_10.14_form")
    lines = [
        found.replace("N", "3", 1).replace("...", "a + relu, b, c [ONNX Layer: c]"),
        chose.replace("M", "1", 1).replace("...", "b"),
    ]
    log = read_sparsity_log(lines)
    assert log == SparsityLog(3, 1, ("a + relu", "b", "c [ONNX Layer: c]"), ("b",))


def test_the_last_of_several_passes_counts() -> None:
    first, last = lines_of("tensorrt_8.0_issue_1403"), lines_of("tensorrt_10.3_orin")
    assert read_sparsity_log(first + last) == read_sparsity_log(last)


def test_a_log_without_sparsity_says_nothing() -> None:
    lines = ["Some tactics do not have enough workspace memory", "(Sparsity) something else"]
    assert read_sparsity_log(lines) == SparsityLog()


def test_a_comma_inside_of_brackets_does_not_part_names() -> None:
    line = "(Sparsity) Layers eligible for sparse math: a + PWN(b, c), d"
    assert read_sparsity_log([line]).eligible_names == ("a + PWN(b, c)", "d")


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("conv", {"conv"}),
        ("Conv_621 + Add_627 + Relu_628", {"Conv_621", "Add_627", "Relu_628"}),
        ("first || second", {"first", "second"}),
        # Names of TensorRT for RTX 1.7, from its own description of an engine of RFDN.
        ("fea_conv.Conv_U4_myl0_3", {"fea_conv.Conv", "fea_conv.Conv_U4"}),
        ("/classifier/Gemm_myl9_4", {"/classifier/Gemm"}),
        ("__myl_CorrMulMax_myl0_5 [ONNX Layer: B1.c1_r.Conv][ONNX Layer: B1.Add]",
         {"B1.c1_r.Conv", "B1.Add"}),
        ("any [ONNX Layer: a]\x1e[ONNX Layer: b]\x1e", {"a", "b"}),
    ],
)  # fmt: skip
def test_nodes_are_found_in_the_vendors_names(name: str, nodes: set[str]) -> None:
    assert set(nodes_of(name)) == nodes


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (("conv + relu",), 1, True),
        (("conv",), 5, True),
        (("other",), 1, False),
        ((), 0, False),
        ((), 39, None),
        ((), None, None),
        (("other",), 2, None),
        (("unknown_myl0_1",), 1, None),
    ],
    ids=["fused", "among others", "another", "none", "only a count", "silence", "some", "foreign"],
)
def test_a_layer_is_not_chosen_only_where_all_names_are_understood(
    names: tuple[str, ...], count: int | None, expected: bool | None
) -> None:
    assert is_named("conv", names, count, {"conv", "other"}) is expected
