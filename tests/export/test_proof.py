from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from sls_deploy.errors import SlsError
from sls_deploy.export.proof import prove
from tests.export.one_layer import LEGAL, NAME, PRUNED, prove_one, write

DENSE = np.ones((2, 8, 1, 1), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_a_legal_layer_is_eligible(path: Path) -> None:
    proof = prove_one(write(path, {NAME: LEGAL}), LEGAL, [PRUNED])
    assert proof.eligible
    assert proof.pruned
    assert (proof.name, proof.nonzero, proof.reason) == ("layer", 0.5, "")


@pytest.mark.parametrize(
    ("weight", "groups", "reason"),
    [
        (DENSE, 1, "its weights are not 2:4"),
        (LEGAL[:, :6], 1, "its 6 input channels are not a multiple of 4"),
        (DENSE[:, :6], 1, "its 6 input channels are not a multiple of 4, its weights are not 2:4"),
        (LEGAL, 2, "it has 2 convolution groups"),
    ],
)
def test_says_why_a_layer_is_not_eligible(
    path: Path, weight: np.ndarray, groups: int, reason: str
) -> None:
    proof = prove_one(write(path, {NAME: weight}, group=groups), weight)
    assert not proof.eligible
    assert proof.reason == reason


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_may_be_legal_but_never_eligible(path: Path, groups: int) -> None:
    # [C_in, C_out / groups, 1, 1]: two of every four consecutive inputs of a group are zero.
    weight = np.zeros((8, 3, 1, 1), np.float32)
    weight[[0, 3, 5, 6]] = 1.5
    proof = prove_one(write(path, {NAME: weight}, "ConvTranspose", group=groups), weight)
    assert proof.shape == (3 * groups, 8 // groups, 1, 1)
    assert proof.legal_2_4
    assert not proof.eligible
    assert "it is a transposed convolution" in proof.reason
    weight[1, 0] = 1
    proof = prove_one(write(path, {NAME: weight}, "ConvTranspose", group=groups), weight)
    assert not proof.legal_2_4


def test_a_matrix_product_is_found_by_its_node(path: Path) -> None:
    weight = LEGAL[:, :, 0, 0]
    write(path, {"val_3": weight.T.copy()}, "MatMul", inputs=["val_3"])
    proof = prove_one(path, weight, [PRUNED])
    assert (proof.name, proof.shape, proof.eligible) == ("layer", (2, 8), True)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_has_its_filters_in_rows_or_columns(path: Path, transposed: int) -> None:
    weight = LEGAL[:, :, 0, 0]
    stored = weight if transposed else weight.T.copy()
    proof = prove_one(write(path, {NAME: stored}, "Gemm", transB=transposed), stored)
    assert (proof.shape, proof.legal_2_4) == ((2, 8), True)


def test_a_batch_of_matrices_is_sparse_along_what_is_summed(path: Path) -> None:
    # [batch, C_in, C_out]: 2:4 down the columns, all ones along them.
    weight = np.zeros((3, 8, 4), np.float32)
    weight[:, [0, 3, 5, 6]] = 1
    proof = prove_one(write(path, {NAME: weight}, "MatMul"), weight)
    assert (proof.shape, proof.eligible) == ((12, 8), True)


def test_a_product_with_a_vector_has_no_filters(path: Path) -> None:
    vector = np.ones(8, np.float32)
    assert prove(write(path, {NAME: vector}, "MatMul"), {NAME: vector}, []) == ()


@pytest.mark.parametrize(
    ("dtype", "precision", "tiny"),
    [(np.float16, "fp16", 1e-9), (ml_dtypes.bfloat16, "bf16", 1e-45)],
)
def test_counts_what_rounding_adds_to_the_zeros(
    path: Path, dtype: type, precision: str, tiny: float
) -> None:
    source = np.where(LEGAL == 1.5, np.float32(tiny), LEGAL)
    proof = prove_one(write(path, {NAME: source.astype(dtype)}), source)
    assert (proof.precision, proof.rounded_to_zero, proof.nonzero) == (precision, 4, 0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("place", "what"), [(0, "differs"), (1, "where the search left zeros")])
def test_refuses_one_changed_weight(path: Path, place: int, what: str, dtype: type) -> None:
    changed = LEGAL.copy()
    changed[0, place] += 0.25
    write(path, {NAME: changed.astype(dtype)})
    with pytest.raises(SlsError, match=rf"layer\.weight: .*{what}"):
        prove_one(path, LEGAL)


def test_finds_a_weight_in_a_file_of_its_own(path: Path) -> None:
    write(path, {NAME: LEGAL})
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert prove_one(path, LEGAL, [PRUNED]).eligible
    stored = bytearray((path.parent / "weights.bin").read_bytes())
    stored[2] ^= 1
    (path.parent / "weights.bin").write_bytes(stored)
    with pytest.raises(SlsError, match=r"layer\.weight: differs"):
        prove_one(path, LEGAL)


def chain(*steps: tuple[str, dict[str, Any]]) -> list[onnx.NodeProto]:
    """Operators one behind the other, from the weight to 'end'."""
    names = [NAME, *(f"step{at}" for at in range(len(steps) - 1)), "end"]
    return [
        helper.make_node(operator, [names[at]], [names[at + 1]], f"n{at}", **options)
        for at, (operator, options) in enumerate(steps)
    ]


def test_follows_casts_and_transpositions(path: Path) -> None:
    stored = LEGAL.transpose(1, 2, 3, 0).copy()
    steps = chain(
        ("Identity", {}), ("Transpose", {"perm": [3, 0, 1, 2]}), ("Cast", {"to": 10}),
        ("Transpose", {}), ("Transpose", {"perm": [3, 2, 1, 0]}),
    )  # fmt: skip
    proof = prove_one(write(path, {NAME: stored}, before=steps, inputs=["end"]), stored)
    assert (proof.shape, proof.precision, proof.eligible) == ((2, 8, 1, 1), "fp16", True)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_refuses_a_weight_that_the_graph_computes(path: Path, operator: str) -> None:
    write(path, {NAME: LEGAL}, operator, chain(("Neg", {})), ["end"])
    with pytest.raises(SlsError, match=r"layer\.node: has weights that cannot be proved: .* Neg"):
        prove_one(path, LEGAL)


def test_refuses_another_shape(path: Path) -> None:
    write(path, {NAME: LEGAL[:, :4].copy()})
    with pytest.raises(SlsError, match=r"has shape \[2, 4, 1, 1\] where the search has \[2, 8"):
        prove_one(path, LEGAL)


def test_refuses_a_file_without_a_pruned_layer(path: Path) -> None:
    write(path, {NAME: LEGAL})
    with pytest.raises(SlsError, match="does not hold the layers other"):
        prove_one(path, LEGAL, [{"name": "other", "kept": 2, "of": 4}])


@pytest.mark.parametrize(
    ("row", "sound"),
    [({}, False), ({"uses": 2}, False), ({"uses": 0}, True), ({"parameter": ""}, True)],
)
def test_a_dense_layer_is_there_if_the_picture_depends_on_it(
    path: Path, row: dict[str, Any], sound: bool
) -> None:
    weights = {NAME: LEGAL, "other.weight": DENSE}
    ratios = [PRUNED, {"name": "other", "kept": 4, "of": 4, **row}]
    write(path, {NAME: LEGAL})
    if sound:
        assert [proof.name for proof in prove(path, weights, ratios)] == ["layer"]
    else:
        with pytest.raises(SlsError, match="does not hold the layers other"):
            prove(path, weights, ratios)


def test_a_dense_weight_may_be_read_by_other_operators(path: Path) -> None:
    reader = helper.make_node("Neg", ["other.weight"], ["unread"])
    write(path, {NAME: LEGAL, "other.weight": DENSE}, before=[reader])
    other = {"name": "other", "kept": 4, "of": 4}
    weights = {NAME: LEGAL, "other.weight": DENSE}
    assert len(prove(path, weights, [PRUNED, other])) == 1
    with pytest.raises(SlsError, match=r"other\.weight: differs"):
        prove(path, {**weights, "other.weight": DENSE * 2}, [PRUNED, other])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_of_another_name_is_one_of_the_searchs(path: Path, dtype: type) -> None:
    weights = {"first.weight": DENSE, "second.kernel": LEGAL, "second.bias": np.ones(16)}
    write(path, {"q": LEGAL.astype(dtype)}, inputs=["q"])
    (proof,) = prove(path, weights, [])
    assert (proof.name, proof.eligible) == ("second.kernel", True)
    changed = LEGAL.astype(dtype)
    changed[0, 0] += dtype(0.25)
    write(path, {"q": changed}, inputs=["q"])
    with pytest.raises(SlsError, match="q: is a weight that the search does not have"):
        prove(path, weights, [])


def test_the_namesake_of_a_renamed_weight_is_compared_too(path: Path) -> None:
    reader = helper.make_node("Neg", [NAME], ["unread"])
    write(path, {"q": LEGAL, NAME: DENSE}, before=[reader], inputs=["q"])
    with pytest.raises(SlsError, match=r"layer\.weight: differs"):
        prove_one(path, LEGAL)


def test_a_layer_is_legal_only_if_every_use_is(path: Path) -> None:
    # Rows are 2:4, columns are not.
    square = np.tile(np.float32([[1, 0, 0, 2]]), (4, 1))
    first = helper.make_node("MatMul", [NAME, "input"], ["between"], "first")
    write(path, {NAME: square}, "MatMul", [first])
    (proof,) = prove(path, {NAME: square}, [])
    assert (proof.nodes, proof.legal_2_4) == (("first", "layer.node"), False)


@pytest.mark.parametrize("content", [None, b"no graph"])
def test_refuses_what_is_no_file_of_onnx(path: Path, content: bytes | None) -> None:
    if content:
        path.write_bytes(content)
    with pytest.raises(SlsError, match=r"no such file|is not an ONNX file"):
        prove(path, {}, [])
