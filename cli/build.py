"""`sls-deploy build`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.engine.stage import EngineResult


def build(
    run: o.RunFolder = None,
    budget: o.Budget = None,
    arch: o.Architectures = None,
    precision: o.BuildPrecisions = None,
    io: o.BuildIo = None,
    backend: o.Backend = None,
    timeout: o.Timeout = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy build
    sls-deploy build runs/rlfn --budget 0.5 --arch sm80,sm86,sm89 --precision fp16

    Build a TensorRT engine for every architecture and precision, each in a process of its own,
    with a manifest that says what is proven about its sparsity. tensorrt_rtx needs no GPU.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config import merge_config
    from sls_deploy.engine.stage import build_engines

    folder = o.find_run(run)
    settings = merge_config(folder.config, {"build": build_flags(locals())})
    budgets = o.chosen_budgets(folder, budget, "export")
    with progress(quiet=json) as report:
        results = [
            result
            for value in budgets
            for result in build_engines(folder, value, settings.build, report)
        ]
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
        "io": given["io"],
        "backend": given["backend"],
        "timeout": given["timeout"],
    }


def print_build(result: EngineResult) -> None:
    """Print an engine and the evidence of its sparsity."""
    from sls_deploy.cli.output import print_line

    manifest = result.manifest
    unchanged = " (unchanged)" if result.skipped else ""
    print_line(
        f"engine {result.plan}{unchanged}: {manifest.backend} {manifest.backend_version}, "
        f"{manifest.plan_bytes / 2**20:.1f} MiB, {manifest.seconds:.1f} s"
    )
    print_line(f"  evidence {manifest.evidence.level}: {manifest.evidence.statement}")
