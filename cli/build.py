"""`sls-deploy build`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sls_deploy.cli import options as o
from sls_deploy.config import BuildConfig
from sls_deploy.errors import SlsError

if TYPE_CHECKING:
    from sls_deploy.engine.stage import EngineResult


def build(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    arch: o.Architectures = None,
    precision: o.BuildPrecisions = None,
    io: o.BuildIo = None,
    backend: o.Backend = None,
    shape: o.OneShape = None,
    min: o.MinShape = None,  # noqa: A002 - the flag's name
    opt: o.OptShape = None,
    max: o.MaxShape = None,  # noqa: A002 - the flag's name
    timeout: o.Timeout = None,
    jobs: o.Jobs = None,
    memory: o.BuildMemory = None,
    engine_cache_mib: o.EngineCache = None,
    workspace_mib: o.Workspace = None,
    optimization_level: o.Level = None,
    aux_streams: o.AuxStreams = None,
    hardware_compatibility: o.Hardware = None,
    version_compatible: o.VersionCompatible = None,
    timing_cache: o.TimingCache = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy build
    sls-deploy build runs/rlfn --budget 0.5 --arch sm80,sm86,sm89 --precision fp16

    Build a TensorRT engine for every budget, architecture and precision, several at a time, each
    in a process of its own, with a manifest that says what is proven about its sparsity.
    tensorrt_rtx needs no GPU.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config_file import merge_config
    from sls_deploy.engine.stage import build_engines

    folder = o.find_run(run)
    settings = merge_config(folder.config, {"build": build_flags(locals())})
    budgets = o.chosen_budgets(folder, budget, "export")
    with progress(quiet=json) as report:
        results = build_engines(folder, budgets, settings.build, report)
    if json:
        print_json(results)
        return
    for result in results:
        print_build(result)


def build_flags(given: dict[str, Any]) -> dict[str, Any]:
    """The flags of a build as settings."""
    return {
        "architectures": o.listed(given["arch"]),
        "precisions": o.listed(given["precision"]),
        **shape_flags(given),
        **{key: given[key] for key in BuildConfig.model_fields if key in given},
    }


def shape_flags(given: dict[str, Any]) -> dict[str, list[int] | None]:
    """The input sizes to build for; --shape stands for all three."""
    shapes = {name: o.shape_of(given.get(name), f"--{name}") for name in ("min", "opt", "max")}
    one = o.shape_of(given.get("shape"), "--shape")
    if one and any(shapes.values()):
        raise SlsError("is given beside --min, --opt or --max", "--shape", "Leave one out.")
    return {f"{name}_shape": one or shape for name, shape in shapes.items()}


def print_build(result: EngineResult) -> None:
    """Print an engine and the evidence of its sparsity."""
    from sls_deploy.cli.output import print_line

    manifest = result.manifest
    how = " (unchanged)" if result.skipped else " (from the cache)" if manifest.from_cache else ""
    print_line(
        f"engine {result.plan}{how}: {manifest.backend} {manifest.backend_version}, "
        f"{manifest.plan_bytes / 2**20:.1f} MiB, built in {manifest.seconds:.1f} s and "
        f"{manifest.peak_mib} MiB"
    )
    print_line(f"  evidence {manifest.evidence.level}: {manifest.evidence.statement}")
