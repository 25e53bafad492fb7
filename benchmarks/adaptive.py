"""What choosing a network for each tile gains, beside four baselines; see README.md beside this."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from adaptive_figures import chart, table
from numpy.typing import NDArray

from sls_deploy.adapt.adaptation import ESTIMATOR, KEY, Adaptation, read_adaptation
from sls_deploy.adapt.candidates import find_choices
from sls_deploy.adapt.chooser import estimate
from sls_deploy.adapt.measuring import BLOCK, Measured, measure
from sls_deploy.adapt.stage import split_photos
from sls_deploy.adapt.tradeoff import EXPONENT, Errors, decibels, decide
from sls_deploy.adapt.training import calibration_tiles
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.files import write_json
from sls_deploy.progress import Progress
from sls_deploy.run import Run
from sls_deploy.runtime.byte_pictures import from_bytes
from sls_deploy.runtime.onnxruntime import OnnxRunner

_BINS = 24
"""Classes of mean gradient, of as many calibration tiles each."""
_POINTS = 40
"""Mean costs that curves are compared at."""
_WEIGHTS = np.concatenate([[0.0], np.geomspace(1e-8, 10, 1500)])
_WHOLE = 10**9
"""Tiles of a set that is measured whole."""


@dataclass(frozen=True)
class Tiles:
    """The tiles of a set of pictures."""

    inputs: list[NDArray[np.uint8]]
    """HWC."""
    true: Errors
    """Tiles x candidates."""
    areas: NDArray[np.float64]
    """Pixels of each."""
    pictures: NDArray[np.intp]
    """Number of the picture that each is of."""
    with_overlap: float
    """Pixels that are restored for each that is kept, by tiles with their overlap."""


@dataclass(frozen=True)
class Points:
    """What some choices give."""

    costs: NDArray[np.float64]
    """Mean cost, as a share of the dense network's multiply-accumulates."""
    pooled: NDArray[np.float64]
    """PSNR of the mean squared error over all pixels, dB."""
    pictures: NDArray[np.float64]
    """Mean of the pictures' PSNR, dB."""


