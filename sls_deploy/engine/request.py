"""What the parent asks of a worker process and what it answers, both as JSON."""

from __future__ import annotations

from dataclasses import dataclass

Dimensions = tuple[int, ...]
"""Sizes of a tensor, -1 where they are dynamic."""


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build."""

    backend: str
    """Name of the backend."""
    architecture: str
    """GPU generation, such as 'sm86'."""
    onnx: str
    """Path of the source graph."""
    plan: str
    """Path to write the engine to."""
    answer: str
    """Path to write the answer to."""
    input_name: str
    """The graph's one input."""
    min_shape: Dimensions
    """Smallest input, NCHW."""
    opt_shape: Dimensions
    """Input that kernels are chosen for, NCHW."""
    max_shape: Dimensions
    """Largest input, NCHW."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine."""

    name: str
    """Name in the graph."""
    dtype: str
    """Type of its elements in the vendor's words, such as 'FLOAT'."""
    shape: Dimensions
    """NCHW, -1 where it is dynamic."""


@dataclass(frozen=True)
class BuildAnswer:
    """What a worker learnt; `error` is empty if the plan was written."""

    error: str = ""
    """The vendor's first error, one line."""
    warnings: tuple[str, ...] = ()
    """Warnings of the vendor's log."""
    sparsity_log: tuple[str, ...] = ()
    """Lines of the vendor's log that speak of sparsity."""
    inputs: tuple[Tensor, ...] = ()
    """Inputs of the engine."""
    outputs: tuple[Tensor, ...] = ()
    """Outputs of the engine."""
    peak_mib: int = 0
    """Peak resident memory of the worker, in MiB."""
