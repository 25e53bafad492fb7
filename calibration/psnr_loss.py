"""What a change of a network takes from the PSNR of its pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sls_deploy.errors import SlsError
from sls_deploy.runtime.runner import Pictures, Runner

ROUNDING = 1 / 255**2 / 12
"""Mean squared error of rounding a picture to bytes. It is part of every error here, so that a flat
crop that is restored almost perfectly does not outweigh all others."""


class PsnrLoss:
    """Compares a changed network with the unchanged one, picture by picture.

    Losses are means over pictures of each one's loss in dB, as papers take the mean of PSNR. Over
    all pixels together, the hardest pictures would hide what the others lose.

    Args:
        runner: the unchanged network, run once.
        inputs: batches of pictures.
        truths: what the network should make of them.

    Raises:
        SlsError: there are no pictures, or truths of another form than the network's outputs.
    """

    def __init__(
        self, runner: Runner, inputs: Sequence[Pictures], truths: Sequence[Pictures]
    ) -> None:
        self._inputs, self._truths = inputs, truths
        self._outputs = [np.clip(runner.run(batch), 0, 1) for batch in inputs]
        shapes = [[batch.shape for batch in batches] for batches in (self._outputs, truths)]
        if not inputs or shapes[0] != shapes[1]:
            what = (
                f"gives {shapes[0]} for the pictures to measure on, and their truth is {shapes[1]}"
            )
            raise SlsError(what, runner.name)
        self._errors = [
            _errors(*pair) + ROUNDING for pair in zip(self._outputs, truths, strict=True)
        ]

    def measured(self, runner: Runner) -> float:
        """Mean loss of PSNR to the truth, over RGB, in dB; below zero if there is a gain."""
        losses = []
        for batch, truth, before in zip(self._inputs, self._truths, self._errors, strict=True):
            after = _errors(np.clip(runner.run(batch), 0, 1), truth) + ROUNDING
            losses.append(10 * np.log10(after / before))
        return float(np.concatenate(losses).mean())

    def expected(self, runner: Runner, batches: int) -> float:
        """Mean loss if the change is independent of what the network does wrong, in dB.

        It is computed from the distance to the unchanged network, so that small changes can be
        told apart on few pictures, where what they do to the truth is chance.

        Args:
            runner: the changed network.
            batches: batches to measure on.
        """
        losses = []
        for index in range(min(batches, len(self._inputs))):
            output = np.clip(runner.run(self._inputs[index]), 0, 1)
            change = _errors(output, self._outputs[index])
            losses.append(10 * np.log10(1 + change / self._errors[index]))
        return float(np.concatenate(losses).mean())


def _errors(a: Pictures, b: Pictures) -> NDArray[np.float64]:
    """Mean squared error of each picture: [batch]."""
    error: NDArray[np.float64] = np.square(a.astype(np.float64) - b).mean((1, 2, 3))
    return error
