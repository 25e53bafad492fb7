"""Every kind of operation through the search: pruned by reconstruction, learnt, kept and loaded."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sls_deploy.config import DataConfig, SearchConfig
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.degradation import choose_degradation
from sls_deploy.data.photos import Photos
from sls_deploy.models.model import RestorationModel, load_like, save_weights
from sls_deploy.progress import silent
from sls_deploy.search.cost import MacsCost
from sls_deploy.search.layers import Choice, find_layers, list_layers
from sls_deploy.search.reconstruction import Candidate, Reconstruction
from sls_deploy.search.trace import trace
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_weights
from tests.conftest import few_passes
from tests.zoo import ZOO, zoo_model

PATCH, BUDGET = 16, 0.6
N4 = Pattern.parse("n:4")
CONFIG = SearchConfig(
    method="reconstruct", pattern="n:4", patch=PATCH, batch=2, crops=8, budgets=(BUDGET,)
)
KINDS = {
    "squeeze_linear": "Linear",
    "rows": "Conv1d",
    "transposed": "ConvTranspose2d",
    "window_attention": "Linear",
    "u_shape": "ConvTranspose2d",
}
"""Networks whose point is another kind of layer than a plain convolution."""
ALIKE = {
    "upsample_bilinear",  # as upsample_nearest: a resize between the same layers
    "upsample_bicubic",
    "activations",  # as prelu: what lies between the layers
    "instance_norm",  # as group_norm
    "weight_norm_hooks",  # folded as weight_norm is
    "named_outputs",  # as scales: one output of several
    "frames_separate",  # as frames_stacked: the same crops
}
"""Networks that a search sees as it sees others."""
NETWORKS = [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in ZOO]

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")


@cache
def pictures_of(scale: int, frames: int, photos: Path) -> tuple[Photos, tuple[Tensor, Tensor]]:
    """The photographs for networks of one kind, and held-out crops of them; degraded once."""
    degradation, paths = choose_degradation(DataConfig(), photos, scale, frames)
    pictures = Photos(paths, degradation, 64, PATCH * scale)
    return pictures, held_out(pictures, 2, PATCH)


@cache
def searched(name: str, photos: Path) -> tuple[Reconstruction, Candidate]:
    """A network of the zoo with all that its search needs, and what reconstruction gives."""
    model = zoo_model(name)
    about = model.description
    pictures, crops = pictures_of(about.scale, about.frames, photos)
    graph = trace(model, PATCH)
    layers = find_layers(model, N4, graph, Choice(prune=("*",)))
    work = Reconstruction(
        model,
        [layer for layer in layers if layer.prunable],
        N4,
        MacsCost(),
        CropSampler(pictures, PATCH, 2, 0),
        crops,
        CONFIG,
        graph=graph,
    )
    with pytest.MonkeyPatch.context() as patch:
        few_passes(patch, 4)
        return work, work.allocated(BUDGET, silent)


def restored(model: RestorationModel, work: Reconstruction) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(work.held_out[0])
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_layers_keep_n_of_every_four_inputs(name: str, photos: Path) -> None:
    work, found = searched(name, photos)
    counts = torch.tensor([found.units[layer.name] for layer in work.layers])
    kept = torch.arange(N4.units) < counts[:, None]
    assert float((work.costs * kept).sum()) <= BUDGET + 1e-9
    assert any(units < N4.units for units in found.units.values())
    for layer in work.layers:
        weight = found.model.network.get_parameter(layer.parameter).detach()
        filters = layer.layout.filters(weight)
        padded = torch.nn.functional.pad(filters, (0, 0, 0, -filters.shape[1] % 4))
        groups = (padded != 0).unflatten(1, (-1, 4)).sum(2)
        assert int(groups.max()) <= found.units[layer.name]


@pytest.mark.parametrize("name", NETWORKS)
def test_correction_stays_nearer_to_the_dense_network_than_magnitude(
    name: str, photos: Path
) -> None:
    work, found = searched(name, photos)
    plain = copy.deepcopy(work.model)
    with torch.no_grad():
        for layer in work.layers:
            weight = plain.network.get_parameter(layer.parameter)
            weight.mul_(rank_weights(weight, N4, layer.layout) < found.units[layer.name])
    dense = restored(work.model, work)
    errors = [(restored(model, work) - dense).square().mean() for model in (found.model, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_learns_its_ratio_and_recovers(name: str, photos: Path) -> None:
    work, found = searched(name, photos)
    network = work.network()
    degraded, truth = work.held_out
    torch.nn.functional.l1_loss(network(degraded), truth).backward()
    assert network.scores.grad is not None
    assert bool((network.scores.grad != 0).any(1).all())
    recovery = work.recovery(found.copy(), work.masks(found.model, found.units), 1, "recover")
    recovery.train_step()
    for name_, mask in recovery.masks.items():
        assert not bool(recovery.parameters[name_].detach()[mask == 0].any())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_kept_is_what_is_loaded(name: str, photos: Path, tmp_path: Path) -> None:
    work, found = searched(name, photos)
    path = save_weights(tmp_path / "weights.safetensors", found.model)
    loaded = load_like(path, work.model)
    torch.testing.assert_close(restored(loaded, work), restored(found.model, work))


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_other_kinds_of_layers_are_pruned(name: str, kind: str, photos: Path) -> None:
    work, _ = searched(name, photos)
    assert kind in {layer.kind for layer in work.layers}


def test_layers_of_outputs_that_are_left_out_say_so(photos: Path) -> None:
    model = zoo_model("scales")
    layers = {layer.name: layer for layer in list_layers(model, N4, trace(model, PATCH))}
    assert layers["small"].reason == "the restored picture does not depend on it"
