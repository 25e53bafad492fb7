"""Brings an ONNX graph of anyone's into our own form: 'input' to 'output', NCHW float32, 0..1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.onnx_weights import shown

White = Literal[1, 255]
"""Value of white: pictures hold 0..1 or 0..255."""

INPUT, OUTPUT = "input", "output"
"""What the ends are called afterwards."""
COLOURS = 3
"""Channels of a picture."""
_WITHOUT_INPUTS = 4
"""The first format in which initialisers need not be inputs."""
_FLOAT, _BYTES = ir.DataType.FLOAT, ir.DataType.UINT8
_TYPES = (_FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, _BYTES)
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_RGB_ONLY = "Export it so that it takes RGB pictures, as the network in PyTorch does."


@dataclass(frozen=True)
class End:
    """How a graph takes or gives pictures."""

    name: str
    """The value's own name."""
    dtype: ir.DataType
    """Type of its elements."""
    last: bool
    """Whether colours lie along the last axis, NHWC, and not along the second, NCHW."""
    white: White
    """Value of white."""
    bgr: bool
    """Whether colours come as BGR."""

    @property
    def in_bytes(self) -> bool:
        """Whether pictures are of 8 bits."""
        return self.dtype == _BYTES

    def __str__(self) -> str:
        """In a few words, such as 'RGB of 0..1, NCHW float32'."""
        colours = "BGR" if self.bgr else "RGB"
        kind = "float32" if self.dtype == _FLOAT else self.dtype.name.lower()
        return f"{colours} of 0..{self.white}, {'NHWC' if self.last else 'NCHW'} {kind}"


def picture_input(model: onnx.ModelProto, where: str) -> onnx.ValueInfoProto:
    """The one input of a graph.

    Raises:
        SlsError: it has several, or none, or it is no array of four axes of a type for pictures.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    given: list[onnx.ValueInfoProto] = [
        value for value in model.graph.input if value.name not in stored
    ]
    if len(given) != 1:
        there = ", ".join(map(described, given)) or "none"
        what = f"has {len(given)} inputs ({there}), where one picture is to go in"
        raise SlsError(what, where, "Export it with one input; frames lie along its channels.")
    kind = given[0].type.tensor_type
    rank = len(kind.shape.dim) if kind.HasField("shape") else 4
    if kind.elem_type not in {int(dtype) for dtype in _TYPES} or rank != 4:
        raise SlsError(f"takes {described(given[0])}, which is no picture", where, _RGB_ONLY)
    return given[0]


def possible_inputs(value: onnx.ValueInfoProto, channels: int, where: str) -> Iterator[End]:
    """Every way to feed a graph that its input allows, the usual ones first.

    Args:
        value: the input.
        channels: channels of the network's input: RGB of each frame.
        where: the file.

    Raises:
        SlsError: it takes another number of channels.
    """
    _, *sizes = axes(value)
    layouts = [last for last in (False, True) if sizes[-1 if last else 0] == channels]
    if not layouts:  # an open axis may be that of colours if both others are alike sides
        layouts = [last for last in (False, True) if _may_be_colours(sizes, -1 if last else 0)]
    if not layouts:
        what = f"takes {described(value)}, where the network takes {channels} channels"
        raise SlsError(what, where, _RGB_ONLY)
    dtype = ir.DataType(value.type.tensor_type.elem_type)
    for last, white, bgr in product(layouts, _whites(dtype), (False, True)):
        yield End(value.name, dtype, last, white, bgr)


def possible_outputs(name: str, dtype: ir.DataType, *, last: bool) -> Iterator[End]:
    """Every way to read what a graph gives, the usual ones first."""
    for white, bgr in product(_whites(dtype), (False, True)):
        yield End(name, dtype, last, white, bgr)


def fixed_size(value: onnx.ValueInfoProto, *, last: bool) -> tuple[int, int] | None:
    """Height and width of the only pictures that a graph takes; None if it takes several sizes.

    Where one side alone is fixed, pictures are made square.
    """
    sides = axes(value)[1:3] if last else axes(value)[2:]
    known = [side for side in sides if side is not None]
    if not known:
        return None
    height, width = (side if side is not None else known[0] for side in sides)
    return height, width


def axes(value: onnx.ValueInfoProto) -> list[int | None]:
    """The size of each of four axes, None for an open one."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return [None] * 4
    # Some exporters write -1 or 0 for an open one.
    return [item.dim_value if item.dim_value > 0 else None for item in kind.shape.dim]


def described(value: onnx.ValueInfoProto) -> str:
    """An end of a graph as errors show it, such as "'x' FLOAT [1, 3, h, w]"."""
    kind = value.type.tensor_type
    names = (shown(item.dim_param) or "?" for item in kind.shape.dim)
    sizes = zip(axes(value), names, strict=False)
    listed = ", ".join(name if size is None else str(size) for size, name in sizes)
    known = kind.elem_type in onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type) if known else "?"
    return f"'{shown(value.name)}' {dtype} [{listed}]"


