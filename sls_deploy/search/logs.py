"""TensorBoard logs of a training; `tensorboard --logdir RUN/search/logs` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from sls_deploy.files import disk_errors


class TrainingLog:
    """Event files with the figures of steps and epochs. Leave it as a context: that closes them.

    Args:
        folder: of one training; event files of several sittings lie side by side.
        start: step that the training goes on from; what was logged beyond it no longer counts.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        from tensorboardX import SummaryWriter  # two seconds of start-up that only logs need

        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder), purge_step=start)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a step, such as loss and cost, under their names."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def epoch(self, step: int, psnr: float, kept: Mapping[str, int]) -> None:
        """Log where an epoch starts: PSNR in dB as 'psnr', and each layer's N as 'N/<layer>'."""
        self._writer.add_scalar("psnr", psnr, step)
        for layer, count in kept.items():
            self._writer.add_scalar(f"N/{layer}", count, step)

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()
