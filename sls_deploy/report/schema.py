"""What a report holds: the form of report.json.

`VERSION` counts up whenever the meaning of a field changes or one goes; docs/report.schema.json is
the same as JSON Schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from sls_deploy.runtime.bench_result import Bench
from sls_deploy.validate.figures import Validation

VERSION: Literal[2] = 2
"""Version of the form; 1 held the figures of validation alone."""


@dataclass(frozen=True)
class Network:
    """The dense network."""

    name: str
    """As the registry calls it, or the file and factory of the user's own."""
    weights: str
    """Name of the checkpoint's file."""
    sha256: str
    """SHA-256 of that file."""
    scale: int | None
    """Output pixels for one input pixel; None where nothing was validated yet."""
    macs_per_pixel: float
    """Multiply-accumulates for one pixel of the input, channels that were filled up included."""


@dataclass(frozen=True)
class Cost:
    """What is left of a cost, by one model of it."""

    model: str
    """Name of the model: 'macs', 'executable', 'latency' or 'measured'."""
    note: str
    """What its prices are and where they come from."""
    measured: bool
    """Whether they were timed."""
    prunable: float | None
    """Share that is left of the cost of the prunable layers; None where it is not told."""
    network: float
    """Share that is left of the whole network's."""


@dataclass(frozen=True)
class LayerRow:
    """One layer of a budget."""

    name: str
    """Name of the module."""
    kind: str
    """Class of the module, such as 'Conv2d'."""
    shape: tuple[int, ...]
    """Of its dense weight."""
    width: tuple[int, ...]
    """Output and input channels that are left."""
    kept: int
    """N of the N:M that is left; M where the layer is dense."""
    of: int
    """M."""
    share: float
    """Share of the dense network's multiply-accumulates."""
    left: float
    """Share of its own multiply-accumulates that is left, narrowing included."""
    sensitivity: float | None
    """Mean squared error of the output, 0..1, when this layer alone keeps what it keeps, in all its
    channels, or 2:4 if it stays dense; None where the search did not measure that."""
    eligible: bool | None
    """Whether it may run on sparse tensor cores; None where nothing was exported."""
    reason: str
    """Why it stays dense, or is not eligible; empty otherwise."""


@dataclass(frozen=True)
class Step:
    """The search at one moment."""

    step: int
    """Training steps done."""
    phase: str
    """What was done: 'search' of ratios, or 'fine-tuning'."""
    psnr: float | None
    """PSNR on held-out crops, dB over RGB."""
    loss: float | None
    """Training loss."""
    cost: float | None
    """Share of the prunable layers' cost; None where the ratios are fixed."""
    kept: tuple[int, ...] | None
    """Units that each layer of `History.layers` keeps; None where they are fixed."""


@dataclass(frozen=True)
class History:
    """How the search went."""

    layers: tuple[str, ...]
    """Names of the layers that `Step.kept` counts for."""
    units: int
    """Units of a layer that is dense."""
    steps: tuple[Step, ...]
    """From first to last."""


@dataclass(frozen=True)
class Competitor:
    """Ratios that competed for a budget under the same reconstruction."""

    source: str
    """Where they come from: 'allocated' or 'learnt'."""
    psnr: float
    """PSNR on held-out crops before fine-tuning, dB over RGB."""
    chosen: bool
    """Whether they were taken."""


@dataclass(frozen=True)
class EngineFacts:
    """An engine of a budget."""

    name: str
    """As validation calls it, such as 'TensorRT sm86-fp16'."""
    backend: str
    """What built it, with its version."""
    precision: str
    """Its precision."""
    bytes: int
    """Size of the plan."""
    sha256: str
    """SHA-256 of the plan."""
    level: str
    """How far its sparsity is proven: 'none' or L0 to L4."""
    statement: str
    """That in a sentence."""


@dataclass(frozen=True)
class BudgetReport:
    """All that is known of one budget."""

    budget: float
    """The budget asked for."""
    pattern: str
    """'2:4' or 'n:M'."""
    method: str
    """Method of the search."""
    cost_model: str
    """What the budget is a share of."""
    costs: tuple[Cost, ...]
    """What is left of the cost, by each model; that of the budget first."""
    level: str
    """Highest level of evidence that one of its engines reached; 'none' without engines."""
    held_out_dense: float
    """PSNR of the dense network on held-out crops, dB over RGB."""
    held_out_sparse: float
    """The same of the sparse network."""
    competitors: tuple[Competitor, ...]
    """Ratios that competed."""
    layers: tuple[LayerRow, ...]
    """All layers, in the order of the network."""
    history: History
    """How the search went."""
    engines: tuple[EngineFacts, ...]
    """Its engines."""
    validations: tuple[Validation, ...]
    """What was measured, one for each folder of pictures."""
    benches: tuple[Bench, ...]
    """What was timed, one for each device and input size."""


@dataclass(frozen=True)
class Point:
    """Quality at a cost."""

    label: str
    """What it is, such as 'dense', 'budget 0.5' or 'runs/rlfn-sls, budget 0.5'."""
    series: str
    """What it belongs to: a run's name, or 'dense'."""
    own: bool
    """Whether it is of this run."""
    network_cost: float
    """Share that is left of the whole network's multiply-accumulates."""
    value: float
    """Mean of the headline figure in PyTorch, dB."""


@dataclass(frozen=True)
class Curve:
    """Quality against cost on one folder of pictures: this run, the dense network and other runs
    beside it that pruned the same network and were validated on the same pictures."""

    folder: str
    """The folder."""
    metric: str
    """'Y-PSNR' or 'RGB-PSNR'."""
    points: tuple[Point, ...]
    """By descending cost within a series."""


@dataclass(frozen=True)
class Done:
    """One finished stage of the run."""

    key: str
    """Name of the stage, such as 'export/b0.50'."""
    seconds: float
    """Wall time."""
    peak_mib: int
    """Peak resident memory, MiB."""
    machine: str
    """Operating system, processor and core count."""
    versions: dict[str, str]
    """Versions of the packages that did it."""
    outputs: dict[str, str]
    """SHA-256 of each file written."""


@dataclass(frozen=True)
class RunReport:
    """A run, whole."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    version: Literal[2]
    """Version of this form."""
    run: str
    """Path of the run folder as it was named."""
    network: Network
    """The dense network."""
    passed: bool | None
    """Whether all gates passed; None where nothing was validated."""
    verdict: str
    """The result in a sentence or two, with figures."""
    budgets: tuple[BudgetReport, ...]
    """By descending budget."""
    curves: tuple[Curve, ...]
    """Quality against cost, one for each folder of pictures."""
    commands: tuple[str, ...]
    """What to type, in order, to make this run again from the same files."""
    config: str
    """The settings, as TOML."""
    done: tuple[Done, ...]
    """The finished stages, in the order they were recorded."""
