"""The network that comes with the package."""

from __future__ import annotations

from pathlib import Path

from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.truth import TruthFolder
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.measure import measure


def test_file_is_below_a_megabyte_and_x2() -> None:
    assert DEMO_WEIGHTS.stat().st_size < 1_000_000
    assert load_model(DEMO_WEIGHTS).description.scale == 2


def test_set5_is_at_least_36_3_db(shared_data: Path) -> None:
    runner = TorchRunner(load_model(DEMO_WEIGHTS))
    truth = TruthFolder(shared_data / "bench" / "Set5", Bicubic(2))
    figures = [row[0].psnr_y for row in measure(truth, [runner], runner, 2)]
    assert sum(figures) / len(figures) >= 36.3
