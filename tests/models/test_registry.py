"""The registry of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.registry import REGISTRY, Architecture, Registry


def architecture(name: str) -> Architecture:
    return Architecture(name, "a paper", nn.Identity, lambda state, scale: None)


def test_holds_the_networks_with_spandrel_last() -> None:
    names = "edsr carn rfdn rlfn dmphn srn unet spandrel"
    assert REGISTRY.names() == tuple(names.split())


def test_every_entry_cites_its_paper() -> None:
    papers = [REGISTRY.get(name).paper for name in REGISTRY.names() if name != "spandrel"]
    assert all("et al." in paper for paper in papers)


def test_added_network_is_found() -> None:
    registry, added = Registry(), architecture("mine")
    registry.add(added)
    assert registry.get("mine") is added


@pytest.mark.parametrize("name", ["first", "auto", "", "Upper", "two words"])
def test_refused_add_leaves_it_unchanged(name: str) -> None:
    registry, first = Registry(), architecture("first")
    registry.add(first)
    with pytest.raises(SlsError):
        registry.add(architecture(name))
    assert registry.names() == ("first",)
    assert registry.get("first") is first


def test_unknown_name_lists_those_known() -> None:
    with pytest.raises(SlsError, match="edsr, carn, rfdn, rlfn"):
        REGISTRY.get("resnet")


def test_unrecognised_keys_list_the_networks_known() -> None:
    with pytest.raises(SlsError, match=r"layer\.weight.*edsr, carn, rfdn, rlfn"):
        REGISTRY.recognise({"layer.weight": torch.ones(3)})
