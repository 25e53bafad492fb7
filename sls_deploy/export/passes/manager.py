"""Runs passes one after the other, checks what they promise, and says what each changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import onnx_ir as ir

from sls_deploy.errors import SlsError

NamedPass = tuple[str, ir.passes.PassBase]
"""A pass with the name that errors and changes give it."""


@dataclass(frozen=True)
class PassChange:
    """What one pass did to a graph."""

    name: str
    """Name of the pass."""
    modified: bool
    """Whether it says that it changed the graph."""
    nodes_before: int
    """Operators before it."""
    nodes_after: int
    """Operators after it."""
    added: Mapping[str, int]
    """How many operators more there are of each kind."""
    removed: Mapping[str, int]
    """How many operators fewer there are of each kind."""
    bytes_before: int
    """Size of all initialisers before it."""
    bytes_after: int
    """Size of all initialisers after it."""
    parity_db: float | None
    """PSNR to the reference after it, in dB; None if that was not checked."""


def run_passes(
    model: ir.Model,
    passes: Sequence[NamedPass],
    check: Callable[[ir.Model], float] | None = None,
) -> tuple[ir.Model, tuple[PassChange, ...]]:
    """Run passes in order and see after each that the graph still holds together.

    Args:
        model: the graph; passes that work in place change it.
        passes: those to run.
        check: gives the PSNR of a graph to a reference, in dB, and refuses one that is too far
            away; it must leave the graph alone.

    Returns:
        The graph after the last pass, and one entry for each pass.

    Raises:
        SlsError: a pass refuses the graph or leaves it broken: an operator in front of what it
            reads, a name given twice, an initialiser that nothing uses; or the check refuses it.
    """
    _hold_together(model.graph, "the graph before all passes")
    changes = []
    for name, rewrite in passes:
        before, bytes_before = _operators(model.graph), _bytes(model.graph)
        result = rewrite(model)
        model = result.model
        _hold_together(model.graph, f"the graph after pass '{name}'")
        after = _operators(model.graph)
        changes.append(
            PassChange(
                name=name,
                modified=result.modified,
                nodes_before=before.total(),
                nodes_after=after.total(),
                added=dict(after - before),
                removed=dict(before - after),
                bytes_before=bytes_before,
                bytes_after=_bytes(model.graph),
                parity_db=None if check is None else check(model),
            )
        )
    return model, tuple(changes)


def _operators(graph: ir.Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph)


def _bytes(graph: ir.Graph) -> int:
    tensors = (value.const_value for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _hold_together(graph: ir.Graph, where: str) -> None:
    """See that names are unique, and that everything is there before it is read."""
    known: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                _refuse(f"reads '{value.name}' in '{node.name}' before it is computed", where)
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            _refuse(f"does not compute its output '{value.name}'", where)
    computed = chain.from_iterable(node.outputs for node in graph)
    values = Counter(
        value.name
        for value in chain(graph.inputs, graph.initializers.values(), computed)
        if value.name  # an output that is left out has none
    )
    nodes = Counter(node.name for node in graph if node.name)
    for name, count in chain(values.items(), nodes.items()):
        if count > 1:
            _refuse(f"has the name '{name}' {count} times", where)
    outputs = set(graph.outputs)
    for value in graph.initializers.values():
        if not value.uses() and value not in outputs:
            _refuse(f"holds '{value.name}', which nothing uses", where)


def _refuse(what: str, where: str) -> None:
    raise SlsError(what, where, "The export is wrong: please report it.")
