"""Where a graph that we did not make departs from PyTorch: nothing is known of its names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from sls_deploy.export.bisect import Bisection, bisection, psnr_of
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.graph_values import GraphValues
from sls_deploy.export.pairing import exact_layers, pair_layers
from sls_deploy.export.torch_values import (
    LayerCall,
    TorchValue,
    TorchValues,
    network_layers,
    torch_values,
)
from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.runner import Pictures

_LOOKED_AT = 64
"""Places of a value by which the nearest ones are found before whole ones are compared."""
_NEAREST = 4
"""How many of those are compared."""


def bisect_foreign(
    model: RestorationModel, content: bytes, pictures: Pictures, limit_db: float
) -> Bisection:
    """Compare the values of any graph with those that PyTorch computes of the same pictures.

    1. What a weighted operator gives is compared with what its layer gives (`pair_layers`).
    2. Any other value is compared with the value of PyTorch that it comes nearest to; one that
       departs from all of them, with the next of its shape behind what it is computed from, if
       there is one that no other equals.
    3. Values that only one of both computes are left out: those that depart while all that is
       computed from them does not, such as steps in between, or copies in another order of axes.

    Args:
        model: the network, as it was loaded.
        content: the ONNX file, its weights inside, adapted to take 'input' and give 'output', both
            NCHW float32 (`runtime.foreign_graph.adapted`).
        pictures: NCHW float32, RGB, 0..1, made to fit as `bisect_pytorch` does; memory is that of
            all activations, twice.
        limit_db: PSNR below which a value departs.

    Raises:
        SlsError: ONNX Runtime is not installed, or one of both cannot run the pictures.
    """
    proto = onnx.load_model_from_string(content)
    model = _folded_alike(model, proto)
    graph = GraphValues(content)
    about = model.description
    fitted = graph.fitted(pictures, about.least_side, about.multiple)
    computed = graph.run(fitted)
    known = torch_values(model, fitted)
    found = _Comparison(proto, computed, known, limit_db)
    return bisection(
        graph.proto,
        [(found.expected, computed)],
        limit_db,
        lambda node: found.modules.get(node.output[0], "") if node.output else "",
    )


def _folded_alike(model: RestorationModel, proto: onnx.ModelProto) -> RestorationModel:
    """The network with its normalisations folded, if the graph's weights are those."""
    if not any(isinstance(module, _BatchNorm) for module in model.network.modules()):
        return model
    return max(
        (model, fold_norms(model).model),
        key=lambda each: exact_layers(proto, network_layers(each.network)),
    )


