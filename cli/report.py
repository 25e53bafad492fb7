"""`sls-deploy report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.report.comparison import Comparison

_COMPARISON = Path("comparison.html")


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN] [OTHER]", help="Run folders; the newest if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help=f"Page of a comparison. [default: {_COMPARISON}]", show_default=False
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy report
    sls-deploy report runs/a runs/b --out comparison.html

    Write validation/report.html and report.json of a run anew, from all that its folder holds by
    now; with two runs, compare them. A report is one file that opens without a network.
    """
    from sls_deploy.cli.output import print_json, print_line
    from sls_deploy.errors import SlsError
    from sls_deploy.report.files import write_comparison, write_report
    from sls_deploy.run import Run

    given = runs or []
    if len(given) > 2:
        raise SlsError("takes one run, or two to compare", "report", "Name two.")
    if len(given) == 2:
        page = out or _COMPARISON
        found = write_comparison(Run.open(given[0]), Run.open(given[1]), page)
        if json:
            print_json(found)
        else:
            _print_comparison(found)
            print_line(f"comparison: {page}")
        return
    if out is not None:
        fix = "Name two runs, or leave it out: a report lies in its run."
        raise SlsError("means nothing for one run", "--out", fix)
    written = write_report(o.find_run(given[0] if given else None))
    if json:
        print_json(written.report)
        return
    print_line(written.report.verdict)
    print_line(f"report: {written.page}")


def _print_comparison(found: Comparison) -> None:
    """Print what came out, and every form of both on the same pictures."""
    from sls_deploy.cli.output import print_line, print_table

    print_line(found.verdict)
    for reason in found.not_compared:
        print_line(f"not compared: {reason}")
    for budget in found.budgets:
        for pair in budget.folders:
            colour = "Y" if pair.metric == "psnr_y" else "RGB"
            rows = [
                [
                    stage.stage,
                    f"{stage.a:.3f}",
                    f"{stage.b:.3f}",
                    f"{stage.gain:+.4f}",
                    ""
                    if stage.low is None or stage.high is None
                    else f"{stage.low:+.4f} to {stage.high:+.4f}",
                    f"{stage.worst:+.3f} {stage.worst_picture}",
                ]
                for stage in pair.stages
            ]
            print_table(
                f"budget {budget.budget:g}, {colour}-PSNR in dB on {pair.pictures} pictures of "
                f"{pair.folder}: A {found.a}, B {found.b}",
                ["stage", "A", "B", "B - A", "95 %", "worst"],
                rows,
                left=(5,),
            )
