from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.proof import check_folded
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from tests.zoo import zoo_model


class Reused(nn.Module):
    """A convolution and a normalisation used twice, alike or each with another one."""

    def __init__(self, *, alike: bool) -> None:
        super().__init__()
        self.alike = alike
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        second = self.norm if self.alike else self.other
        return second(self.layer(torch.relu(self.norm(self.layer(x)))))  # type: ignore[no-any-return]


class TwoLayers(Reused):
    """One normalisation behind a layer and in front of another one."""

    def __init__(self) -> None:
        super().__init__(alike=True)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(torch.relu(self.norm(self.first(x)))))  # type: ignore[no-any-return]


class Statistics(nn.Module):
    """A layer of features behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.norm(self.layer(x.mean((2, 3))))[..., None, None]


def wrap(network: nn.Module) -> RestorationModel:
    return RestorationModel(network.eval(), Description("mine", {}, 1, 1.0))


def apart(first: RestorationModel, second: RestorationModel) -> float:
    with torch.no_grad():
        pictures = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))
        return float((first(pictures) - second(pictures)).abs().max())


def state_of(model: RestorationModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.network.state_dict().items()}


def test_folds_what_follows_a_layer_and_nothing_else() -> None:
    model = zoo_model("batch_norm")
    before = state_of(model)
    folded = fold_norms(model)
    assert folded.layers == {
        "entry.0": "entry.1",
        "bare": "bare_norm",
        "grouped.0": "grouped.1",
        "up": "up_norm",
    }
    modules = folded.model.network.named_modules()
    left = {name for name, item in modules if isinstance(item, nn.BatchNorm2d)}
    assert left == {"before", "twice_norm"}
    assert apart(model, folded.model) < 1e-6
    assert all(np.array_equal(before[name], array) for name, array in state_of(model).items())


def test_a_network_without_normalisations_is_the_same() -> None:
    model = zoo_model("residual")
    assert fold_norms(model) == (model, {})


def test_folds_once_what_is_used_again() -> None:
    model = wrap(Reused(alike=True))
    folded = fold_norms(model)
    assert folded.layers == {"layer": "norm"}
    assert apart(model, folded.model) < 1e-6


@pytest.mark.parametrize("network", [Reused(alike=False), TwoLayers()])
def test_leaves_what_is_not_alike_everywhere(network: nn.Module) -> None:
    assert fold_norms(wrap(network)).layers == {}


def test_folds_into_linear_layers() -> None:
    model = wrap(Statistics())
    folded = fold_norms(model)
    assert folded.layers == {"layer": "norm"}
    assert apart(model, folded.model) < 1e-6


def test_zeros_stay_zeros() -> None:
    model = zoo_model("batch_norm")
    for name in ("entry.0", "up"):
        weight = model.network.get_parameter(f"{name}.weight")
        weight.data[:, ::2] = 0
    folded = fold_norms(model)
    before, after = state_of(model), state_of(folded.model)
    check_folded(before, after, folded.layers)
    assert not after["entry.0.weight"][:, ::2].any()
    assert after["entry.0.weight"][:, 1::2].all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("entry.0.weight", "where the search left zeros"), ("exit.weight", "differs in the file")],
)
def test_refuses_another_change(name: str, reason: str) -> None:
    model = zoo_model("batch_norm")
    model.network.get_parameter(name).data[0, 0] = 0
    folded = fold_norms(model)
    after = state_of(folded.model)
    after[name][0, 0] = 1
    with pytest.raises(SlsError, match=f"{name}: .*{reason}"):
        check_folded(state_of(model), after, folded.layers)


class Activated(nn.BatchNorm2d):
    """A normalisation with an activation of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


def test_normalisation_that_does_more_is_left() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), Activated(3))
    model = RestorationModel(network, Description("mine", {}, 1, 1.0)).eval()
    assert fold_norms(model).model is model
