"""Chooses which layers of a graph compute in int8, and with which ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sls_deploy.calibration.clipping import choose_range
from sls_deploy.calibration.fallback import Fallback, fall_back
from sls_deploy.calibration.histograms import Spread, measure_spreads
from sls_deploy.calibration.int8 import bias_shift, dequantize_weight, half_scale, quantize_weight
from sls_deploy.calibration.psnr_loss import PsnrLoss
from sls_deploy.config import ExportConfig
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.int8_layers import (
    WeightedLayer,
    own_bias,
    quantized_reads,
    weighted_layers,
)
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.quantize import Int8Weight, Quantize, Slot
from sls_deploy.progress import Report, silent
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.runner import Pictures

_RANKING_PIXELS = 8 * 48 * 48
"""Input pixels that single layers are measured on. Seen on RFDN x4: two and four times as many rank
the same layers worst."""


@dataclass(frozen=True)
class Int8LayerChoice:
    """What becomes of one layer, and why."""

    name: str
    """Name as in ratios.json."""
    quantized: bool
    """Whether it computes in int8."""
    reason: str
    """Why it does not; empty if it does."""
    input_range: float | None
    """Largest magnitude of its input that int8 holds; None if it was not measured."""
    input_clipped: float | None
    """Share of the input's values beyond that, on calibration pictures."""
    loss_db: float | None
    """What int8 in this layer alone loses, in dB; None if it was not measured."""


@dataclass(frozen=True)
class Int8Choice:
    """What `Quantize` needs, and the evidence for it."""

    weights: tuple[Int8Weight, ...]
    """The layers that compute in int8."""
    reads: Mapping[Slot, float]
    """The inputs of operators that are read in int8, and the step of each."""
    layers: tuple[Int8LayerChoice, ...]
    """All layers with weights, in graph order."""
    loss_db: float
    """Mean loss of PSNR of the fp16 graph with these layers, on calibration pictures, in dB."""
    loss_all_db: float
    """The same with every layer in int8 that may be."""

    def pass_(self) -> Quantize:
        """Writes the choice into the fp32 graph, or into what `Half` made of it."""
        return Quantize(self.weights, self.reads)


def choose_int8(
    graph: ir.Model,
    inputs: Sequence[Pictures],
    truths: Sequence[Pictures],
    options: ExportConfig,
    report: Report = silent,
    half_keep: Collection[str] = (),
) -> Int8Choice:
    """Choose ranges, integers and layers by what int8 does to real pictures.

    Ranges of activations come from their histograms (`options.int8_ranges`), weights have a step
    for each output channel, biases are corrected for the mean that rounding the weights takes. The
    first and the last layer (`int8_ends`) and layers by name (`int8_keep`) stay as they are; if the
    rest loses more than `int8_loss_db`, so do the worst of them (`fall_back`).

    Every second batch, from the first on, gives ranges and means; the others, the losses, so that
    no range is judged by the pictures it was fitted to.

    A loss is the mean over pictures of what each loses of its PSNR to the truth, over RGB, from the
    fp32 graph to the one that is written: fp16 with these layers in int8. Single layers are ranked
    in fp32, and by what an error of that size adds if it is independent of the network's own: the
    truth says nothing reliable of changes so small.

    Measured on RFDN x4, ranges by mse, 32 crops of as many photographs, Y-PSNR lost on Set5 and
    Set14: 0.225 and 0.153 dB with 62 of 64 layers in int8, 0.042 and 0.046 with 16 of them kept for
    a limit of 0.05 dB. Few photographs deceive: with crops of 8 the same limit kept 5 layers, and
    Set5 lost 0.158.

    Args:
        graph: the fp32 graph, with a name on every operator.
        inputs: batches of calibration pictures, at least two.
        truths: what the network should make of them.
        options: the settings that begin with 'int8'.
        report: told before every measurement of layers.
        half_keep: names of operators that `Half` keeps in fp32.

    Raises:
        SlsError: there are fewer than two batches; no layer is left for int8; ONNX Runtime is not
            installed or cannot run the graph; an activation is not finite.
    """
    if len(inputs) < 2:
        fix = "Set export.calibration_crops to 2 or more."
        raise SlsError("are too few to take ranges from some and losses from others", "crops", fix)
    layers = weighted_layers(graph.graph, options.int8_keep, ends=options.int8_ends)
    candidates = {layer.name: layer for layer in layers if not layer.reason}
    if not candidates:
        what = "has no layer to take: those at the ends stay fp16, and so do those kept by name"
        fix = "Try `--int8-ends`, keep fewer layers by `--int8-keep`, or export fp16."
        raise SlsError(what, "int8", fix)
    spreads = measure_spreads(to_bytes(graph), _tensors(graph.graph, candidates), inputs[::2])
    ranges = {
        name: choose_range(spread.histogram, options.int8_ranges)
        for name, spread in spreads.items()
    }
    weights = {name: _weight(graph.graph, layer, spreads) for name, layer in candidates.items()}

    def quantize(lowered: Collection[str]) -> Quantize:
        slots = quantized_reads(graph.graph, [*candidates.values()], lowered)
        reads = {slot: float(half_scale(ranges[value.name or ""])) for slot, value in slots.items()}
        return Quantize([weights[name] for name in candidates if name in lowered], reads)

    losses = PsnrLoss(OnnxRunner(to_bytes(graph)), inputs[1::2], truths[1::2])
    half = Half("fp16", half_keep)(graph.clone()).model
    few = _ranking_batches(inputs[1::2])

    def alone(name: str) -> float:
        return losses.expected(OnnxRunner(to_bytes(quantize({name})(graph.clone()).model)), few)

    def loss(lowered: frozenset[str]) -> float:
        return losses.measured(OnnxRunner(to_bytes(quantize(lowered)(half.clone()).model)))

    limit = options.int8_loss_db
    found = fall_back(list(candidates), loss, limit, report, "losses of int8", alone=alone)
    chosen = candidates.keys() - frozenset(found.kept)
    if not chosen:
        what = (
            f"would hold no layer: {found.loss_all_db:.3g} dB are lost with all of them, "
            f"{found.loss_db:.3g} dB with none, and {limit:g} dB are allowed"
        )
        fix = "Allow more with `--int8-loss-db`, or measure on other pictures with `--calibration`."
        raise SlsError(what, "int8", fix)
    made = quantize(chosen)
    return Int8Choice(
        weights=made.weights,
        reads=made.reads,
        layers=tuple(_describe(layer, found, spreads, ranges) for layer in layers),
        loss_db=found.loss_db,
        loss_all_db=found.loss_all_db,
    )


