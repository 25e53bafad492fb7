from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from sls_deploy.adapt import adaptation
from sls_deploy.adapt.adaptation import read_adaptation, read_calibration
from sls_deploy.adapt.stage import AdaptResult
from sls_deploy.errors import SlsError
from sls_deploy.run import Run
from tests.adapt.conftest import make_run

Adapted = tuple[Run, AdaptResult]


@pytest.fixture
def copy(adapted: Adapted, tmp_path: Path) -> Run:
    """A copy of the run to spoil."""
    shutil.copytree(adapted[0].path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def spoil(run: Run, name: str, content: bytes) -> None:
    """Change a file of the stage as if it had been written so."""
    path = run.path / "adapt" / name
    path.write_bytes(content)
    record = run.manifest["adapt"]
    written = [run.path / file for file in record.outputs]
    run.record("adapt", {}, record.reads, written, 1.0)


def test_what_was_written_is_read(adapted: Adapted) -> None:
    run, result = adapted
    assert read_adaptation(run) == result.adaptation
    calibration = read_calibration(run, result.adaptation)
    assert np.array_equal(calibration.true, result.calibration.true)
    assert calibration.costs == (0.2, 0.5)


def test_a_run_of_a_version_that_chose_otherwise_must_be_adapted_again(
    adapted: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "EXPONENT", 0.9)
    with pytest.raises(SlsError, match="chooses by another power of the error"):
        read_adaptation(adapted[0])


def test_a_run_that_was_not_adapted_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(SlsError, match=r"was not adapted yet\. `sls-deploy adapt .* --data"):
        read_adaptation(run)


def test_estimators_of_other_networks_are_refused(copy: Run) -> None:
    graph = copy.folder("export", 0.5) / "model.fp32.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(SlsError, match="its networks or estimators have changed"):
        read_adaptation(copy)


def test_another_estimator_is_refused(copy: Run) -> None:
    path = copy.path / "adapt" / "estimator.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SlsError, match="its networks or estimators have changed"):
        read_adaptation(copy)


@pytest.mark.parametrize("change", ["{", "[]", '{"tile": 8}'])
def test_a_file_of_another_form_is_refused(copy: Run, change: str) -> None:
    spoil(copy, "adapt.json", change.encode())
    with pytest.raises(SlsError, match="is not an adaptation of this version"):
        read_adaptation(copy)


def test_candidates_out_of_order_are_refused(copy: Run) -> None:
    found = json.loads((copy.path / "adapt" / "adapt.json").read_text())
    found["candidates"].reverse()
    spoil(copy, "adapt.json", json.dumps(found).encode())
    with pytest.raises(SlsError, match="does not list candidates by ascending cost"):
        read_adaptation(copy)


def test_damaged_calibration_is_refused(copy: Run) -> None:
    adaptation = read_adaptation(copy)
    path = copy.path / "adapt" / "calibration.safetensors"
    arrays = load(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SlsError, match="is damaged"):
        read_calibration(copy, adaptation)
    for wrong in (
        {"true": arrays["true"]},
        {**arrays, "true": arrays["true"][:, :1]},
        {**arrays, "true": arrays["true"] * np.float32("nan")},
        {name: array[:0] for name, array in arrays.items()},
    ):
        path.write_bytes(save(wrong))
        with pytest.raises(SlsError, match="does not hold errors of these candidates"):
            read_calibration(copy, adaptation)
    path.unlink()
    with pytest.raises(SlsError, match="cannot be read"):
        read_calibration(copy, adaptation)
