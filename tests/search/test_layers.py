from __future__ import annotations

import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description
from sls_deploy.models.carn import ARCHITECTURE as CARN
from sls_deploy.models.edsr import EDSR
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.pattern import Pattern

N16, PAIRS = Pattern.parse("n:16"), Pattern.parse("2:4")


def listed(network: nn.Module, pattern: Pattern, side: int) -> list[Layer]:
    """The layers that the graph shows; hooks on modules must show the same."""
    model = RestorationModel(network, Description("mine", {}, 1, 1.0)).eval()
    found = find_layers(model, pattern, trace(model, side))
    assert found == find_layers(model, pattern, (side, side))
    return found


def test_first_and_last_convolution_stay_dense_and_mean_shifts_do_not_count() -> None:
    layers = {layer.name: layer for layer in listed(EDSR(features=8, blocks=1), N16, 8)}
    assert "first" in layers["head.0"].reason
    assert "last" in layers["tail.1"].reason
    assert "fixed" in layers["sub_mean"].reason
    assert layers["body.0.body.0"].prunable
    assert layers["tail.0.0"].prunable


def test_cost_of_a_convolution_counts_its_output_pixels() -> None:
    layers = {layer.name: layer for layer in listed(EDSR(features=8, blocks=1, scale=2), N16, 8)}
    assert layers["body.0.body.0"].macs == 8 * 8 * 9
    assert layers["tail.1"].macs == 8 * 3 * 9 * 4


def test_cost_of_a_shared_layer_counts_every_use() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
            self.shared = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(self.shared(self.shared(self.shared(x))))

    layers = {layer.name: layer for layer in listed(Shared(), N16, 4)}
    assert layers["shared"].macs == 3 * 64
    assert list(layers) == ["first", "shared", "last"]


def test_group_convolutions_are_pruned_by_n_m_but_not_by_2_4() -> None:
    network = CARN.build(scale=2, groups=4)
    grouped = [layer for layer in listed(network, N16, 8) if layer.groups > 1]
    assert grouped
    assert all(layer.prunable for layer in grouped)
    refused = [layer for layer in listed(network, PAIRS, 8) if layer.groups > 1]
    assert all("group convolutions" in layer.reason for layer in refused)


def test_steps_and_distances_of_kernels_are_seen() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=4, dilation=4),
        nn.Conv2d(8, 8, 3, padding="same", dilation=(1, 2)),
        nn.Conv2d(8, 8, 2, stride=2),
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=2, output_padding=1, dilation=2),
        nn.Conv2d(8, 3, 1),
    )
    layers = listed(network, N16, 16)
    assert [layer.dilation for layer in layers] == [(4, 4), (1, 2), (1, 1), (2, 2), (1, 1)]
    assert [layer.stride for layer in layers] == [(1, 1), (1, 1), (2, 2), (2, 2), (1, 1)]


def test_network_without_anything_to_prune_is_refused_with_reasons() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3))
    with pytest.raises(SlsError, match="last convolution stays dense"):
        listed(network, PAIRS, 16)
