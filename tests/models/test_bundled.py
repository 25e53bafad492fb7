"""The network that comes with the package."""

from __future__ import annotations

from pathlib import Path

from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.figures import DENSE, StageId
from sls_deploy.validate.measure import Stage, measure, summarise


def test_file_is_below_a_megabyte_and_x2() -> None:
    assert DEMO_WEIGHTS.stat().st_size < 1_000_000
    assert load_model(DEMO_WEIGHTS).description.scale == 2


def test_set5_is_at_least_36_3_db(shared_data: Path) -> None:
    dense = StageId(DENSE, "dense", "fp32", in_bytes=False, previous="", reference="")
    stage = Stage(dense, TorchRunner(load_model(DEMO_WEIGHTS)))
    truth = TruthFolder(shared_data / "bench" / "Set5", Bicubic(2))
    quality = summarise(dense, [row[0] for row in measure(truth, [stage], 2)]).quality
    assert quality is not None
    assert quality.psnr_y >= 36.3
