"""Graphs made of a few operators, and what their pixels really hang on, tried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.runner import Pictures


class Graph:
    """A graph that grows by one node after the other, from 'input' to 'output'."""

    def __init__(
        self, *, sides: tuple[int | str, int | str] = ("height", "width"), channels: int = 1
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = "input"
        self.sides, self.channels = sides, channels

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, which takes the last value if it is given none."""
        name = f"value{len(self.nodes)}"
        given = list(inputs) or [self.last]
        self.nodes.append(helper.make_node(kind, given, [name], name=name, **attributes))
        self.last = name
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def conv(
        self,
        kernel: int,
        stride: int,
        pads: Sequence[int],
        dilation: int = 1,
        *,
        outputs: int = 1,
        inputs: int = 1,
    ) -> str:
        """Add a convolution; its weights are above zero, so that nothing cancels."""
        weight = self._positive(outputs, inputs, kernel)
        begin, end = pads
        sizes = {"strides": [stride] * 2, "dilations": [dilation] * 2}
        return self.add("Conv", self.last, weight, **sizes, pads=[begin, begin, end, end])

    def transposed(self, kernel: int, stride: int, pad: int, extra: int) -> str:
        """Add a transposed convolution."""
        weight = self._positive(1, 1, kernel)
        sizes = {"strides": [stride] * 2, "output_padding": [extra] * 2}
        return self.add("ConvTranspose", self.last, weight, **sizes, pads=[pad] * 4)

    def resize(self, factor: float, **attributes: str) -> str:
        """Add resizing by a factor."""
        factors = self.constant([1, 1, factor, factor])
        return self.add("Resize", self.last, "", factors, **attributes)

    def _positive(self, outputs: int, inputs: int, side: int) -> str:
        shape = (outputs, inputs, side, side)
        rng = np.random.default_rng(len(self.nodes))
        return self.constant(rng.uniform(0.5, 1.5, shape) / (inputs * side * side))

    def model(self, multiple: int = 1) -> onnx.ModelProto:
        """The graph so far; multiple is what it says of the sides that it takes."""
        self.nodes.append(helper.make_node("Identity", [self.last], ["output"], name="end"))
        ends = [
            helper.make_tensor_value_info(
                "input", TensorProto.FLOAT, ("n", self.channels, *self.sides)
            ),
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ("n", None, None, None)),
        ]
        graph = helper.make_graph(self.nodes, "graph", ends[:1], ends[1:], self.constants)
        opset = helper.make_opsetid("", 18)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        if multiple > 1:
            said = f'{{"least": {multiple}, "multiple": {multiple}}}'
            helper.set_model_props(model, {"sls_deploy.sides": said})
        return model


class Oracle:
    """Runs a graph, and tells what changes with a pixel and what a tile gives."""

    def __init__(self, model: onnx.ModelProto | bytes) -> None:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = open_session(content, threads=1)

    def run(self, pictures: Pictures) -> NDArray[np.float32]:
        """Restore a batch, in the form that the graph gives."""
        given = np.ascontiguousarray(pictures)
        return np.asarray(run_session(self._session, ["output"], {"input": given}, "graph")[0])

    def reach(self, picture: Pictures, places: Sequence[tuple[int, int]], scale: int = 1) -> int:
        """The farthest that an output pixel lay from one that it changed with, in input pixels."""
        before = self.run(picture)
        farthest = 0
        for row, column in places:
            other = picture.copy()
            other[:, :, row, column] += 50
            changed = (self.run(other) != before).any(axis=(0, 1))
            rows, columns = (where // scale for where in np.nonzero(changed))
            far = np.maximum(abs(rows - row), abs(columns - column))
            farthest = max(farthest, int(far.max(initial=0)))
        return farthest

    def departure(
        self, picture: Pictures, rows: slice, columns: slice, around: int, scale: int = 1
    ) -> float:
        """The largest difference of a tile to the whole picture, inside of its own borders.

        Args:
            picture: the whole one.
            rows: of the tile; where it begins or ends with the picture, that is no border of its
                own.
            columns: of the tile.
            around: input pixels that are left out at its own borders.
            scale: output pixels for one input pixel.
        """
        whole = self.run(picture)
        part = self.run(picture[:, :, rows, columns])
        for axis, cut in ((2, rows), (3, columns)):
            first = cut.start + (around if cut.start else 0)
            last = cut.stop - (around if cut.stop < picture.shape[axis] else 0)
            assert first < last, "the tile has no inside"
            whole = whole.take(range(first * scale, min(last * scale, whole.shape[axis])), axis)
            inner = range((first - cut.start) * scale, (last - cut.start) * scale)
            part = part.take([at for at in inner if at < part.shape[axis]], axis)
        return float(np.abs(part - whole).max())
