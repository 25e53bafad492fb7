from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.files import write_json
from sls_deploy.report.curves import draw, measured
from sls_deploy.report.gather import gather_report
from sls_deploy.report.schema import Curve, Point, RunReport
from sls_deploy.run import Run
from sls_deploy.validate.figures import DENSE, SPARSE


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of all runs that may be changed."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def curve_of(runs: Path, name: str = "small") -> Curve:
    (curve,) = gather_report(Run.open(runs / name)).curves
    return curve


def series(curve: Curve) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in curve.points:
        found.setdefault(point.series, []).append(point)
    return found


def test_curve_starts_at_the_dense_network(small: RunReport) -> None:
    (curve,) = small.curves
    dense = small.budgets[0].validations[0].stages[0]
    first = curve.points[0]
    assert dense.name == DENSE
    assert dense.quality is not None
    assert (first.label, first.network_cost, first.value) == ("dense", 1.0, dense.quality.psnr_y)
    assert curve.metric == "Y-PSNR"


def test_budgets_of_the_run_stand_at_their_share_of_the_network(small: RunReport) -> None:
    (curve,) = small.curves
    for point, budget in zip(series(curve)["small"], small.budgets, strict=True):
        sparse = next(one for one in budget.validations[0].stages if one.name == SPARSE)
        assert sparse.quality is not None
        assert point.label == f"budget {budget.budget:g}"
        assert point.value == sparse.quality.psnr_y
        assert point.network_cost == pytest.approx(budget.costs[0].network)


def test_run_beside_of_the_same_network_is_shown(small: RunReport, filled: RunReport) -> None:
    other = series(small.curves[0])["filled"]
    own = series(filled.curves[0])["filled"]
    assert [point.label for point in other] == ["filled, budget 0.4"]
    assert [(point.network_cost, point.value) for point in other] == [
        (point.network_cost, point.value) for point in own
    ]
    assert [point.own for point in (*other, *own)] == [False, True]


def test_run_that_was_only_searched_is_not_shown(small: RunReport) -> None:
    assert series(small.curves[0]).keys() == {"dense", "small", "filled"}


@pytest.mark.parametrize(
    "broken",
    [
        "config.toml",
        "manifest.json",
        "search/b0.40/ratios.json",
        "search/b0.40/weights.safetensors",
        "export/b0.40/model.fp32.onnx",
        "validation/b0.40/*.json",
    ],
)
def test_broken_run_beside_is_left_out(runs: Path, broken: str) -> None:
    (path,) = (runs / "filled").glob(broken)
    path.write_text("{")
    assert series(curve_of(runs)).keys() == {"dense", "small"} | (
        {"filled"} if broken == "config.toml" else set()
    )


def test_run_beside_of_another_network_is_left_out(runs: Path) -> None:
    folder = runs / "filled/search/b0.40"
    ratios = json.loads((folder / "ratios.json").read_text())
    write_json(folder / "ratios.json", {**ratios, "dense_sha256": "0" * 64})
    run = Run.open(runs / "filled")
    run.record("search/b0.40", {}, {}, folder.iterdir(), seconds=1)
    assert "filled" not in series(curve_of(runs))


def test_other_pictures_make_no_common_curve(small: RunReport) -> None:
    own = measured("small", small.budgets, own=True)
    (validation,) = small.budgets[0].validations

    def beside(**changes: object) -> set[str]:
        other = replace(own[0], series="x", label="x", validation=replace(validation, **changes))
        (curve,) = draw(own, [other])
        return {point.series for point in curve.points}

    assert beside(folder="elsewhere") == {"dense", "small", "x"}
    dense, *others = validation.stages
    renamed = replace(dense, pictures=(*dense.pictures[:-1], replace(dense.pictures[-1], name="z")))
    assert dense.quality is not None
    better = replace(dense, quality=replace(dense.quality, psnr_y=dense.quality.psnr_y + 1e-5))
    for other in (renamed, better):
        assert beside(stages=(other, *others)) == {"dense", "small"}


def test_each_folder_has_a_curve_of_its_own(small: RunReport) -> None:
    own = measured("small", small.budgets, own=True)
    moved = [replace(one, validation=replace(one.validation, folder="a/other")) for one in own]
    assert [(curve.folder, len(curve.points)) for curve in draw([*own, *moved], [])] == sorted(
        [("a/other", 3), (own[0].validation.folder, 3)]
    )


def test_network_that_was_filled_up_by_another_run_is_larger(small: RunReport) -> None:
    (point, _) = measured("x", small.budgets, own=False, size=1.25)
    assert point.network_cost == pytest.approx(1.25 * small.budgets[0].costs[0].network)


def test_pictures_without_truth_make_no_curve(small: RunReport) -> None:
    budget = small.budgets[0]
    bare = replace(budget, validations=(replace(budget.validations[0], totals=()),))
    assert measured("small", [bare], own=True) == []
