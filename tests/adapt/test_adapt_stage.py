from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sls_deploy.adapt.engine import build_estimator
from sls_deploy.adapt.network import macs_per_pixel
from sls_deploy.adapt.stage import AdaptResult, adapt_run
from sls_deploy.adapt.tradeoff import trade_off
from sls_deploy.config import AdaptConfig, BuildConfig
from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.manifest import verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress
from sls_deploy.run import Run
from tests.adapt.conftest import OPTIONS, make_run

Adapted = tuple[Run, AdaptResult]


def test_the_larger_network_makes_the_smaller_error(adapted: Adapted) -> None:
    small, large = adapted[1].calibration.true.mean(axis=0)
    assert large < small


def test_an_estimate_follows_the_error_of_tiles_that_were_not_learnt_from(
    adapted: Adapted,
) -> None:
    calibration = adapted[1].calibration
    for estimated, true in zip(calibration.estimated.T, calibration.true.T, strict=True):
        assert np.corrcoef(np.log(estimated), np.log(true))[0, 1] > 0.5


def test_the_estimator_costs_two_hundredths_of_the_dense_network_at_most(adapted: Adapted) -> None:
    adaptation = adapted[1].adaptation
    assert adaptation.estimator_cost <= 0.02
    assert adaptation.estimator_cost == macs_per_pixel(2, 1, 8) / 50_000
    cheapest = trade_off(adapted[1].calibration).costs[-1]
    assert cheapest == pytest.approx(0.2 + adaptation.estimator_cost)


def test_tiles_are_counted(adapted: Adapted) -> None:
    adaptation, calibration = adapted[1].adaptation, adapted[1].calibration
    assert (adapted[1].photographs, adaptation.tiles) == (8, 6 * 16)
    assert adaptation.calibration_tiles == len(calibration.true) == 2 * 16


def test_what_stands_is_not_done_again(adapted: Adapted, photos: Path) -> None:
    run, first = adapted
    seen: list[Progress] = []
    again = adapt_run(run, OPTIONS, photos, seen.append)
    assert (again.skipped, again.adaptation, seen) == (True, first.adaptation, [])


def test_other_options_or_photographs_are_work_to_do(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    few = OPTIONS.model_copy(update={"steps": 2})
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    assert not adapt_run(run, few, folder).skipped
    (folder / "rocket0.png").unlink()
    engine = run.path / "adapt" / "estimator" / "sm86-fp32.plan"
    engine.parent.mkdir()
    engine.write_bytes(b"of the estimator before")
    assert not adapt_run(run, few, folder).skipped
    assert not engine.exists()
    skipping = few.model_copy(update={"skip": True})
    result = adapt_run(run, skipping, folder)
    assert [one.name for one in result.adaptation.candidates] == ["skip", "b0.25", "b0.50"]
    assert result.calibration.true.shape[1] == 3
    (folder / "broken.png").write_bytes(b"no picture")
    result = adapt_run(run, skipping, folder)
    assert [item.path.name for item in result.skipped_photographs] == ["broken.png"]
    assert result.photographs == 7


def test_tiles_that_do_not_hold_whole_blocks_are_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 8"):
        AdaptConfig(tile=20)


def test_photographs_smaller_than_a_tile_are_refused(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    options = OPTIONS.model_copy(update={"tile": 72})
    with pytest.raises(SlsError, match="Whole photographs of 144 pixels or more"):
        adapt_run(run, options, photos)


def test_the_estimators_engine_is_built_for_tiles(adapted: Adapted) -> None:
    if BACKENDS["tensorrt_rtx"].load() is None:
        pytest.skip("needs tensorrt_rtx (extra 'cpu')")
    run, result = adapted
    options = BuildConfig(backend="tensorrt_rtx")
    (engine,) = build_estimator(run, result.adaptation, options)
    assert engine.plan is not None
    manifest = verified_manifest(engine.plan)
    assert manifest.outputs[0].shape == (-1, 2, 1, 1)
    assert (manifest.opt_shape, manifest.max_shape) == ((32, 3, 16, 16), (64, 3, 20, 20))
    stood = engine.plan.stat().st_mtime_ns
    assert build_estimator(run, result.adaptation, options) == (engine,)
    assert engine.plan.stat().st_mtime_ns == stood


def test_a_build_that_fails_is_told_and_stops_nothing(
    adapted: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, result = adapted
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (engine,) = build_estimator(run, result.adaptation, BuildConfig(architectures=("sm80",)))
    assert (engine.target, engine.plan) == ("sm80", None)
    assert "is not installed" in engine.reason
