from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.errors import SlsError
from sls_deploy.export.stored_layers import stored_layers
from sls_deploy.onnx_file import facts, read_model

WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
Change = Callable[[onnx.ModelProto], object]


def network() -> onnx.ModelProto:
    """A convolution with an int8 weight and one with a Constant beside it."""
    scale = np.full(4, 0.01, np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["a.weight", "a.scale"], ["aw"], "a.dq", axis=0),
        helper.make_node("Conv", ["input", "aw"], ["a"], "a.Conv", pads=[1] * 4),
        helper.make_node("Conv", ["a", "b.weight"], ["b"], "b.Conv", pads=[1] * 4),
        helper.make_node("Constant", [], ["two"], "two", value=numpy_helper.from_array(scale[:1])),
        helper.make_node("Mul", ["b", "two"], ["output"], "last.Mul"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, "h", "w"])
        for name in ("input", "output")
    ]
    weights = {"a.weight": np.rint(WEIGHT * 9).astype(np.int8), "a.scale": scale}
    tensors = [
        numpy_helper.from_array(array, name)
        for name, array in (*weights.items(), ("b.weight", WEIGHT))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    helper.set_model_props(model, {"sls_deploy.budget": "0.5", "author": "me"})
    return model


CONTENT = network().SerializeToString()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def write(path: Path, change: Change = lambda model: None) -> Path:
    model = network()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def check_refused(path: Path, expected: str) -> None:
    with pytest.raises(SlsError, match=expected) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_sound_file_is_read(path: Path) -> None:
    assert read_model(write(path)) == network()


def test_facts_are_those_of_the_export(path: Path) -> None:
    assert facts(network()) == {"budget": "0.5"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is an empty file"),
        (b"hello world" * 20, "is not an ONNX file"),
        (CONTENT[:500], "is not an ONNX file, or only a part of one"),
        (b"\x08\x0a", "is not an ONNX file with a network in it"),
        (CONTENT.replace(b"a.Conv", b"a.\xff\xfe\xfdv"), "holds names that are no text"),
    ],
)
def test_what_is_no_graph_is_refused(path: Path, content: bytes, expected: str) -> None:
    path.write_bytes(content)
    check_refused(path, expected)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere.onnx", "no such file")
    check_refused(tmp_path, "is not a file")


def test_a_huge_file_is_refused_unread(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    check_refused(path, "is 2 GiB or larger")


def rename(model: onnx.ModelProto, index: int, name: str) -> None:
    model.graph.node[index].input[0] = name


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "b"


def of_weight() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("b.weight", TensorProto.FLOAT, WEIGHT.shape)


def replaced(index: int, array: np.ndarray) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[index]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def add_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="mine")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 99), "uses opset 99"),
        (lambda m: setattr(m.opset_import[0], "version", 8), "uses opset 8.*from 9 to 25"),
        (lambda m: m.ClearField("opset_import"), "names no opset"),
        (lambda m: setattr(m, "ir_version", 99), "unknown version of ONNX"),
        (lambda m: setattr(m.graph.node[1], "domain", "my.ops"), "Conv 'a.Conv' of 'my.ops'"),
        (lambda m: setattr(m.graph.node[1], "op_type", "Konv"), "uses Konv 'a.Conv' wrongly"),
        (lambda m: setattr(m.graph.node[1].attribute[0], "name", "pad"), "attribute: pad"),
        (lambda m: rename(m, 2, "lost"), "'b.Conv' reads 'lost', which nothing before it provides"),
        (cycle, "'a.Conv' reads 'b', which nothing before it provides"),
        (lambda m: m.graph.initializer.pop(2), "'b.Conv' reads 'b.weight'"),
        (lambda m: setattr(m.graph.output[0], "name", "x"), "provides no output 'x'"),
        (lambda m: m.graph.node[2].output.__setitem__(0, "a"), "provides 'a' twice"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[2]), "provides 'b.weight' twice"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "provides 'input' twice"),
        (lambda m: m.graph.input.append(of_weight()), "takes the weight 'b.weight' as an input"),
        (add_function, "has functions of its own"),
        (lambda m: m.graph.sparse_initializer.add(), "stores tensors as sparse ones"),
    ],
)
def test_what_tensorrt_does_not_read_is_refused(path: Path, change: Change, expected: str) -> None:
    check_refused(write(path, change), expected)


