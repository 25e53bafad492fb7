from __future__ import annotations

import numpy as np
import pytest
import torch

from sls_deploy.errors import SlsError
from sls_deploy.search.memory import TRAINING, memory_for

TOO_MUCH = 2**52


def test_what_pytorch_cannot_allocate_names_the_settings() -> None:
    with (
        pytest.raises(SlsError, match=r"recover b0\.50: memory ran out\. Give a smaller --batch"),
        memory_for("recover b0.50", TRAINING),
    ):
        torch.empty(TOO_MUCH)


def test_what_numpy_cannot_allocate_names_the_settings() -> None:
    with pytest.raises(SlsError, match="memory ran out"), memory_for("it", TRAINING):
        np.ones(TOO_MUCH)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_for("it", TRAINING):
        raise RuntimeError("shapes do not match")
