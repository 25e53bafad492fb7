"""Exported networks that several tests look at: each is made and exported once a session."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
import torch

from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.graph import to_onnx
from sls_deploy.models.model import RestorationModel, build_model
from tests.export.conftest import SMALL
from tests.zoo import zoo_model


def exported(name: str) -> ir.Model:
    """A fresh copy of a small network of the registry, or of one of the zoo, in fp32."""
    return _export(name).clone()


@cache
def folded(name: str) -> RestorationModel:
    """The network that `exported` is of, with folded normalisations; not to be changed."""
    if name not in SMALL:
        return fold_norms(zoo_model(name)).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fold_norms(build_model(SMALL[name])).model


@cache
def _export(name: str) -> ir.Model:
    return to_onnx(folded(name))
