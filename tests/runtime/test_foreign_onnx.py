"""Graphs of every form, made by hand, of one small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.runtime.foreign_onnx import ForeignOnnxRunner
from sls_deploy.runtime.foreign_probe import Form, choose_form, try_forms
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures

PHOTO = (sample_photos()["chelsea"].transpose(2, 0, 1)[None] / 255).astype(np.float32)
PICTURES = PHOTO[:, :, 90:121, 200:237]


class Network(nn.Module):
    """Two convolutions that treat colours differently, and values by their size."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.second(torch.relu(self.first(x))))


NETWORK = Network()
PYTORCH = TorchRunner(NETWORK)


def probe(size: tuple[int, int] | None) -> Pictures:
    height, width = size or (24, 32)
    return np.ascontiguousarray(PHOTO[:, :, 100 : 100 + height, 180 : 180 + width])


def write(
    path: Path,
    *,
    dtype: int = TensorProto.FLOAT,
    last: bool = False,
    whites: tuple[int, int] = (1, 1),
    bgr: tuple[bool, bool] = (False, False),
    names: tuple[str, str] = ("pixels", "restored"),
    shape: tuple[Any, Any, Any] = ("batch", "height", "width"),
    opset: int = 17,
    outputs: int = 1,
) -> Path:
    """Write the network as someone may export it who does not know us.

    With several outputs a small picture comes first, and then the second, and the same once more.
    """
    tensors, nodes = [], []

    def node(operator: str, value: str, *constants: NDArray[Any], **attributes: Any) -> str:
        number = len(nodes)
        inputs = [value]
        for place, constant in enumerate(constants):
            inputs.append(f"constant {number} {place}")
            tensors.append(numpy_helper.from_array(constant, inputs[-1]))
        nodes.append(helper.make_node(operator, inputs, [f"value {number}"], **attributes))
        return f"value {number}"

    def number(value: float) -> NDArray[np.float32]:
        return np.array(value, np.float32)

    around = np.array([2, 1, 0])
    value = node("Cast", names[0], to=TensorProto.FLOAT)
    value = node("Transpose", value, perm=[0, 3, 1, 2]) if last else value
    value = node("Div", value, number(whites[0]))
    value = node("Gather", value, around, axis=1) if bgr[0] else value
    for layer, operator in ((NETWORK.first, "Relu"), (NETWORK.second, "Sigmoid")):
        weights = (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        value = node(operator, node("Conv", value, *weights, pads=[1, 1, 1, 1]))
    value = node("Gather", value, around, axis=1) if bgr[1] else value
    small = node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = node("Mul", value, number(whites[1]))
    value = node("Transpose", value, perm=[0, 2, 3, 1]) if last else value
    # Sigmoid leaves 0..1 only by rounding.
    value = node("Floor", node("Add", value, number(0.5))) if dtype == TensorProto.UINT8 else value
    value = node("Cast", value, to=dtype)
    nodes[-1].output[0] = names[1]
    batch, *sides = shape
    form = [batch, *sides, 3] if last else [batch, 3, *sides]
    taken = helper.make_tensor_value_info(names[0], dtype, form)
    given = [helper.make_tensor_value_info(names[1], dtype, form)]
    if outputs > 1:
        pooled = helper.make_tensor_value_info(small, TensorProto.FLOAT, [batch, 3, None, None])
        given.insert(0, pooled)
    if outputs > 2:
        nodes.append(helper.make_node("Identity", [names[1]], ["again"]))
        given.append(helper.make_tensor_value_info("again", dtype, form))
    graph = helper.make_graph(nodes, "made by hand", [taken], given, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(made, path)
    return path


def opened(path: Path, **options: Any) -> ForeignOnnxRunner:
    return ForeignOnnxRunner(path, PYTORCH, 3, probe, **options)


def distance(runner: ForeignOnnxRunner, pictures: Pictures = PICTURES) -> float:
    """Largest difference from PyTorch."""
    return float(np.abs(runner.run(pictures) - PYTORCH.run(pictures)).max())


HALF, BYTES = TensorProto.FLOAT16, TensorProto.UINT8


@pytest.mark.parametrize(
    ("form", "limit", "told"),
    [
        ({}, 1e-6, "takes RGB of 0..1, NCHW float32 and gives RGB of 0..1, NCHW float32"),
        ({"names": ("output", "input")}, 1e-6, "it takes RGB of 0..1, NCHW"),
        ({"last": True}, 1e-6, "takes RGB of 0..1, NHWC float32 and gives RGB of 0..1, NHWC"),
        ({"whites": (255, 255)}, 1e-6, "takes RGB of 0..255, NCHW float32 and gives RGB of 0..255"),
        ({"whites": (255, 1)}, 1e-6, "takes RGB of 0..255, NCHW float32 and gives RGB of 0..1"),
        ({"bgr": (True, True)}, 1e-6, "takes BGR of 0..1, NCHW float32 and gives BGR of 0..1"),
        ({"dtype": HALF}, 1e-3, "takes RGB of 0..1, NCHW float16"),
        ({"dtype": HALF, "whites": (255, 255)}, 1e-3, "takes RGB of 0..255, NCHW float16"),
        ({"dtype": TensorProto.DOUBLE}, 1e-6, "takes RGB of 0..1, NCHW double"),
        ({"dtype": BYTES, "last": True, "whites": (255, 255)}, 2.1e-3, "RGB of 0..255, NHWC uint8"),
        (
            {"dtype": BYTES, "last": True, "whites": (255, 255), "bgr": (True, True)},
            2.1e-3,
            "takes BGR of 0..255, NHWC uint8 and gives BGR of 0..255, NHWC uint8",
        ),
        ({"shape": (None, None, None), "last": True}, 1e-6, "NHWC"),
        ({"shape": (-1, -1, -1)}, 1e-6, "NCHW"),
        ({"shape": (1, 31, 37)}, 1e-6, "NCHW"),
        ({"shape": (4, None, None)}, 1e-6, "NCHW"),
    ],
)
@pytest.mark.parametrize("opset", [9, 22])
def test_the_form_of_a_file_is_found(
    tmp_path: Path, form: dict[str, Any], limit: float, told: str, opset: int
) -> None:
    runner = opened(write(tmp_path / "a.onnx", opset=opset, **form))
    assert distance(runner) < limit
    assert told in runner.note
    assert runner.in_bytes == (form.get("dtype") == BYTES)


@settings(max_examples=12)
@given(
    last=st.booleans(),
    whites=st.tuples(*[st.sampled_from((1, 255))] * 2),
    bgr=st.booleans(),
    dtype=st.sampled_from((TensorProto.FLOAT, HALF)),
)
def test_every_mixture_of_forms_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    last: bool,
    whites: tuple[int, int],
    bgr: bool,
    dtype: int,
) -> None:
    path = tmp_path_factory.mktemp("mixed") / "a.onnx"
    write(path, last=last, whites=whites, bgr=(bgr, bgr), dtype=dtype)
    assert distance(opened(path)) < 1e-3


def test_several_pictures_may_come_at_once(tmp_path: Path) -> None:
    batch = np.concatenate([PICTURES, PICTURES[:, :, ::-1], PICTURES[:, :, :, ::-1]])
    for count in ("batch", 1, 2, 4):
        runner = opened(write(tmp_path / "a.onnx", shape=(count, None, None)))
        assert runner.run(batch).shape == batch.shape
        assert distance(runner, batch) < 1e-6


def test_a_file_of_one_size_says_which(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "a.onnx", shape=(1, 20, 26))).size == (20, 26)
    assert opened(write(tmp_path / "b.onnx", shape=(1, 20, 26), last=True)).size == (20, 26)
    assert opened(write(tmp_path / "c.onnx", shape=(1, 20, "w"))).size == (20, 20)
    assert opened(write(tmp_path / "d.onnx")).size is None


