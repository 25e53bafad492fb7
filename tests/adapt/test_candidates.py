from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sls_deploy.adapt.candidates import find_choices
from sls_deploy.adapt.skip import Skip
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from tests.adapt.conftest import SCALE, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def rewrite(run: Run, budget: float, **said: str) -> None:
    """Export a budget again with other facts."""
    path = run.folder("export", budget) / "model.fp32.onnx"
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = said.get(entry.key.removeprefix("sls_deploy."), entry.value)
    onnx.save(model, path)
    run.stage(f"export/b{budget:.2f}", said, lambda: [path])


def test_candidates_come_by_ascending_cost(run: Run) -> None:
    found = [choice.candidate for choice in find_choices(run, skip=True)]
    assert [(one.name, one.budget, one.cost) for one in found] == [
        ("skip", None, 0.0), ("b0.25", 0.25, 0.2), ("b0.50", 0.5, 0.5)
    ]  # fmt: skip
    assert [choice.candidate.name for choice in find_choices(run, skip=False)] == ["b0.25", "b0.50"]


def test_order_follows_cost_and_not_the_budget(run: Run) -> None:
    rewrite(run, 0.5, network_cost="0.1")
    names = [choice.candidate.name for choice in find_choices(run, skip=False)]
    assert names == ["b0.50", "b0.25"]


def test_of_budgets_that_cost_the_same_one_is_left(run: Run) -> None:
    rewrite(run, 0.5, network_cost="0.2")
    names = [choice.candidate.name for choice in find_choices(run, skip=True)]
    assert names == ["skip", "b0.25"]


def test_candidates_restore_pictures_of_any_size(run: Run) -> None:
    picture = np.random.default_rng(0).random((1, 3, 19, 23), np.float32)
    for choice in find_choices(run, skip=True):
        runner = choice.open(SCALE, 1)
        assert runner.run(picture).shape == (1, 3, 38, 46)
        assert isinstance(runner, Skip) == (choice.candidate.budget is None)
        runner.close()


def test_a_graph_of_one_size_is_measured_in_tiles(run: Run) -> None:
    path = run.folder("export", 0.5) / "model.fp32.onnx"
    expected = find_choices(run, skip=False)[1].open(SCALE, 1)
    picture = np.random.default_rng(0).random((1, 3, 50, 61), np.float32)
    whole = expected.run(picture)
    model = onnx.load(path)
    for axis, size in enumerate((1, 3, 32, 40)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, path)
    rewrite(run, 0.5, sides="[1, 3, 32, 40]")
    tiled = find_choices(run, skip=False)[1].open(SCALE, 1).run(picture)
    # Inside, not at the last columns, which the tile fills up by reflection.
    np.testing.assert_allclose(tiled[..., :90, :110], whole[..., :90, :110], atol=1e-6)


def test_a_stale_export_is_refused(run: Run) -> None:
    path = run.folder("export", 0.25) / "model.fp32.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SlsError, match=r"budget 0\.25 must be exported again"):
        find_choices(run, skip=True)


def test_one_network_alone_leaves_nothing_to_choose(run: Run) -> None:
    rewrite(run, 0.5, network_cost="0.2")
    with pytest.raises(SlsError, match="has 1 network to choose from, where two are needed"):
        find_choices(run, skip=False)


def test_a_run_without_exports_says_what_to_do(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty")
    (run.path / "config.toml").write_text("")
    with pytest.raises(SlsError, match=r"nothing was exported yet.*`sls-deploy export`"):
        find_choices(run, skip=True)


def test_a_precision_that_cannot_be_measured_is_told(run: Run) -> None:
    folder = run.folder("export", 0.5)
    (folder / "model.fp32.onnx").rename(folder / "model.bf16.onnx")
    run.stage("export/b0.50", {"precision": "bf16"}, lambda: [folder / "model.bf16.onnx"])
    with pytest.raises(SlsError, match=r"export --budget 0\.5 --precision fp32,fp16"):
        find_choices(run, skip=True)
