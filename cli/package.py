"""`sls-deploy package`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sls_deploy.cli import options as o
from sls_deploy.config import Precision

if TYPE_CHECKING:
    from sls_deploy.package.stage import PackageResult


def package(
    *,
    run: o.RunFolder = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write, new or empty.")],
    budget: o.Budget = None,
    form: Annotated[
        Literal["folder", "triton"],
        typer.Option(
            "--format",
            help="'folder': graph, engines, report and scripts that need no sls-deploy; 'triton': "
            "a model repository for Triton.",
        ),
    ] = "folder",
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="Precision to pack; if left out, one that has an engine.",
            show_default=False,
        ),
    ] = None,
    io: Annotated[
        Literal["float", "uint8"],
        typer.Option("--io", help="Pictures that the network takes: NCHW floats or NHWC bytes."),
    ] = "float",
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy package runs/rlfn --budget 0.5 --out deploy
    sls-deploy package runs/rlfn --format triton --precision fp16 --out models

    Pack a network for machines without sls-deploy: a folder with graph, engines, report and short
    scripts that need numpy and a runtime alone, or a model repository for Triton with a model for
    each budget. It is written as a whole or not at all.
    """
    from sls_deploy.cli.output import print_json
    from sls_deploy.package.stage import PackageOptions, package_run

    folder = o.find_run(run)
    budgets = o.chosen_budgets(folder, budget, "export")
    result = package_run(folder, budgets, form, out, PackageOptions(precision, io))
    if json:
        print_json(result)
        return
    print_package(result)


def print_package(result: PackageResult) -> None:
    """Print what is in a package, and what is not."""
    from sls_deploy.cli.output import print_line

    size = sum(file.bytes for file in result.files)
    print_line(f"package {result.out}: {len(result.files)} files, {_size(size)}")
    for packed in result.budgets:
        engines = ", ".join(packed.engines) or "no engine"
        print_line(f"  budget {packed.budget:g} in {packed.precision}: {engines}")
    for file in result.files:
        print_line(f"  {file.name}  {_size(file.bytes)}")
    for name, why in result.left_out.items():
        print_line(f"left out: {name}: {why}")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
