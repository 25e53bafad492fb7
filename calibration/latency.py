"""The table of measured times of convolutions on one GPU: how it is kept, read and looked up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.files import write_json

_FARTHEST = 2.0
"""Most that a layer's positions may differ from a measured one's, as a factor: times grow with the
positions, but another size may be served by another kernel."""

Count = Annotated[int, Field(ge=1)]
Microseconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class LayerShape:
    """A layer as a GPU sees it."""

    kind: str
    """Class of the module, such as 'Conv2d'."""
    kernel: tuple[Count, ...]
    """Height and width of the kernel."""
    inputs: Count
    """Input channels of one convolution group."""
    outputs: Count
    """Output channels of one convolution group."""
    groups: Count
    """Convolution groups."""
    height: Count
    """Height of the output in pixels."""
    width: Count
    """Width of the output in pixels."""

    @property
    def positions(self) -> int:
        """Places where the kernel is applied."""
        return self.height * self.width

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel))
        channels = f"{self.inputs}->{self.outputs}" + (f" x{self.groups}" * (self.groups > 1))
        return f"{self.kind} {kernel} {channels} at {self.height}x{self.width}"


@dataclass(frozen=True)
class LatencyRow(LayerShape):
    """The time of one layer for one picture."""

    dense_us: Microseconds
    """Microseconds with dense weights."""
    sparse_us: Microseconds
    """Microseconds with 2:4 weights, sparse kernels allowed."""


@dataclass(frozen=True)
class LatencyTable:
    """Times of layers on one GPU."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1]
    """Version of this form."""
    gpu: str
    """Name of the GPU, such as 'NVIDIA A10'."""
    compute_capability: str
    """In NVIDIA's notation, such as '8.6'."""
    backend: str
    """What built and ran the layers: 'tensorrt' or 'tensorrt_rtx'."""
    backend_version: str
    """Version of it."""
    precision: Precision
    """Precision of weights and activations."""
    height: Count
    """Height of the picture that the sizes of the layers belong to, in pixels."""
    width: Count
    """Width of that picture."""
    rows: Annotated[tuple[LatencyRow, ...], Field(min_length=1)]
    """The layers that were measured."""

    def look_up(self, shape: LayerShape) -> LatencyRow:
        """The times of a layer: as measured, or between those of its neighbours.

        Between measured numbers of channels, times are interpolated linearly, in the input and
        in the output channels; nothing is extrapolated. Where the size was not measured, the
        times of the nearest one, at most twice as large or small, grow with the positions.

        Raises:
            SlsError: nothing near was measured; names the layer.
        """
        kin = (shape.kind, shape.kernel, shape.groups)
        by_size: dict[int, dict[tuple[int, int], LatencyRow]] = {}
        for row in self.rows:
            if (row.kind, row.kernel, row.groups) == kin:
                by_size.setdefault(row.positions, {})[row.inputs, row.outputs] = row
        for size in sorted(by_size, key=lambda size: _factor(size, shape.positions)):
            if _factor(size, shape.positions) > _FARTHEST:
                break
            if times := _between(by_size[size], shape.inputs, shape.outputs):
                dense, sparse = (time * shape.positions / size for time in times)
                return LatencyRow(**asdict(shape), dense_us=dense, sparse_us=sparse)
        fix = "Measure it, or choose another cost model (--cost)."
        raise SlsError(f"{shape} was not measured on {self.gpu}", "the latency table", fix)


def _factor(size: int, other: int) -> float:
    return max(size, other) / min(size, other)


def _between(
    grid: dict[tuple[int, int], LatencyRow], inputs: int, outputs: int
) -> tuple[float, float] | None:
    """Dense and sparse time between the measured layers around; None if one is missing.

    The nearest numbers of channels are tried first, then those beyond.
    """
    input_sides = _sides({i for i, _ in grid}, inputs)
    output_sides = _sides({o for _, o in grid}, outputs)
    for in_side, out_side in itertools.product(input_sides, output_sides):
        corners = {corner: grid.get(corner) for corner in itertools.product(in_side, out_side)}
        dense = sparse = 0.0
        for (i, o), row in corners.items():
            if row is None:
                break
            share = in_side[i] * out_side[o]
            dense, sparse = dense + share * row.dense_us, sparse + share * row.sparse_us
        else:
            return dense, sparse
    return None


def _sides(measured: Iterable[int], wanted: int) -> list[dict[int, float]]:
    """Pairs of measured numbers around the wanted one with their weights, nearest pair first."""
    below = [n for n in measured if n <= wanted]
    above = [n for n in measured if n >= wanted]
    pairs = sorted(itertools.product(below, above), key=lambda pair: pair[1] - pair[0])
    return [
        {low: 1.0}
        if low == high
        else {low: (high - wanted) / (high - low), high: (wanted - low) / (high - low)}
        for low, high in pairs
    ]


def write_table(path: Path, table: LatencyTable) -> Path:
    """Write a table atomically and return its path."""
    return write_json(path, asdict(table))


def read_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        SlsError: no such file, a file of another form, or a layer that stands there twice.
    """
    fix = "Name a table that was measured (--latency-table), or leave it out for an estimate."
    try:
        table = TypeAdapter(LatencyTable).validate_json(path.read_bytes())
    except OSError as error:
        what = f"the latency table cannot be read ({error.strerror or error})"
        raise SlsError(what, str(path), fix) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise SlsError(f"is not a latency table ({reason})", str(path), fix) from None
    seen: set[tuple[object, ...]] = set()
    for row in table.rows:
        key = (row.kind, row.kernel, row.inputs, row.outputs, row.groups, row.positions)
        if key in seen:
            raise SlsError(f"holds {row} twice", str(path), "Keep one of them.")
        seen.add(key)
    return table
