"""What the parent asks of a worker process and what it answers, both as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dimensions = tuple[int, ...]
"""Sizes of a tensor, -1 where they are dynamic."""


@dataclass(frozen=True)
class BuildOptions:
    """What a builder is told beside the graph and its sizes; None leaves it to the vendor."""

    sparse: bool = True
    """Whether sparse kernels may be chosen."""
    workspace_mib: int | None = None
    """Most memory on the GPU that a kernel may take for itself, in MiB."""
    optimization_level: int | None = None
    """How long the builder looks for faster kernels, 0 to 5."""
    aux_streams: int | None = None
    """Most CUDA streams that an engine may use beside its own."""
    hardware_compatibility: Literal["none", "same", "ampere+"] = "none"
    """GPUs that an engine runs on: this kind, all of its compute capability, all since Ampere."""
    version_compatible: bool = False
    """Whether later versions of the vendor's library may load the engine."""
    timing_cache: str = ""
    """File that measured times of kernels are kept in from build to build; empty for none."""


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build."""

    backend: str
    """Name of the backend."""
    architectures: tuple[str, ...]
    """GPU generations that the one engine is for, such as 'sm86'."""
    onnx: str
    """Path of the source graph."""
    plan: str
    """Path to write the engine to."""
    input_name: str
    """The graph's one input."""
    min_shape: Dimensions
    """Smallest input, NCHW."""
    opt_shape: Dimensions
    """Input that kernels are chosen for, NCHW."""
    max_shape: Dimensions
    """Largest input, NCHW."""
    options: BuildOptions = BuildOptions()
    """What else the builder is told."""
    answer: str = ""
    """Path to write the answer to; `run_worker` chooses it."""


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
    unwritten: str = ""
    """Why the plan could not be written, such as 'No space left on device'."""
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
