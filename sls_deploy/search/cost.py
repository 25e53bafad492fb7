"""What it costs to keep a layer in some form: the models behind one interface."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sls_deploy.calibration.latency import LatencyTable, LayerShape, read_table
from sls_deploy.calibration.roofline import Gpu, estimate_us, find_gpu
from sls_deploy.config import SearchConfig
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.legality import QUAD, why_not_eligible
from sls_deploy.sparsity.pattern import Pattern

_LEAST_GAIN = 0.01
"""Share of a dense layer's time that 2:4 must save to count, at least. A roofline always finds a
little, because 2:4 weights take fewer bytes."""


@dataclass(frozen=True)
class Form:
    """How a layer is kept."""

    inputs: int
    """Input channels kept of one convolution group."""
    outputs: int
    """Output channels kept of one convolution group."""
    kept: int
    """N: weights kept of every M consecutive input channels."""
    of: int
    """M, an even number; N = M is dense."""


class CostModel(Protocol):
    """What layers cost; only the shares of one model's prices can be compared."""

    @property
    def name(self) -> str:
        """Name in the settings, such as 'macs'."""
        ...

    @property
    def measured(self) -> bool:
        """Whether the prices were timed."""
        ...

    @property
    def note(self) -> str:
        """One line for a report: what the prices are and where they come from."""
        ...

    @property
    def no_gain(self) -> str:
        """Why a layer that 2:4 makes no cheaper stays dense."""
        ...

    def price(self, layer: Layer, form: Form) -> float:
        """Price of a layer in a form, for one pixel of the input picture, in the model's unit.

        Raises:
            SlsError: the model knows nothing of such a layer.
        """
        ...


@dataclass(frozen=True)
class MacsCost:
    """Multiply-accumulates of the weights that are kept, whatever executes them.

    Input channels count rounded up to a multiple of four, see `Pattern.unit_shares`.
    """

    name: str = "macs"
    measured: bool = False
    note: str = "multiply-accumulates of the weights kept, whatever executes them"
    no_gain: str = "2:4 saves nothing by the cost model macs"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in multiply-accumulates."""
        dense = dense_form(layer)
        shares = Pattern(form.of, first=1).unit_shares(form.inputs)
        kept = float(shares[: form.kept].sum())
        width = _up(form.inputs, QUAD) / _up(dense.inputs, QUAD) * form.outputs / dense.outputs
        return layer.macs * width * kept


@dataclass(frozen=True)
class ExecutableCost:
    """Multiply-accumulates that Ampere's tensor cores execute: all of them, or half with 2:4.

    At most half of the weights kept is 2:4, since every N <= M / 2 is ranked so that it is legal;
    more than half is executed as dense. Both numbers of channels count rounded up to a multiple
    of four.
    """

    name: str = "executable"
    measured: bool = False
    note: str = "multiply-accumulates that tensor cores execute: a dense layer 1, a 2:4 one 1/2"
    no_gain: str = "2:4 saves nothing by the cost model executable"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in multiply-accumulates."""
        dense = dense_form(layer)
        width = _up(form.inputs, QUAD) / _up(dense.inputs, QUAD)
        width *= _up(form.outputs, QUAD) / _up(dense.outputs, QUAD)
        return layer.macs * width * (0.5 if runs_sparse(layer, form) else 1.0)


@dataclass(frozen=True)
class RooflineCost:
    """An estimate of time from a GPU's peak rates; see `estimate_us`."""

    gpu: Gpu
    """The GPU."""
    picture: tuple[int, int]
    """Height and width of the pictures, in pixels."""
    name: str = "latency"
    measured: bool = False

    @property
    def note(self) -> str:
        """See `CostModel.note`."""
        size = "x".join(map(str, self.picture))
        return f"estimate, not measured: roofline of {self.gpu.name} in fp16, pictures of {size}"

    @property
    def no_gain(self) -> str:
        """See `CostModel.no_gain`."""
        return f"2:4 saves no time on {self.gpu.name}, by the estimate"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in microseconds, estimated."""
        if not layer.macs:
            return 0.0
        shape = layer_shape(layer, form, self.picture)
        time = estimate_us(self.gpu, shape, sparse=False)
        if runs_sparse(layer, form):
            time = _faster(time, estimate_us(self.gpu, shape, sparse=True), _LEAST_GAIN)
        return layer.uses * time / math.prod(self.picture)


@dataclass(frozen=True)
class TableCost:
    """Times that were measured on a device, at the picture size of the table."""

    table: LatencyTable
    """The times."""
    name: str = "latency"
    measured: bool = True

    @property
    def note(self) -> str:
        """See `CostModel.note`."""
        table = self.table
        return f"measured on {table.machine}, pictures of {table.height}x{table.width}"

    @property
    def no_gain(self) -> str:
        """See `CostModel.no_gain`."""
        return f"2:4 saves no time on {self.table.machine.device}"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in microseconds.

        What 2:4 saves counts if it is more than the spread of the runs.
        """
        if not layer.macs:
            return 0.0
        picture = (self.table.height, self.table.width)
        times = self.table.look_up(layer_shape(layer, form, picture))
        time = times.dense_us
        if runs_sparse(layer, form):
            time = _faster(time, times.sparse_us, max(_LEAST_GAIN, times.spread))
        return layer.uses * time / math.prod(picture)


