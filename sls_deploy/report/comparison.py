"""What a comparison of two runs holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sls_deploy.report.schema import Cost, Curve, EngineFacts, LayerRow, Network
from sls_deploy.validate.figures import Metric

VERSION: Literal[1] = 1
"""Version of the form."""


@dataclass(frozen=True)
class SettingPair:
    """A setting in which the runs differ."""

    name: str
    """Section and name, such as 'search.method'."""
    a: str
    """Its value in the first run, as TOML; empty where it is not set."""
    b: str
    """Its value in the second."""


@dataclass(frozen=True)
class CostPair:
    """What is left of the whole network's cost, by one model of it."""

    model: str
    """Name of the model, such as 'macs'."""
    a: Cost | None
    """Of the first run; None where it was not told by that model."""
    b: Cost | None
    """Of the second."""


@dataclass(frozen=True)
class StagePair:
    """One form of both networks on the same pictures."""

    stage: str
    """Its name, such as 'sparse PyTorch'."""
    a: float
    """Mean of the headline figure of the first run's, dB."""
    b: float
    """The same of the second's."""
    loss_a: float | None
    """What it lost to its own dense network, dB; None for the dense network itself."""
    loss_b: float | None
    """The same of the second run's."""
    gain: float
    """Mean over the pictures of the second's figure less the first's, dB."""
    low: float | None
    """Lower end of the 95 % bootstrap interval of that mean; None for fewer than two pictures."""
    high: float | None
    """Upper end."""
    worst_picture: str
    """The picture on which the second does worst beside the first."""
    worst: float
    """The second's figure less the first's there, dB."""


@dataclass(frozen=True)
class FolderPair:
    """Both runs on one set of pictures."""

    folder: str
    """The folder, as the first run names it."""
    metric: Metric
    """The headline figure."""
    pictures: int
    """Number of pictures."""
    stages: tuple[StagePair, ...]
    """The forms that both measured, in the order of the flow."""


@dataclass(frozen=True)
class LayerPair:
    """A layer that the runs left in different forms."""

    a: LayerRow
    """In the first run."""
    b: LayerRow
    """In the second."""


@dataclass(frozen=True)
class EnginePair:
    """Engines of the same name."""

    name: str
    """What reports call them."""
    a: EngineFacts | None
    """Of the first run; None where it has none."""
    b: EngineFacts | None
    """Of the second."""


@dataclass(frozen=True)
class TimePair:
    """Times of one form on the same device and input."""

    name: str
    """The form, such as 'ONNX fp16'."""
    place: str
    """What ran it: the GPU, or the CPU and its threads."""
    shape: tuple[int, ...]
    """Input, NCHW."""
    a: float
    """Median of the first run's, ms."""
    b: float
    """Median of the second's, ms."""
    note: str
    """What is to be known of either; mostly empty."""


@dataclass(frozen=True)
class BudgetPair:
    """One budget of both runs."""

    budget: float
    """The budget."""
    in_a: bool
    """Whether the first run has it."""
    in_b: bool
    """Whether the second run has it."""
    costs: tuple[CostPair, ...]
    """What is left of the cost, by each model."""
    folders: tuple[FolderPair, ...]
    """Pictures that both were measured on."""
    layers: tuple[LayerPair, ...]
    """Layers whose kept ratio or width differs; empty for different networks."""
    engines: tuple[EnginePair, ...]
    """Engines of either."""
    times: tuple[TimePair, ...]
    """Forms that were timed in both on the same device and input."""


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other: 'a' is the first, 'b' the second."""

    version: Literal[1]
    """Version of this form."""
    a: str
    """Path of the first run."""
    b: str
    """Path of the second."""
    network_a: Network
    """Dense network of the first run."""
    network_b: Network
    """Dense network of the second."""
    same_network: bool
    """Whether both pruned the same dense network."""
    verdict: str
    """The result in a sentence or two, with figures."""
    not_compared: tuple[str, ...]
    """What cannot be compared, each with its reason."""
    settings: tuple[SettingPair, ...]
    """Settings that differ."""
    budgets: tuple[BudgetPair, ...]
    """Budgets of either, by descending budget."""
    curves: tuple[Curve, ...]
    """Quality against cost of both, one for each set of pictures that both were measured on; costs
    are shares of the first run's dense network. `Point.own` tells the first run's."""
