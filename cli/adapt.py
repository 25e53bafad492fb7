"""`sls-deploy adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from pathlib import Path

    from sls_deploy.adapt.adaptation import Adaptation
    from sls_deploy.adapt.engine import EstimatorEngine
    from sls_deploy.adapt.stage import AdaptResult
    from sls_deploy.adapt.tradeoff import Found

_POINTS = 8
"""Points of the curve that are shown."""


@dataclass(frozen=True)
class Adapted:
    """What the command prints as JSON."""

    adaptation: Adaptation
    """Candidates, costs and sizes."""
    mse: Sequence[float]
    """Mean squared error of each candidate on all calibration tiles, on 0..1."""
    curve: Sequence[Found]
    """Some points of the curve, from the costliest."""
    engines: Sequence[EstimatorEngine]
    """The estimator's engines."""
    photographs: int
    """Photographs that could be used."""
    skipped_photographs: Sequence[tuple[Path, str]]
    """Photographs that could not, with the reasons."""
    seconds: float
    """Wall time of the work."""
    peak_mib: int
    """Peak resident memory, MiB."""
    skipped: bool
    """Whether all of it stood already."""


def adapt(
    run: o.RunFolder = None,
    data: o.Photos = None,
    tile: o.AdaptTile = None,
    tiles: o.AdaptTiles = None,
    calibration_tiles: o.CalibrationTiles = None,
    steps: o.AdaptSteps = None,
    skip: o.AdaptSkip = None,
    seed: o.AdaptSeed = None,
    backend: o.Backend = None,
    arch: o.Architectures = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy adapt runs/rlfn --data photos/
    sls-deploy adapt runs/rlfn --data photos/ --tile 96 --no-skip

    Train a light network that estimates, for each tile of a picture, the error that every network
    of the run would make on it, so that `restore --adaptive` spends compute where it gains most.
    Prints what every mean cost gives on photographs that it did not learn from. Without --data it
    takes the photographs of the search.
    """
    from sls_deploy.adapt.engine import build_estimator
    from sls_deploy.adapt.stage import adapt_run
    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config_file import merge_config
    from sls_deploy.errors import SlsError

    folder = o.find_run(run)
    flags: dict[str, dict[str, Any]] = {
        "data": {"photos": data},
        "adapt": {
            "tile": tile,
            "tiles": tiles,
            "calibration_tiles": calibration_tiles,
            "steps": steps,
            "skip": skip,
            "seed": seed,
        },
        "build": {"backend": backend, "architectures": o.listed(arch)},
    }
    settings = merge_config(folder.config, flags)
    photos = settings.data.photos
    if photos is None:
        raise SlsError("no photographs were named", "--data", "Give a folder of pictures.")
    with progress(quiet=json) as report:
        result = adapt_run(folder, settings.adapt, photos, report)
        engines = build_estimator(folder, result.adaptation, settings.build, report)
    if json:
        print_json(_told(result, engines))
    else:
        print_adapted(result, engines)


def print_adapted(result: AdaptResult, engines: Sequence[EstimatorEngine]) -> None:
    """Print candidates, the curve, and what the estimator costs."""
    from sls_deploy.adapt.tradeoff import decibels
    from sls_deploy.cli.output import print_line, print_table

    about, told = result.adaptation, _told(result, engines)
    unchanged = " (unchanged)" if result.skipped else ""
    print_line(
        f"adapted{unchanged}: tiles of {about.tile}, {about.tiles} to learn from and "
        f"{about.calibration_tiles} of other photographs to measure on"
    )
    rows = [
        [one.name, f"{one.cost:.3f}", f"{mse:.3e}", f"{decibels(mse):.2f}"]
        for one, mse in zip(about.candidates, told.mse, strict=True)
    ]
    print_table("each candidate on all tiles", ["candidate", "cost", "MSE", "PSNR dB"], rows)
    rows = [
        [f"{one.cost:.3f}", f"{one.psnr:.2f}", f"{one.loss_db:+.3f}", f"{one.weight:.2e}"]
        for one in told.curve
    ]
    print_table(
        f"chosen by tile, the estimator's cost of {about.estimator_cost:.4f} included",
        ["mean cost", "PSNR dB", "loss dB", "weight of cost"],
        rows,
    )
    for skipped in result.skipped_photographs[:3]:
        print_line(f"  left out {skipped.path}: {skipped.reason}")
    for engine in engines:
        print_line(f"  {engine.plan or f'no engine for {engine.target}: {engine.reason}'}")
    print_line(
        f"{result.photographs} photographs, {result.seconds:.0f} s, {result.peak_mib} MiB; "
        "`sls-deploy restore --adaptive --target-cost` takes a mean cost, --target-psnr-loss a loss"
    )


def _told(result: AdaptResult, engines: Sequence[EstimatorEngine]) -> Adapted:
    calibration = result.calibration
    return Adapted(
        adaptation=result.adaptation,
        mse=calibration.true.mean(axis=0).tolist(),
        curve=_points(result),
        engines=tuple(engines),
        photographs=result.photographs,
        skipped_photographs=[(one.path, one.reason) for one in result.skipped_photographs],
        seconds=result.seconds,
        peak_mib=result.peak_mib,
        skipped=result.skipped,
    )


def _points(result: AdaptResult) -> list[Found]:
    """Points of the curve at even steps of mean cost, from the costliest to the cheapest."""
    from sls_deploy.adapt.tradeoff import trade_off, weight_for_cost

    costs = trade_off(result.calibration).costs.tolist()
    high, low = costs[0], costs[-1]
    targets = [high + (low - high) * place / (_POINTS - 1) for place in range(_POINTS - 1)]
    found = [weight_for_cost(result.calibration, target) for target in [*targets, low]]
    return list(dict.fromkeys(found))
