"""The latency loop on the processor: time layers, search by their times, export, time networks.

Four networks take turns at the end: the dense one, two that were searched by latency, and one whose
layers are all 2:4, which no processor gains from. See README.md beside this file.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sls_deploy.calibration.cpu_layers import CpuLayers
from sls_deploy.calibration.layer_timing import measure_table
from sls_deploy.cli.output import print_line, print_table, progress
from sls_deploy.config import Config, ExportConfig
from sls_deploy.config_file import merge_config
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import write_json
from sls_deploy.models.model import load_model
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run
from sls_deploy.runtime.onnxruntime import open_session
from sls_deploy.search.cost import CostModel, TableCost, dense_form
from sls_deploy.search.layer_shapes import sizes_of_uses
from sls_deploy.search.layers import Layer
from sls_deploy.search.measured_shapes import shapes_of_network
from sls_deploy.search.stage import search_budgets
from sls_deploy.sparsity.ratios import read_ratios

SEARCHES: dict[str, dict[str, Any]] = {
    "latency": {"cost": "latency", "budgets": (0.75, 0.5)},
    "2:4 everywhere, macs": {"cost": "macs", "budgets": (0.5,), "narrow": 0},
}
"""Settings of the searches by what the table calls them."""
_WARM_UP = 2
Times = list[tuple[float, float]]
"""Milliseconds of every run of a network: of the processor, and by the clock on the wall."""


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    name: str
    """What it was searched by, and the budget."""
    budget: float
    """Share of the prunable layers' dense time that the table predicts: what a budget by latency
    is."""
    predicted: float
    """The same over all layers."""
    predicted_ms: float
    """Time of all layers by the table, in milliseconds."""
    measured: float
    """Processor time of the whole network as a share of the dense one's."""
    milliseconds: float
    """Median processor time of the whole network."""
    spread: float
    """Interquartile range of that over its median."""
    wall_ms: float
    """Median time by the clock on the wall, in which other programs take their share."""
    sparse: int
    """Layers that ended 2:4."""
    narrowed: int
    """Layers that lost channels."""
    psnr: float
    """PSNR in dB over RGB on held-out crops; no network was trained."""


def run_loop(
    config: Config, picture: tuple[int, int], out: Path, repeats: int, report: Report = silent
) -> dict[str, Any]:
    """Do the loop in a folder; of what stands there only the last timing is done again.

    Args:
        config: network, photographs and search.
        picture: height and width of the pictures, in pixels.
        out: folder of the table and of the runs.
        repeats: runs of every network at the end.
        report: receives the reports of all steps.

    Returns:
        The rows, facts of the table, and the seconds that the steps took.
    """
    clock = _Clock()
    wanted = shapes_of_network(config, picture)
    path = out / "table.json"
    table = measure_table(wanted.shapes, wanted.picture, CpuLayers(), path, report)
    clock.lap("layer times")
    files: dict[str, Path] = {}
    ratios: dict[str, dict[str, Any]] = {}
    for name, settings in SEARCHES.items():
        run = out / settings["cost"]
        flags = {**settings, "latency_table": path if settings["cost"] == "latency" else None}
        result = search_budgets(merge_config(config, {"search": flags}), run, report)
        clock.lap(f"search: {name}")
        for row in result.budgets:
            exported = export_onnx(Run(run), row.budget, ExportConfig(precisions=("fp32",)), report)
            title = f"{name} {row.budget:g}"
            files[title] = exported.precisions["fp32"].file
            ratios[title] = read_ratios(Run(run).folder("search", row.budget) / "ratios.json")
        clock.lap(f"export: {name}")
    assert config.model.weights is not None  # noqa: S101 - it was searched
    model = load_model(config.model.weights, config.model)
    dense = to_bytes(to_onnx(model))
    times = time_in_turn([dense, *files.values()], wanted.picture, repeats)
    clock.lap("network times")
    prices = TableCost(table, sizes_of_uses(model, wanted.picture))
    return {
        "machine": asdict(table.machine),
        "picture": wanted.picture,
        "layers": wanted.layers,
        "distinct": len(wanted.shapes),
        "sparse_over_dense": [row.sparse_us / row.dense_us for row in table.rows],
        "drift": table.drift,
        "warnings": table.warnings,
        "repeats": repeats,
        "seconds": clock.seconds,
        "rows": [asdict(row) for row in _rows(ratios, prices, times)],
    }


def time_in_turn(
    graphs: Sequence[Path | bytes], picture: tuple[int, int], repeats: int
) -> list[Times]:
    """Run networks in turns on one picture, one thread, in this process.

    Args:
        graphs: ONNX files or their bytes.
        picture: its height and width, in pixels.
        repeats: turns that count.
    """
    sessions = [open_session(graph, threads=1) for graph in graphs]
    given = np.random.default_rng(0).random((1, 3, *picture), np.float32)
    times: list[Times] = [[] for _ in graphs]
    for turn in range(_WARM_UP + repeats):
        order = list(zip(sessions, times, strict=True))
        for session, taken in order if turn % 2 else order[::-1]:
            wall, own = time.perf_counter(), time.thread_time()
            session.run(["output"], {"input": given})
            taken.append((1e3 * (time.thread_time() - own), 1e3 * (time.perf_counter() - wall)))
    return [taken[_WARM_UP:] for taken in times]


