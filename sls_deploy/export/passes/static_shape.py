"""Fixes the size of the pictures that a graph takes."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from sls_deploy.errors import SlsError

_AXES = ("batch", "channels", "height", "width")


class StaticShape(ir.passes.InPlacePass):
    """Give the input one size, and every value the size that follows from it.

    Sizes that the graph computes in ways that ONNX's inference does not follow stay open; `Slim`
    folds that arithmetic and settles them.

    Requires: an input [batch, channels, height, width]. That sides are multiples of what the
    network takes is the caller's business.
    Ensures: the input's shape is the given one; no shape in the graph contradicts it.

    Args:
        shape: batch, channels, height and width.

    Raises:
        SlsError: the graph takes another number there, or the sizes do not fit inside it.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self._shape = shape

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fix the shapes in place."""
        graph = model.graph
        source = graph.inputs[0]
        _check(source, self._shape)
        if source.shape == self._shape:
            return ir.passes.PassResult(model, modified=False)
        source.shape = ir.Shape(self._shape)
        values = {value.name: value for node in graph for value in node.outputs}
        for value in values.values():
            value.shape = None
        for name, shape in _infer(model).items():
            if name in values:
                values[name].shape = shape
        return ir.passes.PassResult(model, modified=True)


def _check(source: ir.Value, shape: tuple[int, int, int, int]) -> None:
    """Refuse sizes where the graph has others."""
    if source.shape is None or len(source.shape) != len(_AXES):
        raise SlsError("has no batch, channels, height and width", f"input '{source.name}'")
    for axis, (fixed, wanted) in enumerate(zip(source.shape, shape, strict=True)):
        if wanted < 1 or (isinstance(fixed, int) and fixed != wanted):
            takes = f"takes {fixed}" if isinstance(fixed, int) else "takes 1 or more"
            what = f"{takes} as {_AXES[axis]}, but static_shape says {wanted}"
            raise SlsError(what, f"input '{source.name}'", "Change export.static_shape.")


def _infer(model: ir.Model) -> dict[str, ir.Shape]:
    """The shape of every value that inference reaches, by name."""
    try:
        proto = onnx.shape_inference.infer_shapes(
            ir.to_proto(model), check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        size = list(model.graph.inputs[0].shape or ())
        # The reason stands last; the first lines list the operators.
        reason = str(error).strip().rpartition("\n")[2]
        what = f"cannot take pictures of {size} ({reason})"
        fix = "Change export.static_shape."
        raise SlsError(what, model.graph.name or "the graph", fix) from None
    inferred = ir.from_proto(proto).graph
    return {
        value.name: value.shape
        for node in inferred
        for value in node.outputs
        if value.name is not None and value.shape is not None
    }
