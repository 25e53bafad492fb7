from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.engine.evidence import LayerEvidence, judge
from sls_deploy.engine.sparsity_log import SparsityLog
from sls_deploy.engine.tactics import LayerTactic, read_tactics, runs_sparse, with_tactics
from sls_deploy.errors import SlsError

LOGS = Path(__file__).parent / "logs"


def information(name: str) -> str:
    """What an inspector told, without the line that names its source."""
    source, _, text = (LOGS / f"{name}.txt").read_text("utf-8").partition("\n")
    assert source.startswith("# ")
    return text


def layer(name: str) -> LayerEvidence:
    return LayerEvidence(
        name, "Conv", f"{name}.weight", "fp16", 64, 1, legal_2_4=True, eligible=True, reason="",
        bytes_in_plan=True,
    )  # fmt: skip


def told(*tactics: tuple[str, str, bool | None]) -> list[LayerTactic]:
    return [LayerTactic(name, (name,), tactic, sparse) for name, tactic, sparse in tactics]


def test_a_sparse_kernel_is_known_by_its_name_and_not_by_its_weights() -> None:
    sparse, dense = read_tactics(information("inspector_10.1_issue_4020"))
    assert sparse.tactic.startswith("sm80_xmma_fprop_avdt_sparse_int8int8")
    assert sparse.nodes == ("resnetv15_stage3_conv4_fwd", "resnetv15_stage3_batchnorm4_fwd")
    assert sparse.sparse is True
    assert (dense.nodes, dense.sparse) == (("resnetv15_dense0_fwd",), False)


def test_nodes_come_from_the_name_where_there_is_no_metadata() -> None:
    (only,) = read_tactics(information("inspector_8_documentation"))
    assert only.nodes[0] == "node_of_gpu_0/res4_0_branch2a_1"
    assert only.sparse is False


def test_an_engine_that_gives_names_alone_gives_no_kernels() -> None:
    tactics = read_tactics(information("inspector_10.1_names_only"))
    assert len(tactics) == 3
    assert {(item.tactic, item.sparse) for item in tactics} == {("", None)}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"TacticName": "sm86_xmma_gemm_f16f16_sptensor16x8x32"}, True),
        ({"TacticName": "sm86_xmma_gemm_f16f16_tensor16x8x16"}, False),
        ({"TacticName": "", "HasSparseWeights": 0}, False),
        ({"TacticName": "", "HasSparseWeights": 1}, None),
        ({"TacticName": "__myelin_CASK_STUB"}, None),
        ({"TacticName": "__myl_MulMoveCastConc_0xaf3f36cf"}, None),
        ({}, None),
    ],
)
def test_names_that_tell_nothing_are_unknown(
    described: dict[str, object], expected: bool | None
) -> None:
    text = json.dumps({"Layers": [{"Name": "sparse_conv", **described}]})
    assert read_tactics(text)[0].sparse is expected


@pytest.mark.parametrize("kind", ["Reformat", "NoOp", "kgen", "signal"])
def test_layers_that_hold_no_weight_are_left_out(kind: str) -> None:
    text = json.dumps({"Layers": [{"Name": "Reformatting x + conv", "LayerType": kind}]})
    assert read_tactics(text) == ()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": [3]}', '{"Layers": [{}]}'])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(SlsError, match="in a form that is not known"):
        read_tactics(text)


def test_one_sparse_kernel_is_proof_of_l3() -> None:
    before = judge((layer("a"), layer("b")), SparsityLog())
    assert before.level == "L1"
    evidence = with_tactics(before, told(("a", "x_sparse", True), ("b", "x_dense", False)))
    assert [(item.chosen, item.tactic) for item in evidence.layers] == [
        (True, "x_sparse"),
        (False, "x_dense"),
    ]
    assert evidence.level == "L3"
    assert evidence.statement.startswith("TensorRT chose a sparse kernel for 1 layers")


DISAGREE = "TensorRT's log and the name of the kernel disagree"


@pytest.mark.parametrize(
    ("log", "name", "chosen", "note"),
    [
        (True, True, True, ""),
        (True, False, True, DISAGREE),
        (True, None, True, ""),
        (False, True, True, DISAGREE),
        (False, False, False, ""),
        (False, None, False, ""),
        (None, True, True, ""),
        (None, False, False, ""),
        (None, None, None, ""),
    ],
)
def test_the_name_of_a_kernel_does_not_overrule_what_tensorrt_said(
    log: bool | None, name: bool | None, chosen: bool | None, note: str
) -> None:
    before = judge((replace(layer("a"), chosen=log),), SparsityLog())
    (found,) = with_tactics(before, told(("a", "kernel", name))).layers
    assert (found.chosen, found.tactic, found.note) == (chosen, "kernel", note)


def test_the_table_and_the_statement_say_the_same() -> None:
    named = (replace(layer("a"), chosen=True, note="few channels"), layer("b"))
    log = SparsityLog(eligible=2, chosen=1, eligible_names=("a", "b"), chosen_names=("a",))
    evidence = with_tactics(judge(named, log), told(("a", "x_dense", False)))
    assert evidence.statement.startswith("TensorRT chose a sparse kernel for 1 layers")
    assert evidence.layers[0].chosen is True
    assert evidence.layers[0].note == f"few channels; {DISAGREE}"


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ((False, True), True),
        ((None, True), True),
        ((False, None), False),
        ((None,), None),
        ((), None),
    ],
)
def test_an_engine_is_known_by_the_kernels_that_are_told(
    kernels: tuple[bool | None, ...], expected: bool | None
) -> None:
    assert runs_sparse(told(*(("a", "kernel", sparse) for sparse in kernels))) is expected


def test_dense_kernels_are_named_and_prove_no_more_than_before() -> None:
    before = judge((layer("a"), layer("b")), SparsityLog())
    evidence = with_tactics(before, told(("a", "x_dense", False)))
    assert evidence.level == "L1"
    assert evidence.statement.endswith("dense kernels run 1 of 2 eligible layers")


def test_an_engine_that_names_no_kernels_is_not_said_to_wait_for_a_gpu() -> None:
    evidence = with_tactics(judge((layer("a"),), SparsityLog()), told(("a", "", None)))
    assert (evidence.level, evidence.layers[0].chosen) == ("L1", None)
    assert evidence.statement.endswith("the loaded engine does not name the kernels")


@pytest.mark.parametrize(
    ("others", "expected"),
    [((True, False), True), ((False, None), None), ((None, True), True), ((False, False), False)],
)
def test_of_several_layers_of_one_node_the_unknown_one_forbids_no(
    others: tuple[bool | None, ...], expected: bool | None
) -> None:
    tactics = told(*(("a", f"kernel {sparse}", sparse) for sparse in others))
    evidence = with_tactics(judge((layer("a"),), SparsityLog()), tactics)
    assert evidence.layers[0].chosen is expected
