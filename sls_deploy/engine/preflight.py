"""What TensorRT accepts without a word and should not: found before it is asked to build.

Measured: NaN, infinite and all-zero weights, opsets that do not exist and empty files all give an
engine. `read_model` refuses damaged files, wrong opsets, NaN and infinities; `check_shapes` refuses
inputs that the profile does not cover.
"""

from __future__ import annotations

import onnx

from sls_deploy.errors import SlsError
from sls_deploy.onnx_layers import weight_uses
from sls_deploy.onnx_weights import shown


def check_layers(model: onnx.ModelProto, where: str) -> dict[str, str]:
    """Refuse layers that cannot do anything.

    Args:
        model: a graph whose weights were read.
        where: its file, for the error.

    Returns:
        Name of the weight of each node that has one; with our export the layer's own name.

    Raises:
        SlsError: all weights of a layer are zero; names it.
    """
    layers = {}
    for use in weight_uses(model):
        if use.weight is None:
            continue
        if not use.filters.any():
            what = f"all weights of layer '{shown(use.weight.name)}' are zero: it computes nothing"
            fix = "Take it out of the network, or train it."
            raise SlsError(what, where, fix)
        layers[use.node] = shown(use.weight.name)
    return layers


def name_layer(error: str, layers: dict[str, str]) -> str:
    """A vendor's error with the layer beside the node that it names, if it names one."""
    for node, layer in layers.items():
        for named in (f"'{node}'", f"[{node}]"):
            if named in error:
                told = f"{named}, layer {layer.removesuffix('.weight')}"
                return error.replace(named, told, 1)
    return error
