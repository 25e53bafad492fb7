"""Measures a table of layer times, one layer after the other, on whatever times a layer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sls_deploy.calibration.latency import (
    VERSION,
    LatencyRow,
    LatencyTable,
    LayerShape,
    LayerTime,
    Machine,
    read_table,
    shape_of,
    write_table,
)
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, Report, silent

_NOISY = 0.1
"""Spread from which on a layer's times are doubted, and share of the time of all layers that such
layers may take before the table is."""
_DRIFTED = 0.05
"""Change of the first layer's time from which on the whole table is doubted, if its runs did not
vary by as much."""


class LayerTimer(Protocol):
    """Times single layers."""

    @property
    def machine(self) -> Machine:
        """What it times them on."""
        ...

    def time(self, shape: LayerShape) -> LayerTime:
        """Time a layer with dense and with 2:4 weights, set up several times each, in turns.

        Raises:
            SlsError: the layer cannot be run; names it.
        """
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What casts doubt on the times taken so far."""
        ...


def measure_table(
    shapes: Iterable[LayerShape],
    picture: tuple[int, int],
    timer: LayerTimer,
    path: Path,
    report: Report = silent,
) -> LatencyTable:
    """Time layers and keep their times in a file, which is written after every layer.

    Layers that the file holds already are not timed again, so that an interrupted measurement goes
    on where it stopped; to measure all of them anew, delete the file. At the end the first layer is
    timed once more: what it takes longer then is the table's drift.

    Args:
        shapes: the layers; each is timed once.
        picture: height and width of the picture that their sizes belong to, in pixels.
        timer: times them.
        path: the file.
        report: receives one report for each layer, and one at the end.

    Raises:
        SlsError: the file is no such table, or holds times of something else; no layers; or a layer
            that cannot be run.
    """
    wanted = list(dict.fromkeys(shapes))
    if not wanted:
        raise SlsError("there are no layers to time", str(path))
    table = _begun(path, timer.machine, picture)
    rows = {} if table is None else {shape_of(row): row for row in table.rows}
    earlier = () if table is None else table.warnings
    missing = [shape for shape in wanted if shape not in rows]
    if table is not None and table.drift is not None and not missing:
        return table

    def made(drift: float | None = None, warnings: Sequence[str] = ()) -> LatencyTable:
        said = tuple(dict.fromkeys((*earlier, *timer.warnings, *warnings)))
        return LatencyTable(VERSION, timer.machine, *picture, drift, said, tuple(rows.values()))

    for number, shape in enumerate(missing):
        report(Progress("layer times", number, len(missing) + 1))
        rows[shape] = LatencyRow(**vars(shape), **vars(timer.time(shape)))
        write_table(path, made())
    report(Progress("layer times", len(missing), len(missing) + 1))
    first, before = next(iter(rows.items()))
    drift = timer.time(first).dense_us / before.dense_us - 1
    report(Progress("layer times", len(missing) + 1, len(missing) + 1))
    table = made(drift, _doubts(rows.values(), drift))
    write_table(path, table)
    return table


def layer_time(
    dense_us: Sequence[Sequence[float]], sparse_us: Sequence[Sequence[float]]
) -> LayerTime:
    """Median and spread of a layer that was set up several times and run several times in each.

    Two sessions or engines of one and the same layer differ by more than the runs of either: by
    where their memory lies, and by which kernels were chosen. So both count. One of them that was
    disturbed shows where that moved its median.

    Args:
        dense_us: microseconds of each run with dense weights, at least two for each session or
            engine.
        sparse_us: the same with 2:4 weights.
    """
    dense, sparse = ([statistics.median(times) for times in kind] for kind in (dense_us, sparse_us))
    within = []
    for times in (*dense_us, *sparse_us):
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        within.append((high - low) / middle)
    between = [(max(kind) - min(kind)) / statistics.median(kind) for kind in (dense, sparse)]
    return LayerTime(
        dense_us=statistics.median(dense),
        sparse_us=statistics.median(sparse),
        spread=max(statistics.median(within), *between),
        runs=min(sum(map(len, kind)) for kind in (dense_us, sparse_us)),
    )


def _begun(path: Path, machine: Machine, picture: tuple[int, int]) -> LatencyTable | None:
    """The table that a file holds already, with its last warnings of the whole left out."""
    if not path.exists():
        return None
    fix = "Name another file (--out), or delete it."
    try:
        table = read_table(path)
    except SlsError as error:
        raise SlsError(error.what, error.where, fix) from None
    if table.machine != machine or (table.height, table.width) != picture:
        what = (
            f"holds times of {table.machine}, pictures of {table.height}x{table.width}, not of "
            f"{machine}, {picture[0]}x{picture[1]}"
        )
        raise SlsError(what, str(path), fix)
    doubts = () if table.drift is None else _doubts(table.rows, table.drift)
    return replace(table, warnings=tuple(said for said in table.warnings if said not in doubts))


def _doubts(rows: Iterable[LatencyRow], drift: float) -> list[str]:
    """What the times themselves say against the table."""
    rows = list(rows)
    noisy = sum(row.dense_us for row in rows if row.spread > _NOISY)
    share = noisy / sum(row.dense_us for row in rows)
    doubts = []
    if share > _NOISY:
        doubts.append(
            f"layers with {share:.0%} of the time vary by more than {_NOISY:.0%} from run to run "
            "or from one session or engine to the next: measure again while the machine does "
            "nothing else"
        )
    if abs(drift) > max(_DRIFTED, rows[0].spread):
        doubts.append(
            f"the first layer took {abs(drift):.0%} {'longer' if drift > 0 else 'less'} at the end "
            "than at the start: clock, heat or load changed on the way, so measure again"
        )
    return doubts
