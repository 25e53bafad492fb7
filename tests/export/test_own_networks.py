"""Networks of users' own go through the whole stage: from weights on disk to files and proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sls_deploy.config import Config, ExportConfig, ModelConfig
from sls_deploy.export.stage import export_onnx
from tests.export.conftest import prune, write_search
from tests.zoo import ZOO, zoo_model

FILE = "from tests.zoo import ZOO\n\n\ndef make(name):\n    return ZOO[name].make()\n"


@pytest.mark.parametrize("name", ["batch_norm", "gates", "u_shape", "frames_sequence"])
def test_is_exported_and_proved(
    name: str, few_photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(name)
    file = folder / "network.py"
    file.write_text(FILE)
    wanted = ZOO[name].config.model_copy(update={"name": f"{file}:make", "options": {"name": name}})
    model = zoo_model(name)
    model.description = replace(model.description, name="network.py:make", options=wanted.options)
    ratios = prune(model)
    config = Config(model=ModelConfig.model_validate(wanted))
    options = ExportConfig(calibration_crops=4, calibration=few_photos)
    result = export_onnx(write_search(folder / "run", model, ratios, config), 0.5, options)
    proof = json.loads(result.proof.read_text())
    assert bool(proof["folded_norms"]) == (name == "batch_norm")
    layers = proof["files"]["fp16"]["layers"]
    assert all(layer["legal_2_4"] for layer in layers if layer["pruned"])
    assert result.layers.pruned == sum(layer["kept"] < layer["of"] for layer in ratios["layers"])
