"""`sls-deploy validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sls_deploy.validate.stage import ValidateResult


def validate(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    data: o.Pictures = None,
    max_loss_db: o.MaxLoss = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy validate
    sls-deploy validate runs/rlfn --budget 0.5 --data Set5/

    Restore a folder of pictures by dense and sparse PyTorch, every exported ONNX file and every
    engine that can run here; compare each with the truth and with PyTorch. Exit code 1 if a gate
    fails.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config_file import merge_config
    from sls_deploy.validate.stage import validate_budget

    folder = o.find_run(run)
    flags = {"validate": {"pictures": data, "max_loss_db": max_loss_db}}
    settings = merge_config(folder.config, flags)
    budgets = o.chosen_budgets(folder, budget, "export")
    with progress(quiet=json) as report:
        results = [validate_budget(folder, value, settings.validate_, report) for value in budgets]
    if json:
        print_json(results)
    else:
        for result in results:
            print_validation(result)
    check_gates(results)


def print_validation(result: ValidateResult) -> None:
    """Print the figures of every stage and the gates."""
    from sls_deploy.cli.output import print_line, print_table

    validation = result.validation
    dense = validation.stages[0]
    rows = [
        [
            stage.name,
            f"{getattr(stage, validation.metric):.3f}",
            f"{stage.ssim_y:.4f}",
            f"{getattr(dense, validation.metric) - getattr(stage, validation.metric):+.3f}",
            "-"
            if stage is dense
            else "equal"
            if stage.parity_db is None
            else f"{stage.parity_db:.1f}",
            f"{stage.seconds:.2f}",
        ]
        for stage in validation.stages
    ]
    unchanged = ", unchanged" if result.skipped else ""
    title = (
        f"budget {validation.budget:g} on {validation.pictures} pictures of {validation.folder}, "
        f"x{validation.scale}{unchanged}"
    )
    colour = "Y" if validation.metric == "psnr_y" else "RGB"
    columns = ["stage", f"{colour}-PSNR dB", "Y-SSIM", "lost dB", "parity dB", "s"]
    print_table(title, columns, rows)
    for name, reason in validation.not_run.items():
        print_line(f"{name} was not run: {reason}")
    for gate in validation.gates:
        if not gate.passed:
            print_line(f"FAILED {gate.stage}, {gate.rule}: {gate.value:.3f}, limit {gate.limit:g}")
    if validation.passed:
        print_line(f"all {len(validation.gates)} gates passed")
    print_line(f"wrote {result.report}")


def check_gates(results: Sequence[ValidateResult]) -> None:
    """Raise GateError, with the culprit, if any gate failed."""
    from sls_deploy.errors import GateError

    for result in results:
        for gate in result.validation.gates:
            if not gate.passed:
                raise GateError(
                    f"{gate.stage} at budget {result.validation.budget:g}: {gate.rule} is "
                    f"{gate.value:.3f}, the limit {gate.limit:g}; worst on {gate.culprit}"
                )
