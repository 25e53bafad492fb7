"""The table of measured times of layers on one device: how it is kept, read and looked up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sls_deploy.config import Precision
from sls_deploy.errors import SlsError
from sls_deploy.files import write_json

VERSION: Literal[3] = 3
"""Version of the table's form."""
_FARTHEST = 2.0
"""Most that a layer's positions may differ from a measured one's, as a factor: times grow with the
positions, but another size may be served by another kernel."""

Count = Annotated[int, Field(ge=1)]
Microseconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class LayerShape:
    """A layer as a device sees it, in one of its uses."""

    kind: str
    """Class of the module, such as 'Conv2d'."""
    kernel: tuple[Count, ...]
    """Sizes of the kernel, height first; none for a linear layer."""
    stride: tuple[Count, ...]
    """Steps of the kernel, one for each of its sizes."""
    dilation: tuple[Count, ...]
    """Distances of the kernel's taps, one for each of its sizes."""
    inputs: Count
    """Input channels of one convolution group."""
    outputs: Count
    """Output channels of one convolution group."""
    groups: Count
    """Convolution groups."""
    height: Count
    """Rows of places where the kernel is applied: of the output, for a transposed convolution of
    the input. A layer over one dimension runs along each row by itself."""
    width: Count
    """Places in a row."""

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.kind.startswith("ConvTranspose")

    @property
    def positions(self) -> int:
        """Places where the kernel is applied."""
        return self.height * self.width

    @property
    def read(self) -> int:
        """Positions of the input."""
        return self.positions * (1 if self.transposed else math.prod(self.stride))

    @property
    def written(self) -> int:
        """Positions of the output."""
        return self.positions * (math.prod(self.stride) if self.transposed else 1)

    def __str__(self) -> str:
        parts = [self.kind, "x".join(map(str, self.kernel))]
        if any(step > 1 for step in self.stride):
            parts.append("/" + "x".join(map(str, dict.fromkeys(self.stride))))
        if any(distance > 1 for distance in self.dilation):
            parts.append("dilated " + "x".join(map(str, dict.fromkeys(self.dilation))))
        parts.append(f"{self.inputs}->{self.outputs}" + f" x{self.groups}" * (self.groups > 1))
        return " ".join(filter(None, parts)) + f" at {self.height}x{self.width}"


@dataclass(frozen=True)
class LayerTime:
    """The time of one use of a layer for one picture."""

    dense_us: Microseconds
    """Microseconds with dense weights: the median of the medians of its sessions or engines."""
    sparse_us: Microseconds
    """The same with 2:4 weights, sparse kernels allowed."""
    spread: Annotated[float, Field(ge=0)]
    """Share of the time that it varies by: the larger one of the interquartile range within a
    session or engine (the median of them) and the range from one to the next of its kind. Smaller
    gains are noise."""
    runs: Count
    """Runs of each of the two, in all its sessions or engines."""


@dataclass(frozen=True)
class LatencyRow(LayerTime, LayerShape):
    """A layer and its time."""


@dataclass(frozen=True)
class Machine:
    """What layers are timed on."""

    device: str
    """Name of the GPU or processor, such as 'NVIDIA A10'."""
    compute_capability: str
    """Of a GPU, in NVIDIA's notation, such as '8.6'; empty for a processor."""
    backend: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
    """What ran the layers."""
    backend_version: str
    """Version of it."""
    threads: Annotated[int, Field(ge=0)]
    """Threads of a processor; 0 for a GPU."""
    precision: Precision
    """Precision of weights and activations."""

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" * (self.threads > 0)
        return (
            f"{self.device} with {self.backend} {self.backend_version} in {self.precision}{threads}"
        )


