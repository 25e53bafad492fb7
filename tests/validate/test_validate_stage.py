from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sls_deploy.config import Config, ExportConfig, ModelConfig, ValidateConfig
from sls_deploy.config_file import to_toml
from sls_deploy.data.images import read_image, write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import hash_file, write_json, write_text
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, load_model, save_weights
from sls_deploy.run import Run
from sls_deploy.validate.figures import DENSE, SPARSE, Fidelity
from sls_deploy.validate.stage import read_validation, validate_budget


def pictures(folder: Path, *corners: int) -> ValidateConfig:
    """Limits that hold, and a folder with a part of a photograph for each corner."""
    for corner in corners:
        part = sample_photos()["chelsea"][corner : corner + 40, corner : corner + 50]
        write_image(folder / f"{corner}.png", part)
    return ValidateConfig(pictures=folder, max_loss_db=99, max_picture_loss_db=99)


def configure(run: Run, dense: Path) -> None:
    config = Config(model=ModelConfig(name="edsr", weights=dense, scale=2))
    write_text(run.path / "config.toml", to_toml(config))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dense network and of a run of it, exported in fp32, that is the same."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    options = {"features": 8, "blocks": 1, "scale": 2, "input_range": 1.0}
    model = build_model(Description("edsr", options, 2, 1.0))
    dense = save_weights(folder / "dense.safetensors", model)
    run = Run.create(folder / "run")
    configure(run, dense)
    searched = run.folder("search", 0.5)
    ratios = {
        "budget": 0.5,
        "dense_sha256": hash_file(dense),
        "pattern": "2:4",
        "cost": 0.5,
        "network_cost": 0.5,
        "layers": [],
    }
    run.stage(
        "search/b0.50",
        {},
        lambda: [
            save_weights(searched / "weights.safetensors", model),
            write_json(searched / "ratios.json", ratios),
        ],
    )
    export_onnx(run, 0.5, ExportConfig(precisions=("fp32",)))
    return folder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Run:
    """A run whose budget 0.5 is exported in fp32, and whose sparse network is the dense one."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    run = Run.open(tmp_path / "run")
    configure(run, tmp_path / "dense.safetensors")
    return run


def test_equal_networks_lose_nothing(run: Run, tmp_path: Path) -> None:
    result = validate_budget(run, 0.5, pictures(tmp_path / "a", 80))
    dense, sparse, onnx = result.validation.stages
    assert dense.quality == sparse.quality != None  # noqa: E711
    assert sparse.to_previous == Fidelity(None, 0, 0)
    assert onnx.to_reference is not None
    assert onnx.to_reference.psnr_db is None or onnx.to_reference.psnr_db > 100
    assert result.validation.passed


def test_figures_are_read_back_as_they_were_measured(run: Run, tmp_path: Path) -> None:
    result = validate_budget(run, 0.5, pictures(tmp_path / "a", 80))
    assert result.file.parent == run.path / "validation" / "b0.50"
    assert read_validation(result.file) == result.validation


def test_changed_picture_is_measured_again(run: Run, tmp_path: Path) -> None:
    options = pictures(tmp_path / "a", 80)
    first = validate_budget(run, 0.5, options)
    assert validate_budget(run, 0.5, options).skipped
    second = validate_budget(run, 0.5, pictures(tmp_path / "a", 120))
    assert (first.skipped, second.skipped, second.validation.pictures) == (False, False, 2)


def test_folders_of_the_same_name_are_kept_apart(run: Run, tmp_path: Path) -> None:
    for parent in ("x", "y"):
        validate_budget(run, 0.5, pictures(tmp_path / parent / "Set5", 80))
    assert len(list((run.path / "validation" / "b0.50").glob("*.json"))) == 2


def test_damaged_figures_are_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"stages": []})
    with pytest.raises(SlsError, match=r"a\.json: cannot be read .*Validate again"):
        read_validation(path)


def test_another_dense_network_than_the_one_searched_is_refused(run: Run, tmp_path: Path) -> None:
    dense = run.config.model.weights
    assert dense is not None
    model = load_model(dense)
    with torch.no_grad():
        model.network.head[0].weight.mul_(2)
    save_weights(dense, model)
    with pytest.raises(SlsError, match="is not the checkpoint that was searched"):
        validate_budget(run, 0.5, pictures(tmp_path / "pictures", 80))


def test_each_form_is_compared_with_what_it_was_made_from(run: Run, tmp_path: Path) -> None:
    stages = validate_budget(run, 0.5, pictures(tmp_path / "a", 80)).validation.stages
    assert [(stage.stage.previous, stage.stage.reference) for stage in stages] == [
        ("", ""),
        (DENSE, ""),
        (SPARSE, SPARSE),
    ]
    assert [stage.to_previous is None for stage in stages] == [True, False, False]


def test_worst_and_median_picture_are_kept_as_every_stage_restores_them(
    run: Run, tmp_path: Path
) -> None:
    validation = validate_budget(run, 0.5, pictures(tmp_path / "a", 80, 120, 160)).validation
    assert [crop.why for crop in validation.crops] == ["worst", "median"]
    for crop in validation.crops:
        assert set(crop.files) == {"truth", "input", DENSE, SPARSE, "ONNX fp32"}
        dense, sparse = (read_image(run.path / crop.files[name]) for name in (DENSE, SPARSE))
        np.testing.assert_array_equal(dense, sparse)
        assert dense.shape == (crop.height, crop.width, 3)


def test_lost_crop_is_written_again(run: Run, tmp_path: Path) -> None:
    options = pictures(tmp_path / "a", 80)
    (crop, *_) = validate_budget(run, 0.5, options).validation.crops
    lost = run.path / crop.files[SPARSE]
    lost.unlink()
    assert not validate_budget(run, 0.5, options).skipped
    assert lost.is_file()


def test_pictures_without_truth_are_compared_with_pytorch(run: Run, tmp_path: Path) -> None:
    options = pictures(tmp_path / "a", 80).model_copy(update={"degradation": "none"})
    validation = validate_budget(run, 0.5, options).validation
    assert (validation.losses, validation.totals) == ((), ())
    assert all(stage.quality is None for stage in validation.stages)
    assert {gate.rule for gate in validation.gates} == {"fidelity"}
    assert validation.passed
    assert all("truth" not in crop.files for crop in validation.crops)


def test_large_pictures_are_restored_in_tiles_and_the_protocol_says_so(
    run: Run, tmp_path: Path
) -> None:
    write_image(tmp_path / "a" / "cat.png", sample_photos()["chelsea"])
    options = pictures(tmp_path / "a")
    whole = validate_budget(run, 0.5, options).validation
    tiled = validate_budget(run, 0.5, options.model_copy(update={"tile": 96})).validation
    assert (whole.protocol.tile, tiled.protocol.tile) == (None, 96)
    assert "96" in tiled.protocol.text
    for one, other in zip(whole.stages, tiled.stages, strict=True):
        assert one.quality is not None
        assert other.quality is not None
        assert one.quality.psnr_y == pytest.approx(other.quality.psnr_y, abs=1e-4)


def test_damaged_graph_fails_its_gate_and_its_layer_is_named(run: Run, tmp_path: Path) -> None:
    """As if a converter had changed one layer: the proof is made to vouch for it."""
    path = run.folder("export", 0.5) / "model.fp32.onnx"
    graph = onnx.load(path)
    (weight,) = [item for item in graph.graph.initializer if item.name == "body.0.body.2.weight"]
    values = numpy_helper.to_array(weight) * np.float32(1.2)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))

    def work() -> list[Path]:
        onnx.save(graph, path)
        return sorted(path.parent.iterdir())

    run.stage("export/b0.50", {"damaged": True}, work)
    validation = validate_budget(run, 0.5, pictures(tmp_path / "a", 80, 120)).validation
    failed = [gate for gate in validation.gates if not gate.passed]
    assert not validation.passed
    assert {(gate.stage, gate.rule) for gate in failed} == {("ONNX fp32", "fidelity")}
    culprit = failed[0].culprit
    assert culprit is not None
    assert (culprit.cause, culprit.layer) == ("ONNX export", "body.0.body.2")
    assert culprit.picture in ("80.png", "120.png")


def test_graph_of_one_size_restores_pictures_of_all(run: Run, tmp_path: Path) -> None:
    export_onnx(run, 0.5, ExportConfig(precisions=("fp32",), static_shape=(1, 3, 24, 24)))
    options = pictures(tmp_path / "a", 80)
    write_image(tmp_path / "a" / "cat.png", sample_photos()["chelsea"][:90, :120])
    validation = validate_budget(run, 0.5, options).validation
    assert [stage.name for stage in validation.stages] == [DENSE, SPARSE, "ONNX fp32"]
    assert validation.protocol.tile == 24
    assert validation.passed


def test_graph_of_batches_is_left_out_and_said(run: Run, tmp_path: Path) -> None:
    export_onnx(run, 0.5, ExportConfig(precisions=("fp32",), static_shape=(2, 3, 24, 24)))
    validation = validate_budget(run, 0.5, pictures(tmp_path / "a", 80)).validation
    reason = "it takes batches of 2 only, and pictures come one by one"
    assert validation.not_run == {"ONNX fp32": reason}
    assert [stage.name for stage in validation.stages] == [DENSE, SPARSE]
