"""The JSON beside each engine: where it comes from, what it takes, and what is proven of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sls_deploy.config import Precision, Target
from sls_deploy.engine.device import Device
from sls_deploy.engine.evidence import Evidence
from sls_deploy.engine.request import BuildOptions, Dimensions, Tensor
from sls_deploy.errors import SlsError, problem
from sls_deploy.files import cache_folder, hash_file, write_json, write_text

_AXES = 4
"""Batch, channels, height and width."""
_BUILD_AGAIN = "`sls-deploy build` makes the engine anew."


@dataclass(frozen=True)
class EngineManifest:
    """What is known of one engine."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    plan: str
    """File name of the engine, in the manifest's folder."""
    plan_sha256: str
    """SHA-256 of the engine; it is loaded only if this holds."""
    plan_bytes: int
    """Size of the engine."""
    onnx: str
    """File name of the graph that it was built from."""
    onnx_sha256: str
    """SHA-256 of that graph."""
    backend: Literal["tensorrt", "tensorrt_rtx"]
    """Vendor's Python module that built it and must load it."""
    backend_version: str
    """Version of that module; an engine runs with this version only."""
    sls_deploy_version: str
    """Version of sls-deploy that built it."""
    architecture: Target
    """GPU generations that it is for, such as 'sm86' or 'sm80+sm86'."""
    device: Device | None
    """GPU that it was built on, with its driver and clocks; None if it was built without one."""
    options: BuildOptions
    """What the builder was told beside the sizes."""
    precision: Precision
    """Precision of weights and activations inside."""
    budget: float
    """Budget that the network was searched for."""
    min_shape: Dimensions
    """Smallest input, NCHW."""
    opt_shape: Dimensions
    """Input that kernels are chosen for, NCHW."""
    max_shape: Dimensions
    """Largest input, NCHW."""
    inputs: tuple[Tensor, ...]
    """Inputs of the engine."""
    outputs: tuple[Tensor, ...]
    """Outputs of the engine."""
    strongly_typed: bool
    """Whether the graph alone decided the precision of every tensor."""
    from_cache: bool
    """Whether it was copied from the cache, where an earlier build of the same put it."""
    seconds: float
    """Wall time of the build."""
    peak_mib: int
    """Peak resident memory of the build, in MiB."""
    warnings: tuple[str, ...]
    """Warnings of the vendor's log."""
    evidence: Evidence
    """What is proven of its sparsity."""

    @property
    def in_bytes(self) -> bool:
        """Whether it takes pictures of 8 bits."""
        return self.inputs[0].dtype == "UINT8"


def write_manifest(path: Path, manifest: EngineManifest) -> Path:
    """Write a manifest atomically and return its path."""
    return write_json(path, asdict(manifest))


def read_manifest(path: Path) -> EngineManifest:
    """Read a manifest.

    Raises:
        SlsError: no such file, a file of another form, or one that names files elsewhere.
    """
    try:
        manifest = TypeAdapter(EngineManifest).validate_json(path.read_bytes())
    except OSError as error:
        what = f"the engine's manifest cannot be read ({error.strerror})"
        raise SlsError(what, str(path), _BUILD_AGAIN) from None
    except ValidationError as error:
        what = f"is not an engine's manifest of this version ({problem(error)})"
        raise SlsError(what, str(path), _BUILD_AGAIN) from None
    for name in (manifest.plan, manifest.onnx):
        if Path(name).name != name or name in ("", ".."):
            what = f"names a file outside its folder ({name})"
            raise SlsError(what, str(path), _BUILD_AGAIN)
    shapes = (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    if any(len(given) != 1 for given in (manifest.inputs, manifest.outputs)) or any(
        len(shape) != _AXES for shape in shapes
    ):
        what = "is not the manifest of an engine with one picture in and one out"
        raise SlsError(what, str(path), _BUILD_AGAIN)
    return manifest


def remember_built(manifest: EngineManifest) -> None:
    """Note that an engine which may bring code was built on this machine.

    Raises:
        SlsError: the cache's folder cannot be written.
    """
    if manifest.options.version_compatible:
        write_text(_own_engine(manifest), "")


def may_bring_code(manifest: EngineManifest, where: str) -> bool:
    """Whether an engine brings code for this machine with it, as version-compatible ones do.

    A manifest's hash proves that it belongs to its engine, not where both come from.

    Args:
        manifest: a verified one.
        where: the engine, for the error.

    Raises:
        SlsError: it does, and was not built on this machine.
    """
    if not manifest.options.version_compatible:
        return False
    if not _own_engine(manifest).is_file():
        what = "may bring code for this machine and was not built here, so it is not loaded"
        raise SlsError(what, where, _BUILD_AGAIN)
    return True


def _own_engine(manifest: EngineManifest) -> Path:
    return cache_folder() / "built" / manifest.plan_sha256


def verified_manifest(plan: Path) -> EngineManifest:
    """Read the manifest beside an engine and check that it speaks of exactly these bytes.

    Raises:
        SlsError: there is no sound manifest, or the engine is not the one that it describes.
    """
    if not plan.is_file():
        raise SlsError("no such engine", str(plan), "`sls-deploy build` makes one.")
    path = plan.with_suffix(".json")
    manifest = read_manifest(path)
    if manifest.plan != plan.name or hash_file(plan) != manifest.plan_sha256:
        what = f"is not the engine that {path.name} describes, so it is not loaded"
        raise SlsError(what, str(plan), _BUILD_AGAIN)
    return manifest
