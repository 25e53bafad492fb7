"""All that can be told of an engine here: its manifest, its kernels on a GPU, its measured gain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sls_deploy.engine.device import present_device
from sls_deploy.engine.evidence import Evidence
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.engine.tactics import read_tactics, with_tactics
from sls_deploy.errors import SlsError
from sls_deploy.runtime.sparsity_gain import SparsityGain, read_gain, with_gain
from sls_deploy.runtime.tensorrt import load_engine


@dataclass(frozen=True)
class EngineInspection:
    """What is known of one engine."""

    plan: Path
    """The engine."""
    manifest: EngineManifest
    """How it was built; the evidence in it is that of the build."""
    evidence: Evidence
    """What is proven of its sparsity by now."""
    not_loaded: str
    """Why it was not asked for its kernels; empty if it was."""
    gain: SparsityGain | None
    """What sparse kernels gain; None if it was not measured for this engine."""


def inspect_engine(plan: Path) -> EngineInspection:
    """Tell what an engine is, and ask it for its kernels where it can be loaded.

    Args:
        plan: an engine that `sls-deploy build` wrote, with its manifest beside it.

    Raises:
        SlsError: it is not the engine that its manifest describes, or a file beside it is damaged.
    """
    manifest = verified_manifest(plan)
    gain = read_gain(plan, manifest.plan_sha256)
    evidence, not_loaded = manifest.evidence, ""
    try:
        evidence = with_tactics(evidence, read_tactics(_information(plan, manifest)))
    except SlsError as error:
        not_loaded = error.what
    if gain is not None:
        evidence = with_gain(evidence, gain, present_device())
    return EngineInspection(plan, manifest, evidence, not_loaded, gain)


def _information(plan: Path, manifest: EngineManifest) -> str:
    engine = load_engine(plan, manifest, str(plan))
    try:
        return engine.information()
    finally:
        engine.close()
