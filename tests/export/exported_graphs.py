"""Exported networks that several tests of passes look at: each is exported once a session."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
import torch

from sls_deploy.export.graph import to_onnx
from sls_deploy.models.model import build_model
from tests.export.conftest import SMALL
from tests.zoo import zoo_model


def exported(name: str) -> ir.Model:
    """A fresh copy of a small network of the registry, or of one of the zoo, in fp32."""
    return _export(name).clone()


@cache
def _export(name: str) -> ir.Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return to_onnx(build_model(SMALL[name]) if name in SMALL else zoo_model(name))
