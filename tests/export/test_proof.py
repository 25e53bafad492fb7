from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.proof import LayerProof, prove

LEGAL = np.tile(np.array([1.5, 0, 0, -2.5], np.float32), 4).reshape(2, 8, 1, 1)
DENSE = np.ones((2, 8, 1, 1), np.float32)
PRUNED = {"name": "layer", "kept": 2, "of": 4}
SCALE = np.array([2.5 / 127, 0.03], np.float32)
INTEGERS = np.rint(LEGAL / SCALE.reshape(2, 1, 1, 1)).astype(np.int8)
NAME = "layer.weight"


def write(
    path: Path,
    tensors: dict[str, np.ndarray],
    operator: str = "Conv",
    before: Sequence[onnx.NodeProto] = (),
    inputs: Sequence[str] = (NAME,),
    **options: Any,
) -> Path:
    """One layer; nodes may stand between its weight and the initialiser."""
    node = helper.make_node(operator, ["input", *inputs], ["output"], "layer.node", **options)
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("input", "output")
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph([*before, node], "net", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def write_int8(path: Path, integers: np.ndarray = INTEGERS, **more: np.ndarray) -> Path:
    """The layer with its weight behind a DequantizeLinear, then a Cast."""
    names = [NAME, "scale", *(["zero"] if "zero" in more else [])]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["floats"], "dq", axis=0),
        helper.make_node("Cast", ["floats"], ["halves"], "cast", to=TensorProto.FLOAT16),
    ]
    tensors = {NAME: integers, "scale": SCALE, **more}
    bias = [name for name in more if name.endswith(".bias")]
    return write(path, tensors, before=nodes, inputs=["halves", *bias])


def prove_one(
    path: Path, source: np.ndarray, ratios: list[dict[str, Any]] | None = None
) -> LayerProof:
    (proof,) = prove(path, {NAME: source}, ratios or [])
    return proof


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
    with pytest.raises(SlsError, match=r"layer\.node: has weights that the graph computes"):
        prove_one(path, LEGAL)


def test_int8_is_proved_on_its_integers(path: Path) -> None:
    proof = prove_one(write_int8(path, zero=np.zeros(2, np.int8)), LEGAL, [PRUNED])
    assert (proof.precision, proof.nonzero, proof.eligible) == ("int8", 0.5, True)
    small = np.where(LEGAL == 1.5, np.float32(0.004), LEGAL)
    coarse = np.rint(small / SCALE.reshape(2, 1, 1, 1)).astype(np.int8)
    assert prove_one(write_int8(path, coarse), small).rounded_to_zero == 4


@pytest.mark.parametrize("change", [1, -1, 64])
@pytest.mark.parametrize("place", range(8))
def test_a_flipped_integer_is_found(path: Path, place: int, change: int) -> None:
    integers = INTEGERS.astype(np.int16)
    integers[1, place] += change
    what = "zeros" if LEGAL[1, place] == 0 else "more than half a step"
    with pytest.raises(SlsError, match=rf"layer\.weight: .*{what}"):
        prove_one(write_int8(path, integers.clip(-128, 127).astype(np.int8)), LEGAL)


@pytest.mark.parametrize(
    ("weight", "integer", "sound"),
    [(99.0, 127, True), (-99.0, -127, True), (-99.0, -128, True), (-3.81, -128, False)],
)
def test_what_the_scale_cannot_reach_ends_at_the_limit(
    path: Path, weight: float, integer: int, sound: bool
) -> None:
    source, integers = LEGAL.copy(), INTEGERS.copy()
    source[1, 0], integers[1, 0] = weight, integer
    write_int8(path, integers)
    if sound:
        assert prove_one(path, source).precision == "int8"
    else:
        with pytest.raises(SlsError, match="more than half a step"):
            prove_one(path, source)


def test_a_flipped_scale_is_found(path: Path) -> None:
    with pytest.raises(SlsError, match="more than half a step"):
        prove_one(write_int8(path, scale=SCALE * np.float32([1, 2])), LEGAL)


def test_a_filter_of_zeros_may_have_no_scale(path: Path) -> None:
    source, integers = LEGAL.copy(), INTEGERS.copy()
    source[1], integers[1] = 0, 0
    assert prove_one(write_int8(path, integers, scale=SCALE * np.float32([1, 0])), source).legal_2_4


def test_refuses_a_zero_point(path: Path) -> None:
    with pytest.raises(SlsError, match=r"layer\.weight: has a zero point other than 0"):
        prove_one(write_int8(path, zero=np.array([0, 3], np.int8)), LEGAL)


def test_refuses_scales_that_do_not_fit(path: Path) -> None:
    with pytest.raises(SlsError, match=r"dq: cannot be applied to 'layer\.weight'"):
        prove_one(write_int8(path, scale=np.ones(3, np.float32)), LEGAL)


def test_a_weight_that_is_quantised_in_the_graph_counts_as_int8(path: Path) -> None:
    pair = [
        helper.make_node("QuantizeLinear", [NAME, "scale", "zero"], ["q"], "q", axis=0),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["end"], "dq", axis=0),
    ]
    tensors = {NAME: LEGAL, "scale": SCALE, "zero": np.zeros(2, np.int8)}
    proof = prove_one(write(path, tensors, before=pair, inputs=["end"]), LEGAL)
    assert (proof.precision, proof.eligible) == ("int8", True)


@pytest.mark.parametrize(
    ("maker", "sound"),
    [
        (lambda path, bias: write_int8(path, **{"layer.bias": bias}), True),
        (
            lambda path, bias: write(
                path, {NAME: LEGAL, "layer.bias": bias}, inputs=[NAME, "layer.bias"]
            ),
            False,
        ),
    ],
)
def test_only_int8_may_correct_a_bias(
    path: Path, maker: Callable[[Path, np.ndarray], Path], sound: bool
) -> None:
    maker(path, np.array([1, 2], np.float32))
    weights = {NAME: LEGAL, "layer.bias": np.array([1, 3], np.float32)}
    if sound:
        assert len(prove(path, weights, [])) == 1
    else:
        with pytest.raises(SlsError, match=r"layer\.bias: differs"):
            prove(path, weights, [])


def test_refuses_another_shape(path: Path) -> None:
    write(path, {NAME: LEGAL[:, :4].copy()})
    with pytest.raises(SlsError, match=r"has shape \[2, 4, 1, 1\] where the search has \[2, 8"):
        prove_one(path, LEGAL)


def test_refuses_a_file_without_a_pruned_layer(path: Path) -> None:
    write(path, {NAME: LEGAL})
    with pytest.raises(SlsError, match="pruned layers other"):
        prove_one(path, LEGAL, [{"name": "other", "kept": 2, "of": 4}])


@pytest.mark.parametrize("content", [None, b"no graph"])
def test_refuses_what_is_no_file_of_onnx(path: Path, content: bytes | None) -> None:
    if content:
        path.write_bytes(content)
    with pytest.raises(SlsError, match=r"no such file|is not an ONNX file"):
        prove(path, {}, [])