def predicted_us(
    ratios: Mapping[str, Any], model: CostModel, *, dense: bool, prunable: bool
) -> float:
    """Microseconds for one pixel of the input, by a cost model, of the layers of a ratios.json.

    Args:
        ratios: what a search wrote.
        model: the prices.
        dense: of the layers as they were before the search.
        prunable: of the prunable layers alone.
    """
    total = 0.0
    for row in ratios["layers"]:
        if prunable and not row["prunable"]:
            continue
        names = ("name", "kind", "groups", "macs", "reason", "uses", "parameter")
        shape, stride, dilation = (tuple(row[name]) for name in ("shape", "stride", "dilation"))
        layer = Layer(
            **{name: row[name] for name in names}, shape=shape, stride=stride, dilation=dilation
        )
        form = dense_form(layer)
        if not dense:
            kept = replace(layer, shape=(*row["width"], *shape[2:]))
            form = replace(dense_form(kept), kept=row["kept"], of=row["of"])
        total += model.price(layer, form)
    return total


def _rows(
    ratios: Mapping[str, Mapping[str, Any]], model: TableCost, times: Sequence[Times]
) -> list[Row]:
    """The dense network, then the searched ones."""
    first = next(iter(ratios.values()))
    pixels = model.table.height * model.table.width
    whole, own = (predicted_us(first, model, dense=True, prunable=only) for only in (False, True))
    measured = [statistics.quantiles([own for own, _ in taken], n=4) for taken in times]
    rows = []
    for (name, found), (low, middle, high), taken in zip(
        (("dense", None), *ratios.items()), measured, times, strict=True
    ):
        layers = found["layers"] if found else []
        total, part = (
            predicted_us(found or first, model, dense=not found, prunable=only)
            for only in (False, True)
        )
        rows.append(
            Row(
                name=name,
                budget=part / own,
                predicted=total / whole,
                predicted_ms=total * pixels / 1e3,
                measured=middle / measured[0][1],
                milliseconds=middle,
                spread=(high - low) / middle,
                wall_ms=statistics.median(wall for _, wall in taken),
                sparse=sum(row["kept"] < row["of"] for row in layers),
                narrowed=sum(row["width"] != row["shape"][:2] for row in layers),
                psnr=found["psnr"] if found else first["dense_psnr"],
            )
        )
    return rows


class _Clock:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """The step that ends now."""
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 1), now


def show(found: Mapping[str, Any]) -> None:
    """Print the table and how it came about."""
    cells = [
        [
            row["name"],
            f"{row['budget']:.3f}",
            f"{row['predicted']:.3f}",
            f"{row['measured']:.3f}",
            f"{row['predicted_ms']:.0f}",
            f"{row['milliseconds']:.0f}",
            f"{row['spread']:.1%}",
            f"{row['wall_ms']:.0f}",
            f"{row['sparse']}",
            f"{row['narrowed']}",
            f"{row['psnr']:.2f}",
        ]
        for row in found["rows"]
    ]
    columns = [
        "searched by", "prunable", "predicted", "measured", "layers ms", "network ms", "spread",
        "wall ms", "2:4", "narrowed", "dB",
    ]  # fmt: skip
    machine, picture = found["machine"], "x".join(map(str, found["picture"]))
    print_table(f"{machine['device']}, one thread, pictures of {picture}", columns, cells)
    ratios = sorted(found["sparse_over_dense"])
    print_line(
        f"2:4 over dense time of {found['distinct']} distinct layers: {ratios[0]:.3f} to "
        f"{ratios[-1]:.3f}, median {statistics.median(ratios):.3f}; the first layer drifted by "
        f"{found['drift']:+.1%}"
    )
    for warning in found["warnings"]:
        print_line(f"warning: {warning}")
    print_line(
        "prunable, predicted: share of the prunable and of all layers' time by the table; "
        "measured: share of the dense network's processor time, median of "
        f"{found['repeats']} runs in turns, one process, one thread; wall: by the clock on the wall"
    )
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["seconds"].items())
    print_line(steps)


def main(
    weights: Annotated[Path, typer.Option(help="Dense network, rlfn_s_x4.pth.")],
    data: Annotated[Path, typer.Option(help="Photographs to calibrate on.")],
    runs: Annotated[Path, typer.Option(help="Folder of the table and of the runs.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")],
    height: Annotated[int, typer.Option(help="Height of the pictures, in pixels.")] = 180,
    width: Annotated[int, typer.Option(help="Width of the pictures, in pixels.")] = 320,
    crops: Annotated[int, typer.Option(help="Crops that a search is calibrated on.")] = 64,
    repeats: Annotated[int, typer.Option(help="Runs of every network at the end.")] = 25,
) -> None:
    """Do the loop, write its figures and print them."""
    flags: dict[str, dict[str, Any]] = {
        "model": {"weights": weights},
        "data": {"photos": data},
        # No layer ends 2:4 by these times, so the order of channels could gain nothing.
        "search": {"method": "reconstruct", "crops": crops, "permute": False},
    }
    with progress() as report:
        found = run_loop(merge_config(Config(), flags), (height, width), runs, repeats, report)
    write_json(out, found)
    show(found)


if __name__ == "__main__":
    typer.run(main)