def cut(measured: Sequence[Measured], tile: int, overlap: int) -> Tiles:
    """Tiles that cover each picture once: as few as its sides need, and of about one size."""
    inputs, true, areas, pictures = [], [], [], []
    restored = 0.0
    for number, part in enumerate(measured):
        rows, columns = (_borders(length, tile // BLOCK) for length in part.errors.shape[1:])
        restored += _spread(rows, overlap) * _spread(columns, overlap)
        for top, bottom in rows:
            for left, right in columns:
                pixels = part.picture[top * BLOCK : bottom * BLOCK, left * BLOCK : right * BLOCK]
                inputs.append(pixels)
                true.append(part.errors[:, top:bottom, left:right].mean((1, 2)))
                areas.append(float(pixels.shape[0] * pixels.shape[1]))
                pictures.append(number)
    errors = np.stack(true).astype(np.float64)
    return Tiles(inputs, errors, np.array(areas), np.array(pictures), restored / sum(areas))


def gradient(tile: NDArray[np.uint8]) -> float:
    """Mean magnitude of the gradient of luma, in levels a pixel."""
    grey = tile[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]
    down, across = np.gradient(grey)
    return float(np.hypot(down, across).mean())


class GradientRule:
    """Errors by the mean gradient alone: the means over tiles of like gradient.

    So thresholds lie where the mean over real tiles says that the next network pays: no rule by
    that one number can do better on them.

    Args:
        tiles: to learn from, uint8 HWC.
        true: their errors.
    """

    def __init__(self, tiles: Sequence[NDArray[np.uint8]], true: Errors) -> None:
        found = np.array([gradient(tile) for tile in tiles])
        self._edges = np.quantile(found, np.linspace(0, 1, _BINS + 1)[1:-1])
        classes = np.searchsorted(self._edges, found)
        self._means = np.stack([true[classes == k].mean(axis=0) for k in range(_BINS)])

    def estimate(self, tiles: Sequence[NDArray[np.uint8]]) -> Errors:
        """Expected errors of tiles."""
        found = np.array([gradient(tile) for tile in tiles])
        errors: Errors = self._means[np.searchsorted(self._edges, found)]
        return errors


@dataclass(frozen=True)
class Decider:
    """What decides which candidate a tile goes to."""

    errors: Errors
    """Tiles x candidates: what it takes the errors for."""
    cost: float = 0.0
    """Multiply-accumulates of finding that out, as a share of the dense network's."""
    exponent: float = 1.0
    """Power of the errors that weight * cost is added to; 1 in the paper."""


def curve(tiles: Tiles, decider: Decider, costs: Sequence[float]) -> Points:
    """What every weight of cost gives."""
    extra = decider.cost
    chosen = [decide(decider.errors, costs, weight, decider.exponent) for weight in _WEIGHTS]
    return judge(tiles, [np.eye(len(costs))[choice] for choice in chosen], costs, extra)


def judge(
    tiles: Tiles, shares: Sequence[NDArray[np.float64]], costs: Sequence[float], extra: float
) -> Points:
    """Cost and quality where each tile goes to candidates with these probabilities."""
    found = []
    weights = tiles.areas / tiles.areas.sum()
    whole = np.bincount(tiles.pictures, tiles.areas)
    for share in shares:
        errors = (share * tiles.true).sum(axis=1)
        by_picture = np.bincount(tiles.pictures, tiles.areas * errors) / whole
        cost = float(weights @ share @ np.asarray(costs)) + extra
        psnr = float(np.mean([decibels(float(error)) for error in by_picture]))
        found.append((cost, decibels(float(weights @ errors)), psnr))
    return Points(*np.array(found).T)


def compare(tiles: Tiles, deciders: dict[str, Decider], costs: Sequence[float]) -> dict[str, Any]:
    """All ways to choose at equal mean costs, above the chord between the single networks.

    Args:
        tiles: of the set.
        deciders: by name.
        costs: of the candidates.
    """
    count = len(costs)
    single = judge(tiles, [np.eye(count)[[k] * len(tiles.true)] for k in range(count)], costs, 0)
    grid = np.linspace(costs[0], costs[-1], _POINTS + 2)[1:-1]
    record: dict[str, Any] = {"costs": grid.tolist(), "single": _listed(single), "psnr": {}}
    mixes = [_mix(cost, costs, len(tiles.true)) for cost in grid]
    ways = {"random": judge(tiles, mixes, costs, 0)}
    ways |= {name: curve(tiles, decider, costs) for name, decider in deciders.items()}
    chosen, extra = ways["estimator"], deciders["estimator"].cost
    counted = (chosen.costs - extra) * tiles.with_overlap + extra
    ways["estimator, overlap counted"] = replace(chosen, costs=counted)
    record["with overlap"] = tiles.with_overlap
    for measure_of in ("pooled", "pictures"):
        chord = _chord(single, measure_of, grid)
        values = {"chord": chord}
        values |= {name: _at(points, measure_of, grid) for name, points in ways.items()}
        gains = {name: value - chord for name, value in values.items()}
        record["psnr"][measure_of] = {name: value.tolist() for name, value in values.items()}
        record[measure_of] = {
            name: {
                "mean gain dB": float(gain.mean()),
                "least gain dB": float(gain.min()),
                "share of oracle": float(gain.mean() / gains["oracle"].mean()),
            }
            for name, gain in gains.items()
        }
    return record


def measure_set(run: Run, photos: Photos, about: Adaptation, tiles: int) -> list[Measured]:
    """Errors of all candidates on a set of pictures."""
    names = {candidate.name for candidate in about.candidates}
    choices = [one for one in find_choices(run, skip=True) if one.candidate.name in names]
    runners = [choice.open(about.scale, about.frames) for choice in choices]
    return list(measure(photos, runners, about.colour, about.tile, tiles, "measure", _tell))


def main(
    run: Annotated[Path, typer.Argument(help="Run folder, adapted.")],
    data: Annotated[Path, typer.Option(help="Photographs that it was adapted on.")],
    pictures: Annotated[list[Path], typer.Option(help="Folder of ground truth; several times.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")],
) -> None:
    """Compare ways to choose on folders of ground truth, and on the calibration photographs."""
    opened = Run.open(run)
    about, config = read_adaptation(opened), opened.config
    estimator = OnnxRunner(opened.path / KEY / ESTIMATOR)
    _, held_out = split_photos(config.data, config.adapt, data, about)
    parts = measure_set(opened, held_out, about, config.adapt.calibration_tiles)
    inputs, true = calibration_tiles(parts, about.tile)
    levels = [np.rint(tile.transpose(1, 2, 0) * 255).astype(np.uint8) for tile in inputs]
    rule = GradientRule(levels, true)
    sets = {"held-out photographs": parts}
    for folder in pictures:
        degradation, paths = choose_degradation(config.data, folder, about.scale, about.frames)
        photos = Photos(paths, degradation, 1024, min_side=16 * about.scale)
        sets[folder.name] = measure_set(opened, photos, about, _WHOLE)
    records = {}
    for name, measured in sets.items():
        tiles = cut(measured, about.tile, about.overlap)
        found = np.concatenate(
            [
                estimate(estimator, from_bytes(tile[None]), len(about.candidates))
                for tile in tiles.inputs
            ]
        )
        deciders = {
            "oracle": Decider(tiles.true),
            "oracle, same power": Decider(tiles.true, exponent=EXPONENT),
            "estimator": Decider(found, about.estimator_cost, EXPONENT),
            "estimator, plain MSE": Decider(found, about.estimator_cost),
            "gradient": Decider(rule.estimate(tiles.inputs)),
            "gradient, same power": Decider(rule.estimate(tiles.inputs), exponent=EXPONENT),
        }
        records[name] = compare(tiles, deciders, about.costs)
        slug = name.replace(" ", "-")
        out.mkdir(parents=True, exist_ok=True)
        (out / f"adaptive-{slug}.svg").write_text(chart(records[name], name), "utf-8")
    write_json(out / "adaptive.json", {"adaptation": asdict(about), "sets": records})
    print(table(records))


def _borders(length: int, side: int) -> list[tuple[int, int]]:
    count = -(-length // side)
    places = [round(place * length / count) for place in range(count + 1)]
    return list(pairwise(places))


def _spread(borders: Sequence[tuple[int, int]], overlap: int) -> int:
    """Pixels along a side that tiles take together: inner borders have an overlap on both sides."""
    return borders[-1][1] * BLOCK + 2 * overlap * (len(borders) - 1)


def _mix(cost: float, costs: Sequence[float], tiles: int) -> NDArray[np.float64]:
    """Probabilities of the two candidates around a mean cost, alike for every tile."""
    upper = min(max(int(np.searchsorted(costs, cost)), 1), len(costs) - 1)
    share = (cost - costs[upper - 1]) / (costs[upper] - costs[upper - 1])
    row = np.zeros(len(costs))
    row[[upper - 1, upper]] = 1 - share, share
    return np.tile(row, (tiles, 1))


def _listed(points: Points) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in asdict(points).items()}


def _at(points: Points, name: str, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quality at some costs, between neighbouring points of a curve."""
    order = np.argsort(points.costs, kind="stable")
    return np.interp(grid, points.costs[order], getattr(points, name)[order])


def _chord(single: Points, name: str, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper hull of the single networks: straight lines from one that pays to the next."""
    hull: list[tuple[float, float]] = []
    for point in zip(single.costs.tolist(), getattr(single, name).tolist(), strict=True):
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    costs, values = zip(*hull, strict=True)
    return np.interp(grid, costs, values)


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def _tell(report: Progress) -> None:
    if report.done % 25 == 0 or report.done == report.total:
        print(f"{report.task} {report.done}/{report.total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SlsError as error:
        sys.exit(f"error: {error}")
