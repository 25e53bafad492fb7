"""Runs a TensorRT engine of either backend on the GPU that it was built for."""

from __future__ import annotations

from pathlib import Path

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.device import present_device
from sls_deploy.engine.gpu import capability, gpu_architecture
from sls_deploy.engine.manifest import EngineManifest, may_bring_code, verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.files import cache_folder
from sls_deploy.runtime.byte_pictures import from_bytes, to_bytes
from sls_deploy.runtime.loaded_engine import LoadedEngine
from sls_deploy.runtime.rtx_kernels import prune_kernels
from sls_deploy.runtime.runner import LayerTime, Pictures, Stopwatch, check_pictures

_NEXT_MAJOR = {10: 11}
"""Major versions of TensorRT whose version-compatible engines the next one loads, too. Source:
NVIDIA, "Support Matrix" of TensorRT 11.4, which names 8 on 10 as well; older ones than 10 build
no engine here."""


class EngineRunner:
    """Runs an engine; its buffers are PyTorch tensors on the first visible GPU.

    What `tensorrt_rtx` compiles at loading is kept in the cache folder of whoever runs it, by the
    hash of the engine, so that the next start need not compile it. Not beside the engine: what
    lies there may come from elsewhere, and no manifest vouches for it. Of those files the newest
    stay.

    Args:
        plan: an engine that `sls-deploy build` wrote, with its manifest beside it.
        name: what reports call the runner; backend and file name if it is empty.

    Raises:
        SlsError: the engine is not the one that its manifest describes, it may bring code and was
            not built on this machine, there is no GPU of its kind, or the backend's module or a
            PyTorch with CUDA is missing.
    """

    def __init__(self, plan: Path, name: str = "") -> None:
        manifest = verified_manifest(plan)
        self.name = name or f"{manifest.backend} {plan.stem}"
        self._manifest = manifest
        self._in_bytes = manifest.in_bytes
        self._kernels = cache_folder() / "kernels" / manifest.plan_sha256
        self._engine = load_engine(plan, manifest, self.name, self._kernels)

    @property
    def note(self) -> str:
        """Why CUDA graphs are not used; empty if they are."""
        return self._engine.note

    def run(self, pictures: Pictures) -> Pictures:
        """Restore a batch; see `Runner.run`."""
        pictures = self._checked(pictures)
        if self._in_bytes:
            return from_bytes(self._engine.run(to_bytes(pictures)))
        return self._engine.run(pictures)

    def stopwatch(self, pictures: Pictures) -> Stopwatch:
        """Time a batch of that shape; see `Runner.stopwatch`."""
        return self._engine.stopwatch(self._laid_out(pictures))

    def profile(self, pictures: Pictures, repeats: int) -> tuple[LayerTime, ...] | None:
        """Time each layer on a batch of that shape; see `Runner.profile`."""
        times = self._engine.profile(self._laid_out(pictures), repeats)
        backend = self._manifest.backend
        return tuple(LayerTime(name, "", backend, ms) for name, ms in times.items())

    def close(self) -> None:
        """Let go of the engine and its GPU memory."""
        self._engine.close()
        prune_kernels(self._kernels.parent)

    def _checked(self, pictures: Pictures) -> Pictures:
        pictures = check_pictures(pictures, self.name)
        check_size(pictures.shape, self._manifest, self.name)
        return pictures

    def _laid_out(self, pictures: Pictures) -> tuple[int, ...]:
        """Shape of the engine's input for a batch."""
        batch, channels, height, width = self._checked(pictures).shape
        if self._in_bytes:
            return batch, height, width, channels
        return batch, channels, height, width


def load_engine(
    plan: Path, manifest: EngineManifest, name: str, kernels: Path | None = None
) -> LoadedEngine:
    """Load an engine that its manifest allows to be loaded here.

    Args:
        plan: the engine.
        manifest: of exactly these bytes, from `verified_manifest`.
        name: what errors of the engine call it.
        kernels: where `tensorrt_rtx` keeps what it compiles; see `LoadedEngine`.

    Raises:
        SlsError: there is no GPU of its kind or another version of the backend, it may bring code
            and was not built on this machine, or it cannot be loaded.
    """
    where = str(plan)
    check_gpu(manifest, where)
    check_version(manifest, where)
    host_code = may_bring_code(manifest, where)
    backend = BACKENDS[manifest.backend]
    return LoadedEngine(backend, plan.read_bytes(), name, host_code=host_code, kernels=kernels)


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


def check_gpu(manifest: EngineManifest, where: str) -> None:
    """Refuse an engine that was not built for the first visible GPU.

    An engine of `tensorrt` holds kernels that were timed on one model of GPU, so without hardware
    compatibility it is refused on another model, too, though TensorRT itself would only warn.

    Raises:
        SlsError: there is no GPU, or it is another one than the engine needs.
    """
    fix = "Run it there, or build for this GPU (build.architectures)."
    built_for = manifest.architecture.split("+")
    present = gpu_architecture()
    if present is None or not _serves(present, built_for, manifest.options.hardware_compatibility):
        wanted = " or ".join(capability(name) for name in built_for)
        here = "none here" if present is None else f"one of {capability(present)} here"
        what = f"needs an NVIDIA GPU of compute capability {wanted}, and there is {here}"
        raise SlsError(what, where, fix)
    if manifest.backend != "tensorrt" or manifest.options.hardware_compatibility != "none":
        return
    device = present_device()
    if manifest.device and device and manifest.device.name != device.name:
        what = f"was built on an {manifest.device.name}, and there is an {device.name} here"
        raise SlsError(what, where, fix)


def _serves(present: str, built_for: list[str], compatibility: str) -> bool:
    if compatibility == "ampere+":
        return int(present.removeprefix("sm")) >= 80
    return present in built_for


def check_version(manifest: EngineManifest, where: str) -> None:
    """Refuse an engine that the installed version of its backend did not build.

    A version compatible engine also runs on later versions of the same major one, and if TensorRT
    10 built it, on 11.

    Raises:
        SlsError: the backend is not installed, or in another version.
    """
    backend = BACKENDS[manifest.backend]
    installed, wanted = backend.version, manifest.backend_version
    if installed == wanted:
        return
    compatible = manifest.options.version_compatible
    if installed and compatible and _is_later(installed, wanted):
        return
    here = f"{installed} is installed" if installed else "is not installed"
    if compatible:
        wanted += f" or a later {' or '.join(f'{major}.x' for major in _majors(wanted))}"
    what = f"needs {manifest.backend} {wanted}, but {manifest.backend} {here}"
    fix = f"Install that version, or build again with what `sls-deploy[{backend.extra}]` brings."
    raise SlsError(what, where, fix)


def _is_later(installed: str, built: str) -> bool:
    """Whether a version is at least another, and of a major one that loads its engines."""
    here, there = _numbers(installed), _numbers(built)
    return here >= there and not {*here[:1]}.isdisjoint(_majors(built))


def _majors(built: str) -> list[int]:
    """Major versions that load version-compatible engines of a version."""
    own = _numbers(built)[:1]
    return own + [_NEXT_MAJOR[major] for major in own if major in _NEXT_MAJOR]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
