"""Reads an ONNX file that may come from anywhere, and refuses what cannot be trusted in it.

The libraries behind take much without a word: TensorRT's parser an empty file, unknown opsets and
weights that are NaN; others make room for whatever size a tensor claims to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import checker

from sls_deploy.errors import SlsError, reason
from sls_deploy.onnx_layers import weight_uses
from sls_deploy.onnx_weights import AGAIN, LARGEST, graphs, shown, subgraphs, take_in_weights

OPSETS = range(9, 26)
"""Opsets that TensorRT's parser reads, by its documentation for version 11."""
_FORMATS = range(3, onnx.IR_VERSION + 1)
_WITH_INPUTS = 3
"""The last format in which every initialiser is an input too, and yet a constant."""
_DOMAINS = ("", "ai.onnx")


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data, and see that it is sound.

    No more memory is taken than the files on disk have bytes; nothing outside of the file's folder
    is opened.

    Returns:
        The model with all weights inside.

    Raises:
        SlsError: no such file, or an empty, truncated or huge one, or no ONNX; an opset outside of
            `OPSETS`, operators of other domains or unknown ones, functions, values that nothing
            provides or several things do; a tensor that `take_in_weights` refuses; a weight that
            is an input too, has no values, or does not fit its operator or scales, which must be
            above zero. Names it.
    """
    where = str(path)
    model = _parsed(_content(path), where)
    _check_form(model, where)
    take_in_weights(model, path)
    _check_operators(model, where)
    _check_inputs(model, where)
    _check_order(model.graph, set(), where)
    _check_layers(model, where)
    return model


def facts(model: onnx.ModelProto) -> dict[str, str]:
    """What `sls-deploy export` wrote into a file's metadata, without the prefix 'sls_deploy.'."""
    prefix = "sls_deploy."
    entries = model.metadata_props
    return {
        item.key.removeprefix(prefix): item.value for item in entries if item.key.startswith(prefix)
    }


def _content(path: Path) -> bytes:
    where = str(path)
    try:
        if not path.exists():
            raise SlsError("no such file", where, "`sls-deploy export` writes one.")
        if not path.is_file():
            raise SlsError("is not a file", where, "Name a file that ends in .onnx.")
        size = path.stat().st_size
        if size == 0:
            raise SlsError("is an empty file", where, AGAIN)
        if size >= LARGEST:
            raise SlsError("is 2 GiB or larger, more than ONNX allows", where, AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror or error})", where) from None


def _parsed(content: bytes, where: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError):
        raise SlsError("is not an ONNX file, or only a part of one", where, AGAIN) from None
    if not model.graph.node or not model.graph.output:
        raise SlsError("is not an ONNX file with a network in it", where, AGAIN)
    if not _is_text(model):
        raise SlsError("holds names that are no text", where, AGAIN)
    return model


def _is_text(message: Message) -> bool:
    """Whether every text in it is one: of what is no UTF-8, protobuf makes bytes."""
    for field, value in message.ListFields():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            sound = all(map(_is_text, values))
        else:
            wanted = field.type == FieldDescriptor.TYPE_STRING
            sound = not wanted or all(isinstance(item, str) for item in values)
        if not sound:
            return False
    return True


def _check_form(model: onnx.ModelProto, where: str) -> None:
    """Refuse versions and forms that TensorRT does not read."""
    fix = f"Export it for an opset from {OPSETS[0]} to {OPSETS[-1]}."
    if model.ir_version not in _FORMATS:
        raise SlsError(f"is of an unknown version of ONNX ({model.ir_version})", where, AGAIN)
    opsets = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if not opsets:
        raise SlsError("names no opset, or is only a part of a file", where, AGAIN)
    for opset in opsets:
        if opset not in OPSETS:
            raise SlsError(f"uses opset {opset}, which TensorRT does not read", where, fix)
    if model.functions:
        fix = "Inline them: onnx.inliner.inline_local_functions."
        raise SlsError("has functions of its own in place of operators", where, fix)
    if any(part.sparse_initializer for part in graphs(model.graph)):
        raise SlsError("stores tensors as sparse ones, which TensorRT does not read", where, AGAIN)


def _check_operators(model: onnx.ModelProto, where: str) -> None:
    """See that every operator is one of ONNX's, with attributes that it has."""
    context = checker.C.CheckerContext()
    context.ir_version = model.ir_version
    opset = max(entry.version for entry in model.opset_import if entry.domain in _DOMAINS)
    context.opset_imports = dict.fromkeys(_DOMAINS, opset)
    for part in graphs(model.graph):
        for node in part.node:
            operator = f"{shown(node.op_type)} '{shown(node.name)}'"
            if node.domain not in _DOMAINS:
                what = f"uses {operator} of '{shown(node.domain)}', no operator of ONNX itself"
                raise SlsError(what, where, "Export it with ONNX's own operators.")
            if any(subgraphs(node)):
                continue  # the checker would look for names from outside; its parts come by turn
            try:
                checker.check_node(node, context)
            except (checker.ValidationError, ValueError) as error:
                first = ascii(reason(error).partition(" ==>")[0])[1:-1]
                raise SlsError(f"uses {operator} wrongly ({first})", where, AGAIN) from None


def _check_inputs(model: onnx.ModelProto, where: str) -> None:
    """See that whoever runs the file cannot put other weights in place of its own."""
    if model.ir_version <= _WITH_INPUTS:
        return
    for part in graphs(model.graph):
        given = {item.name for item in part.input}
        if both := given & {item.name for item in part.initializer}:
            fix = "Export it without weights among the inputs (keep_initializers_as_inputs=False)."
            raise SlsError(f"takes the weight '{shown(min(both))}' as an input too", where, fix)


def _check_layers(model: onnx.ModelProto, where: str) -> None:
    """See that every weight can be read as its operator does."""
    try:
        for _ in weight_uses(model):
            pass
    except SlsError as error:
        raise SlsError(f"'{error.where}' {error.what}", where, error.fix) from None


def _check_order(graph: onnx.GraphProto, known: set[str], where: str) -> None:
    """See that every value is provided, once and before it is read: so there are no cycles.

    Args:
        graph: the graph.
        known: values that it sees from outside; left as it was.
        where: the file.

    Raises:
        SlsError: it is not so.
    """
    mine: set[str] = set()
    for items in (graph.input, graph.initializer):
        names = Counter(item.name for item in items)
        twice = [name for name, count in names.items() if count > 1 or name in known]
        if twice:
            raise SlsError(f"provides '{shown(min(twice))}' twice", where, AGAIN)
        mine.update(names)
    known |= mine
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in known:
                what = f"node '{shown(node.name)}' reads '{shown(name)}', which nothing before it"
                raise SlsError(f"{what} provides", where, AGAIN)
        for inner in subgraphs(node):
            _check_order(inner, known, where)
        for name in filter(None, node.output):
            if name in known:
                raise SlsError(f"provides '{shown(name)}' twice", where, AGAIN)
            known.add(name)
            mine.add(name)
    for value in graph.output:
        if value.name not in known:
            raise SlsError(f"provides no output '{shown(value.name)}'", where, AGAIN)
    known -= mine
