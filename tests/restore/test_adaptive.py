from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls_deploy.adapt.stage import AdaptResult, adapt_run
from sls_deploy.config import RestoreConfig
from sls_deploy.data.images import read_image, write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.restore.adaptive import Target
from sls_deploy.restore.stage import RestoreResult, restore_files
from sls_deploy.run import Run
from tests.adapt.conftest import OPTIONS, make_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 128x128, flat parts and fine ones among them."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        write_image(folder / f"{name}.png", sample_photos()[name][40:168, 40:168])
    return folder


@pytest.fixture(scope="module")
def adapted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, AdaptResult]:
    """A run of two networks and the skip path, with its estimator."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    options = OPTIONS.model_copy(update={"skip": True})
    return run, adapt_run(run, options, photos)


def restored(run: Run, photos: Path, out: Path, cost: float, **more: Path) -> RestoreResult:
    target = Target(cost=cost)
    return restore_files(run, [str(photos)], out, RestoreConfig(), adaptive=target, **more)


def test_with_all_the_cost_it_wants_every_tile_goes_where_the_error_is_least(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    run, about = adapted
    found = restored(run, photos, tmp_path / "out", 10)
    assert set(found.choices) <= {one.name for one in about.adaptation.candidates}
    assert sum(found.choices.values()) == sum(one.tiles for one in found.restored)
    whole = restore_files(run, [str(photos)], tmp_path / "one", RestoreConfig(), budget=0.5)
    assert found.cost is not None
    assert whole.cost == 0.5
    assert found.cost <= 0.5 + about.adaptation.estimator_cost + 1e-9


def test_with_next_to_nothing_to_spend_tiles_are_enlarged_by_bicubic(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    run, about = adapted
    least = about.adaptation.estimator_cost + 1e-6
    found = restored(run, photos, tmp_path / "out", least)
    assert found.choices["skip"] > 0.6 * sum(found.choices.values())
    assert found.cost is not None
    assert found.cost < 0.2


def test_the_mean_cost_lies_between_those_of_its_networks(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    run, about = adapted
    extra = about.adaptation.estimator_cost
    middle = restored(run, photos, tmp_path / "out", 0.2 + extra)
    assert middle.cost is not None
    assert extra < middle.cost < 0.5 + extra
    assert len(middle.choices) > 1


def test_choices_are_written_as_pictures(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    restored(adapted[0], photos, tmp_path / "out", 0.25, choice_map=maps)
    names = sorted(path.name for path in maps.iterdir())
    assert names == [f"{path.name}.choices.png" for path in sorted(photos.iterdir())]
    assert len(np.unique(read_image(maps / names[0]).reshape(-1, 3), axis=0)) > 4


def test_a_target_out_of_reach_says_what_can_be_reached(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(SlsError, match=r"cannot be reached.*Give 0\.\d+"):
        restored(adapted[0], photos, tmp_path / "out", 1e-9)
    assert not (tmp_path / "out").exists()


def test_after_another_export_it_must_be_adapted_again(
    adapted: tuple[Run, AdaptResult], photos: Path, tmp_path: Path
) -> None:
    run = adapted[0]
    graph = run.folder("export", 0.5) / "model.fp32.onnx"
    content = graph.read_bytes()
    try:
        graph.write_bytes(content + b"\x00")
        with pytest.raises(SlsError, match="must be adapted again"):
            restored(run, photos, tmp_path / "out", 0.3)
    finally:
        graph.write_bytes(content)
