"""RFDN and RLFN have their published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sls_deploy.models.rfdn import RFDN
from sls_deploy.models.rlfn import RLFN


@pytest.mark.parametrize(
    ("network", "options", "count"),
    [
        (RFDN, {}, 433_448),  # the winner of AIM 2020
        (RLFN, {"features": 48, "scale": 2}, 454_620),  # RLFN-S
        (RLFN, {"features": 48, "scale": 4}, 470_208),
    ],
)
def test_has_the_published_size(
    network: type[nn.Module], options: dict[str, int], count: int
) -> None:
    with torch.device("meta"):
        built = network(**options)
    assert sum(parameter.numel() for parameter in built.parameters()) == count
