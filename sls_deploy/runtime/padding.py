"""Runs pictures of any size on a network that takes only some sizes."""

from __future__ import annotations

import numpy as np

from sls_deploy.runtime.runner import LayerTime, Pictures, Runner, Stopwatch, check_pictures
from sls_deploy.sizes import padded_side


class Padded:
    """Gives a runner what it takes: pictures reflected at the right and at the bottom.

    The output is cut back to the size of the picture times the scale, so that nobody sees it. A
    picture that has the size already is passed on as it is.

    Args:
        runner: what runs the pictures; it is closed with this one.
        least_side: smallest height and width that it takes, in pixels.
        multiple: pixels that height and width must be multiples of.
        scale: output pixels for one input pixel, along each side.
    """

    def __init__(self, runner: Runner, least_side: int, multiple: int, scale: int) -> None:
        self.name = runner.name
        self._runner, self._scale = runner, scale
        self._least_side, self._multiple = least_side, multiple

    @property
    def note(self) -> str:
        """What the runner says of itself; see `Runner.note`."""
        return self._runner.note

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        output = self._runner.run(self._filled(pictures))
        height, width = pictures.shape[2:]
        return output[:, :, : height * self._scale, : width * self._scale]

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch; see `Runner.stopwatch`. Filling up the pictures is not in the time."""
        return self._runner.stopwatch(self._filled(pictures))

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        """Time each layer; see `Runner.profile`."""
        return self._runner.profile(self._filled(pictures), repeats)

    def close(self) -> None:
        """Let go of the runner."""
        self._runner.close()

    def _filled(self, pictures: Pictures) -> Pictures:
        pictures = check_pictures(pictures, self.name)
        wanted = [
            padded_side(side, self._least_side, self._multiple) for side in pictures.shape[2:]
        ]
        return reflect(pictures, wanted[0], wanted[1])


def reflect(pictures: Pictures, height: int, width: int) -> Pictures:
    """Enlarge a batch at the right and at the bottom by reflection, as often as it takes.

    Args:
        pictures: NCHW.
        height: height to reach, in pixels.
        width: width to reach, in pixels.
    """
    for axis, wanted in ((2, height), (3, width)):
        side = pictures.shape[axis]
        if wanted > side:
            widths = [(0, 0)] * 4
            widths[axis] = (0, wanted - side)
            # A single row or column has nothing to reflect.
            pictures = np.pad(pictures, widths, mode="edge" if side == 1 else "reflect")
    return pictures
