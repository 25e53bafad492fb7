"""The layers of a budget: what each keeps, what it weighs, and why it stays dense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sls_deploy.report.schema import LayerRow
from sls_deploy.search.cost import MacsCost, dense_form
from sls_deploy.search.layers import Layer
from sls_deploy.sparsity.ratios import REFILLED

_BY_RISK = ("fp16", "fp32", "bf16", "int8")
"""Precisions in the order in which their proof is asked for eligibility."""


def layer_rows(ratios: Mapping[str, Any], proof: Mapping[str, Any] | None) -> tuple[LayerRow, ...]:
    """One row for each layer of the network, in its order.

    Args:
        ratios: ratios.json of the search.
        proof: proof.json of the export; None where nothing was exported.
    """
    proven = {} if proof is None else _proven(proof["files"])
    filled = frozenset(ratios["refill"]["layers"] if refilled(proof) else ())
    whole = ratios["macs_per_pixel"]
    return tuple(
        _row(layer, whole, proven.get(layer["name"]), filled=layer["name"] in filled)
        for layer in ratios["layers"]
    )


def refilled(proof: Mapping[str, Any] | None) -> bool:
    """Whether the exported weights are those whose layers below N = M/2 were filled up."""
    return proof is not None and proof["source"]["file"] == REFILLED


def macs_left(rows: Iterable[LayerRow]) -> float:
    """Share of the network's multiply-accumulates that is left."""
    return sum(row.share * row.left for row in rows)


def _row(
    entry: Mapping[str, Any], whole: float, proven: Mapping[str, Any] | None, *, filled: bool
) -> LayerRow:
    kept, of = entry["of"] // 2 if filled else entry["kept"], entry["of"]
    shape, width = tuple(entry["shape"]), tuple(entry["width"])
    layer = Layer(**{field.name: entry[field.name] for field in fields(Layer)})
    form = dense_form(replace(layer, shape=(*width, *shape[2:])))
    left = MacsCost().price(layer, replace(form, kept=kept, of=of))
    return LayerRow(
        name=layer.name,
        kind=layer.kind,
        shape=shape,
        width=width,
        kept=kept,
        of=of,
        share=layer.macs / whole if whole else 0.0,
        left=left / layer.macs if layer.macs else 1.0,
        sensitivity=_at(entry["sensitivity"], kept if kept < of else of // 2),
        eligible=None if proven is None else proven["eligible"],
        reason=layer.reason if layer.reason or proven is None else proven["reason"],
    )


def _at(sensitivity: Sequence[Sequence[float]], kept: int) -> float | None:
    """What keeping so much loses, in all channels: no others were measured."""
    return next((error for level, error in sensitivity if level == kept), None)


def _proven(files: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    precision = next(name for name in _BY_RISK if name in files)
    return {layer["name"]: layer for layer in files[precision]["layers"]}
