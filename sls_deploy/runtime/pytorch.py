"""Runs a network in PyTorch, the reference that exports are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sls_deploy.errors import SlsError, reason
from sls_deploy.runtime.runner import Pictures, check_pictures

if TYPE_CHECKING:
    import torch


class TorchRunner:
    """Runs a module that maps NCHW 0..1 to NCHW 0..1, on the device that it stands on.

    Args:
        model: the module; it is put into evaluation mode.
        name: what reports call the runner.
    """

    def __init__(self, model: torch.nn.Module, name: str = "PyTorch") -> None:
        self.name = name
        self._model: torch.nn.Module | None = model.eval()

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        import torch

        if self._model is None:
            raise SlsError("was closed", self.name, "Make a new runner.")
        batch = torch.from_numpy(check_pictures(pictures, self.name))
        parameter = next(self._model.parameters(), batch)
        try:
            with torch.no_grad():
                output = self._model(batch.to(parameter.device))
        except Exception as error:  # whatever the network raises
            what = f"failed on pictures of shape {list(pictures.shape)} ({reason(error)})"
            raise SlsError(what, self.name) from None
        return np.asarray(output.float().cpu().numpy(), np.float32)

    def close(self) -> None:
        """Let go of the module."""
        self._model = None
