"""The report's files: report.json and report.html of a run, a page that compares two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sls_deploy.errors import SlsError, problem
from sls_deploy.files import write_json, write_text
from sls_deploy.report.compare import compare_reports
from sls_deploy.report.comparison import Comparison
from sls_deploy.report.gather import gather_report
from sls_deploy.report.schema import RunReport
from sls_deploy.run import Run

_AGAIN = "`sls-deploy report` writes it anew."


@dataclass(frozen=True)
class WrittenReport:
    """A report and its files."""

    report: RunReport
    """What it says."""
    file: Path
    """All of it as JSON."""
    page: Path
    """The page."""


def write_report(run: Run) -> WrittenReport:
    """Write validation/report.json and validation/report.html from all that the run holds by now.

    Raises:
        SlsError: see `gather_report`; or a picture of the report is missing, or the disk is full.
    """
    from sls_deploy.report.page import render_report

    with run.locked():
        report = gather_report(run)
        page = render_report(report, _images(run, report))
        folder = run.path / "validation"
        return WrittenReport(
            report,
            write_json(folder / "report.json", asdict(report)),
            write_text(folder / "report.html", page),
        )


def write_comparison(a: Run, b: Run, page: Path) -> Comparison:
    """Compare two runs by all that they hold by now, and write the page of it.

    Args:
        a: the run that is compared with.
        b: the other.
        page: HTML file to write.

    Raises:
        SlsError: see `gather_report`; or the page cannot be written.
    """
    from sls_deploy.report.comparison_page import render_comparison

    found = compare_reports(gather_report(a), gather_report(b))
    write_text(page, render_comparison(found))
    return found


def read_report(path: Path) -> RunReport:
    """Read a report.json.

    Raises:
        SlsError: no such file, or one of another form.
    """
    try:
        return TypeAdapter(RunReport).validate_json(path.read_bytes())
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path), _AGAIN) from None
    except ValidationError as error:
        what = f"is no report of this version ({problem(error)})"
        raise SlsError(what, str(path), _AGAIN) from None


def json_schema() -> dict[str, Any]:
    """The form of report.json as JSON Schema, as docs/report.schema.json holds it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(RunReport).json_schema(),
    }


def _images(run: Run, report: RunReport) -> dict[str, bytes]:
    """The pictures that a report shows, by their paths in the run folder."""
    root = run.path.resolve()
    found = {}
    for name in _crops(report):
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            fix = "`sls-deploy validate` writes it again."
            raise SlsError("a picture of the report is missing", str(run.path / name), fix)
        found[name] = path.read_bytes()
    return found


def _crops(report: RunReport) -> Iterable[str]:
    return (
        file
        for budget in report.budgets
        for validation in budget.validations
        for crop in validation.crops
        for file in crop.files.values()
    )
