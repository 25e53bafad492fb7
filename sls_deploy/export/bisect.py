"""Where an exported graph departs: value by value, from PyTorch or from another graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.export.graph_values import GraphValues
from sls_deploy.export.module_outputs import Values, module_outputs
from sls_deploy.export.parity import EQUAL_DB, MIN_PARITY_DB, Batch
from sls_deploy.models.model import RestorationModel
from sls_deploy.onnx_weights import shown


@dataclass(frozen=True)
class Difference:
    """How far a value of a graph lies from what it is to be."""

    node: str
    """Name of the node that computes it; that of its output if it has none."""
    layer: str
    """Module of the network that it stands for, such as 'body.0.first'; empty for what no module
    inside of the network computes."""
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

    @property
    def told(self) -> str:
        """Its node, quoted, and its layer where the node's name does not tell it."""
        known = not self.layer or self.node.startswith(self.layer)
        return f"'{shown(self.node)}'" + ("" if known else f" (layer '{shown(self.layer)}')")


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
        sentence = f"layer by layer {first.told} is the first below {self.limit_db:g} dB ({told})"
        if worst is first:
            return sentence
        fall = f"from {worst.before_db:.1f} to {worst.psnr_db:.1f} dB"
        return f"{sentence}, and {worst.told} adds the most error ({fall})"


def first_departure(
    model: RestorationModel, content: bytes, batches: Sequence[Batch], precision: Precision
) -> str:
    """One sentence on where an exported file departs from PyTorch; see `bisect_pytorch`."""
    return str(bisect_pytorch(model, content, batches, precision))


def bisect_pytorch(
    model: RestorationModel, content: bytes, batches: Sequence[Batch], precision: Precision
) -> Bisection:
    """Compare the outputs of modules with the values of an exported graph that are to equal them.

    Every value of the graph is made an output (`GraphValues`).

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
    graph = GraphValues(content)
    rules = (about.least_side, about.multiple)
    pairs = []
    for batch in batches:
        pictures = graph.fitted(batch.pictures, *rules)
        computed = graph.run(pictures)
        pairs.append((module_outputs(model, graph.proto, computed, pictures), computed))
    return bisection(graph.proto, pairs, MIN_PARITY_DB[precision], _module)


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
    right, graph = GraphValues(reference), GraphValues(content)
    pairs = []
    for batch in batches:
        pictures = graph.fitted(right.fitted(batch.pictures, *rules), *rules)
        pairs.append((right.run(pictures), graph.run(pictures)))
    found = bisection(graph.proto, pairs, limit_db, _module)
    if not found.values:
        fix = "Compare files of one export."
        raise SlsError("have no value of the same name and shape", "the two graphs", fix)
    return found


def bisection(
    graph: onnx.GraphProto,
    pairs: Sequence[tuple[Values, Values]],
    limit_db: float,
    layer_of: Callable[[onnx.NodeProto], str],
) -> Bisection:
    """Compare the values of each batch, and follow the error through the graph.

    Args:
        graph: its nodes in an order in which they can run.
        pairs: for each batch what values are to be and what the graph computed; those of one name
            and shape are compared.
        limit_db: PSNR below which a value departs.
        layer_of: the module that a node stands for.
    """
    levels: dict[str, float] = {}
    found = []
    for node in graph.node:
        before = min((levels.get(name, EQUAL_DB) for name in node.input), default=EQUAL_DB)
        for name in node.output:
            compared = [
                _compared(node, layer_of(node), before, expected[name], computed[name])
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


def psnr_of(expected: NDArray[Any], computed: NDArray[Any]) -> float:
    """PSNR of a value to what it is to be, peak its largest magnitude; see `Difference.psnr_db`."""
    return _compared(onnx.NodeProto(), "", EQUAL_DB, expected, computed).psnr_db


def _module(node: onnx.NodeProto) -> str:
    """The module that a node of an exported graph is called after (`passes.names.LayerNames`)."""
    return node.name.rpartition(".")[0]


def _compared(
    node: onnx.NodeProto,
    layer: str,
    before: float,
    expected: NDArray[Any],
    computed: NDArray[Any],
) -> Difference:
    wanted, given = expected.astype(np.float64), computed.astype(np.float64)
    finite = np.isfinite(wanted)
    peak = float(np.abs(wanted[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore"):  # equal infinities, such as those of a mask, are no error
        error = np.where(wanted == given, 0.0, np.abs(wanted - given))
    name = node.name or "".join(node.output[:1])
    if error.size == 0:
        return Difference(name, layer, node.op_type, EQUAL_DB, before, 0.0, peak, "nowhere")
    sound = bool(np.isfinite(error).all())
    at = np.unravel_index(int(np.where(np.isfinite(error), error, np.inf).argmax()), error.shape)
    return Difference(
        node=name,
        layer=layer,
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
