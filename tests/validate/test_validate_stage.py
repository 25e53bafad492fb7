from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sls_deploy.config import Config, ExportConfig, ModelConfig, ValidateConfig
from sls_deploy.config_file import to_toml
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.errors import SlsError
from sls_deploy.export.stage import export_onnx
from sls_deploy.files import hash_file, write_json, write_text
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, load_model, save_weights
from sls_deploy.run import Run
from sls_deploy.validate.stage import read_validation, validate_budget


def pictures(folder: Path, *corners: int) -> ValidateConfig:
    """Limits that hold, and a folder with a part of a photograph for each corner."""
    for corner in corners:
        part = sample_photos()["chelsea"][corner : corner + 40, corner : corner + 50]
        write_image(folder / f"{corner}.png", part)
    return ValidateConfig(pictures=folder, max_loss_db=99)


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
    assert (dense.psnr_y, dense.ssim_y) == (sparse.psnr_y, sparse.ssim_y)
    assert sparse.parity_db is None
    assert onnx.parity_db is None or onnx.parity_db > 100
    assert result.validation.passed


def test_figures_are_read_back_as_they_were_measured(run: Run, tmp_path: Path) -> None:
    result = validate_budget(run, 0.5, pictures(tmp_path / "a", 80))
    (path,) = (run.path / "validation" / "b0.50").iterdir()
    assert read_validation(path) == result.validation


def test_changed_picture_is_measured_again(run: Run, tmp_path: Path) -> None:
    options = pictures(tmp_path / "a", 80)
    first = validate_budget(run, 0.5, options)
    assert validate_budget(run, 0.5, options).skipped
    second = validate_budget(run, 0.5, pictures(tmp_path / "a", 120))
    assert (first.skipped, second.skipped, second.validation.pictures) == (False, False, 2)


def test_report_holds_every_folder(run: Run, tmp_path: Path) -> None:
    for name in ("b", "a"):
        result = validate_budget(run, 0.5, pictures(tmp_path / name, 80))
    found = json.loads(result.report.read_text())["validations"]
    assert [Path(validation["folder"]).name for validation in found] == ["a", "b"]


def test_folders_of_the_same_name_are_kept_apart(run: Run, tmp_path: Path) -> None:
    for parent in ("x", "y"):
        validate_budget(run, 0.5, pictures(tmp_path / parent / "Set5", 80))
    assert len(list((run.path / "validation" / "b0.50").iterdir())) == 2


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
