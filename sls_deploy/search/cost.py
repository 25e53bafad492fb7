"""What it costs to keep a layer in some form: the models behind one interface."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sls_deploy.calibration.latency import LatencyTable, LayerShape, read_table
from sls_deploy.calibration.roofline import Gpu, estimate_us, find_gpu
from sls_deploy.config import SearchConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.layer_shapes import (
    Sizes,
    padded_picture,
    shapes_of_uses,
    sizes_of_uses,
    time_of_uses,
)
from sls_deploy.search.layers import Layer
from sls_deploy.search.trace import Size
from sls_deploy.sparsity.legality import QUAD, why_not_eligible
from sls_deploy.sparsity.pattern import Pattern

_SCALED = "; sizes of layers scaled from crops"


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
    picture: Size
    """Height and width of the pictures, in pixels."""
    sizes: Sizes = field(default_factory=dict)
    """Where the layers are applied in such a picture; scaled from crops where it is not known."""
    name: str = "latency"
    measured: bool = False

    @property
    def note(self) -> str:
        """See `CostModel.note`."""
        size = "x".join(map(str, self.picture))
        what = f"estimate, not measured: roofline of {self.gpu.name} in fp16, pictures of {size}"
        return what + _SCALED * (not self.sizes)

    @property
    def no_gain(self) -> str:
        """See `CostModel.no_gain`."""
        return f"2:4 saves no time on {self.gpu.name}, by the estimate"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in microseconds, estimated."""

        def times(shape: LayerShape) -> tuple[float, float, float]:
            dense, sparse = (estimate_us(self.gpu, shape, sparse=kind) for kind in (False, True))
            return dense, sparse, 0.0

        shapes = shapes_of_uses(layer, form.inputs, form.outputs, self.picture, self.sizes)
        return time_of_uses(shapes, times, runs_sparse(layer, form)) / math.prod(self.picture)


@dataclass(frozen=True)
class TableCost:
    """Times that were measured on a device, at the picture size of the table."""

    table: LatencyTable
    """The times."""
    sizes: Sizes = field(default_factory=dict)
    """Where the layers are applied in a picture of the table's size; scaled from crops where it is
    not known."""
    doubts: tuple[str, ...] = ()
    """What speaks against the table."""
    name: str = "latency"
    measured: bool = True

    @property
    def note(self) -> str:
        """See `CostModel.note`."""
        table = self.table
        what = (
            f"measured on {table.machine}, pictures of {table.height}x{table.width}; widths "
            "between those measured interpolated"
        )
        return "; ".join((what + _SCALED * (not self.sizes), *self.doubts))

    @property
    def no_gain(self) -> str:
        """See `CostModel.no_gain`."""
        machine = self.table.machine
        return f"2:4 saves no time beyond the noise on {machine.device} in {machine.precision}"

    def price(self, layer: Layer, form: Form) -> float:
        """See `CostModel.price`; in microseconds.

        What 2:4 saves counts if it is more than the spread.
        """

        def times(shape: LayerShape) -> tuple[float, float, float]:
            row = self.table.look_up(shape)
            return row.dense_us, row.sparse_us, row.spread

        picture = (self.table.height, self.table.width)
        shapes = shapes_of_uses(layer, form.inputs, form.outputs, picture, self.sizes)
        return time_of_uses(shapes, times, runs_sparse(layer, form)) / math.prod(picture)


def cost_model(
    config: SearchConfig, picture: Size, model: RestorationModel | None = None
) -> CostModel:
    """The cost model of the settings.

    Args:
        config: names it, the GPU of the estimate, and the measured table if there is one.
        picture: height and width of the pictures that the network will restore, in pixels.
        model: the network, to see where its layers are applied; without it that is scaled from
            crops.

    Raises:
        SlsError: settings that exclude each other, a table that cannot be read or is unfinished,
            or no estimate for that GPU.
    """
    _check(config)
    if config.cost == "macs":
        return MacsCost()
    if config.cost == "executable":
        return ExecutableCost()
    if model is not None:
        picture = padded_picture(model, picture)
    if config.latency_table is None:
        gpu = find_gpu(config.gpu)
        return RooflineCost(gpu, picture, {} if model is None else sizes_of_uses(model, picture))
    table = read_table(config.latency_table)
    if table.drift is None:
        fix = "The same `sls-deploy bench --layers` command goes on with it."
        raise SlsError("the latency table is unfinished", str(config.latency_table), fix)
    own = (table.height, table.width)
    doubts = table.warnings
    if own != picture:
        wanted, measured = ("x".join(map(str, sides)) for sides in (picture, own))
        doubts += (f"the network will restore pictures of {wanted}, not {measured}",)
    return TableCost(table, {} if model is None else sizes_of_uses(model, own), doubts)


def other_models(
    chosen: CostModel, config: SearchConfig, picture: Size, model: RestorationModel
) -> list[CostModel]:
    """The cost models that a budget is not a share of, to tell it in them, too.

    Latency is the estimate for the GPU of the settings, and is left out for networks that have
    layers which it knows nothing of.

    Args:
        chosen: the one that it is a share of.
        config: names the GPU.
        picture: height and width of the pictures that the network will restore, in pixels.
        model: the dense network.
    """
    sides = padded_picture(model, picture)
    found: list[CostModel] = [MacsCost(), ExecutableCost()]
    if chosen.name != RooflineCost.name:
        with suppress(SlsError):
            found.append(RooflineCost(find_gpu(config.gpu), sides, sizes_of_uses(model, sides)))
    return [other for other in found if other.name != chosen.name]


def _check(config: SearchConfig) -> None:
    """Refuse settings of a latency that is not asked for."""
    table = config.latency_table
    given = [f"--table {table}"] if table is not None else []
    if config.gpu != SearchConfig.model_fields["gpu"].default:
        given.insert(0, f"--gpu {config.gpu}")
    if config.cost != "latency":
        given.append(f"--cost {config.cost}")
    if len(given) > 1:
        fix = "Leave one of them out; --cost latency takes --table or --gpu."
        raise SlsError(f"means nothing beside {given[1]}", given[0], fix)


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


def _up(channels: int, multiple: int) -> int:
    return -(-channels // multiple) * multiple
