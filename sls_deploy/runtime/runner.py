"""The one interface of everything that restores a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError

Pictures = NDArray[np.float32]
"""A batch of pictures: NCHW float32, RGB, 0..1 (an output may leave that range a little)."""

Stopwatch = Callable[[], float]
"""Runs a network once on input that lies where it runs; returns the milliseconds that it took."""


@dataclass(frozen=True)
class LayerTime:
    """What one layer of a network takes."""

    name: str
    """The name that the backend gives it: layers that were fused have one together."""
    kind: str
    """Operator, such as 'Conv'; empty where the backend does not tell."""
    device: str
    """What ran it, such as 'CPUExecutionProvider' or 'tensorrt'."""
    ms: float
    """Median of its times, in milliseconds."""


class Runner(Protocol):
    """A network that is ready to run, whatever executes it."""

    name: str
    """What reports call it, such as 'PyTorch' or 'ONNX Runtime fp16'."""

    @property
    def note(self) -> str:
        """What is to be known of how it runs, such as why it goes slower; mostly empty."""
        ...

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch.

        Args:
            pictures: NCHW float32, RGB, 0..1; several frames lie along the channels.

        Returns:
            NCHW float32, RGB, not clamped; height and width are multiplied by the scale.

        Raises:
            SlsError: the array is not of that form, or the network cannot take its size.
        """
        ...

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """A function that restores the batch once and returns the milliseconds that it took.

        Input and output stay where the network runs: nothing is copied to or from a GPU in that
        time. On a GPU it is what two CUDA events measure, where the backend allows that.

        Args:
            pictures: as `run` takes them.

        Raises:
            SlsError: as `run` does.
        """
        ...

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        """What each layer takes, in the order of execution; None where the backend cannot tell.

        Args:
            pictures: as `run` takes them.
            repeats: how often the batch is restored, at least 1.

        Raises:
            SlsError: as `run` does.
        """
        ...

    def close(self) -> None:
        """Let go of memory and devices; the runner cannot be used afterwards."""
        ...


def check_pictures(pictures: Pictures, where: str) -> Pictures:
    """Pass on a batch that every runner can take, contiguous in memory.

    Args:
        pictures: NCHW float32 with 3 channels for each frame and at least one pixel.
        where: name of the runner, for the error.

    Raises:
        SlsError: the array has another form; says which.
    """
    given = f"{pictures.dtype} {list(pictures.shape)}"
    fix = "Give float32 pictures of shape [batch, 3 * frames, height, width], RGB, 0..1."
    if pictures.dtype != np.float32 or pictures.ndim != 4 or pictures.shape[1] % 3:
        raise SlsError(f"cannot take pictures of {given}", where, fix)
    if pictures.size == 0:
        raise SlsError(f"got no pixels ({given})", where, fix)
    return np.ascontiguousarray(pictures)
