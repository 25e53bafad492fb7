from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sls_deploy.config import ModelConfig
from sls_deploy.export.bisect import Bisection
from sls_deploy.export.bisect_foreign import bisect_foreign
from sls_deploy.export.torch_values import network_layers, torch_values
from sls_deploy.models.probe import probe
from sls_deploy.models.restoration import RestorationModel
from tests.zoo import zoo_model

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class ByHand(nn.Module):
    """Up-scales by 2, with functions between its modules and a linear layer over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.mix = nn.Linear(8, 8)
        self.up = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
        self.skip = nn.Upsample(scale_factor=2, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.entry(x), 0.1)
        out = out + self.body(out)
        out = out + self.mix(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.up(out) + self.skip(x)  # type: ignore[no-any-return]


@cache
def network() -> RestorationModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ByHand().eval()
    return RestorationModel(made, probe(made, "by_hand", ModelConfig())).eval()


@cache
def exported(name: str, exporter: str) -> bytes:
    """A network of the zoo or the one above, exported as someone would who never saw us."""
    model = network() if name == "by_hand" else zoo_model(name)
    file, pictures = BytesIO(), torch.rand(1, 3, 24, 32)
    names = {"input_names": ["input"], "output_names": ["output"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            if exporter == "dynamo":
                program = torch.onnx.export(
                    model.network, (pictures,), dynamo=True, verbose=False, **names
                )
                assert program is not None
                program.save(file)
            else:
                torch.onnx.export(
                    model.network, (pictures,), file, dynamo=False, opset_version=17, **names
                )
        finally:
            logging.disable(logging.NOTSET)
    return file.getvalue()


def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, 24, 32), dtype=np.float32)


def bisected(proto: onnx.ModelProto) -> Bisection:
    return bisect_foreign(network(), proto.SerializeToString(), pictures(), 80)


def loaded(exporter: str = "dynamo") -> onnx.ModelProto:
    return onnx.load_model_from_string(exported("by_hand", exporter))


def damage(proto: onnx.ModelProto, layer: str, change: Change) -> None:
    """Change the weight that a layer's operator reads, whatever it is called."""
    wanted = next(item for item in network_layers(network().network) if item.module == layer)
    filters = wanted.filters
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        turned = values.T if wanted.linear and "weight" not in tensor.name else values
        if turned.shape == filters.shape and np.allclose(turned, filters):
            changed = change(turned.copy())
            changed = changed.T if turned is not values else changed
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))
            return
    raise AssertionError(layer)


def without_names(proto: onnx.ModelProto) -> None:
    """Take away every name that could lead back to the network."""
    kept = {"input", "output"}
    names = [item.name for item in proto.graph.initializer]
    names += [name for node in proto.graph.node for name in node.output if name not in kept]
    new = {name: f"v{number}" for number, name in enumerate(names)}
    for tensor in proto.graph.initializer:
        tensor.name = new[tensor.name]
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    del proto.graph.value_info[:]


def node_of(proto: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.op_type == operator)


def set_text(node: onnx.NodeProto, attribute: str, value: str) -> None:
    (found,) = [item for item in node.attribute if item.name == attribute]
    found.s = value.encode()


def swap_filters(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight[[0, 1]] = weight[[1, 0]]
    return weight


def swap_channels(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight[:, [0, 1]] = weight[:, [1, 0]]
    return weight


DAMAGES: dict[str, Change] = {
    "scaled": lambda weight: weight * np.float32(1.05),
    "filters swapped": swap_filters,
    "channels swapped": swap_channels,
    "negated": lambda weight: -weight,
}


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_right_export_departs_nowhere(exporter: str) -> None:
    found = bisected(loaded(exporter))
    assert found.first is None
    assert found.passed
    assert {"entry", "body.0", "body.2", "mix", "up.0", "up.1", "skip"} <= {
        item.layer for item in found.values
    }


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("batch_norm", "torchscript"), ("window_attention", "dynamo"), ("shared", "torchscript")],
)
def test_steps_that_only_one_of_both_has_are_no_departure(name: str, exporter: str) -> None:
    content = exported(name, exporter)
    found = bisect_foreign(zoo_model(name), content, pictures(), 80)
    assert found.first is None
    assert len(found.values) > 5


@pytest.mark.parametrize("damaged", DAMAGES)
@pytest.mark.parametrize("layer", ["entry", "body.0", "body.2", "mix", "up.0"])
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
def test_names_the_layer_with_the_damaged_weight(
    exporter: str, layer: str, damaged: str, named: bool
) -> None:
    proto = loaded(exporter)
    damage(proto, layer, DAMAGES[damaged])
    if not named:
        without_names(proto)
    found = bisected(proto)
    assert found.first is not None
    assert found.first.layer == layer
    assert found.first.before_db > 80


@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
def test_names_a_pixel_shuffle_of_another_order(named: bool) -> None:
    proto = loaded()
    set_text(node_of(proto, "DepthToSpace"), "mode", "DCR")
    if not named:
        without_names(proto)
    found = bisected(proto)
    assert found.first is not None
    assert (found.first.operator, found.first.layer) == ("DepthToSpace", "up.1")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("coordinate_transformation_mode", "align_corners"), ("mode", "nearest")],
)
def test_names_an_upsampling_of_another_mode(attribute: str, value: str) -> None:
    proto = loaded()
    set_text(node_of(proto, "Resize"), attribute, value)
    found = bisected(proto)
    assert found.first is not None
    assert (found.first.operator, found.first.layer) == ("Resize", "skip")


def test_names_the_node_of_a_function_that_has_no_module() -> None:
    proto = loaded()
    (slope,) = node_of(proto, "LeakyRelu").attribute
    slope.f = 0.2
    found = bisected(proto)
    assert found.first is not None
    assert (found.first.operator, found.first.layer) == ("LeakyRelu", "")


def test_names_the_layer_in_words_where_the_node_does_not() -> None:
    proto = loaded()
    damage(proto, "body.0", DAMAGES["scaled"])
    without_names(proto)
    assert "(layer 'body.0') is the first below 80 dB" in str(bisected(proto))


def test_rounded_weights_are_still_those_of_their_layers() -> None:
    proto = loaded()
    without_names(proto)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            rounded = values.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    found = bisect_foreign(network(), proto.SerializeToString(), pictures(), 50)
    assert found.first is None
    assert min(item.psnr_db for item in found.values) < 90
    assert {"entry", "mix", "up.0"} <= {item.layer for item in found.values}


def test_values_know_their_modules_and_functions() -> None:
    known = torch_values(network(), pictures())
    assert [call.layer.module for call in known.calls] == [
        "entry", "body.0", "body.2", "mix", "up.0",
    ]  # fmt: skip
    entry = known.calls[0]
    with torch.no_grad():
        wanted = network().network.entry(torch.from_numpy(pictures())).numpy()
    assert np.array_equal(known.values[entry.at].values, wanted)
    assert {"", "entry", "up.1", "skip"} <= {value.module for value in known.values}
    assert known.values[-1].values.shape == (1, 3, 48, 64)
    assert not network().network.entry._forward_hooks
