"""`sls-deploy export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.export.results import ExportResult, PrecisionResult

_LISTED = 3


def export(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    precision: o.ExportPrecisions = None,
    io: o.ExportIo = None,
    static_shape: o.StaticShape = None,
    calibration: o.Calibration = None,
    half_loss_db: o.HalfLoss = None,
    int8_loss_db: o.Int8Loss = None,
    int8_ranges: o.Int8Ranges = None,
    int8_keep: o.Int8Keep = None,
    int8_ends: o.Int8Ends = None,
    refill: o.Refill = None,
    permute: Annotated[
        bool,
        typer.Option(
            "--permute",
            help="Refuse a run whose masks were chosen without reordering channels "
            "(`search --no-permute`).",
        ),
    ] = False,
    paranoid: Annotated[
        bool,
        typer.Option("--paranoid", help="Compare with PyTorch after every pass, and print each."),
    ] = False,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy export --budget 0.5
    sls-deploy export runs/rlfn --budget 0.5 --precision fp16,int8 --io uint8

    Write ONNX graphs with the pruned zeros in place, and proof.json: which layers are legal
    2:4, how far ONNX Runtime departs from PyTorch on crops of photographs, and what stays in a
    higher precision because it would cost too much.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config_file import merge_config
    from sls_deploy.export.stage import export_onnx

    folder = o.find_run(run)
    flags = {
        "precisions": o.listed(precision),
        "io": io,
        "static_shape": o.shape_of(static_shape, "--static-shape"),
        "calibration": calibration,
        "half_loss_db": half_loss_db,
        "int8_loss_db": int8_loss_db,
        "int8_ranges": int8_ranges,
        "int8_keep": int8_keep,
        "int8_ends": int8_ends,
        "refill": refill,
    }
    settings = merge_config(folder.config, {"export": flags})
    budgets = o.chosen_budgets(folder, budget, "search")
    with progress(quiet=json) as report:
        results = [
            export_onnx(folder, value, settings.export, report, permuted=permute, paranoid=paranoid)
            for value in budgets
        ]
    if json:
        print_json(results)
        return
    for result in results:
        print_export(result)
        if paranoid:
            print_passes(result)


def print_export(result: ExportResult) -> None:
    """Print what an export proved."""
    from sls_deploy.cli.output import print_line

    counts = result.layers
    unchanged = " (unchanged)" if result.skipped else ""
    print_line(
        f"export of budget {result.budget:g}{unchanged}: {counts.pruned} of {counts.total} layers "
        f"pruned, {counts.legal_2_4} are 2:4, {counts.eligible} eligible for sparse tensor cores"
    )
    if result.refilled:
        print_line(
            f"  refilled to N = M/2, cost {result.cost:.4f}; `sls-deploy export --no-refill` "
            "exports those searched"
        )
    for name, found in result.precisions.items():
        print_line(f"  {found.file}: {_figures(name, found)}")
        for layer in list(found.kept)[:_LISTED]:
            print_line(f"    {layer}: {found.kept[layer]}")
        if len(found.kept) > _LISTED:
            print_line(f"    and {len(found.kept) - _LISTED} more, see proof.json")
        if found.bytes_file:
            print_line(f"  {found.bytes_file}: the same from NHWC bytes to NHWC bytes")
    print_line(f"  {result.proof}")


def print_passes(result: ExportResult) -> None:
    """Print what each pass changed, and the parity after it."""
    import json

    from sls_deploy.cli.output import print_table

    files = json.loads(result.proof.read_text("utf-8"))["files"]
    rows = [
        [
            name,
            change["name"],
            f"{change['nodes_before']} -> {change['nodes_after']}",
            _counted(change["added"], "+") + _counted(change["removed"], "-") or "nothing",
            f"{change['bytes_before']} -> {change['bytes_after']}",
            "" if change["parity_db"] is None else f"{change['parity_db']:.1f}",
        ]
        for name, entry in files.items()
        for change in entry["passes"]
    ]
    columns = ["precision", "pass", "nodes", "operators", "bytes of weights", "parity dB"]
    print_table(f"passes of budget {result.budget:g}", columns, rows, left=(1, 3))


def _figures(name: str, found: PrecisionResult) -> str:
    """Parity and loss in one line."""
    parts = [f"parity with PyTorch {found.parity_db:.1f} dB"]
    if name == "bf16":
        parts = [f"parity with PyTorch {found.parity_db:.1f} dB, rounded to bf16 in fp32"]
    if found.rounded_db is not None:
        parts.append(f"{found.rounded_db:.1f} dB with activations rounded to fp16")
    if found.loss_db is not None:
        parts.append(f"loses {found.loss_db:.3f} dB on calibration pictures")
    return ", ".join(parts)


def _counted(operators: Mapping[str, int], sign: str) -> str:
    return "".join(f" {sign}{count} {name}" for name, count in operators.items()).lstrip()