@pytest.mark.parametrize("bgr", [(False, True), (True, False)])
def test_a_file_that_exchanges_red_and_blue_is_seen_to(
    tmp_path: Path, bgr: tuple[bool, bool]
) -> None:
    runner = opened(write(tmp_path / "a.onnx", bgr=bgr))
    assert "exchanges red and blue" in runner.note
    assert distance(runner) > 0.005


def test_a_file_of_another_network_is_run_as_it_comes_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    model = onnx.load(path)
    weights = next(item for item in model.graph.initializer if len(item.dims) == 4)
    numbers = np.random.default_rng(0).normal(0, 3, tuple(weights.dims)).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(numbers, weights.name))
    onnx.save(model, path)
    note = opened(path).note
    assert note.startswith("it comes near PyTorch in no form of pictures; taken is that it takes")


def test_the_plainest_form_is_taken_where_several_fit(tmp_path: Path) -> None:
    # Without bias, and linear: 255 goes through.
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    same (float[b, 3, h, w] x) => (float[b, 3, h, w] x, float[c] y) { y = Flatten (x) }
    """
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    forms = try_forms(onnx.load(path), "a.onnx", TorchRunner(nn.Identity()), 3, probe)
    assert sum(form.psnr_db == 90 for form in forms) == 4
    form = choose_form(forms)
    assert (form.source.white, form.source.bgr) == (1, False)
    assert (form.target.white, form.target.bgr) == (1, False)


def test_a_form_that_gives_nan_is_never_chosen(tmp_path: Path) -> None:
    # Of values above one it takes the logarithm of a negative number.
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    odd (float[b, 3, h, w] x) => (float[b, 3, h, w] y)
    {
        one = Constant <value_float = 1.5> ()
        rest = Sub (one, x)
        log = Log (rest)
        twice = Mul (log, log)
        root = Sqrt (twice)
        zero = Sub (root, root)
        y = Add (zero, x)
    }
    """
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    forms = try_forms(onnx.load(path), "a.onnx", TorchRunner(nn.Identity()), 3, probe)
    assert {form.psnr_db for form in forms if form.source.white == 255} == {-np.inf}
    assert choose_form(forms).source.white == 1


