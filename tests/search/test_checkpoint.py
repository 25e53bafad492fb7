from __future__ import annotations

from pathlib import Path

import torch

from sls_deploy.search.checkpoint import (
    Checkpoint,
    load_optimiser_state,
    newest_checkpoint,
    optimiser_state,
    save_checkpoint,
)


def state(value: float) -> Checkpoint:
    return Checkpoint({"weight": torch.full((3,), value)}, {"step": value})


def test_newest_two_are_kept(tmp_path: Path) -> None:
    for serial in (1, 5, 20):
        save_checkpoint(tmp_path, serial, state(serial))
    assert len(list(tmp_path.iterdir())) == 2
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.facts == {"step": 20}
    assert newest.tensors["weight"].tolist() == [20, 20, 20]


def test_damaged_newest_gives_way_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    path = save_checkpoint(tmp_path, 2, state(2))
    path.write_bytes(path.read_bytes()[:-5])
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.facts == {"step": 1}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def test_optimiser_goes_on_with_the_same_moments() -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimisers = [torch.optim.Adam([weight], lr=0.1) for weight in weights]
    for step in range(4):
        if step == 2:
            weights[1].data.copy_(weights[0].data)
            state = {name: t.clone() for name, t in optimiser_state(optimisers[0]).items()}
            load_optimiser_state(optimisers[1], state)
        for index, optimiser in enumerate(optimisers):
            if index == 0 or step >= 2:
                weights[index].grad = weights[index].detach() * (step + 1)
                optimiser.step()
    assert torch.equal(weights[0], weights[1])
