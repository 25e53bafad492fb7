from __future__ import annotations

import numpy as np
import pytest
import torch

from sls_deploy.adapt.measuring import BLOCK, Measured
from sls_deploy.adapt.network import Estimator
from sls_deploy.adapt.training import (
    TileSampler,
    calibration_tiles,
    estimation_loss,
    train_estimator,
)
from sls_deploy.errors import SlsError
from sls_deploy.progress import Progress, silent


def bright(rows: int, columns: int, seed: int) -> Measured:
    """Blocks of one grey each; the brighter, the larger the errors, the second's half the first."""
    grey = np.random.default_rng(seed).integers(20, 236, (rows, columns), np.uint8)
    picture = grey.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None].repeat(3, 2)
    errors = (grey / 255.0) ** 2 * 1e-2
    return Measured(picture, np.stack([errors, errors / 2]).astype(np.float32))


def of_tile(tiles: torch.Tensor) -> torch.Tensor:
    """The first error of tiles of `bright`."""
    return (tiles[:, 0, ::BLOCK, ::BLOCK] ** 2 * 1e-2).mean((1, 2))


def test_a_tile_comes_with_its_own_errors_however_it_is_turned() -> None:
    sampler = TileSampler([bright(6, 9, 0), bright(4, 4, 1)], 24, seed=0)
    tiles, errors = sampler.batch(40)
    assert tiles.shape == (40, 3, 24, 24)
    torch.testing.assert_close(errors[:, 0], of_tile(tiles))
    assert len({tuple(tile.flatten().tolist()) for tile in tiles}) > 30


def test_tiles_follow_from_the_seed() -> None:
    parts = [bright(6, 9, 0)]
    first, again, other = (TileSampler(parts, 16, seed).batch(8)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_calibration_tiles_cover_the_photographs() -> None:
    part = bright(5, 7, 0)
    tiles, errors = calibration_tiles([part], 16)
    assert tiles.shape == (3 * 4, 3, 16, 16)
    assert tiles.dtype == np.float32
    np.testing.assert_allclose(errors[:, 0], of_tile(torch.from_numpy(tiles)), rtol=1e-5)
    shown = {round(float(value) * 255) for value in np.unique(tiles)}
    assert shown == set(np.unique(part.picture).tolist())


def test_an_estimator_learns_what_errors_follow_from() -> None:
    torch.manual_seed(0)
    estimator = Estimator(2, 1, 4)
    seen: list[Progress] = []
    train_estimator(estimator, TileSampler([bright(16, 16, 0)], 16, 0), 150, seen.append)
    tiles, errors = calibration_tiles([bright(16, 16, 1)], 16)
    with torch.no_grad():
        estimated = estimator(torch.from_numpy(tiles))[:, :, 0, 0].numpy()
    wrong = estimated - np.log(errors)
    spread = np.log(errors).std(axis=0)
    assert (np.sqrt((wrong**2).mean(axis=0)) < spread / 2).all()
    assert [report.done for report in seen] == list(range(1, 151))
    assert not estimator.training


def test_an_estimate_that_is_right_is_not_off() -> None:
    errors = torch.tensor([[4e-3, 1e-3], [8e-4, 5e-4]])
    assert estimation_loss(errors.log(), errors) == 0


def test_a_wrong_step_between_candidates_weighs_more_than_the_same_error_of_all() -> None:
    errors = torch.tensor([[4e-3, 2e-3], [4e-3, 2e-3]])
    alike = estimation_loss(errors.log() + 0.1, errors)
    torch.testing.assert_close(alike, torch.tensor(0.01))
    apart = estimation_loss(errors.log() + torch.tensor([0.05, -0.05]), errors)
    assert apart > 10 * alike


def test_tiles_of_large_errors_weigh_more() -> None:
    errors = torch.tensor([[8e-3, 8e-3], [1e-6, 1e-6]])
    large, small = (
        estimation_loss(errors.log() + torch.tensor(off), errors)
        for off in ([[0.1, 0.1], [0.0, 0.0]], [[0.0, 0.0], [0.1, 0.1]])
    )
    torch.testing.assert_close(large / small, torch.tensor(20.0), rtol=1e-4, atol=0)


def test_training_that_diverges_says_so() -> None:
    part = bright(4, 4, 0)
    part.errors[:] = np.nan
    with pytest.raises(SlsError, match="adapt: the estimators diverged"):
        train_estimator(Estimator(2, 1, 4), TileSampler([part], 16, 0), 2, silent)