def test_the_output_of_the_right_size_is_taken(tmp_path: Path) -> None:
    assert distance(opened(write(tmp_path / "a.onnx", outputs=2))) < 1e-6


def test_two_outputs_of_the_right_size_are_refused_until_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", outputs=3)
    message = r"several pictures .*\('restored' FLOAT \[.*\], 'again' FLOAT .*\)\. .* --output"
    with pytest.raises(SlsError, match=message):
        opened(path)
    assert distance(opened(path, output="again")) < 1e-6
    with pytest.raises(SlsError, match=r"has no output 'none' \(there: 'value \d+' FLOAT"):
        opened(path, output="none")


def test_a_file_of_another_scale_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", outputs=3)
    small = next(item.name for item in onnx.load(path).graph.output)
    message = r"gives 'value \d+' \[1, 3, 12, 16\], where .* gives \[1, 3, 24, 32\]"
    with pytest.raises(SlsError, match=message):
        opened(path, output=small)


def test_a_file_of_one_colour_is_refused(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    grey (float[b, 1, h, w] x) => (float[b, 1, h, w] y) { y = Relu (x) }
    """
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(SlsError, match=r"takes 'x' FLOAT \[b, 1, h, w\], where .* 3 channels"):
        opened(path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[b, 3, h, w] x, float[1] z", r"has 2 inputs \('x' FLOAT .*, 'z' FLOAT \[1\]\)"),
        ("int64[b, 3, h, w] x", r"takes 'x' INT64 \[b, 3, h, w\], which is no picture"),
        ("float[3, h, w] x", r"takes 'x' FLOAT \[3, h, w\], which is no picture"),
    ],
)
def test_what_takes_no_picture_is_refused(tmp_path: Path, inputs: str, message: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    odd ({inputs}) => (float[b, 3, h, w] y) {{ y = Cast <to = 1> (x) }}
    """
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(SlsError, match=message):
        opened(path)


def test_what_onnx_runtime_cannot_run_is_named(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    deep (double[b, 3, h, w] x) => (double[b, 3, h, w] y)
    <double[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}> { y = Conv (x, w) }
    """
    path = tmp_path / "deep.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(SlsError, match=r"deep\.onnx: cannot be loaded by ONNX Runtime .*Conv"):
        opened(path)


def test_frames_are_turned_round_one_by_one(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    middle (float[b, 9, h, w] frames) => (float[b, 3, h, w] y)
    {
        places = Constant <value_ints = [3, 4, 5]> ()
        y = Gather <axis = 1> (frames, places)
    }
    """
    path = tmp_path / "a.onnx"
    onnx.save(onnx.parser.parse_model(text), path)

    class Middle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 3:6]

    def nine(size: tuple[int, int] | None) -> Pictures:
        return np.concatenate([probe(size), probe(size)[:, :, ::-1], 1 - probe(size)], axis=1)

    forms = try_forms(onnx.load(path), "a.onnx", TorchRunner(Middle()), 9, nine)
    assert choose_form(forms).psnr_db == 90
    assert all(form.psnr_db == 90 for form in forms if both_turned(form))


def both_turned(form: Form) -> bool:
    return form.source.bgr and form.target.bgr and form.source.white == form.target.white


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="a.data", size_threshold=0
    )
    assert distance(opened(path)) < 1e-6
    (tmp_path / "below").mkdir()
    inside = tmp_path / "below" / "a.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../a.data" if entry.key == "location" else entry.value
    inside.write_bytes(model.SerializeToString())
    with pytest.raises(SlsError, match="external data outside of the file's folder"):
        opened(inside)


def test_the_runner_is_called_like_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    assert opened(path).name == "a.onnx"
    assert opened(path, name="ONNX a").name == "ONNX a"
