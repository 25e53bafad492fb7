"""The stage 'adapt': a run's networks and photographs -> what chooses a network for each tile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sls_deploy._version import __version__
from sls_deploy.adapt.adaptation import (
    ESTIMATOR,
    KEY,
    Adaptation,
    read_adaptation,
    read_calibration,
    write_adaptation,
    write_calibration,
)
from sls_deploy.adapt.candidates import Choice, find_choices
from sls_deploy.adapt.chooser import estimate
from sls_deploy.adapt.measuring import BLOCK, Measured, measure
from sls_deploy.adapt.network import Estimator, estimator_graph, macs_per_pixel, widest
from sls_deploy.adapt.tradeoff import Calibration
from sls_deploy.adapt.training import TileSampler, calibration_tiles, train_estimator
from sls_deploy.config import AdaptConfig, DataConfig
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.photos import Photos, Skipped
from sls_deploy.files import atomic, hash_file
from sls_deploy.models.restoration import COLOURS
from sls_deploy.progress import Report, silent
from sls_deploy.run import Run
from sls_deploy.runtime.exported import ExportedGraph
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.sparsity.ratios import read_ratios

_OVERLAPS = {"y": 2, "rgb": 16}
"""Input pixels around a tile that are restored with it and given up. Tiles of 64 lose by none, 1, 2
and 3 of them 0.016, 0.003, 0.0002 and 0.0001 dB on CARN-M x4 (13 photographs); on RLFN-S x4 2 are
enough too (within 0.01 dB). Deblurring has to see as far as a blur reaches."""
_LIMIT = 0.02
"""Most multiply-accumulates of an estimator, as a share of the dense network's."""


@dataclass(frozen=True)
class AdaptResult:
    """What adapting a run found out."""

    adaptation: Adaptation
    """Candidates, costs and sizes."""
    calibration: Calibration
    """The tiles that weights of cost are found on."""
    photographs: int
    """Photographs that could be used."""
    skipped_photographs: tuple[Skipped, ...]
    """Photographs that could not, with the reasons."""
    seconds: float
    """Wall time of the work."""
    peak_mib: int
    """Peak resident memory of the process, MiB."""
    skipped: bool
    """Whether all of it stood already."""


def adapt_run(run: Run, options: AdaptConfig, photos: Path, report: Report = silent) -> AdaptResult:
    """Train the estimator of a run's exported networks, and measure it on other photographs.

    Writes `adapt/estimator.onnx`, `adapt/calibration.safetensors` and `adapt/adapt.json`.

    Args:
        run: holds at least one exported budget, or two without the skip path.
        options: sizes and numbers of tiles, and training steps.
        photos: photographs, of which some are kept apart to measure on.
        report: told of each photograph and step.

    Raises:
        SlsError: there is nothing to choose from, an export is stale or cannot be measured, or no
            photographs can be used.
    """
    with run.locked():
        choices = find_choices(run, skip=options.skip)
        graphs = [choice.graph for choice in choices if choice.graph]
        data = run.config.data.model_copy(update={"photos": photos})
        learnt, measured = split_photos(data, options, photos, graphs[0])
        files = list(dict.fromkeys([*learnt.files, *measured.files]))
        inputs = {
            "version": __version__,
            "options": options.model_dump(mode="json"),
            "data": data.model_dump(mode="json", exclude={"photos", "cache_mib", "held_out"}),
            "photos": {str(path.relative_to(photos)): hash_file(path) for path in files},
            "overlaps": _OVERLAPS,
        }
        searched = run.folder("search", graphs[0].budget) / "ratios.json"
        dense = float(read_ratios(searched)["macs_per_pixel"])
        task = _Task(run, options, choices, (learnt, measured), dense, report)
        record, skipped = run.stage(KEY, inputs, task.work, [graph.path for graph in graphs])
    adaptation = read_adaptation(run)
    usable = {*learnt.paths, *measured.paths} - {item.path for item in learnt.skipped}
    return AdaptResult(
        adaptation=adaptation,
        calibration=read_calibration(run, adaptation),
        photographs=len(usable),
        skipped_photographs=tuple(learnt.skipped),
        seconds=record.seconds,
        peak_mib=record.peak_mib,
        skipped=skipped,
    )


def split_photos(
    data: DataConfig, options: AdaptConfig, folder: Path, graph: ExportedGraph | Adaptation
) -> tuple[Photos, Photos]:
    """Photographs to learn from, and others to measure on: as many as their shares of the tiles."""
    degradation, paths = choose_degradation(data, folder, graph.scale, graph.frames)
    photos = Photos(paths, degradation, data.cache_mib, min_side=options.tile * graph.scale)
    return photos.split(options.calibration_tiles / (options.tiles + options.calibration_tiles))


@dataclass(frozen=True)
class _Task:
    """The work of the stage."""

    run: Run
    options: AdaptConfig
    choices: Sequence[Choice]
    photos: tuple[Photos, Photos]
    dense_macs: float
    """Of the dense network, for one input pixel."""
    report: Report

    def work(self) -> Iterable[Path]:
        """Measure the candidates, train, measure what was trained, write."""
        options, choices = self.options, self.choices
        learnt, measured = self._measured()
        frames, count = learnt[0].picture.shape[2] // COLOURS, len(choices)
        width = widest(count, frames, _LIMIT * self.dense_macs)
        torch.manual_seed(options.seed)
        estimator = Estimator(count, frames, width)
        sampler = TileSampler(learnt, options.tile, options.seed)
        train_estimator(estimator, sampler, options.steps, self.report)
        content = estimator_graph(estimator)
        path = self.run.path / KEY / ESTIMATOR
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        for stale in path.with_suffix("").glob("*"):  # engines of the estimator before
            stale.unlink()
        tiles, true = calibration_tiles(measured, options.tile)
        runner = OnnxRunner(content, "the estimator")
        estimated = estimate(runner, tiles, count)
        adaptation = Adaptation(
            candidates=tuple(choice.candidate for choice in choices),
            estimator_cost=macs_per_pixel(count, frames, width) / self.dense_macs,
            tile=options.tile,
            overlap=_OVERLAPS[self._colour],
            scale=self.photos[0].scale,
            frames=frames,
            colour=self._colour,
            graphs={c.candidate.name: hash_file(c.graph.path) for c in choices if c.graph},
            tiles=sum(part.blocks for part in learnt) * BLOCK**2 // options.tile**2,
            calibration_tiles=len(true),
        )
        yield path
        yield write_calibration(self.run, estimated, true)
        yield write_adaptation(self.run, adaptation)

    @property
    def _colour(self) -> Literal["y", "rgb"]:
        return "y" if self.photos[0].scale > 1 else "rgb"

    def _measured(self) -> tuple[list[Measured], list[Measured]]:
        """Errors of all candidates on photographs to learn from, and on others."""
        options = self.options
        with ExitStack() as held:
            runners = []
            for choice in self.choices:
                runner = choice.open(self.photos[0].scale, self.photos[0].degradation.frames)
                held.callback(runner.close)
                runners.append(runner)
            learnt, other = (
                list(measure(photos, runners, self._colour, options.tile, tiles, task, self.report))
                for photos, tiles, task in (
                    (self.photos[0], options.tiles, "adapt: measure"),
                    (self.photos[1], options.calibration_tiles, "adapt: calibrate"),
                )
            )
        return learnt, other