def _tensors(graph: ir.Graph, layers: Mapping[str, WeightedLayer]) -> dict[str, int]:
    """What may be read in int8: names of tensors, and the axis of their channels."""
    reads = quantized_reads(graph, [*layers.values()], layers)
    axes = {value.name or "": 1 for value in reads.values()}
    axes.update({_input(n): layer.channel_axis for layer in layers.values() for n in layer.nodes})
    return axes


def _weight(graph: ir.Graph, layer: WeightedLayer, spreads: Mapping[str, Spread]) -> Int8Weight:
    """The integers of a layer, and the bias that makes up for their rounding."""
    weight = _array(graph.initializers[layer.weight])
    integers, scales = quantize_weight(weight, layer.axis)
    corrected = None
    bias = own_bias(layer)
    if bias is not None:
        # A layer that is used again has one bias for all its inputs.
        means = np.mean([spreads[_input(node)].channel_means for node in layer.nodes], axis=0)
        error = weight - dequantize_weight(integers, scales, layer.axis)
        values = _array(bias).astype(np.float64)
        corrected = values + bias_shift(error, means, layer.axis, len(values), layer.groups)
    names = tuple(node.name or "" for node in layer.nodes)
    return Int8Weight(layer.weight, names, layer.axis, integers, scales, corrected)


def _describe(
    layer: WeightedLayer,
    found: Fallback,
    spreads: Mapping[str, Spread],
    ranges: Mapping[str, float],
) -> Int8LayerChoice:
    names = [_input(node) for node in layer.nodes]
    worst = max(names, key=lambda name: ranges.get(name, 0.0))
    bound = ranges.get(worst)
    measured = bound is not None and not layer.reason
    reason = layer.reason
    if layer.name in found.kept:
        reason = f"alone loses {found.single_db[layer.name]:.3f} dB in int8"
    return Int8LayerChoice(
        name=layer.name,
        quantized=not reason,
        reason=reason,
        input_range=bound if measured else None,
        input_clipped=spreads[worst].histogram.share_above(bound) if measured and bound else None,
        loss_db=found.single_db.get(layer.name),
    )


def _ranking_batches(inputs: Sequence[Pictures]) -> int:
    """How many batches hold the pixels that single layers are measured on, at least one."""
    sizes = np.cumsum([len(batch) * batch.shape[2] * batch.shape[3] for batch in inputs])
    return int(np.searchsorted(sizes, _RANKING_PIXELS)) + 1


def _input(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - layers have an input
    return value.name or ""


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None  # noqa: S101 - an initialiser has a tensor
    return value.const_value.numpy()
