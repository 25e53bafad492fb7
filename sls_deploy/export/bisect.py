"""Where an exported graph departs: value by value, from PyTorch or from another graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.module_outputs import Values, module_outputs
from sls_deploy.export.parity import EQUAL_DB, MIN_PARITY_DB, Batch
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.models.model import RestorationModel
from sls_deploy.onnx_weights import shown
from sls_deploy.runtime.onnxruntime import open_session, run_session
from sls_deploy.runtime.padding import reflect
from sls_deploy.runtime.runner import Pictures
from sls_deploy.sizes import padded_side

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))


@dataclass(frozen=True)
class Difference:
    """How far a value of a graph lies from what it is to be."""

    node: str
    """Name of the node that computes it, which begins with the layer's name."""
    operator: str
    """ONNX operator, such as 'Conv'."""
    psnr_db: float
    """PSNR of the pictures where it is least, peak the largest magnitude of the reference; 200 if
    they are equal, -200 if it is NaN or infinite."""
    before_db: float
    """Least PSNR among the compared values that it is computed from; 200 if there are none."""
    max_error: float | None
    """Largest absolute difference; None if it is NaN or infinite."""
    peak: float
    """Largest magnitude of the reference."""
    place: str
    """Where the difference is largest: the index along each axis."""


@dataclass(frozen=True)
class Bisection:
    """A graph compared value by value."""

    limit_db: float
    """PSNR below which a value departs."""
    values: tuple[Difference, ...]
    """What was compared, in the order of the graph."""
    first: Difference | None
    """The first value that departs."""
    worst: Difference | None
    """The value that adds most error to what it is computed from."""

    @property
    def passed(self) -> bool:
        """Whether what the graph gives in the end does not depart: inside, int8 may by design."""
        return not self.values or self.values[-1].psnr_db >= self.limit_db

    def __str__(self) -> str:
        """One sentence that names the first departure, without a full stop."""
        if self.first is None or self.worst is None:
            number = f"none of {len(self.values)} values lies below {self.limit_db:g} dB"
            return f"layer by layer {number} when each is kept, so look at fused operators"
        first, worst = self.first, self.worst
        told = f"{first.psnr_db:.1f} dB to its own peak, largest error at {first.place}"
        sentence = (
            f"layer by layer '{shown(first.node)}' is the first below {self.limit_db:g} dB ({told})"
        )
        if worst is first:
            return sentence
        fall = f"from {worst.before_db:.1f} to {worst.psnr_db:.1f} dB"
        return f"{sentence}, and '{shown(worst.node)}' adds the most error ({fall})"


def first_departure(
    model: RestorationModel, content: bytes, batches: Sequence[Batch], precision: Precision
) -> str:
    """One sentence on where an exported file departs from PyTorch; see `bisect_pytorch`."""
    return str(bisect_pytorch(model, content, batches, precision))


def bisect_pytorch(
    model: RestorationModel, content: bytes, batches: Sequence[Batch], precision: Precision
) -> Bisection:
    """Compare the outputs of modules with the values of an exported graph that are to equal them.

    Every value of the graph is made an output, so memory is that of all activations of one batch,
    and ONNX Runtime fuses less. fp16 is so rounded at every value; bf16, which ONNX Runtime does
    not run, is rounded by arithmetic (`RoundedFloat32`).

    Args:
        model: the network that was exported, with folded normalisations.
        content: the ONNX file.
        batches: inputs; those that the network does not take are padded by reflection, and cut or
            repeated where the graph fixes its sizes.
        precision: names the limit.

    Raises:
        SlsError: ONNX Runtime is not installed, or one of both cannot run the pictures.
    """
    about = model.description
    graph = _Graph(content)
    rules = (about.least_side, about.multiple)
    pairs = []
    for batch in batches:
        pictures = graph.fitted(batch.pictures, *rules)
        computed = graph.run(pictures)
        pairs.append((module_outputs(model, graph.proto, computed, pictures), computed))
    return _bisection(graph.proto, pairs, MIN_PARITY_DB[precision])


def bisect_graphs(
    reference: bytes,
    content: bytes,
    batches: Sequence[Batch],
    limit_db: float,
    rules: tuple[int, int] = (1, 1),
) -> Bisection:
    """Compare all values that two graphs have under the same name and in the same shape.

    Such as those of the fp32 and the int8 file of one export; see `bisect_pytorch`.

    Args:
        reference: the ONNX file that is right.
        content: the one to compare with it.
        batches: inputs.
        limit_db: PSNR below which a value departs.
        rules: least side of an input, and what sides must be multiples of, in pixels.

    Raises:
        SlsError: ONNX Runtime is not installed, or cannot run one of them on the pictures; they
            have no value in common.
    """
    right, graph = _Graph(reference), _Graph(content)
    pairs = []
    for batch in batches:
        pictures = graph.fitted(right.fitted(batch.pictures, *rules), *rules)
        pairs.append((right.run(pictures), graph.run(pictures)))
    found = _bisection(graph.proto, pairs, limit_db)
    if not found.values:
        fix = "Compare files of one export."
        raise SlsError("have no value of the same name and shape", "the two graphs", fix)
    return found


