"""Runs a network in PyTorch, the reference that exports are compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sls_deploy.errors import SlsError, reason
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch, check_pictures

if TYPE_CHECKING:
    import torch


class TorchRunner:
    """Runs a module that maps NCHW 0..1 to NCHW 0..1, on the device that it stands on.

    On a GPU its convolutions compute in full fp32, as engines do; see `_without_tf32`.

    Args:
        model: the module; it is put into evaluation mode.
        name: what reports call the runner.
    """

    note = ""
    """Nothing is to be known of it; see `Runner.note`."""

    def __init__(self, model: torch.nn.Module, name: str = "PyTorch") -> None:
        self.name = name
        self._model: torch.nn.Module | None = model.eval()

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        with _without_tf32():
            output = self._restored(self._batch(pictures))
        return np.asarray(output.float().cpu().numpy(), np.float32)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch; see `Runner.stopwatch`. PyTorch's own choices of kernels are left alone.

        On a GPU a run goes before the one that counts, as `LoadedEngine.stopwatch` explains.
        """
        import torch

        batch = self._batch(pictures)
        if not batch.is_cuda:

            def run_on_cpu() -> float:
                start = time.perf_counter()
                self._restored(batch)
                return (time.perf_counter() - start) * 1e3

            return run_on_cpu

        def run_on_gpu() -> float:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            with _without_tf32():
                self._restored(batch)
                start.record()
                self._restored(batch)
                end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return run_on_gpu

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:  # noqa: ARG002
        """None: PyTorch runs operators, and which of them make up a layer it does not say."""
        return None

    def close(self) -> None:
        """Let go of the module."""
        self._model = None

    def _batch(self, pictures: Pictures) -> torch.Tensor:
        """The pictures on the device of the module."""
        import torch

        batch = torch.from_numpy(check_pictures(pictures, self.name))
        return batch.to(next(self._open().parameters(), batch).device)

    def _restored(self, batch: torch.Tensor) -> torch.Tensor:
        import torch

        try:
            with torch.no_grad():
                output: torch.Tensor = self._open()(batch)
        except SlsError:
            raise
        except Exception as error:  # whatever the network raises
            what = f"failed on pictures of shape {list(batch.shape)} ({reason(error)})"
            raise SlsError(what, self.name) from None
        return output

    def _open(self) -> torch.nn.Module:
        if self._model is None:
            raise SlsError("was closed", self.name, "Make a new runner.")
        return self._model


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions on a GPU in full fp32: by default cuDNN may round their input to ten bits.

    Engines are built without it, and what is compared with them should compute the same.
    """
    from torch.backends import cudnn

    with cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        benchmark_limit=cudnn.benchmark_limit,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
        depthwise_kernel=cudnn.depthwise_kernel,
    ):
        yield
