"""Packs budgets of a run for machines without sls-deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sls_deploy.config import Precision
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.errors import SlsError
from sls_deploy.package.assembly import PackedFile, assembled
from sls_deploy.package.contents import Io, gather_contents
from sls_deploy.package.folder import write_folder
from sls_deploy.package.triton import ENGINES, write_repository
from sls_deploy.run import Run

Form = Literal["folder", "triton"]
"""A plain folder with scripts, or a model repository for Triton."""


@dataclass(frozen=True)
class PackageOptions:
    """What to pack of each budget."""

    precision: Precision | None = None
    """Precision of graph and engines; if left out, see `gather_contents`."""
    io: Io = "float"
    """Pictures that they take."""


@dataclass(frozen=True)
class PackedBudget:
    """What was packed of one budget."""

    budget: float
    """The budget."""
    precision: Precision
    """Precision of graph and engines."""
    engines: tuple[str, ...]
    """Engines of the run that are in it, by their file names there."""


@dataclass(frozen=True)
class PackageResult:
    """A package that stands."""

    out: Path
    """Its folder."""
    form: Form
    """What it is for."""
    budgets: tuple[PackedBudget, ...]
    """The networks in it."""
    files: tuple[PackedFile, ...]
    """All of its files, by name."""
    left_out: dict[str, str]
    """What is not in it, and why."""


def package_run(
    run: Run,
    budgets: Sequence[float],
    form: Form,
    out: Path,
    options: PackageOptions | None = None,
) -> PackageResult:
    """Write a package: it is there as a whole, or not at all.

    Args:
        run: holds the exported graphs, and perhaps engines, a report and an adaptation.
        budgets: exported ones; a folder takes one, a repository several.
        form: what to write.
        out: folder to write; it must not exist, or be empty.
        options: which precision and form of pictures.

    Raises:
        SlsError: a budget was not exported so or has changed, several budgets for one folder,
            Triton cannot serve one of them, or `out` is taken or cannot be written.
    """
    chosen = options or PackageOptions()
    if not budgets or (form == "folder" and len(budgets) > 1):
        there = ", ".join(f"{budget:g}" for budget in budgets) or "none"
        fix = "Name one with --budget, or use --format triton."
        raise SlsError(f"a folder takes one budget (given: {there})", str(run.path), fix)
    backends = ENGINES if form == "triton" else tuple(BACKENDS)
    found = [
        gather_contents(run, budget, chosen.precision, chosen.io, backends)
        for budget in dict.fromkeys(budgets)
    ]
    with assembled(out) as assembly:
        if form == "folder":
            left_out = write_folder(run, found[0], assembly)
            engines = {found[0].budget: tuple(one.plan.name for one in found[0].engines)}
        else:
            repository = write_repository(run, found, assembly)
            left_out, engines = repository.left_out, repository.engines
    packed = (PackedBudget(one.budget, one.precision, engines[one.budget]) for one in found)
    return PackageResult(out, form, tuple(packed), assembly.files, left_out)
