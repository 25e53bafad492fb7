"""Whether a run's report tells of what is packed, or of what stood there before."""

from __future__ import annotations

import json
from pathlib import Path

from sls_deploy.run import Run, budget_name

_AGAIN = "`sls-deploy report` writes it anew"
_MADE = ("search", "export", "engines", "validate")
"""Stages of a budget that a report must know as they are; times alone may be of an earlier day."""


def why_outdated(run: Run, budget: float, report: Path) -> str:
    """Why a run's report is not that of a budget as it stands now; empty if it is.

    The export and every validation of the budget must be current, and the report must have been
    written from what its stages hold now.

    Args:
        run: the run.
        budget: which one.
        report: its report.json.
    """
    name = budget_name(budget)
    told = _told(report)
    if told is None:
        return f"cannot be read: {_AGAIN}"
    for key, record in run.manifest.items():
        stage, _, rest = key.partition("/")
        if stage not in _MADE or rest.split("/")[0] != name:
            continue
        if stage in ("export", "validate") and not run.is_current(key):
            again = f"`sls-deploy {stage}` and `sls-deploy report` write it anew"
            return f"tells of {key}, and what that is made from has changed: {again}"
        if told.get(key) != record.outputs:
            return f"was written before {key} was done: {_AGAIN}"
    return ""


def _told(report: Path) -> dict[str, dict[str, str]] | None:
    """Hashes of what each stage had written when a report was made; None if it does not say."""
    try:
        done = json.loads(report.read_text("utf-8"))["done"]
        return {stage["key"]: stage["outputs"] for stage in done}
    except (OSError, ValueError, KeyError, TypeError):
        return None
