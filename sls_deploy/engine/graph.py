"""Reads the graph to build and refuses what TensorRT would take without a word.

The vendor's parser accepts an empty file and weights that are NaN or infinite.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from sls_deploy.config import BuildConfig
from sls_deploy.errors import SlsError
from sls_deploy.sizes import padded_side

COLOURS = 3
"""Channels of one frame: RGB."""
_EXPORT_AGAIN = "`sls-deploy export` writes it anew."


def read_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights.

    Raises:
        SlsError: no such file, an empty file, or no ONNX.
    """
    try:
        if path.stat().st_size == 0:
            raise SlsError("is an empty file", str(path), _EXPORT_AGAIN)
        model = onnx.load(path)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise SlsError(what, str(path), _EXPORT_AGAIN) from None
    except (DecodeError, ValueError, onnx.checker.ValidationError):
        raise SlsError("is not an ONNX file", str(path), _EXPORT_AGAIN) from None
    if not model.graph.node or not model.graph.output:
        raise SlsError("is not an ONNX file with a network in it", str(path), _EXPORT_AGAIN)
    return model


def check_weights(model: onnx.ModelProto, where: str) -> None:
    """Refuse weights that no network can work with.

    Raises:
        SlsError: a weight is NaN or infinite; names it.
    """
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind in "iub" or bool(np.isfinite(array.astype(np.float64)).all()):
            continue
        kind = "NaN" if bool(np.isnan(array.astype(np.float64)).any()) else "infinite values"
        fix = "Export from sound weights; a precision of wider range holds large ones."
        raise SlsError(f"weight '{tensor.name}' holds {kind}", where, fix)


def fit_shapes(model: onnx.ModelProto, options: BuildConfig) -> BuildConfig:
    """Input sizes that the network can take: sides rounded up, channels for all its frames.

    What it takes stands in the file's metadata; a file without it is taken as it is. A graph for
    one picture at a time gets a batch of one.

    Args:
        model: a graph that the export wrote.
        options: the sizes asked for.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    about: dict[str, Any] = json.loads(entries.get("sls_deploy.model", "{}"))
    least, multiple = about.get("least_side", 1), about.get("multiple", 1)
    frames = about.get("frames", 1)
    alone = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    shapes = {}
    for name in ("min_shape", "opt_shape", "max_shape"):
        batch, channels, *sides = getattr(options, name)
        sides = [padded_side(side, least, multiple) for side in sides]
        channels = COLOURS * frames if channels == COLOURS else channels
        shapes[name] = (1 if alone else batch, channels, *sides)
    return options.model_copy(update=shapes)


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
        inputs[0].type.tensor_type.shape.dim,
        strict=True,
    )
    for axis, (label, size) in enumerate(axes):
        for name, shape in shapes.items():
            if size.HasField("dim_value") and size.dim_value != shape[axis]:
                what = f"takes {size.dim_value} as {label}, but build.{name} says {shape[axis]}"
                raise SlsError(f"input '{inputs[0].name}' {what}", where, f"Change build.{name}.")
    return str(inputs[0].name)
