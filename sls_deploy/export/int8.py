"""Chooses which layers of a graph compute in int8, and with which ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from sls_deploy.export.graph import to_bytes
from sls_deploy.export.int8_layers import WeightedLayer, fused_output, own_bias, weighted_layers
from sls_deploy.export.passes.quantize import Int8Weight, Quantize
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
    inputs: Mapping[str, float]
    """Step of the input of each of their operators, by name."""
    outputs: Mapping[str, float]
    """Steps of what is quantised for all its readers, by the operator's name."""
    layers: tuple[Int8LayerChoice, ...]
    """All layers with weights, in graph order."""
    loss_db: float
    """Mean loss of PSNR on calibration pictures, in dB."""
    loss_all_db: float
    """The same with every layer in int8 that may be."""

    def pass_(self) -> Quantize:
        """Writes the choice into the fp32 graph, or into what `Half` made of it."""
        return Quantize(self.weights, self.inputs, self.outputs)


def choose_int8(
    graph: ir.Model,
    inputs: Sequence[Pictures],
    truths: Sequence[Pictures],
    options: ExportConfig,
    report: Report = silent,
) -> Int8Choice:
    """Choose ranges, integers and layers by what int8 does to real pictures.

    Ranges of activations come from their histograms (`options.int8_ranges`), weights have a step
    for each output channel, biases are corrected for the mean that rounding the weights takes.
    Every int8 layer also has an output quantiser, behind its activation, unless it gives the
    picture. The first and the last layer (`int8_ends`) and layers by name (`int8_keep`) stay as
    they are; if the rest loses more than `int8_loss_db`, so do the worst of them (`fall_back`).

    A loss is the mean over pictures of what each loses of its PSNR to the truth, over RGB. That of
    a single layer is what an error of that size adds if it is independent of the network's own: the
    truth says nothing reliable of changes so small.

    Measured on RFDN x4, Y-PSNR lost on Set5 and Set14 with 62 of 64 layers in int8 and calibrated
    on 32 crops of other photographs: min-max 0.36 and 0.22 dB, percentile 0.28 and 0.16, entropy
    0.71 and 0.51, mse 0.26 and 0.16. Without output quantisers mse loses 0.18 and 0.12, with the
    weights alone in int8 0.03 and 0.01. Correcting biases gains 0.00 to 0.02 dB. With 8 layers kept
    for a limit of 0.05 dB, mse loses 0.08 and 0.05.

    Args:
        graph: the fp32 graph, with a name on every operator.
        inputs: batches of calibration pictures.
        truths: what the network should make of them.
        options: the settings that begin with 'int8'.
        report: told before every measurement of layers.

    Raises:
        SlsError: ONNX Runtime is not installed or cannot run the graph; an activation is not
            finite.
    """
    layers = weighted_layers(graph.graph, options.int8_keep, ends=options.int8_ends)
    candidates = {layer.name: layer for layer in layers if not layer.reason}
    spreads = measure_spreads(to_bytes(graph), _tensors(candidates.values()), inputs)
    ranges = {
        name: choose_range(spread.histogram, options.int8_ranges)
        for name, spread in spreads.items()
    }
    weights = {name: _weight(graph.graph, layer, spreads) for name, layer in candidates.items()}

    losses = PsnrLoss(OnnxRunner(to_bytes(graph)), inputs, truths)
    few = _ranking_batches(inputs)

    def loss(lowered: frozenset[str]) -> float:
        chosen = [layer for name, layer in candidates.items() if name in lowered]
        quantize = Quantize([weights[layer.name] for layer in chosen], *_steps(chosen, ranges))
        runner = OnnxRunner(to_bytes(quantize(graph.clone()).model))
        single = len(lowered) == 1 < len(candidates)
        return losses.expected(runner, few) if single else losses.measured(runner)

    found = fall_back(list(candidates), loss, options.int8_loss_db, report, "losses of int8")
    kept = frozenset(found.kept)
    chosen = [layer for name, layer in candidates.items() if name not in kept]
    steps_in, steps_out = _steps(chosen, ranges)
    return Int8Choice(
        weights=tuple(weights[layer.name] for layer in chosen),
        inputs=steps_in,
        outputs=steps_out,
        layers=tuple(_describe(layer, found, spreads, ranges) for layer in layers),
        loss_db=found.loss_db,
        loss_all_db=found.loss_all_db,
    )


def _tensors(layers: Iterable[WeightedLayer]) -> dict[str, int]:
    """What is to be quantised around layers: names of tensors, and the axis of their channels."""
    axes: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for layer in layers:
        for node in layer.nodes:
            axes[_input(node)] = layer.channel_axis
            if output := _quantized_output(node):
                outputs[output.name or ""] = layer.channel_axis
    return {**outputs, **axes}


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


def _steps(
    layers: Sequence[WeightedLayer], ranges: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Steps in front of the operators of layers, and behind them, by the names of operators."""
    inputs: dict[str, float] = {}
    outputs: dict[str, float] = {}
    for layer in layers:
        for node in layer.nodes:
            inputs[node.name or ""] = float(half_scale(ranges[_input(node)]))
            output = _quantized_output(node)
            producer = output.producer() if output else None
            if output and producer:
                outputs[producer.name or ""] = float(half_scale(ranges[output.name or ""]))
    return inputs, outputs


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
        reason = f"alone loses {found.single_db.get(layer.name, found.loss_all_db):.3f} dB in int8"
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


def _quantized_output(node: ir.Node) -> ir.Value | None:
    """What the operator's kernel writes, unless that is the picture."""
    output = fused_output(node)
    return None if output.is_graph_output() else output


def _input(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - layers have an input
    return value.name or ""


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None  # noqa: S101 - an initialiser has a tensor
    return value.const_value.numpy()