class _Graph:
    """A graph all of whose values are outputs."""

    def __init__(self, content: bytes) -> None:
        self.proto = onnx.load_model_from_string(content).graph
        model = onnx.load_model_from_string(content)
        types = {item.type.tensor_type.elem_type for item in model.graph.value_info}
        types |= {item.data_type for item in model.graph.initializer}
        if onnx.TensorProto.BFLOAT16 in types:
            model = onnx.load_model_from_string(
                to_bytes(RoundedFloat32()(ir.from_proto(model)).model)
            )
        ends = {value.name for value in model.graph.output}
        self._names = [name for node in self.proto.node for name in node.output if name]
        # ONNX Runtime finds the types by itself.
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in self._names if name not in ends
        )
        self._session = open_session(model.SerializeToString())
        if self._session.get_inputs()[0].type != "tensor(float)":
            raise SlsError("takes pictures as bytes", "the graph", "Compare the file of floats.")

    def fitted(self, pictures: Pictures, least_side: int, multiple: int) -> Pictures:
        """Pictures of a size that the graph takes."""
        sides = [padded_side(side, least_side, multiple) for side in pictures.shape[2:]]
        batch, _, *fixed = self._session.get_inputs()[0].shape
        height, width = (
            size if isinstance(size, int) else side for size, side in zip(fixed, sides, strict=True)
        )
        if isinstance(batch, int):
            pictures = pictures[np.arange(batch) % len(pictures)]
        return reflect(pictures[:, :, :height, :width], height, width)

    def run(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """All float values by name, as float32."""
        values = run_session(self._session, self._names, {"input": pictures}, "the graph")
        return {
            name: value.astype(np.float32, copy=False)
            for name, value in zip(self._names, values, strict=True)
            if isinstance(value, np.ndarray) and value.dtype in _FLOATS
        }


def _bisection(
    graph: onnx.GraphProto, pairs: Sequence[tuple[Values, Values]], limit_db: float
) -> Bisection:
    """Compare the values of each batch, and follow the error through the graph."""
    levels: dict[str, float] = {}
    found = []
    for node in graph.node:
        before = min((levels.get(name, EQUAL_DB) for name in node.input), default=EQUAL_DB)
        for name in node.output:
            compared = [
                _compared(node, before, expected[name], computed[name])
                for expected, computed in pairs
                if name in expected
                and name in computed
                and expected[name].shape == computed[name].shape
            ]
            worst = min(compared, key=lambda item: item.psnr_db, default=None)
            levels[name] = worst.psnr_db if worst else before
            found += [worst] if worst else []
    return Bisection(
        limit_db=limit_db,
        values=tuple(found),
        first=next((item for item in found if item.psnr_db < limit_db), None),
        worst=max(found, key=_added, default=None),
    )


def _compared(
    node: onnx.NodeProto, before: float, expected: NDArray[Any], computed: NDArray[Any]
) -> Difference:
    wanted, given = expected.astype(np.float64), computed.astype(np.float64)
    finite = np.isfinite(wanted)
    peak = float(np.abs(wanted[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore"):  # equal infinities, such as those of a mask, are no error
        error = np.where(wanted == given, 0.0, np.abs(wanted - given))
    if error.size == 0:
        return Difference(node.name, node.op_type, EQUAL_DB, before, 0.0, peak, "nowhere")
    sound = bool(np.isfinite(error).all())
    at = np.unravel_index(int(np.where(np.isfinite(error), error, np.inf).argmax()), error.shape)
    return Difference(
        node=node.name,
        operator=node.op_type,
        psnr_db=_psnr(float(np.mean(error**2)), peak) if sound else -EQUAL_DB,
        before_db=before,
        max_error=float(error.max()) if sound else None,
        peak=peak,
        place=str([int(index) for index in at]),
    )


def _psnr(mean_square: float, peak: float) -> float:
    """Of a value to its own peak, within what JSON can say."""
    if mean_square == 0:
        return EQUAL_DB
    if peak == 0:
        return -EQUAL_DB
    figure = -10 * math.log10(mean_square / peak**2)
    return round(min(max(figure, -EQUAL_DB), EQUAL_DB), 2)


def _added(item: Difference) -> float:
    """Error that a value adds to what it is computed from, relative to the peak, squared."""
    own, before = (math.pow(10, -figure / 10) for figure in (item.psnr_db, item.before_db))
    return float(own - before)
