"""The light network that estimates errors, and its graph."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from sls_deploy._version import __version__
from sls_deploy.export.graph import OPSET
from sls_deploy.models.restoration import COLOURS

_WIDTHS = (12, 8, 6, 4)
"""Channels of the first layer, the widest first. On RLFN-S x4 24 of them chose no better."""
_SLOPE = 0.1
"""Of activations below 0."""
_LOWEST, _HIGHEST = math.log(1e-8), math.log(1.0)
"""Range of an estimated logarithm of the MSE."""
_CONSTANTS = {"middle": 0.5, "lowest": _LOWEST, "highest": _HIGHEST}
_FORMAT = 9
"""Version of ONNX's file format."""


class Estimator(nn.Module):
    """Estimates the mean squared error that every candidate makes on a tile.

    Three convolutions of stride 2 and two more give a map with an estimate for each block of 8x8
    input pixels and each candidate. The error of a tile is the mean of its blocks', so tiles of any
    size can be estimated. All candidates share the layers but the last: their differences are what
    matters, and from the same features these are consistent.

    Args:
        candidates: how many there are.
        frames: pictures in an input; all of them are looked at.
        width: channels of the first layer; the second has twice, the others four times as many.
    """

    def __init__(self, candidates: int, frames: int, width: int) -> None:
        super().__init__()
        sizes = (COLOURS * frames, width, 2 * width, 4 * width, 4 * width, 4 * width)
        strides = (2, 2, 2, 1, 1)
        layers: list[nn.Module] = []
        for before, after, stride in zip(sizes, sizes[1:], strides, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.LeakyReLU(_SLOPE)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(sizes[-1], candidates, 1)

    def start_from(self, logarithms: Tensor) -> None:
        """Begin with an estimate: the logarithm of each candidate's MSE, the same for all tiles."""
        self.head.bias = nn.Parameter(logarithms.clone())

    def blocks(self, x: Tensor) -> Tensor:
        """Estimated MSE of each block and candidate.

        Args:
            x: NCHW RGB, 0..1.

        Returns:
            N x candidates x height / 8 x width / 8, rounded up.
        """
        logarithms: Tensor = self.head(self.features(x - _CONSTANTS["middle"]))
        return logarithms.clamp(_LOWEST, _HIGHEST).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Natural logarithm of the estimated MSE on 0..1, N x candidates x 1 x 1."""
        return self.blocks(x).mean((2, 3), keepdim=True).log()


def macs_per_pixel(candidates: int, frames: int, width: int) -> float:
    """Multiply-accumulates of an estimator for one input pixel."""
    first = 9 * COLOURS * frames * width / 4
    second = 9 * width * 2 * width / 16
    others = (9 * 2 * width * 4 * width + 2 * 9 * (4 * width) ** 2 + 4 * width * candidates) / 64
    return first + second + others


def widest(candidates: int, frames: int, limit: float) -> int:
    """The largest width whose multiply-accumulates for one input pixel are within a limit.

    The smallest one where none is: a network that small needs no choice.
    """
    fitting = (width for width in _WIDTHS if macs_per_pixel(candidates, frames, width) <= limit)
    return next(fitting, _WIDTHS[-1])


def estimator_graph(estimator: Estimator) -> bytes:
    """The ONNX file of an estimator; the same weights give the same bytes.

    It maps 'input', NCHW float32 RGB 0..1 with batch, height and width open, to 'output',
    N x candidates x 1 x 1. Written node by node: so few need no tracing, which takes longer than
    the training of a small estimator.
    """
    weights = {key: value.detach().numpy() for key, value in estimator.state_dict().items()}
    weights |= {key: np.float32(value) for key, value in _CONSTANTS.items()}
    weights["axes"] = np.array([2, 3], np.int64)
    nodes = [helper.make_node("Sub", ["input", "middle"], ["centred"])]
    layers = [*estimator.features, estimator.head]
    names = [*(f"features.{place}" for place in range(len(estimator.features))), "head"]
    last = "centred"
    for name, layer in zip(names, layers, strict=True):
        if isinstance(layer, nn.Conv2d):
            inputs = [last, f"{name}.weight", f"{name}.bias"]
            pads, strides = [layer.padding[0]] * 4, list(layer.stride)
            node = helper.make_node("Conv", inputs, [name], name, pads=pads, strides=strides)
        else:
            node = helper.make_node("LeakyRelu", [last], [name], name, alpha=_SLOPE)
        nodes.append(node)
        last = name
    nodes += [
        helper.make_node("Clip", [last, "lowest", "highest"], ["logarithms"]),
        helper.make_node("Exp", ["logarithms"], ["errors"]),
        helper.make_node("ReduceMean", ["errors", "axes"], ["error"], keepdims=1),
        helper.make_node("Log", ["error"], ["output"]),
    ]
    shapes = (["batch", weights["features.0.weight"].shape[1], "height", "width"],
              ["batch", weights["head.weight"].shape[0], 1, 1])  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("input", "output"), shapes, strict=True)
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "estimator", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=_FORMAT,
        producer_name="sls-deploy",
        producer_version=__version__,
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data
