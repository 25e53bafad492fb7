from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.errors import SlsError
from sls_deploy.sparsity.ratios import read_ratios

WHOLE = (
    '{"budget": 0.5, "pattern": "2:4", "cost": 0.5, "network_cost": 0.6,'
    ' "layers": [{"name": "a", "kept": 2, "of": 4}]}'
)


def test_ratios_are_read(tmp_path: Path) -> None:
    (tmp_path / "ratios.json").write_text(WHOLE)
    assert read_ratios(tmp_path / "ratios.json")["layers"][0]["kept"] == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"layers": []}', WHOLE.replace("kept", "k")])
def test_ratios_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ratios.json").write_text(content)
    with pytest.raises(SlsError, match="does not hold the layers of a search"):
        read_ratios(tmp_path / "ratios.json")


def test_missing_ratios_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match=r"ratios\.json: does not hold"):
        read_ratios(tmp_path / "ratios.json")
