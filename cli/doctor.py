"""`sls-deploy doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.doctor.diagnosis import Diagnosis


def doctor(json: o.Json = False) -> None:
    """
    \b
    sls-deploy doctor
    sls-deploy doctor --json

    Try what sls-deploy needs on this machine: packages, a tiny graph, a tiny engine, the GPU and
    its driver. Say what works, what does not, and the command that mends it. Nothing is changed.

    Exit code 0 if search, export, build and validate work here, 1 if one of them does not; engines
    need a GPU to run, which is no failure.
    """
    from pathlib import Path

    from sls_deploy.cli.output import print_json
    from sls_deploy.doctor.examine import examine
    from sls_deploy.errors import GateError

    diagnosis = examine(Path.cwd())
    if json:
        print_json({**vars(diagnosis), "works": diagnosis.works})
    else:
        print_diagnosis(diagnosis)
    if not diagnosis.works:
        reasons = (f"{item.name} does not work: {item.says}" for item in diagnosis.missing)
        raise GateError("; ".join(reasons))


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what was found, what works, and what to do."""
    from sls_deploy.cli.output import print_line, print_table

    print_table(
        "this machine",
        ["part", "state", "found"],
        [[item.name, item.state, item.says] for item in diagnosis.findings],
        left=(1, 2),
    )
    print_table(
        "what works here",
        ["step", "works", "because"],
        [[item.name, "yes" if item.works else "no", item.says] for item in diagnosis.abilities],
        left=(1, 2),
    )
    fixes: dict[str, list[str]] = {}
    for finding in diagnosis.findings:
        fixes.setdefault(finding.fix, []).append(finding.name)
    for ability in diagnosis.abilities:
        fixes.setdefault(ability.fix, []).append(ability.name)
    for fix, names in fixes.items():
        if fix:
            print_line(f"{', '.join(names)}: {fix}")