def adapted(model: onnx.ModelProto, source: End, channels: int, target: End | None) -> bytes:
    """The same graph with ends in our own form; its own nodes stay as they are.

    1. In front stand, as far as they are needed, a Gather that turns colours round, a
       multiplication by 255, rounding and clipping to bytes, a Cast, and a Transpose.
    2. Behind stand a Cast, a Transpose, a division by 255 and a Gather. Other outputs go.

    Args:
        model: a sound one, as `read_model` gives it; left as it was.
        source: how it takes pictures.
        channels: channels of its input.
        target: how it gives them; None to give all its outputs as they are, called 'output',
            'output.1' and so on in their order.

    Returns:
        A graph from 'input', NCHW float32, RGB, 0..1, to 'output', the same.
    """
    converted = ir.from_proto(model)
    graph = converted.graph
    converted.ir_version = max(converted.ir_version, _WITHOUT_INPUTS)
    old = next(value for value in graph.inputs if value.name == source.name)
    places = [
        place
        for place, value in enumerate(graph.outputs)
        if target is None or value.name == target.name
    ]
    _free_names(graph)
    _put_in_front(graph, old, source, channels)
    given = [graph.outputs[place] for place in places]
    graph.outputs.clear()
    for number, value in enumerate(given):
        ending = _Chain(graph, value, f"foreign.{OUTPUT}.{number}")
        if target is not None:
            _put_behind(ending, target)
        ending.step("Identity")
        ending.value.name = f"{OUTPUT}.{number}" if number else OUTPUT
        ending.value.type = value.type if target is None else ir.TensorType(_FLOAT)
        graph.extend(ending.nodes)
        graph.outputs.append(ending.value)
    content: bytes = ir.to_proto(converted).SerializeToString()
    return content


class _Chain:
    """Nodes one behind the other, not yet part of a graph; their constants are."""

    def __init__(self, graph: ir.Graph, value: ir.Value, prefix: str) -> None:
        self.graph, self.value, self.prefix = graph, value, prefix
        self.nodes: list[ir.Node] = []

    def step(self, operator: str, constant: NDArray[Any] | None = None, **attributes: Any) -> None:
        """Add a node that takes the value so far, and perhaps a constant."""
        name = f"{self.prefix}.{operator}"
        inputs = [self.value]
        if constant is not None:
            tensor = ir.Tensor(constant, name=f"{name}.constant")
            kind = ir.TensorType(tensor.dtype)
            held = ir.Value(name=tensor.name, shape=tensor.shape, type=kind, const_value=tensor)
            self.graph.register_initializer(held)
            inputs.append(held)
        node = ir.node(operator, inputs, attributes, name=name)
        self.value = node.outputs[0]
        self.value.name = name
        self.nodes.append(node)

    def turn_round(self, channels: int) -> None:
        """Exchange red and blue of each frame."""
        order = np.arange(channels).reshape(-1, COLOURS)[:, ::-1].ravel()
        self.step("Gather", order.astype(np.int64), axis=1)


def _put_in_front(graph: ir.Graph, old: ir.Value, source: End, channels: int) -> None:
    sizes: list[Any] = [None] * 4 if old.shape is None else list(old.shape)
    sizes = [None if isinstance(size, int) and size < 1 else size for size in sizes]
    if source.last:
        sizes = [sizes[axis] for axis in _TO_NCHW]
    sizes[1] = channels
    new = ir.Value(name=INPUT, shape=ir.Shape(sizes), type=ir.TensorType(_FLOAT))
    chain = _Chain(graph, new, f"foreign.{INPUT}")
    if source.bgr:
        chain.turn_round(channels)
    if source.white != 1:
        chain.step("Mul", np.array(source.white, np.float32))
    if source.in_bytes:
        # A Cast cuts off what stands behind the point. Clip would want another form by opset.
        for operator, number in (("Add", 0.5), ("Max", 0.0), ("Min", 255.0)):
            chain.step(operator, np.array(number, np.float32))
    if source.dtype != _FLOAT:
        chain.step("Cast", to=int(source.dtype))
    if source.last:
        chain.step("Transpose", perm=_TO_NHWC)
    chain.step("Identity")  # of the old type, whatever stood in front
    chain.value.type, chain.value.shape = old.type, old.shape
    old.replace_all_uses_with(chain.value, replace_graph_outputs=True)
    graph.inputs[:] = [new]
    graph.insert_before(graph[0], chain.nodes)


def _put_behind(chain: _Chain, target: End) -> None:
    if target.dtype != _FLOAT:
        chain.step("Cast", to=int(_FLOAT))
    if target.last:
        chain.step("Transpose", perm=_TO_NCHW)
    if target.white != 1:
        chain.step("Div", np.array(target.white, np.float32))
    if target.bgr:
        chain.turn_round(COLOURS)


def _may_be_colours(sizes: Sequence[int | None], place: int) -> bool:
    sides = [*sizes]
    return sides.pop(place) is None and (None in sides) == (sides == [None, None])


def _whites(dtype: ir.DataType) -> tuple[White, ...]:
    return (255,) if dtype == _BYTES else (1, 255)


def _free_names(graph: ir.Graph) -> None:
    """Give values that are called like our ends another name."""
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph.all_nodes() for value in node.outputs]
    taken = {value.name for value in values}
    ours = {INPUT, OUTPUT, *(f"{OUTPUT}.{number}" for number in range(len(graph.outputs)))}
    for value in values:
        if value.name in ours:
            numbers = (f"file.{number}.{value.name}" for number in range(len(taken) + 1))
            value.name = next(name for name in numbers if name not in taken)
            taken.add(value.name)
