from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from sls_deploy.models.model import load_model
from sls_deploy.search.layers import find_layers
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.pattern import Pattern

PICTURES = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network(weights: Path, text: str) -> SparseNetwork:
    model, pattern = load_model(weights), Pattern.parse(text)
    layers = [layer for layer in find_layers(model, pattern, (12, 12)) if layer.prunable]
    return SparseNetwork(model, layers, pattern)


@pytest.mark.parametrize("text", ["2:4", "n:4", "n:16", "n:32"])
def test_starts_as_the_dense_network(dense: Path, text: str) -> None:
    sparse = network(dense, text)
    assert torch.equal(sparse(PICTURES), load_model(dense)(PICTURES))
    assert sparse.cost(sparse.table()).item() == pytest.approx(1)


def test_frozen_at_half_is_2_4_and_costs_a_half(dense: Path) -> None:
    sparse = network(dense, "n:16")
    sparse.freeze(torch.full((len(sparse.layers),), 8))
    state = sparse.sparse_state()
    assert all(is_2_4(state[f"{layer.name}.weight"].numpy()) for layer in sparse.layers)
    assert sparse.cost(sparse.table()).item() == pytest.approx(0.5)


def test_sparse_state_loaded_as_dense_network_gives_the_same_pictures(dense: Path) -> None:
    sparse, plain = network(dense, "2:4"), load_model(dense)
    sparse.freeze(torch.ones(len(sparse.layers), dtype=torch.int64))
    plain.network.load_state_dict(sparse.sparse_state())
    assert torch.equal(sparse(PICTURES), plain(PICTURES))


def test_penalty_alone_pushes_every_score_down(dense: Path) -> None:
    sparse = network(dense, "n:16")
    sparse.cost(sparse.table()).backward()
    assert sparse.scores.grad is not None
    assert (sparse.scores.grad > 0).all()


def test_frozen_scores_get_no_gradient_and_weights_do(dense: Path) -> None:
    sparse = network(dense, "2:4")
    sparse.freeze(torch.ones(len(sparse.layers), dtype=torch.int64))
    sparse(PICTURES).sum().backward()
    assert sparse.scores.grad is None
    for weight, used in zip(sparse.weights, sparse.effective(sparse.table()).values(), strict=True):
        assert weight.grad is not None
        assert ((weight.grad != 0) <= (used != 0)).all()


def test_reranking_follows_the_weights(dense: Path) -> None:
    sparse = network(dense, "2:4")
    sparse.freeze(torch.ones(len(sparse.layers), dtype=torch.int64))
    before = sparse.effective(sparse.table())
    name = next(iter(before))
    weight = sparse.weights[0]
    with torch.no_grad():
        weight[before[name] == 0] *= 1e6
    sparse.rerank()
    after = sparse.effective(sparse.table())[name]
    assert torch.equal(after != 0, before[name] == 0)


def test_costs_given_are_those_that_count(dense: Path) -> None:
    sparse = network(dense, "2:4")
    costs = torch.zeros_like(sparse.costs)
    costs[0, 0] = 1
    other = SparseNetwork(sparse.model, sparse.layers, sparse.pattern, costs=costs)
    other.freeze(torch.ones(len(other.layers), dtype=torch.int64))
    assert other.cost(other.table()).item() == 1


def test_costs_are_no_part_of_the_state(dense: Path) -> None:
    sparse = network(dense, "n:16")
    weights = {f"model.{key}" for key in sparse.model.state_dict()}
    assert sparse.state_dict().keys() == weights | {"scores"}


def test_masks_follow_scores_that_change(dense: Path) -> None:
    sparse = network(dense, "n:4")
    sparse.effective(sparse.table())
    sparse.scores.data.fill_(0.4)
    for used in sparse.effective(sparse.table()).values():
        assert (used != 0).float().mean() == pytest.approx(0.25)


def test_copy_learns_by_itself(dense: Path) -> None:
    sparse = network(dense, "n:4")
    other = copy.deepcopy(sparse)
    with torch.no_grad():
        other.weights[0].zero_()
    assert not other.effective(other.table())[f"network.{other.layers[0].name}.weight"].any()
    assert sparse.weights[0].any()
