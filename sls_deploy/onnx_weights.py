"""The tensors of an ONNX file that may come from anywhere: their sizes, bytes and values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sls_deploy.errors import SlsError, reason

LARGEST = 2**31
"""Most bytes of a file, and of all its weights together: what protobuf itself can hold."""
AGAIN = "Export or copy it again."
"""What to do about a file that is damaged."""
_LONGEST = 80
"""Characters of a name from the file that are shown."""
_LARGEST_RANK = 32
_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
}
_FLOATS = frozenset(kind for kind in _BITS if "FLOAT" in TensorProto.DataType.Name(kind)) | {
    TensorProto.DOUBLE
}
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Where a tensor's values lie if not in raw bytes: one for each, or for two of 4 bits."""


def take_in_weights(model: onnx.ModelProto, path: Path) -> None:
    """Check every tensor of a model, and read those that lie beside it, in place.

    No more memory is taken than the files have bytes; nothing outside of the model's folder is
    opened.

    Args:
        model: what `path` holds.
        path: the file that it was read from.

    Raises:
        SlsError: a tensor's size is not that of its bytes, or all are larger than `LARGEST`;
            external data is missing, too short or outside of the model's folder, also by links; a
            value is NaN or infinite. Names the tensor.
    """
    left = LARGEST
    for name, tensor in _tensors(model.graph):
        left -= _check_size(tensor, name, left, str(path))
        if tensor.data_location == TensorProto.EXTERNAL:
            _take_in(tensor, name, path)
    check_weights(model, str(path))


def check_weights(model: onnx.ModelProto, where: str) -> None:
    """Refuse weights that no network can work with.

    A single number may be infinite: attention puts it in place of what must not be seen.

    Raises:
        SlsError: a weight is NaN or infinite; names it.
    """
    for name, tensor in _tensors(model.graph):
        _check_values(tensor, name, where)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def shown(name: str) -> str:
    """A name from a file as it may be printed: short, and without control characters."""
    cut = "..." if len(name) > _LONGEST else ""
    return f"{ascii(name[:_LONGEST])[1:-1]}{cut}"


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of a file, with a name to show."""
    for part in graphs(graph):
        for tensor in part.initializer:
            yield shown(tensor.name), tensor
        for node in part.node:
            for attribute in node.attribute:
                owned = [attribute.t] if attribute.HasField("t") else []
                for tensor in chain(owned, attribute.tensors):
                    yield shown(tensor.name or node.name), tensor


def _check_size(tensor: TensorProto, name: str, left: int, where: str) -> int:
    """The bytes of a tensor by its shape, if there are as many of them."""
    kind = tensor.data_type
    if kind not in _BITS:
        named = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else kind
        _refuse(name, f"is of type {named}, which no weight has", where)
    if len(tensor.dims) > _LARGEST_RANK:
        _refuse(name, f"is declared with {len(tensor.dims)} axes", where)
    if min(tensor.dims, default=0) < 0:
        _refuse(name, f"is declared with a negative size: {list(tensor.dims)}", where)
    size = _bytes(tensor)
    if size >= left:
        much = f"{min(size, 2**62) / 2**30:.3g} GiB"
        _refuse(name, f"is declared with {much}, where a file holds 2 GiB in all", where)
    if tensor.data_location == TensorProto.EXTERNAL:
        return size
    if tensor.HasField("raw_data"):
        there, wanted, unit = len(tensor.raw_data), size, "bytes"
    else:
        there = sum(len(getattr(tensor, field)) for field in _TYPED)
        wanted, unit = size if _BITS[kind] < 8 else math.prod(tensor.dims), "values"
    if there != wanted:
        _refuse(name, f"is declared with {wanted} {unit} and holds {there}", where)
    return size


def _bytes(tensor: TensorProto) -> int:
    bits = math.prod(tensor.dims) * _BITS[tensor.data_type]
    return -(-int(bits) // 8)


def _take_in(tensor: TensorProto, name: str, path: Path) -> None:
    """Read external data into the tensor.

    Source of the entries: ONNX, docs/ExternalData.md.
    """
    where = str(path)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _inside(entries.get("location", ""), name, path)
    size = _bytes(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        offset = length = -1
    if offset < 0 or length != size:
        _refuse(name, f"is declared with {size} bytes, unlike its external data", where)
    try:
        if offset + length > file.stat().st_size:
            _refuse(name, f"lies beyond the end of its external data '{shown(file.name)}'", where)
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
    except OSError as error:
        what = f"has external data that cannot be read ({error.strerror or error})"
        _refuse(name, what, where)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _inside(location: str, name: str, path: Path) -> Path:
    """The file of external data, in the model's folder or below it."""
    where, told = str(path), shown(location)
    try:
        folder = path.parent.resolve()
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            fix = "Do not use it unless you trust where it comes from."
            what = f"has external data outside of the file's folder: '{told}'"
            _refuse(name, what, where, fix)
        if not file.is_file():
            fix = "Put it beside the model."
            _refuse(name, f"has external data '{told}', which is missing", where, fix)
    except (OSError, ValueError, RuntimeError):  # a name too long, with a zero byte, or a loop
        _refuse(name, f"has external data '{told}', which is no name of a file", where)
    if Path(location).is_absolute():
        fix = "Export it with names of files beside the model."
        _refuse(name, f"has external data with an absolute path: '{told}'", where, fix)
    return file


def _check_values(tensor: TensorProto, name: str, where: str) -> None:
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        _refuse(name, f"cannot be read ({reason(error)})", where)
    if tensor.data_type not in _FLOATS or bool(np.isfinite(array).all()):
        return
    unknown = bool(np.isnan(array).any())
    if array.size == 1 and not unknown:
        return
    kind = "NaN" if unknown else "infinite values"
    fix = "Export from sound weights; a precision of wider range holds large ones."
    _refuse(name, f"holds {kind}", where, fix)


def _refuse(name: str, what: str, where: str, fix: str = AGAIN) -> NoReturn:
    raise SlsError(f"tensor '{name}' {what}", where, fix)
