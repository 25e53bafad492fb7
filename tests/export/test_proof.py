from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.proof import LayerProof, prove

RANDOM = np.random.default_rng(0)
LEGAL = np.tile(np.array([1.5, 0, 0, -2.5], np.float32), 4).reshape(2, 8, 1, 1)
DENSE = np.ones((2, 8, 1, 1), np.float32)
PRUNED = {"name": "layer", "kept": 2, "of": 4}


def write(
    path: Path,
    weight: np.ndarray,
    operator: str = "Conv",
    name: str = "layer.weight",
    **options: Any,
) -> Path:
    node = helper.make_node(operator, ["input", name], ["output"], "layer.node", **options)
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("input", "output")
    ]
    graph = helper.make_graph(
        [node], "net", ends[:1], ends[1:], [numpy_helper.from_array(weight, name)]
    )
    onnx.save(helper.make_model(graph), path)
    return path


def prove_one(
    path: Path, source: np.ndarray, ratios: list[dict[str, Any]] | None = None
) -> LayerProof:
    (proof,) = prove(path, {"layer.weight": source}, ratios or [])
    return proof


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_a_legal_layer_is_eligible(path: Path) -> None:
    proof = prove_one(write(path, LEGAL), LEGAL, [PRUNED])
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
    proof = prove_one(write(path, weight, group=groups), weight)
    assert not proof.eligible
    assert proof.reason == reason


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_may_be_legal_but_never_eligible(path: Path, groups: int) -> None:
    # [C_in, C_out / groups, 1, 1]: two of every four consecutive inputs of a group are zero.
    weight = np.zeros((8, 3, 1, 1), np.float32)
    weight[[0, 3, 5, 6]] = 1.5
    proof = prove_one(write(path, weight, "ConvTranspose", group=groups), weight)
    assert proof.shape == (3 * groups, 8 // groups, 1, 1)
    assert proof.legal_2_4
    assert not proof.eligible
    assert "it is a transposed convolution" in proof.reason
    weight[1, 0] = 1
    proof = prove_one(write(path, weight, "ConvTranspose", group=groups), weight)
    assert not proof.legal_2_4


def test_a_matrix_product_is_found_by_its_node(path: Path) -> None:
    weight = LEGAL[:, :, 0, 0]
    proof = prove_one(write(path, weight.T.copy(), "MatMul", "val_3"), weight, [PRUNED])
    assert (proof.name, proof.shape, proof.eligible) == ("layer", (2, 8), True)


def test_a_product_with_a_vector_has_no_filters(path: Path) -> None:
    vector = np.ones(8, np.float32)
    assert prove(write(path, vector, "MatMul"), {"layer.weight": vector}, []) == ()


def test_counts_what_fp16_rounds_to_zero(path: Path) -> None:
    source = np.where(LEGAL == 1.5, np.float32(1e-9), LEGAL)
    proof = prove_one(write(path, source.astype(np.float16)), source)
    assert (proof.rounded_to_zero, proof.nonzero) == (4, 0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("place", [0, 1])
def test_refuses_one_changed_weight(path: Path, place: int, dtype: type) -> None:
    changed = LEGAL.copy()
    changed[0, place] += 0.25
    write(path, changed.astype(dtype))
    with pytest.raises(SlsError, match=r"layer\.weight: differs"):
        prove_one(path, LEGAL)


def test_refuses_a_file_without_a_pruned_layer(path: Path) -> None:
    write(path, LEGAL)
    with pytest.raises(SlsError, match="pruned layers other"):
        prove_one(path, LEGAL, [{"name": "other", "kept": 2, "of": 4}])


@pytest.mark.parametrize("content", [None, b"no graph"])
def test_refuses_what_is_no_file_of_onnx(path: Path, content: bytes | None) -> None:
    if content:
        path.write_bytes(content)
    with pytest.raises(SlsError, match="cannot be read as ONNX"):
        prove(path, {}, [])
