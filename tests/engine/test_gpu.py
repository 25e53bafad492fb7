from __future__ import annotations

import re

import pytest

from sls_deploy.engine.gpu import capability, gpu_architecture


@pytest.mark.parametrize(
    ("architecture", "expected"), [("sm80", "8.0"), ("sm86", "8.6"), ("sm120", "12.0")]
)
def test_capability_is_written_as_nvidia_does(architecture: str, expected: str) -> None:
    assert capability(architecture) == expected


def test_the_driver_names_the_gpu_or_there_is_none() -> None:
    present = gpu_architecture()
    assert present is None or re.fullmatch(r"sm\d{2,3}", present)
