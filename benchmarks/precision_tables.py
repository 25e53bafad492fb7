"""The tables of docs/precisions.md in Markdown, from the files that precisions.py wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

Record = Mapping[str, Any]

_ENDS = ("first layer", "last layer")


def make_tables(out: Path, names: Sequence[str]) -> list[str]:
    """One table for each part of which there is a file, networks in the given order."""
    tables = []
    for part, make in _TABLES.items():
        found = [out / f"{part}-{name}.json" for name in names]
        records = [json.loads(path.read_text("utf-8")) for path in found if path.exists()]
        if records:
            tables.append(make(records))
    return tables


def parity_table(records: Iterable[Record]) -> str:
    """Distance to PyTorch of every precision, what stays in a higher one, and its engine."""
    head = (
        "network",
        "precision",
        "PSNR to PyTorch, dB",
        "rounded, dB",
        "largest error",
        "where",
        "lost, dB",
        "layers in a higher precision",
        "engine, MiB",
    )
    rows = []
    for record in records:
        for precision, found in record["files"].items():
            # ONNX Runtime cannot run bf16: its one figure is the rounded one.
            exact = None if precision == "bf16" else found["parity"]
            after = found["parity"] if precision == "bf16" else found["rounded"]
            worst = after or found["parity"]
            rows.append(
                (
                    record["title"],
                    precision,
                    _decimals(exact and exact["psnr_db"], ".1f"),
                    _decimals(after and after["psnr_db"], ".1f"),
                    f"{worst['max_error']:.1e}",
                    worst["place"],
                    _decimals(found["loss_db"], ".3f"),
                    _kept(record, precision),
                    "refused" if found["refused"] else f"{found['plan_bytes'] / 2**20:.1f}",
                )
            )
    return _table(head, rows)


def time_table(records: Iterable[Record]) -> str:
    """Layers and seconds of whole exports."""
    head = ("network", "layers", "pruned to 2:4", "narrowed", "fp32 and fp16, s", "all four, s")
    return _table(
        head,
        (
            (
                record["title"],
                *(str(record["layers"][key]) for key in ("total", "pruned", "narrowed")),
                f"{record['seconds']['default']:.1f}",
                f"{record['seconds']['all']:.1f}",
            )
            for record in records
        ),
    )


def accuracy_table(records: Iterable[Record]) -> str:
    """Y-PSNR of every precision, and in brackets the difference to fp32 of the same weights."""
    rows = []
    for record in records:
        for weights in ("dense", "2:4"):
            fp32 = record[weights]["fp32"]["psnr"]
            for name, found in record[weights].items():
                kept = str(len(found["kept"])) if name.startswith("int8") else ""
                psnr = (_against(value, fp32[key], name) for key, value in found["psnr"].items())
                rows.append((record["title"], weights, name, kept, *psnr))
    return _table(("network", "weights", "precision", "layers in fp16", *_SETS), rows)


def permutation_table(records: Iterable[Record]) -> str:
    """Medians over layers of what 2:4 keeps of the importance, and seconds."""
    head = (
        "network",
        "streams, layers reordered",
        "kept by 2:4 before",
        "after",
        "by the best half",
        "of the gap regained",
        "inside blocks (layers)",
        "seconds",
    )
    rows = []
    for record in records:
        layers = record["layers"]
        inner = [item["regained"] for item in layers if item["name"] in record["interiors"]]
        shares = (
            f"{median(item[key] for item in layers):.1%}"
            for key in ("before", "after", "unconstrained")
        )
        rows.append(
            (
                record["title"],
                f"{record['streams']}, {len(layers)}",
                *shares,
                f"{record['regained']:.0%}",
                f"{median(inner):.0%} ({len(inner)})" if inner else "none",
                f"{record['seconds']:.0f}",
            )
        )
    return _table(head, rows)


def order_table(records: Iterable[Record]) -> str:
    """Y-PSNR of networks pruned without and with reordering, beside the dense one."""
    rows = []
    for record in records:
        for name, psnr in record["psnr"].items():
            values = [*psnr.values(), fmean(psnr.values())]
            rows.append((record["title"], name, *(f"{value:.3f}" for value in values)))
    return _table(("network", "channels", *_SETS, "mean"), rows)


_SETS = ("Set5", "Set14", "B100")
_TABLES = {
    "parity": lambda records: f"{parity_table(records)}\n\n{time_table(records)}",
    "accuracy": accuracy_table,
    "permutation": permutation_table,
    "order": order_table,
}


def _kept(record: Record, precision: str) -> str:
    """How many layers do not compute in a precision: first and last, others, all layers."""
    files, total = record["files"], record["layers"]["total"]
    if precision == "fp32":
        return ""
    reasons = files[precision]["kept"]
    if precision != "int8":
        # Operators behind a layer stay with it and share its reason.
        return f"{len(set(reasons.values()))} of {total}"
    halves = files["fp16"]["kept"]
    layers = [reason for name, reason in reasons.items() if name not in halves]
    ends = sum(reason in _ENDS for reason in layers)
    return f"{ends} + {len(layers) - ends} of {total}"


def _against(value: float, fp32: float, name: str) -> str:
    return f"{value:.3f}" if name == "fp32" else f"{value:.3f} ({value - fp32:+.3f})"


def _decimals(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
