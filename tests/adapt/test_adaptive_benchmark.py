from __future__ import annotations

import json
from pathlib import Path

import adaptive
import numpy as np
import pytest

from sls_deploy.adapt.measuring import BLOCK, Measured
from sls_deploy.adapt.stage import AdaptResult
from sls_deploy.run import Run

COSTS = (0.0, 0.3, 0.5)


def measured(rows: int, columns: int, seed: int = 0) -> Measured:
    """Noise whose strength differs from block to block, and errors that follow from it."""
    random = np.random.default_rng(seed)
    strength = random.uniform(0, 60, (rows, columns)).astype(np.float32)
    wide = strength.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None]
    picture = np.clip(128 + wide * random.normal(0, 1, (*wide.shape[:2], 3)), 0, 255)
    errors = np.stack([strength**2, strength**2 / 3, strength**2 / 4]) * 1e-6 + 1e-6
    return Measured(picture.astype(np.uint8), errors)


def test_tiles_cover_each_picture_once() -> None:
    parts = [measured(5, 9), measured(2, 3)]
    tiles = adaptive.cut(parts, 32, overlap=4)
    assert [tile.shape[:2] for tile in tiles.inputs[:3]] == [(16, 24), (16, 24), (16, 24)]
    assert tiles.areas.sum() == (5 * 9 + 2 * 3) * BLOCK**2
    for number, part in enumerate(parts):
        of = tiles.pictures == number
        mean = (tiles.true[of] * tiles.areas[of, None]).sum(axis=0) / tiles.areas[of].sum()
        np.testing.assert_allclose(mean, part.errors.mean((1, 2)), rtol=1e-5)
    restored = (5 * 8 + 8) * (9 * 8 + 16) + 16 * 24
    assert tiles.with_overlap == pytest.approx(restored / tiles.areas.sum())


def test_the_rule_by_gradient_finds_what_follows_from_gradients() -> None:
    tiles = adaptive.cut([measured(24, 24)], 16, 0)
    rule = adaptive.GradientRule(tiles.inputs, tiles.true)
    other = adaptive.cut([measured(8, 8, seed=1)], 16, 0)
    found = rule.estimate(other.inputs)
    assert np.corrcoef(np.log(found[:, 0]), np.log(other.true[:, 0]))[0, 1] > 0.9


def test_ways_to_choose_are_ordered_as_they_must_be() -> None:
    tiles = adaptive.cut([measured(12, 12), measured(12, 12, seed=1)], 16, 2)
    noise = np.random.default_rng(0).lognormal(0, 0.02, tiles.true.shape)
    deciders = {
        "oracle": adaptive.Decider(tiles.true),
        "estimator": adaptive.Decider(tiles.true * noise, 0.01),
        "blind": adaptive.Decider(np.tile(tiles.true.mean(axis=0), (len(tiles.true), 1))),
    }
    record = adaptive.compare(tiles, deciders, COSTS)
    psnr = {name: np.array(values) for name, values in record["psnr"]["pooled"].items()}
    assert (psnr["random"] <= psnr["chord"] + 1e-9).all()
    assert (psnr["estimator"] <= psnr["oracle"] + 1e-9).all()
    assert record["pooled"]["oracle"]["share of oracle"] == 1
    assert 0 < record["pooled"]["estimator"]["share of oracle"] < 1
    assert record["pooled"]["blind"]["mean gain dB"] < 1e-3
    counted = record["pooled"]["estimator, overlap counted"]["mean gain dB"]
    assert counted < record["pooled"]["estimator"]["mean gain dB"]


def test_a_network_that_does_not_pay_is_no_corner_of_the_chord() -> None:
    single = adaptive.Points(np.array(COSTS), np.array([20.0, 20.1, 30.0]), np.zeros(3))
    assert adaptive._chord(single, "pooled", np.array([0.25])) == pytest.approx([25.0])


def test_the_benchmark_writes_table_and_curves(
    adapted: tuple[Run, AdaptResult],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adaptive.main(adapted[0].path, photos, [photos], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| held-out photographs | ") for line in lines) == 8
    record = json.loads((tmp_path / "adaptive.json").read_text())
    assert set(record["sets"]) == {"held-out photographs", photos.name}
    charts = sorted(tmp_path.glob("*.svg"))
    assert len(charts) == 2
    assert all("oracle" in path.read_text() for path in charts)