def cost_model(config: SearchConfig, picture: tuple[int, int]) -> CostModel:
    """The cost model of the settings.

    Args:
        config: names it, the GPU of the estimate, and the measured table if there is one.
        picture: height and width of the pictures that the network will restore, in pixels; a
            measured table brings its own.

    Raises:
        SlsError: the table cannot be read, or there is no estimate for that GPU.
    """
    if config.cost == "macs":
        return MacsCost()
    if config.cost == "executable":
        return ExecutableCost()
    if config.latency_table is not None:
        return TableCost(read_table(config.latency_table))
    return RooflineCost(find_gpu(config.gpu), picture)


def unit_costs(model: CostModel, layers: list[Layer], pattern: Pattern) -> Tensor:
    """What each unit adds to the price, as a share of the dense price of all these layers.

    Args:
        model: the prices.
        layers: the prunable layers.
        pattern: what their units are.

    Returns:
        float64 of shape [layers, units], none negative, sum 1. The first unit's is the price of
        the layer with this unit alone.
    """
    counts = range(1, pattern.units + 1)
    prices = torch.tensor(
        [[model.price(layer, kept_form(layer, pattern, n)) for n in counts] for layer in layers],
        dtype=torch.float64,
    )
    return prices.diff(dim=1, prepend=torch.zeros(len(layers), 1)) / prices[:, -1].sum()


def dense_form(layer: Layer) -> Form:
    """The form of a layer with all channels and weights."""
    first, second = layer.shape[:2]
    outputs = second if layer.layout.transposed else first // layer.groups
    return Form(layer.inputs, outputs, QUAD, QUAD)


def kept_form(layer: Layer, pattern: Pattern, count: int) -> Form:
    """The form of a layer that keeps its first `count` units and all channels."""
    dense = dense_form(layer)
    return Form(dense.inputs, dense.outputs, count + pattern.first - 1, pattern.group)


def runs_sparse(layer: Layer, form: Form) -> bool:
    """Whether Ampere's sparse tensor cores can take a layer in this form."""
    return not why_not_eligible(
        form.inputs,
        layer.groups,
        legal=2 * form.kept <= form.of,
        transposed=layer.layout.transposed,
    )


def layer_shape(layer: Layer, form: Form, picture: tuple[int, int]) -> LayerShape:
    """One use of a layer as a device sees it.

    How many places the layer is applied at is known for the crops of the search; it grows with the
    picture. Several uses of different sizes count as so many of their mean size.

    Args:
        layer: the layer, used at least once.
        form: its channels.
        picture: height and width of the input picture in pixels.
    """
    share = math.sqrt(layer.macs / math.prod(layer.shape) / layer.uses)
    kernel = layer.shape[2:]
    height, width = (max(1, round(side * share)) for side in picture)
    return LayerShape(
        kind=layer.kind,
        kernel=kernel,
        stride=layer.stride or (1,) * len(kernel),
        inputs=form.inputs,
        outputs=form.outputs,
        groups=layer.groups,
        height=height,
        width=width,
    )


def _faster(dense: float, sparse: float, least: float) -> float:
    """The sparse time if it gains enough; else the dense kernel is taken, or it is noise."""
    return sparse if sparse < dense * (1 - least) else dense


def _up(channels: int, multiple: int) -> int:
    return -(-channels // multiple) * multiple
