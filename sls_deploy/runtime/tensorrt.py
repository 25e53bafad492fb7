"""Runs a TensorRT engine of either backend on the GPU that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.gpu import capability, gpu_architecture
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.engine.vendor_log import VendorLog
from sls_deploy.errors import SlsError
from sls_deploy.runtime.byte_pictures import from_bytes, to_bytes
from sls_deploy.runtime.runner import Pictures, check_pictures


class EngineRunner:
    """Runs an engine; its buffers are PyTorch tensors on the first visible GPU.

    Args:
        plan: an engine that `sls-deploy build` wrote, with its manifest beside it.
        name: what reports call the runner; backend and file name if it is empty.

    Raises:
        SlsError: the engine is not the one that its manifest describes, there is no GPU of its
            kind, or the backend's module or a PyTorch with CUDA is missing.
    """

    def __init__(self, plan: Path, name: str = "") -> None:
        manifest = verified_manifest(plan)
        _check_gpu(manifest, str(plan))
        trt = _load_backend(manifest, str(plan))
        self._torch = _load_torch(str(plan))
        self.name = name or f"{manifest.backend} {plan.stem}"
        self._manifest = manifest
        self._log = VendorLog(trt)
        runtime = trt.Runtime(self._log.logger)
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise SlsError(f"cannot be loaded: {self._log.first_error()}", str(plan))
        context = engine.create_execution_context()
        if context is None:
            fix = "Build for a smaller largest input (build.max_shape)."
            raise SlsError(f"cannot be made ready: {self._log.first_error()}", str(plan), fix)
        self._runtime, self._engine, self._context = runtime, engine, context
        # TensorRT synchronises more than needed on CUDA's default stream.
        self._stream = self._torch.cuda.Stream()

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        if self._context is None:
            raise SlsError("was closed", self.name, "Make a new runner.")
        pictures = check_pictures(pictures, self.name)
        check_size(pictures.shape, self._manifest, self.name)
        try:
            return self._execute(pictures)
        except self._torch.cuda.OutOfMemoryError:
            fix = "Run smaller batches or tiles."
            shape = list(pictures.shape)
            raise SlsError(f"ran out of GPU memory on {shape}", self.name, fix) from None

    def close(self) -> None:
        """Let go of the engine and its GPU memory."""
        self._context = self._engine = self._runtime = None

    def _execute(self, pictures: Pictures) -> Pictures:
        torch, context = self._torch, self._context
        self._log.errors.clear()
        source_name, target_name = self._manifest.inputs[0].name, self._manifest.outputs[0].name
        in_bytes = self._manifest.inputs[0].dtype == "UINT8"
        with torch.cuda.stream(self._stream):
            source = torch.from_numpy(to_bytes(pictures) if in_bytes else pictures).cuda()
            done = context.set_input_shape(source_name, tuple(source.shape))
            shape = tuple(context.get_tensor_shape(target_name))
            target = torch.empty(shape, dtype=source.dtype, device="cuda")
            done = done and context.set_tensor_address(source_name, source.data_ptr())
            done = done and context.set_tensor_address(target_name, target.data_ptr())
            done = done and context.execute_async_v3(self._stream.cuda_stream)
            if not done:
                what = f"failed on pictures of shape {list(pictures.shape)}"
                raise SlsError(f"{what}: {self._log.first_error()}", self.name)
            result = target.cpu().numpy()
        return from_bytes(result) if in_bytes else result


def check_size(shape: tuple[int, ...], manifest: EngineManifest, where: str) -> None:
    """Refuse a batch that the engine's profile does not cover.

    Raises:
        SlsError: a dimension is smaller or larger than the engine was built for.
    """
    smallest, largest = manifest.min_shape, manifest.max_shape
    if all(a <= n <= b for a, n, b in zip(smallest, shape, largest, strict=True)):
        return
    what = f"takes {list(smallest)} to {list(largest)}, not pictures of shape {list(shape)}"
    fix = "Run other batches or tiles, or build for other sizes (build.min_shape, build.max_shape)."
    raise SlsError(what, where, fix)


def _check_gpu(manifest: EngineManifest, where: str) -> None:
    present, wanted = gpu_architecture(), capability(manifest.architecture)
    if present != manifest.architecture:
        here = "none here" if present is None else f"one of {capability(present)} here"
        what = f"needs an NVIDIA GPU of compute capability {wanted}, and there is {here}"
        raise SlsError(what, where, "Run it there, or build for this GPU (build.architectures).")


def _load_backend(manifest: EngineManifest, where: str) -> Any:
    backend = BACKENDS[manifest.backend]
    module, installed = backend.load(), backend.version
    wanted = manifest.backend_version
    if module is None or installed != wanted:
        here = "is not installed" if module is None else f"{installed} is installed"
        what = f"needs {manifest.backend} {wanted}, but {manifest.backend} {here}"
        fix = (
            f"Install that version, or build again with what `sls-deploy[{backend.extra}]` brings."
        )
        raise SlsError(what, where, fix)
    return module


def _load_torch(where: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        fix = "Install a PyTorch with CUDA support from pytorch.org."
        raise SlsError("needs a PyTorch that sees the GPU, and this one does not", where, fix)
    return torch
