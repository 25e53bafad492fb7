"""`sls-deploy demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from sls_deploy.cli.run import run_all

STEPS = 300
PATCH = 32


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option("--steps", help="Training steps of the search.")] = STEPS,
) -> None:
    """
    \b
    sls-deploy demo
    sls-deploy demo --out runs/demo --steps 300

    Do the whole job on a bundled x2 network and the photographs that come with scikit-image,
    on the CPU, in minutes: search at budget 0.5, export, build for SM86, validate on other
    photographs than those searched on.
    """
    from sls_deploy.cli.output import print_line
    from sls_deploy.config import Config
    from sls_deploy.config_file import merge_config
    from sls_deploy.data.samples import TRAIN, VALIDATION, export_samples
    from sls_deploy.models.bundled import DEMO_WEIGHTS

    photos = out.with_name(f"{out.name}-photos")
    export_samples(photos / "search", TRAIN)
    export_samples(photos / "validate", VALIDATION)
    command = [
        *("sls-deploy", "run", "--weights", DEMO_WEIGHTS, "--data", photos / "search"),
        *("--pictures", photos / "validate", "--budget", "0.5"),
        *("--steps", steps, "--patch", PATCH, "--out", out),
    ]
    print_line(shlex.join(map(str, command)))
    flags: dict[str, dict[str, Any]] = {
        "model": {"weights": DEMO_WEIGHTS},
        "data": {"photos": photos / "search"},
        "search": {"budgets": [0.5], "steps": steps, "patch": PATCH},
        "validate": {"pictures": photos / "validate"},
    }
    run_all(merge_config(Config(), flags), out)
