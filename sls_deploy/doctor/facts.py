"""What a probe finds out, as JSON between its process and ours."""

from __future__ import annotations

from dataclasses import dataclass

from sls_deploy.engine.device import Device


@dataclass(frozen=True)
class Packages:
    """What the package manager says is installed."""

    versions: dict[str, str]
    """Version by name, lower case with '-', of packages that matter to us."""


@dataclass(frozen=True)
class Torch:
    """PyTorch, after a small convolution."""

    version: str
    """Its version."""
    cuda: str | None
    """CUDA that it was built for, such as '12.8'; None for a build without."""
    refusal: str
    """Why it sees no GPU, in its own words; '' where it sees one or has no CUDA."""


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime, after a tiny graph on the CPU."""

    version: str
    """Its version."""
    providers: tuple[str, ...]
    """What it says it could run on, the CPU included."""


@dataclass(frozen=True)
class Provider:
    """One execution provider of ONNX Runtime that really ran a tiny graph."""

    name: str
    """Such as 'CUDAExecutionProvider'."""


@dataclass(frozen=True)
class Gpu:
    """The CUDA driver and the first visible GPU."""

    cuda: str
    """Newest CUDA that the driver serves, such as '12.4'; '' where there is no driver."""
    device: Device | None
    """The GPU."""
    trouble: str
    """Why there is none, if so."""


@dataclass(frozen=True)
class Module:
    """A module of TensorRT that was imported."""

    version: str
    """Its version."""


@dataclass(frozen=True)
class Build:
    """A tiny engine that was built."""

    targets: tuple[str, ...]
    """GPU generations that it is for, such as 'sm86'."""
    plan: str
    """Where it stands."""
    seconds: float
    """Wall time of the build in its worker process."""
    peak_mib: int
    """Peak memory of the worker."""


@dataclass(frozen=True)
class Execution:
    """A tiny engine that ran on the GPU and gave what it must."""

    milliseconds: float
    """GPU time of one run."""
