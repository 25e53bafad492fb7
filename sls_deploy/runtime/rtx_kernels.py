"""What TensorRT for RTX does when an engine is loaded: it compiles kernels, and may keep them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from sls_deploy.errors import SlsError
from sls_deploy.files import atomic

_FILES_KEPT = 50
"""Files of kernels that stay; each new build of an engine has another hash, and so a new file."""


class RtxKernels:
    """Configures contexts of `tensorrt_rtx`, and keeps the kernels that they compile in a file.

    The kernels are for one GPU, driver and version of the library, which the library checks: a
    file of another is not used, and written anew. Source: NVIDIA, "Working with Runtime Cache".

    Args:
        trt: the vendor's module.
        path: where the kernels are kept; None keeps nothing.
    """

    def __init__(self, trt: Any, path: Path | None) -> None:
        self._trt, self._path = trt, path
        self._cache: Any = None

    def configuration(self, engine: Any, *, graphs: bool) -> Any:
        """The configuration of a new context of an engine (`IRuntimeConfig`).

        Kernels for a new shape are compiled at once and waited for. In the library's default way
        they are compiled in the background, and slower ones run meanwhile, which no measurement
        should see.

        Args:
            engine: the vendor's engine; always the same.
            graphs: whether the library shall record and replay CUDA graphs.
        """
        trt = self._trt
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if self._path is not None:
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                if self._path.is_file():
                    self._cache.deserialize(self._path.read_bytes())
            config.set_runtime_cache(self._cache)
        return config

    @staticmethod
    def no_graphs(context: Any, stream: int) -> str:
        """Why the library records no CUDA graph for a context; '' if it does.

        It says whether, not why. Of what NVIDIA names ("TensorRT-RTX 1.2 Release Notes"), networks
        that restore pictures have one thing: large tensors for which memory is only found at the
        run, in engines that were built without REQUIRE_USER_ALLOCATION.

        Args:
            context: the vendor's, after its first run.
            stream: handle of the CUDA stream on which it runs.
        """
        if context.is_stream_capturable(stream):
            return ""
        return "CUDA graphs are not used, because the engine allocates memory while it runs"

    def keep(self) -> None:
        """Write the kernels to the file, if there is one."""
        if self._cache is None or self._path is None:
            return
        kernels = self._cache.serialize()
        # A folder that cannot be written costs the next start some seconds, nothing else.
        with contextlib.suppress(SlsError), atomic(self._path) as temporary:
            temporary.write_bytes(kernels)


def prune_kernels(folder: Path) -> None:
    """Delete the files of kernels in a folder but for those that were written last.

    Args:
        folder: holds files of kernels alone; may be missing.
    """
    # Nothing depends on it: another process may be pruning, or the folder is not ours to change.
    with contextlib.suppress(OSError):
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in files[_FILES_KEPT:]:
            path.unlink(missing_ok=True)