@dataclass(frozen=True)
class LatencyTable:
    """Times of layers on one device."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[3]
    """Version of this form."""
    machine: Machine
    """What they were timed on."""
    height: Count
    """Height of the picture that the sizes of the layers belong to, in pixels."""
    width: Count
    """Width of that picture."""
    drift: float | None
    """By what share the first layer took longer at the end than at the start; None while layers
    are still to be measured."""
    warnings: tuple[str, ...]
    """What casts doubt on the times."""
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
        by_size: dict[tuple[int, int], dict[tuple[int, int], LatencyRow]] = {}
        for row in self.rows:
            if _kin(row) == _kin(shape):
                by_size.setdefault((row.height, row.width), {})[row.inputs, row.outputs] = row
        wanted = shape.positions
        for size in sorted(by_size, key=lambda size: _factor(math.prod(size), wanted)):
            if _factor(math.prod(size), wanted) > _FARTHEST:
                break
            if found := _between(by_size[size], shape.inputs, shape.outputs):
                grown = wanted / math.prod(size)
                dense, sparse = found.dense_us * grown, found.sparse_us * grown
                return LatencyRow(
                    **vars(shape), **{**vars(found), "dense_us": dense, "sparse_us": sparse}
                )
        what = f"{shape} was not measured on {self.machine.device}"
        fix = (
            "`sls-deploy bench --layers RUN` measures it, where RUN is a run of this network with "
            "the same --align, --narrow and --pattern; or choose another cost model (--cost)."
        )
        raise SlsError(what, "the latency table", fix)


def _kin(shape: LayerShape) -> tuple[object, ...]:
    """What two layers must share for their times to be compared."""
    return shape.kind, shape.kernel, shape.stride, shape.dilation, shape.groups


def _factor(size: int, other: int) -> float:
    return max(size, other) / min(size, other)


def _between(
    grid: dict[tuple[int, int], LatencyRow], inputs: int, outputs: int
) -> LayerTime | None:
    """The times between the measured layers around; None if one is missing.

    The nearest numbers of channels are tried first, then those beyond.
    """
    input_sides = _sides({i for i, _ in grid}, inputs)
    output_sides = _sides({o for _, o in grid}, outputs)
    for in_side, out_side in itertools.product(input_sides, output_sides):
        corners = {
            (i, o): (in_side[i] * out_side[o], grid.get((i, o)))
            for i, o in itertools.product(in_side, out_side)
        }
        found = [(share, row) for share, row in corners.values() if row is not None]
        if len(found) == len(corners):
            return LayerTime(
                dense_us=sum(share * row.dense_us for share, row in found),
                sparse_us=sum(share * row.sparse_us for share, row in found),
                spread=max(row.spread for _, row in found),
                runs=min(row.runs for _, row in found),
            )
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
    fix = "Name a table that was measured (--table), or leave it out for an estimate."
    try:
        table = TypeAdapter(LatencyTable).validate_json(path.read_bytes())
    except OSError as error:
        what = f"the latency table cannot be read ({error.strerror or error})"
        raise SlsError(what, str(path), fix) from None
    except ValidationError as error:
        _refuse(error.errors(), str(path), fix)
    seen: set[LayerShape] = set()
    for row in table.rows:
        shape = shape_of(row)
        if shape in seen:
            raise SlsError(f"holds {shape} twice", str(path), "Keep one of them.")
        seen.add(shape)
    return table


def shape_of(row: LatencyRow) -> LayerShape:
    """The layer of a row."""
    return LayerShape(**{field.name: getattr(row, field.name) for field in fields(LayerShape)})


def _refuse(errors: list[ErrorDetails], where: str, fix: str) -> NoReturn:
    """Say in one line why a file is no table."""
    for error in errors:
        if error["loc"] == ("version",) and isinstance(error["input"], int):
            what = f"is a latency table of version {error['input']}, not {VERSION}"
            again = "Measure the layers again with `sls-deploy bench --layers RUN`."
            raise SlsError(what, where, again)
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = f"{place}: {first['msg']}" if place else first["msg"]
    raise SlsError(f"is not a latency table ({reason})", where, fix)
