"""The engines of a run, as reports name and judge them."""

from __future__ import annotations

from pathlib import Path

from sls_deploy.engine.stage import engine_key
from sls_deploy.run import Run


def engine_name(plan: Path) -> str:
    """What reports call an engine."""
    return f"TensorRT {plan.stem}"


def why_stale(run: Run, budget: float, plan: Path) -> str:
    """Why an engine is not what the run built from its export; empty if it is."""
    current = run.is_current(engine_key(budget, plan))
    return "" if current else "it, or what it was built from, has changed: build it again"
