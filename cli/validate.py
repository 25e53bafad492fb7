"""`sls-deploy validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sls_deploy.validate.figures import Gate, Loss, Validation


def validate(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    data: o.Pictures = None,
    degradation: o.HowDegraded = None,
    lpips: o.MeasureLpips = None,
    tile: o.Tile = None,
    max_loss_db: o.MaxLoss = None,
    max_picture_loss_db: o.MaxPictureLoss = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", help="An ONNX file of anyone's, to compare with --weights."),
    ] = None,
    output: Annotated[
        str,
        typer.Option("--output", help="Output of that ONNX file that is the picture, if several."),
    ] = "",
    engine: Annotated[
        Path | None,
        typer.Option("--engine", help="An engine of sls-deploy, to compare with --weights."),
    ] = None,
    model: o.Model = None,
    weights: o.Weights = None,
    scale: o.Scale = None,
    frames: o.Frames = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy validate runs/rlfn --budget 0.5 --data Set5/
    sls-deploy validate --onnx a.onnx --model net.py:make --weights net.pth --data Set5/

    Restore a folder of pictures by dense and sparse PyTorch, every exported ONNX file and every
    engine that can run here; compare each with the truth and with PyTorch, and say which step
    lost what. Or compare an ONNX file that came from elsewhere with the network in PyTorch. Exit
    code 1 if a gate fails.
    """
    from sls_deploy.cli.output import print_json, progress

    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "weights": weights, "scale": scale, "frames": frames},
        "validate": {
            "pictures": data,
            "degradation": degradation,
            "lpips": lpips,
            "tile": tile,
            "max_loss_db": max_loss_db,
            "max_picture_loss_db": max_picture_loss_db,
        },
    }
    if onnx or engine:
        _check_file_flags(run, budget)
        from sls_deploy.validate.foreign import validate_file

        settings = o.load_settings(None, flags)
        with progress(quiet=json) as report:
            options = settings.validate_
            found = validate_file(onnx, engine, settings.model, options, report, output=output)
        if json:
            print_json(found)
        else:
            print_validation(found)
        check_gates([found])
        return
    _check_run_flags(flags["model"])
    from sls_deploy.config_file import merge_config
    from sls_deploy.report.files import write_report
    from sls_deploy.validate.stage import validate_budget

    folder = o.find_run(run)
    options = merge_config(folder.config, {"validate": flags["validate"]}).validate_
    budgets = o.chosen_budgets(folder, budget, "export")
    with progress(quiet=json) as report:
        results = [validate_budget(folder, value, options, report) for value in budgets]
    page = write_report(folder).page
    if json:
        print_json(results)
    else:
        for result in results:
            print_validation(result.validation, skipped=result.skipped)
        print_report(page)
    check_gates([result.validation for result in results])


def print_validation(validation: Validation, *, skipped: bool = False) -> None:
    """Print the figures of every stage, what each step lost, and the gates that failed."""
    from sls_deploy.cli.output import print_line, print_table

    budget = "" if validation.budget is None else f"budget {validation.budget:g} on "
    unchanged = ", unchanged" if skipped else ""
    number = f"{validation.pictures} picture{'s' * (validation.pictures != 1)}"
    title = f"{budget}{number} of {validation.folder}, x{validation.scale}{unchanged}"
    print_table(title, _columns(validation), _rows(validation))
    for loss in validation.losses:
        print_line(f"  {loss.stage}: {loss.cause} loses {_with_interval(loss)}")
    for note in validation.notes:
        print_line(note)
    for name, reason in validation.not_run.items():
        print_line(f"{name} was not run: {reason}")
    failed = [gate for gate in validation.gates if not gate.passed]
    for gate in failed:
        print_line(f"FAILED {gate_line(gate)}")
    if not failed:
        print_line(f"all {len(validation.gates)} gates passed")


def print_report(page: Path) -> None:
    """Print where the report lies."""
    from sls_deploy.cli.output import print_line

    print_line(f"report: {page}")


def gate_line(gate: Gate) -> str:
    """A failed gate in one line: what, how much, and who is to blame."""
    value = "is equal" if gate.value is None else f"{gate.value:.3f} dB"
    line = f"{gate.stage}, {_RULES[gate.rule]}: {value}, limit {gate.limit:g} ({gate.setting})"
    if gate.culprit is None:
        return line
    cause = f"; by {gate.culprit.cause}" if gate.culprit.cause else ""
    return f"{line}; worst on {gate.culprit.picture}{cause}; {gate.culprit.finding}"


def check_gates(found: Sequence[Validation]) -> None:
    """Raise GateError, with the culprit, if any gate failed."""
    from sls_deploy.errors import GateError

    failed = [
        (validation, gate) for validation in found for gate in validation.gates if not gate.passed
    ]
    if not failed:
        return
    validation, gate = failed[0]
    budget = "" if validation.budget is None else f"budget {validation.budget:g}: "
    more = f" ({len(failed) - 1} more gates failed)" if len(failed) > 1 else ""
    raise GateError(f"{budget}{gate_line(gate)}{more}")


_RULES = {
    "loss": "mean loss to dense",
    "worst picture": "most that a picture loses",
    "fidelity": "PSNR to PyTorch",
    "fidelity to dense": "PSNR to the dense network",
}


def _columns(validation: Validation) -> list[str]:
    colour = "Y" if validation.protocol.metric == "psnr_y" else "RGB"
    columns = ["stage"]
    if validation.totals:
        columns += [f"{colour}-PSNR dB", f"{colour}-SSIM", "lost dB", "worst dB"]
    if any(stage.quality and stage.quality.lpips is not None for stage in validation.stages):
        columns.append("LPIPS")
    return [*columns, "PSNR to PyTorch", "max error", "99.9 %", "s"]


def _rows(validation: Validation) -> list[list[str]]:
    metric = validation.protocol.metric
    totals = {loss.stage: loss for loss in validation.totals}
    rows = []
    for stage in validation.stages:
        row = [stage.name]
        if stage.quality:
            total = totals.get(stage.name)
            ssim = stage.quality.ssim_y if metric == "psnr_y" else stage.quality.ssim_rgb
            row += [f"{getattr(stage.quality, metric):.3f}", f"{ssim:.4f}"]
            row += [f"{total.mean_db:+.3f}", f"{total.worst_db:+.3f}"] if total else ["", ""]
            row += [] if stage.quality.lpips is None else [f"{stage.quality.lpips:.4f}"]
        near = stage.to_reference
        if near is None:
            row += ["", "", ""]
        else:
            level = "equal" if near.psnr_db is None else f"{near.psnr_db:.1f}"
            row += [level, f"{near.max_error:.2g}", f"{near.p999_error:.2g}"]
        rows.append([*row, f"{stage.seconds:.2f}"])
    return rows


def _with_interval(loss: Loss) -> str:
    told = f"{loss.mean_db:.4f} dB"
    if loss.low_db is None or loss.high_db is None:
        return told
    return f"{told} (95 %: {loss.low_db:.4f} to {loss.high_db:.4f})"


def _check_file_flags(run: Path | None, budget: str | None) -> None:
    from sls_deploy.errors import SlsError

    if run is not None or budget is not None:
        given = str(run) if run is not None else "--budget"
        raise SlsError("means nothing beside --onnx or --engine", given, "Leave it out.")


def _check_run_flags(model: dict[str, Any]) -> None:
    from sls_deploy.errors import SlsError

    for name, value in model.items():
        if value is not None:
            flag = "--model" if name == "name" else f"--{name}"
            fix = "A run knows its network; name the file to compare with --onnx or --engine."
            raise SlsError("means nothing for a run", flag, fix)
