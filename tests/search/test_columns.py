"""Every kind of layer, as the product of its filters with its columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from sls_deploy.search.columns import Columns
from sls_deploy.search.sums import input_sums
from sls_deploy.search.trace import Trace, Walk, layout_of, trace

PICTURES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Rows(nn.Module):
    """A linear layer over pixels, or over the means of channels."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.layer, self.pooled = nn.Linear(3, 5), pooled

    def forward(self, x: Tensor) -> Tensor:
        if self.pooled:
            return self.layer(x.mean((2, 3)))[:, :3, None, None] + x
        return self.layer(x.permute(0, 2, 3, 1))[..., :3].permute(0, 3, 1, 2)


class Lines(nn.Module):
    """A one-dimensional layer over the pixels of each channel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2))[..., :144].view(-1, 3, 12, 12)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "1x1": lambda: nn.Conv2d(3, 4, 1, bias=False),
    "strided": lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "same": lambda: nn.Conv2d(3, 4, (2, 3), padding="same", dilation=(1, 2)),
    "valid": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1),
    "transposed 1x1": lambda: nn.ConvTranspose2d(3, 4, 1),
    "transposed, odd": lambda: nn.ConvTranspose2d(3, 4, (3, 2), (2, 3), (1, 0), (1, 2)),
    "transposed, groups": lambda: nn.ConvTranspose2d(3, 6, 3, 2, 1, groups=3),
    "transposed, dilated": lambda: nn.ConvTranspose2d(3, 4, 3, 2, 2, dilation=2),
    "transposed, much padding": lambda: nn.ConvTranspose2d(3, 4, 2, 2, 2),
    "linear": lambda: Rows(pooled=False),
    "pooled linear": lambda: Rows(pooled=True),
    "conv1d": lambda: Lines(nn.Conv1d(3, 3, 5, stride=1, padding=2)),
    "transposed conv1d": lambda: Lines(nn.ConvTranspose1d(3, 3, 3, stride=2)),
}


def called(name: str) -> tuple[Trace, Walk, Tensor]:
    """A layer's trace, a walk that stands behind it, and what it gave."""
    torch.manual_seed(0)
    model = RestorationModel(LAYERS[name](), Description("mine", {}, 1, 1.0)).eval()
    graph = trace(model, 12)
    walk = Walk(graph, graph.state(model), PICTURES)
    (node,) = graph.weighted
    with torch.no_grad():
        for step in graph.nodes:
            output = walk.step(step)
            if step is node:
                return graph, walk, output
    raise AssertionError


@pytest.mark.parametrize("name", LAYERS)
def test_filters_times_columns_are_the_outputs(name: str) -> None:
    graph, walk, output = called(name)
    (node,) = graph.weighted
    arguments = walk.arguments(node)
    columns, layout = Columns.of(node, arguments), layout_of(node)
    filters = layout.filters(arguments[1])
    grouped = filters.reshape(layout.groups, -1, filters[0].numel())
    wanted = columns.outputs(output, arguments[2] if len(arguments) > 2 else None)
    for picture in range(columns.pictures):
        found = grouped @ columns.inputs(picture, 1, 0)
        torch.testing.assert_close(found, wanted[picture], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_sums_of_a_layer_say_that_its_weights_are_the_best(name: str) -> None:
    graph, walk, output = called(name)
    (node,) = graph.weighted
    arguments = walk.arguments(node)
    hessian, target = input_sums(node, arguments, output, 10**9)
    filters = layout_of(node).filters(arguments[1]).double()
    product = filters.reshape(len(hessian), -1, hessian.shape[-1]) @ hessian
    torch.testing.assert_close(product, target, rtol=1e-4, atol=1e-4)


def test_every_nth_position_is_taken() -> None:
    graph, walk, _ = called("conv")
    (node,) = graph.weighted
    columns = Columns.of(node, walk.arguments(node))
    whole = columns.inputs(1, 1, 0)
    assert torch.equal(columns.inputs(1, 5, 3), whole[:, :, 3::5])