class _Comparison:
    """What each value of a graph is to be.

    Args:
        proto: the graph.
        computed: its values.
        known: PyTorch's.
        limit_db: PSNR below which a value departs.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        computed: Mapping[str, NDArray[Any]],
        known: TorchValues,
        limit_db: float,
    ) -> None:
        self.expected: dict[str, NDArray[Any]] = {}
        """By value of the graph."""
        self.modules: dict[str, str] = {}
        """Which module computes it."""
        self._search = _Search(known.values, limit_db)
        self._limit_db = limit_db
        pairs = pair_layers(proto, known.calls)
        sure: set[str] = set()
        reached: dict[str, int] = {}
        moving = {value.name for value in proto.graph.input}
        for node in proto.graph.node:
            after = max((reached.get(name, -1) for name in node.input), default=-1)
            moving.update(node.output if moving.intersection(node.input) else ())
            for name in node.output:
                reached[name] = after
                if name not in computed or name not in moving:
                    continue
                call = pairs.get(name)
                paired = None if call is None else _given(known, call, node, computed[name])
                if name == "output":
                    self._take(name, known.values[-1])
                    sure.add(name)
                elif call is not None and paired is not None:
                    self._take(name, TorchValue(paired, call.layer.module))
                    # What another operator adds the bias to is still to come.
                    reached[name] = call.at - _lacks_bias(call, node)
                    sure.add(name)
                elif (at := self._search.find(computed[name], after)) is not None:
                    self._take(name, known.values[at])
                    reached[name] = at
        self._leave_out_steps(proto.graph, computed, sure)

    def _take(self, name: str, value: TorchValue) -> None:
        self.expected[name], self.modules[name] = value.values, value.module

    def _leave_out_steps(
        self, graph: onnx.GraphProto, computed: Mapping[str, NDArray[Any]], sure: set[str]
    ) -> None:
        """Forget values that depart without consequences."""
        readers: dict[str, list[str]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                readers[name] += node.output
        right: dict[str, bool] = {}
        for node in reversed(graph.node):
            for name in node.output:
                behind = [right[item] for item in readers[name]]
                recovered = bool(behind) and all(behind) and name not in sure
                if name not in self.expected:
                    right[name] = recovered
                    continue
                figure = psnr_of(self.expected[name], computed[name])
                right[name] = figure >= self._limit_db or recovered
                if figure < self._limit_db and recovered:
                    del self.expected[name]


class _Search:
    """Finds the value of PyTorch that one of a graph is to equal.

    Args:
        values: PyTorch's.
        limit_db: PSNR at which two are the same.
    """

    def __init__(self, values: Sequence[TorchValue], limit_db: float) -> None:
        self._values, self._limit_db = values, limit_db
        self._same_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for at, value in enumerate(values):
            self._same_shape[value.values.shape].append(at)
        self._looks = [_look(value.values) for value in values]
        self._found: set[int] = set()

    def find(self, computed: NDArray[Any], after: int) -> int | None:
        """Index of the value; None if PyTorch has none of that shape.

        Args:
            computed: the graph's.
            after: index of the last one that it is computed from.
        """
        places: list[int] = self._same_shape.get(computed.shape, [])
        if not places:
            return None
        look = _look(computed)
        distances = [float(np.abs(self._looks[at] - look).sum()) for at in places]
        order = np.argsort(np.nan_to_num(distances, nan=np.inf), kind="stable")
        equal = [
            places[item]
            for item in order[:_NEAREST]
            if psnr_of(self._values[places[item]].values, computed) >= self._limit_db
        ]
        if equal:
            at: int = min((item for item in equal if item > after), default=equal[0])
            self._found.add(at)
            return at
        behind = [item for item in places if item > after]
        unseen = (item for item in behind if item not in self._found)
        following: int | None = next(unseen, min(behind, default=None))
        return following


def _look(values: NDArray[Any]) -> NDArray[Any]:
    """A few values from everywhere in an array; the same places in arrays of one shape."""
    flat = values.reshape(-1)
    places = np.random.default_rng(0).integers(0, max(flat.size, 1), _LOOKED_AT)
    with np.errstate(invalid="ignore"):
        return flat[places].astype(np.float64) if flat.size else np.zeros(0)


def _given(
    known: TorchValues, call: LayerCall, node: onnx.NodeProto, computed: NDArray[Any]
) -> NDArray[Any] | None:
    """What a layer gave, in the form in which an operator gives it; None if that is not clear."""
    values = known.values[call.at].values
    last = node.op_type in ("Gemm", "MatMul")
    filters = len(call.layer.filters)
    if call.layer.linear and not last:
        values = np.moveaxis(values, -1, 1)
    elif last and not call.layer.linear:
        values = np.moveaxis(values, 1, -1)
    if values.size != computed.size or values.shape[-1 if last else 1] != filters:
        return None
    bias = call.layer.bias
    if bias is not None and _lacks_bias(call, node):
        values = values - (bias if last else bias.reshape(-1, *[1] * (values.ndim - 2)))
    return values.reshape(computed.shape)


def _lacks_bias(call: LayerCall, node: onnx.NodeProto) -> bool:
    """Whether another operator adds the layer's bias."""
    return call.layer.bias is not None and len(node.input) < 3
