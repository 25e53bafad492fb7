"""The candidate that costs nothing: bicubic, or the picture as it is."""

from __future__ import annotations

import numpy as np

from sls_deploy.data.bicubic import enlarge
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch, check_pictures

_COLOURS = 3


class Skip:
    """Enlarges pictures by MATLAB's bicubic, but for its rounding; at scale 1 it gives them back.

    Of several frames the middle one is taken. It is a `Runner`, though no network.

    Args:
        scale: output pixels for one input pixel, along each side.
        frames: pictures in an input.
    """

    name = "skip"
    note = ""

    def __init__(self, scale: int, frames: int = 1) -> None:
        self._scale, self._first = scale, frames // 2 * _COLOURS

    def run(self, pictures: Pictures) -> Pictures:
        """Enlarge a batch; see `Runner.run`."""
        pictures = check_pictures(pictures, self.name)
        middle = pictures[:, self._first : self._first + _COLOURS]
        return np.ascontiguousarray(middle) if self._scale == 1 else enlarge(middle, self._scale)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch; see `Runner.stopwatch`."""
        import time

        def run_once() -> float:
            start = time.perf_counter()
            self.run(pictures)
            return (time.perf_counter() - start) * 1e3

        return run_once

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:  # noqa: ARG002
        """It has no layers."""
        return None

    def close(self) -> None:
        """Nothing is held."""
