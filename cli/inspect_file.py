"""`sls-deploy inspect` of files: what they are, and where ONNX files depart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.export.bisect import Bisection
    from sls_deploy.export.inspect_file import FileInspection, Port


def inspect_target(target: Path, budget: str | None, compare: str | None, *, json: bool) -> None:
    """Inspect a file, an engine or the exported files of a run, or compare with another.

    Args:
        target: an ONNX file, an engine or a run folder.
        budget: for a run, the budgets; None for all exported.
        compare: for a file, another file; for a run, a precision; None to compare nothing.
        json: print JSON.

    Raises:
        SlsError: something of it is not there, damaged, or not what was proved.
        GateError: what was compared departs.
    """
    if target.is_dir():
        _inspect_run(target, budget, compare, json=json)
        return
    from sls_deploy.cli.inspect_engine import inspect_engine
    from sls_deploy.errors import SlsError
    from sls_deploy.export.inspect_file import compare_files, inspect_file

    if budget is not None:
        raise SlsError("means nothing for a file", "--budget", "Name a run folder.")
    if target.suffix == ".plan":
        if compare is not None:
            raise SlsError("means nothing for an engine", "--compare", "Name an ONNX file.")
        inspect_engine(target, json=json)
        return
    if compare is None:
        _print_files([inspect_file(target)], json=json)
    else:
        found = compare_files(target, Path(compare))
        _print_comparisons({f"{compare} against {target}": found}, json=json)


def _inspect_run(target: Path, budget: str | None, compare: str | None, *, json: bool) -> None:
    from typing import get_args

    from sls_deploy.config import Precision
    from sls_deploy.errors import SlsError
    from sls_deploy.export.inspect_file import compare_export, exported_files, inspect_file

    run = o.find_run(target)
    budgets = o.budgets_of(budget) or run.budgets("export")
    if not budgets:
        raise SlsError("nothing was exported yet", str(target), "`sls-deploy export` does it.")
    if compare is None:
        paths = [path for value in budgets for path in exported_files(run, value).values()]
        _print_files([inspect_file(path) for path in paths], json=json)
        return
    precision = next((name for name in get_args(Precision) if name == compare), None)
    if precision is None:
        fix = f"Name one of {', '.join(get_args(Precision))}."
        raise SlsError(f"'{compare}' is no precision of a run's export", "--compare", fix)
    _print_comparisons(
        {
            f"{target}: {precision} of budget {value:g} against PyTorch": compare_export(
                run, value, precision
            )
            for value in budgets
        },
        json=json,
    )


def _print_files(found: list[FileInspection], *, json: bool) -> None:
    from sls_deploy.cli.output import print_json

    if not json:
        for item in found:
            print_file(item)
        return
    print_json(
        [{**vars(item), "legal_2_4": item.legal, "eligible": item.eligible} for item in found]
    )


def print_file(found: FileInspection) -> None:
    """Print a file's layers and what it says of itself."""
    from sls_deploy.cli.output import print_line, print_table
    from sls_deploy.onnx_weights import shown

    rows = [
        [
            shown(layer.name),
            layer.operator,
            "x".join(map(str, layer.shape)),
            f"{layer.groups}",
            layer.precision,
            f"{layer.nonzero:.1%}",
            "yes" if layer.legal_2_4 else "no",
            layer.reason or "eligible",
        ]
        for layer in found.layers
    ]
    columns = ["layer", "operator", "weight", "groups", "precision", "nonzero", "2:4",
               "sparse tensor cores"]  # fmt: skip
    title = f"{found.file}: opset {found.opset}, {_ports(found.inputs)} -> {_ports(found.outputs)}"
    print_table(title, columns, rows, left=(1, 4, 6, 7))
    print_line(
        f"{found.legal} of {len(found.layers)} layers are 2:4, {found.eligible} eligible for "
        "sparse tensor cores"
    )
    for key, value in found.facts.items():
        print_line(f"  {shown(key)}: {shown(value)}")
    proof = "is the one in proof.json" if found.proved else "stands in no proof.json beside it"
    print_line(f"  SHA-256 {found.sha256} {proof}")


def _ports(ports: tuple[Port, ...]) -> str:
    from sls_deploy.onnx_weights import shown

    return ", ".join(
        f"{shown(port.name)} {port.dtype} [{', '.join(shown(str(size)) for size in port.shape)}]"
        for port in ports
    )


def _print_comparisons(found: dict[str, Bisection], *, json: bool) -> None:
    from sls_deploy.cli.output import print_json
    from sls_deploy.errors import GateError

    if json:
        print_json([{"compared": name, **vars(item)} for name, item in found.items()])
    else:
        for name, item in found.items():
            print_comparison(name, item)
    departed = [f"{name}: {item}" for name, item in found.items() if not item.passed]
    if departed:
        raise GateError("; ".join(departed))


def print_comparison(name: str, found: Bisection) -> None:
    """Print how far each value lies, and the first that departs."""
    from sls_deploy.cli.output import print_line, print_table
    from sls_deploy.onnx_weights import shown

    rows = [
        [
            shown(item.node),
            item.operator,
            f"{item.psnr_db:.1f}",
            f"{item.before_db:.1f}",
            "not finite" if item.max_error is None else f"{item.max_error:.2g}",
            f"{item.peak:.3g}",
            item.place,
            "departs" if item.psnr_db < found.limit_db else "",
        ]
        for item in found.values
    ]
    columns = ["node", "operator", "PSNR dB", "of its inputs", "largest error", "peak", "at",
               f"below {found.limit_db:g} dB"]  # fmt: skip
    print_table(f"{name}, PSNR to the peak of each value", columns, rows, left=(1, 6, 7))
    if found.first is None:
        print_line(f"none of {len(rows)} values departs")
    elif found.passed:
        print_line(f"the output holds {found.limit_db:g} dB; {found}")
    if found.worst is not None:
        print_line(f"most error is added by '{shown(found.worst.node)}'")