def with_value(value: float, index: int = 2) -> Change:
    array = numpy_helper.to_array(network().graph.initializer[index]).copy()
    array.flat[3] = value
    return replaced(index, array)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_value(np.nan), "tensor 'b.weight' holds NaN"),
        (with_value(-np.inf), "tensor 'b.weight' holds infinite values"),
        (with_value(np.nan, 1), "tensor 'a.scale' holds NaN"),
        (lambda m: m.graph.initializer[2].dims.__setitem__(0, 5), "720 bytes and holds 576"),
        (lambda m: m.graph.initializer[2].dims.__setitem__(0, -4), "with a negative size"),
        (lambda m: m.graph.initializer[2].dims.extend([1] * 40), "with 44 axes"),
        (lambda m: setattr(m.graph.initializer[2], "data_type", 8), "of type STRING"),
        (lambda m: m.graph.initializer[2].ClearField("raw_data"), "144 values and holds 0"),
        (lambda m: m.graph.node[3].attribute[0].t.dims.append(2), "tensor 'two' is .* 8 bytes"),
        (with_value(0, 1), "'a.dq' has a scale that is not above zero"),
        (with_value(-0.01, 1), "'a.dq' has a scale that is not above zero"),
        (replaced(1, np.ones(3, np.float32)), "'a.dq' cannot be applied to 'a.weight'"),
        (replaced(2, WEIGHT[:, :0]), r"'b.Conv' has a weight of \[4, 0, 3, 3\], without values"),
        (replaced(2, WEIGHT[0, 0]), r"'b.Conv' has a weight of \[3, 3\], which 1 groups cannot"),
    ],
)
def test_unsound_tensors_are_refused(path: Path, change: Change, expected: str) -> None:
    check_refused(write(path, change), expected)


def test_old_files_name_every_weight_among_the_inputs(path: Path) -> None:
    write(path, lambda m: (m.graph.input.append(of_weight()), setattr(m, "ir_version", 3)))
    assert len(read_model(path).graph.input) == 2


def test_a_single_infinity_stands_for_what_attention_hides(path: Path) -> None:
    infinity = numpy_helper.from_array(np.array([-np.inf], np.float32))
    write(path, lambda m: m.graph.node[3].attribute[0].t.CopyFrom(infinity))
    read_model(path)


@pytest.mark.parametrize("dims", [[3 * 2**28], [2**62] * 30])
@pytest.mark.parametrize("external", [True, False])
def test_a_tensor_of_gigabytes_is_refused_without_room_for_it(
    path: Path, dims: list[int], external: bool
) -> None:
    def declare(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[2]
        tensor.CopyFrom(TensorProto(name="b.weight", data_type=TensorProto.FLOAT, dims=dims))
        if external:
            refer(tensor, location="weights.bin")

    write(path, declare)
    tracemalloc.start()
    check_refused(path, "tensor 'b.weight' is declared with .* GiB, where a file holds 2 GiB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def refer(tensor: TensorProto, **entries: str) -> None:
    """Let a tensor say that its bytes lie elsewhere."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def external(**entries: str) -> Change:
    return lambda model: refer(model.graph.initializer[2], **entries)


def test_external_data_is_taken_in(path: Path) -> None:
    (path.parent / "weights.bin").write_bytes(b"head" + WEIGHT.tobytes())
    write(path, external(location="weights.bin", offset="4", length="576"))
    assert read_model(path) == network()


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"location": "lost.bin"}, "external data 'lost.bin', which is missing"),
        ({}, "external data '', which is missing"),
        ({"location": "../secret.bin"}, "outside of the file's folder: '../secret.bin'"),
        ({"location": "a/../../secret.bin"}, "outside of the file's folder"),
        ({"location": "{root}/secret.bin"}, "outside of the file's folder"),
        ({"location": "{root}/here/weights.bin"}, "with an absolute path"),
        ({"location": "link.bin"}, "outside of the file's folder: 'link.bin'"),
        ({"location": "way/secret.bin"}, "outside of the file's folder"),
        ({"location": "loop.bin"}, "no name of a file"),
        ({"location": "a\0b"}, r"'a\\x00b', which is no name of a file"),
        ({"location": "x" * 5000}, "'x{80}[.]{3}', which is no name of a file"),
        ({"location": "weights.bin", "offset": "4"}, "beyond the end of .* 'weights.bin'"),
        ({"location": "weights.bin", "offset": "-4"}, "unlike its external data"),
        ({"location": "weights.bin", "offset": "four"}, "unlike its external data"),
        ({"location": "weights.bin", "length": "577"}, "576 bytes, unlike its external data"),
    ],
)
def test_external_data_that_cannot_be_trusted_is_refused(
    tmp_path: Path, entries: dict[str, str], expected: str
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "loop.bin").symlink_to(folder / "loop.bin")
    (folder / "way").symlink_to(tmp_path)
    given = {key: value.format(root=tmp_path) for key, value in entries.items()}
    check_refused(write(folder / "model.onnx", external(**given)), expected)


def test_names_are_shown_without_what_a_terminal_obeys(path: Path) -> None:
    write(path, lambda m: rename(m, 2, "\x1b[2J\nlost"))
    check_refused(path, r"reads '\\x1b\[2J\\nlost'")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    content = bytearray(CONTENT)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["flip", "cut", "insert", "end"])):
            case "flip":
                content[at] = draw(st.integers(0, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 16))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del content[max(1, at) :]
        content = content or bytearray(b"\0")
    return bytes(content)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged())
def test_damage_gives_an_error_or_a_model_and_nothing_else(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    error, layers = "", ()
    try:
        layers = stored_layers(read_model(path))
    except SlsError as refused:
        error = str(refused)
    assert "\n" not in error
    assert all(layer.reason or layer.eligible for layer in layers)
