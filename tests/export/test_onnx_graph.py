from __future__ import annotations

import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_onnx
from sls_deploy.export.passes.metadata import Metadata
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel


class Twice(nn.Module):
    """Two equal convolutions, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.second(self.first(x)))  # type: ignore[no-any-return]


class OneSize(nn.Module):
    """Works on pictures of 64 x 72 alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(64, 72)


class Branching(nn.Module):
    """Asks what is in the picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def wrap(network: nn.Module) -> RestorationModel:
    return RestorationModel(network, Description("mine", {}, 1, 1.0))


def test_nodes_and_equal_parameters_are_named_after_their_layers() -> None:
    graph = to_onnx(wrap(Twice())).graph
    assert [(node.name, node.inputs[1].name) for node in graph if node.inputs[1]] == [
        ("first.Conv", "first.weight"),
        ("second.Conv", "second.weight"),
        ("first.Conv_2", "first.weight"),
    ]


@pytest.mark.parametrize("network", [OneSize(), Branching()])
def test_refuses_what_onnx_cannot_express(
    network: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SlsError, match="mine: "):
        to_onnx(wrap(network))
    assert capfd.readouterr() == ("", "")


def test_metadata_is_replaced_as_a_whole() -> None:
    graph = to_onnx(wrap(nn.Conv2d(3, 3, 1)))
    Metadata({"budget": "0.25", "old": "yes"})(graph)
    assert Metadata({"budget": "0.5"})(graph).modified
    assert graph.metadata_props == {"sls_deploy.budget": "0.5"}
    assert not Metadata({"budget": "0.5"})(graph).modified
