"""`sls-deploy search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sls_deploy.cli import options as o
from sls_deploy.config import SearchConfig

if TYPE_CHECKING:
    from sls_deploy.search.results import SearchResult

_NO_FLAGS = {"budgets", "search_share"}
"""Settings of a search that have a form of their own on the command line, or none."""


def search(
    model: o.Model = None,
    weights: o.Weights = None,
    scale: o.Scale = None,
    frames: o.Frames = None,
    data: o.Photos = None,
    method: o.Method = None,
    pattern: o.Pattern = None,
    budget: o.Budgets = None,
    steps: o.Steps = None,
    minutes: o.Minutes = None,
    batch: o.Batch = None,
    patch: o.Patch = None,
    learning_rate: o.Rate = None,
    penalty: o.Penalty = None,
    recover_rate: o.RecoverRate = None,
    distillation: o.Distillation = None,
    ema: o.Ema = None,
    regrow: o.Regrow = None,
    refits: o.Refits = None,
    memory: o.Memory = None,
    crops: o.Crops = None,
    narrow: o.Narrow = None,
    align: o.Align = None,
    permute: o.Permute = None,
    keep: o.Keep = None,
    prune: o.Prune = None,
    seed: o.Seed = None,
    cost: o.Cost = None,
    gpu: o.Gpu = None,
    latency_table: o.LatencyTable = None,
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    training_precision: o.TrainingPrecision = None,
    accumulate: o.Accumulate = None,
    tensorboard: o.Tensorboard = None,
    degradation: o.Degradation = None,
    blur_length: o.BlurLength = None,
    blur_varying: o.BlurVarying = None,
    blur_shake: o.BlurShake = None,
    blur_blend: o.BlurBlend = None,
    blur_noise: o.BlurNoise = None,
    cache_mib: o.CacheMib = None,
    config: o.Settings = None,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy search --weights rlfn.pth --data photos/ --budget 0.5 --minutes 20
    sls-deploy search --weights rlfn.pth --data photos/ --pattern n:16 --budget 0.5,0.25

    Find how much of each layer to keep so that the cost falls below the budget, correct what is
    kept, then fine-tune; --method chooses how. Writes sparse weights and ratios into the run
    folder. Without flags it uses ./sls-deploy.toml. An interrupted search goes on with the same
    command.
    """
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.search.processes import Processes
    from sls_deploy.search.stage import search_budgets

    flags = search_flags(locals())
    settings = o.load_settings(config, flags)
    folder = out or default_folder(settings.model.weights)
    with (
        Processes.of(settings.search) as processes,
        progress(quiet=json or not processes.is_first) as report,
    ):
        result = search_budgets(settings, folder, report, processes)
    if not processes.is_first:
        return
    if json:
        print_json(result)
    else:
        print_search(result)


def search_flags(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The flags of a search as settings."""
    return {
        "model": {
            "name": given["model"],
            "weights": given["weights"],
            "scale": given["scale"],
            "frames": given["frames"],
        },
        "data": o.data_flags(given),
        "search": {
            "budgets": o.budgets_of(given["budget"]),
            **{key: given[key] for key in SearchConfig.model_fields if key not in _NO_FLAGS},
        },
    }


def default_folder(weights: Path | None) -> Path:
    """Run folder where none was named: runs/ and the name of the weights."""
    return Path("runs") / (weights.stem if weights else "run")


def print_search(result: SearchResult) -> None:
    """Print what the search reached."""
    from sls_deploy.cli.output import print_line, print_table

    if result.skipped_photos:
        print_line(f"{len(result.skipped_photos)} pictures left out, {result.photos} used:")
        for skipped in result.skipped_photos[:5]:
            print_line(f"  {skipped.path}: {skipped.reason}")
    if result.photos == 1:
        print_line("one photograph only: PSNR is measured on crops of what was learnt from")
    rows = [
        [
            f"{row.budget:g}",
            f"{row.cost:.4f}",
            f"{row.network_cost:.4f}",
            f"{row.dense_psnr:.2f}",
            f"{row.psnr:.2f}",
            f"{row.steps}",
            f"{row.seconds:.0f}",
            f"{row.peak_mib}" + (" (unchanged)" if row.skipped else ""),
        ]
        for row in result.budgets
    ]
    columns = ["budget", "cost", "whole net", "dense dB", "sparse dB", "steps", "s", "MiB"]
    print_table(f"search of {result.model}, PSNR on held-out crops", columns, rows)
    for row in result.budgets:
        for source in row.candidates:
            taken = ", taken" if source["chosen"] else ""
            print_line(
                f"  {row.budget:g}: {source['source']} ratios, reconstructed: "
                f"{source['psnr']:.2f} dB{taken}"
            )
        if row.alignment:
            told = row.alignment
            print_line(
                f"  {row.budget:g}: channels of {len(told['layers'])} layers filled up: "
                f"{told['eligible_after']} of {told['prunable']} prunable layers eligible, "
                f"{told['eligible_before']} before; {told['more_macs']:+.1%} multiply-accumulates"
            )
        if row.permutation:
            told = row.permutation
            print_line(
                f"  {row.budget:g}: channels of {told['streams']} streams reordered in "
                f"{told['seconds']:.0f} s: {told['regained']:.0%} of the gap between 2:4 and the "
                f"best half regained (median of {len(told['layers'])} layers)"
            )
        if row.refill:
            print_line(
                f"  {row.budget:g}: {len(row.refill['layers'])} layers refilled to N = M/2 for "
                f"export, {row.refill['gain_db']:+.2f} dB, cost {row.refill['cost']:.4f}"
            )
        for note in row.notes:
            print_line(f"  {row.budget:g}: {note}")
    print_line(f"  cost: {result.cost_note}")
    print_line(f"wrote {result.run / 'search'}")
