"""`sls-deploy export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.export.stage import ExportResult


def export(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    precision: o.ExportPrecisions = None,
    refill: o.Refill = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy export --budget 0.5
    sls-deploy export runs/rlfn --budget 0.5 --precision fp32,fp16

    Write ONNX graphs with the pruned zeros in place, and proof.json: which layers are legal
    2:4, and how far ONNX Runtime departs from PyTorch on crops of photographs.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config import merge_config
    from sls_deploy.export.stage import export_onnx

    folder = o.find_run(run)
    settings = merge_config(
        folder.config, {"export": {"precisions": o.listed(precision), "refill": refill}}
    )
    budgets = o.chosen_budgets(folder, budget, "search")
    with progress(quiet=json) as report:
        results = [export_onnx(folder, value, settings.export, report) for value in budgets]
    if json:
        print_json(results)
        return
    for result in results:
        print_export(result)


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
    for precision, path in result.files.items():
        rounded = result.rounded_db.get(precision)
        also = "" if rounded is None else f", {rounded:.1f} dB with activations rounded to fp16"
        print_line(f"  {path}: parity with PyTorch {result.parity_db[precision]:.1f} dB{also}")
    print_line(f"  {result.proof}")
