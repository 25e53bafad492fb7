"""The input sizes to build a graph for."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import onnx

from sls_deploy.config import BuildConfig
from sls_deploy.errors import SlsError
from sls_deploy.onnx_file import facts
from sls_deploy.sizes import padded_side

COLOURS = 3
"""Channels of one frame: RGB."""
_CHANNEL_AXIS = 1
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axes of the other form, in order."""
_EXPORT_AGAIN = "`sls-deploy export` writes it anew."


def fit_shapes(model: onnx.ModelProto, options: BuildConfig) -> BuildConfig:
    """Input sizes that the network can take: sides rounded up, channels for all its frames.

    What it takes stands in the file's metadata; a file without it is taken as it is. Where the
    graph fixes batch, height or width, it gets what it fixes.

    Args:
        model: a graph that the export wrote.
        options: the sizes asked for.

    Raises:
        SlsError: the metadata is damaged.
    """
    least, multiple, frames = _rules(model)
    first = _sizes(model.graph.input[0]) if model.graph.input else ()
    fixed = {axis: size.dim_value for axis, size in enumerate(first) if size.dim_value > 0}
    fixed.pop(_CHANNEL_AXIS, None)
    shapes = {}
    for name in ("min_shape", "opt_shape", "max_shape"):
        batch, channels, *sides = getattr(options, name)
        sides = [padded_side(side, least, multiple) for side in sides]
        channels = COLOURS * frames if channels == COLOURS else channels
        shape = (batch, channels, *sides)
        shapes[name] = tuple(fixed.get(axis, size) for axis, size in enumerate(shape))
    return options.model_copy(update=shapes)


def laid_out(model: onnx.ModelProto, shape: tuple[int, ...]) -> tuple[int, ...]:
    """An NCHW shape as the graph's input lies: bytes are NHWC."""
    takes_bytes = _in_bytes(model.graph.input[0])
    return tuple(shape[axis] for axis in _NHWC) if takes_bytes else shape


def _in_bytes(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def _sizes(value: onnx.ValueInfoProto) -> list[Any]:
    """Sizes of an input as batch, channels, height and width."""
    sizes = list(value.type.tensor_type.shape.dim)
    return [sizes[axis] for axis in _NCHW] if _in_bytes(value) and len(sizes) == 4 else sizes


def _rules(model: onnx.ModelProto) -> tuple[int, int, int]:
    """Least side, multiple of sides, and frames, by the metadata."""
    try:
        about: dict[str, Any] = json.loads(facts(model).get("model", "{}"))
        rules = [about.get(key, 1) for key in ("least_side", "multiple", "frames")]
        if not all(isinstance(rule, int) and rule > 0 for rule in rules):
            raise ValueError(rules)
    except (ValueError, AttributeError, RecursionError):
        raise SlsError("holds damaged metadata", "the graph", _EXPORT_AGAIN) from None
    return rules[0], rules[1], rules[2]


def check_shapes(model: onnx.ModelProto, options: BuildConfig, where: str) -> str:
    """Check the input sizes to build for against the graph.

    Returns:
        The name of the graph's one input.

    Raises:
        SlsError: the sizes do not grow from smallest to largest, or the graph cannot take them.
    """
    shapes = {
        "min_shape": options.min_shape,
        "opt_shape": options.opt_shape,
        "max_shape": options.max_shape,
    }
    for (small_name, small), (large_name, large) in pairwise(shapes.items()):
        if min(small) < 1 or any(a > b for a, b in zip(small, large, strict=True)):
            what = f"{small_name} {list(small)} must be positive and within {large_name}"
            raise SlsError(f"{what} {list(large)}", "build")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        names = ", ".join(value.name for value in inputs) or "none"
        what = f"must have one input of batch, channels, height and width (inputs: {names})"
        raise SlsError(what, where, _EXPORT_AGAIN)
    axes = zip(
        ("batch", "channels", "height", "width"),
        _sizes(inputs[0]),
        strict=True,
    )
    for axis, (label, size) in enumerate(axes):
        for name, shape in shapes.items():
            if size.HasField("dim_value") and size.dim_value != shape[axis]:
                what = f"takes {size.dim_value} as {label}, but build.{name} says {shape[axis]}"
                raise SlsError(f"input '{inputs[0].name}' {what}", where, f"Change build.{name}.")
    return str(inputs[0].name)
