"""How results, progress and errors look in a terminal, in a pipe and as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from sls_deploy.progress import Progress, Report

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)
_SECONDS_BETWEEN_LINES = 10.0


def print_json(result: Any) -> None:
    """Print dataclasses as JSON; paths become text."""
    OUT.out(json.dumps(_plain(result), indent=1, allow_nan=False), highlight=False)


def print_line(text: str) -> None:
    """Print a line of the result."""
    OUT.print(text, markup=False, emoji=False)


def print_error(text: str) -> None:
    """Print the one line that says what is wrong."""
    ERR.print(f"error: {text}", markup=False, emoji=False)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (),
) -> None:
    """Print a table: drawn on a terminal that is wide enough, else aligned columns.

    The first column and those that `left` counts hold words, which start at the left; figures end
    at the right.
    """
    words = {0, *left}
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    # A terminal that is too narrow would break words, names of layers among them.
    if OUT.is_terminal and sum(widths) + 3 * len(widths) + 1 <= OUT.width:
        table = Table(title=title, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index in words else "right")
        for row in rows:
            table.add_row(*row)
        OUT.print(table)
        return
    print_line(title)
    for row in (columns, *rows):
        cells = (
            cell.ljust(width) if index in words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print_line("  ".join(cells).rstrip())


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Report]:
    """Show reports: bars on a terminal, a line now and then in a pipe, both on standard error."""
    if quiet:
        yield lambda _: None
        return
    if not ERR.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Bars(*columns, console=ERR) as bars:
        tasks: dict[str, TaskID] = {}

        def show(report: Progress) -> None:
            if report.task not in tasks:
                tasks[report.task] = bars.add_task(report.task, total=report.total, figures="")
            figures = _figures(report)
            bars.update(
                tasks[report.task], completed=report.done, total=report.total, figures=figures
            )

        yield show


class _Lines:
    """Reports as lines: the first and the last of a task, and one every few seconds."""

    def __init__(self) -> None:
        self._task, self._next = "", 0.0

    def __call__(self, report: Progress) -> None:
        now = time.monotonic()
        if report.task == self._task and now < self._next and report.done < report.total:
            return
        self._task, self._next = report.task, now + _SECONDS_BETWEEN_LINES
        line = f"{report.task} {report.done}/{report.total} {_figures(report)}"
        ERR.print(line.rstrip(), markup=False, emoji=False)


def _figures(report: Progress) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in report.figures.items())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
