"""Two processes against one. Run as a script, this file is what each of the processes does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sls_deploy.config import SearchConfig
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.progress import silent
from sls_deploy.search import reconstruction
from sls_deploy.search.cost import MacsCost
from sls_deploy.search.layers import find_layers
from sls_deploy.search.processes import Processes
from sls_deploy.search.reconstruct import Choice
from sls_deploy.search.reconstruction import Reconstruction
from sls_deploy.search.schedule import Plan
from sls_deploy.search.sls import SlsSearch, held_out_psnr
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.pattern import Pattern

PATCH = 16
SETTINGS = {
    "method": "sls",
    "pattern": "n:16",
    "batch": 8,
    "patch": PATCH,
    "penalty": 0.5,
    "crops": 12,
}


def new_search(photos: Path, processes: Processes, config: SearchConfig) -> SlsSearch:
    """A search of the demo network that begins at the second of three steps to go."""
    pattern, model = Pattern.parse(config.pattern), load_model(DEMO_WEIGHTS)
    pictures = Photos.from_folder(photos, Bicubic(2), cache_mib=64, min_side=2 * PATCH)
    sampler = CropSampler(pictures, PATCH, config.batch, seed=0)
    layers = [item for item in find_layers(model, pattern, (PATCH, PATCH)) if item.prunable]
    network = SparseNetwork(model.train(), layers, pattern)
    plan = Plan(steps=3, window=3, epoch=2)
    crops = held_out(pictures, 3, PATCH)
    return SlsSearch(network, sampler, crops, config, 0.4, plan, processes)


def three_steps(photos: Path, processes: Processes, config: SearchConfig) -> dict[str, Tensor]:
    """Gradients at the start, then weights, scores and figures after three steps."""
    search = new_search(photos, processes, config)
    loss, cost = search.backward(search.crops(0))
    gradients = {
        f"gradient.{name}": parameter.grad.clone()
        for name, parameter in search.network.named_parameters()
        if parameter.grad is not None
    }
    search.run(lambda _: None, silent)
    after = {f"after.{name}": value.detach() for name, value in search.network.named_parameters()}
    figures = [loss, cost, *(row["psnr"] for row in search.history)]
    return {**gradients, **after, "figures": torch.tensor(figures, dtype=torch.float64)}


def pruned_and_recovered(
    photos: Path, processes: Processes, config: SearchConfig
) -> dict[str, Tensor]:
    """Sums and weights of a reconstruction, then gradients and weights of its recovery.

    Four layers are pruned, by rough estimates.
    """
    pattern, model = Pattern.parse(config.pattern), load_model(DEMO_WEIGHTS)
    pictures = Photos.from_folder(photos, Bicubic(2), cache_mib=64, min_side=2 * PATCH)
    sampler = CropSampler(pictures, PATCH, config.batch, seed=0)
    layers = [item for item in find_layers(model, pattern, (PATCH, PATCH)) if item.prunable][:4]
    crops = held_out(pictures, 3, PATCH)
    work = Reconstruction(model, layers, pattern, MacsCost(), sampler, crops, config, processes)
    choice = Choice({layer.name: 6 for layer in layers})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "_PASSES", 24)
        pruned = work.reconstructed("allocated", choice, silent)
    weights = {
        f"pruned.{name}": value.clone() for name, value in pruned.model.network.named_parameters()
    }
    masks = {
        f"{layer.name}.weight": (
            pruned.model.network.get_parameter(f"{layer.name}.weight") != 0
        ).float()
        for layer in layers
    }
    recovery = work.recovery(pruned.model, masks, 3, "recover")
    loss = recovery.backward(recovery.batches(0))
    gradients = {
        f"recovering.{name}": parameter.grad.clone()
        for name, parameter in recovery.parameters.items()
        if parameter.grad is not None
    }
    recovery.run(lambda _: None, silent)
    after = {f"recovered.{name}": value.detach() for name, value in recovery.parameters.items()}
    reached = torch.tensor([pruned.psnr, loss, recovery.best_psnr], dtype=torch.float64)
    return {**weights, **gradients, **after, "reached": reached}


def take_part(folder: Path, photos: Path) -> None:
    """What one of two processes does; it leaves its results in the folder."""
    config = SearchConfig.model_validate({**SETTINGS, "devices": 2})
    processes = Processes.of(config)
    processes.launch()
    own = folder / str(processes.rank)
    results = three_steps(photos, processes, config)
    results |= pruned_and_recovered(photos, processes, config)
    save_file(results, f"{own}.safetensors")
    written: list[int] = []
    told = processes.first(lambda: written.append(1) or {"budget": 0.5})
    try:
        processes.first(_refuse)
        error = None
    except SlsError as caught:
        error = [caught.what, caught.where, caught.fix]
    facts = {
        "share": processes.share,
        "told": told,
        "written": written,
        "error": error,
        "sum": processes.sum(torch.tensor([1.0, processes.rank])).tolist(),
        "broadcast": processes.broadcast([processes.rank, "ä"]),
    }
    Path(f"{own}.json").write_text(json.dumps(facts))
    processes.barrier()
    with processes:
        if processes.is_first:
            processes.barrier()
        raise SlsError("the end of the second", "here")


def _refuse() -> None:
    raise SlsError("is full", "the disk", "Free some space.")


@pytest.fixture(scope="module")
def one(photos: Path) -> dict[str, Tensor]:
    """The same of a single process."""
    config = SearchConfig.model_validate(SETTINGS)
    results = three_steps(photos, Processes(), config)
    return {**results, **pruned_and_recovered(photos, Processes(), config)}


@pytest.fixture(scope="module")
def two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which two processes left their results, and what they said at the end."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, __file__, str(folder), str(photos)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (folder / "1.json").exists(), done.stderr
    return folder, done.stderr


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], prefix: str) -> None:
    """Equal up to the rounding of sums in another order, in parts of the largest value."""
    names = [name for name in expected if name.startswith(prefix)]
    assert names
    for name in names:
        error = (found[name] - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 1e-4, name


@pytest.mark.parametrize(
    "what",
    ["gradient.scores", "gradient.model.", "after.", "figures",
     "pruned.", "recovering.", "recovered.", "reached"],
)  # fmt: skip
def test_two_processes_equal_one_with_the_whole_batch(
    one: dict[str, Tensor], two: tuple[Path, str], what: str
) -> None:
    assert_close(load_file(two[0] / "0.safetensors"), one, what)


def test_all_processes_hold_the_same_network(two: tuple[Path, str]) -> None:
    first, second = (load_file(two[0] / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_processes_talk_to_each_other(two: tuple[Path, str]) -> None:
    for rank in (0, 1):
        facts = json.loads((two[0] / f"{rank}.json").read_text())
        assert facts == {
            "share": [rank, 2],
            "told": {"budget": 0.5},
            "written": [1] * (1 - rank),
            "error": ["is full", "the disk", "Free some space."],
            "sum": [2.0, 1.0],
            "broadcast": [0, "ä"],
        }


def test_only_the_first_tells_that_another_has_ended(two: tuple[Path, str]) -> None:
    assert "SlsError: another process of the training has ended. Its own" in two[1]
    assert "the end of the second" not in two[1]


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_parts_equal_the_whole_batch(
    one: dict[str, Tensor], photos: Path, parts: int
) -> None:
    config = SearchConfig.model_validate({**SETTINGS, "accumulate": parts})
    found = three_steps(photos, Processes.of(config), config)
    assert_close(found, {name: one[name] for name in found}, "")


def test_mixed_precision_keeps_scores_and_weights_in_fp32(
    one: dict[str, Tensor], photos: Path
) -> None:
    config = SearchConfig.model_validate({**SETTINGS, "training_precision": "bf16"})
    processes = Processes.of(config)
    processes.launch()
    search = new_search(photos, processes, config)
    inside: set[torch.dtype] = set()
    convolution = search.network.model.network.get_submodule(search.network.layers[0].name)
    convolution.register_forward_hook(lambda _, __, output: inside.add(output.dtype))
    loss, cost = search.backward(search.crops(0))
    assert inside == {torch.bfloat16}
    for parameter in search.network.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
    assert [loss, cost] == pytest.approx(one["figures"][:2].tolist(), rel=0.01)
    scores = search.network.scores.grad
    assert scores is not None
    torch.testing.assert_close(scores, one["gradient.scores"], rtol=0.05, atol=0.01)
    inside.clear()
    search.start_epoch()
    assert inside == {torch.float32}


def test_held_out_psnr_is_that_of_all_crops() -> None:
    class Third(Processes):
        """One of three processes, the others of which found an error of 0.25 in all."""

        @property
        def share(self) -> tuple[int, int]:
            return 0, 3

        def sum(self, tensor: Tensor) -> Tensor:
            return tensor + 0.25

    crops = torch.zeros(4, 3, 8, 8), torch.full((4, 3, 8, 8), 0.5)
    whole = held_out_psnr(torch.nn.Identity(), crops)
    assert whole == pytest.approx(10 * torch.log10(torch.tensor(4.0)).item())
    found = held_out_psnr(torch.nn.Identity(), crops, Third())
    assert found == pytest.approx(-10 * torch.log10(torch.tensor((2 * 0.25 + 0.25) / 4)).item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 3}, r"--batch: 8 crops cannot be cut into 3 equal parts.*multiple of 3"),
        ({"devices": 4, "crops": 3}, "--crops: 3 crops are too few for 4 processes.*Give 4"),
        ({"devices": 2, "nodes": 2, "accumulate": 4}, r"--batch: 8 crops.* 16 equal parts"),
        ({"training_precision": "fp16"}, "--training-precision: fp16 is trained on GPUs only"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    settings: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SlsError, match=message):
        Processes.of(SearchConfig.model_validate({**SETTINGS, **settings}))


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SlsError, match="--devices: there are 1 GPUs"):
        Processes.of(SearchConfig.model_validate({**SETTINGS, "devices": 2}))


def test_processes_of_torchrun_must_be_those_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SlsError, match=r"torchrun started 4 processes, not 2.* product is 4"):
        Processes.of(SearchConfig.model_validate({**SETTINGS, "devices": 2}))


def test_a_single_process_tells_its_errors() -> None:
    with pytest.raises(SlsError, match="is full"), Processes() as processes:
        processes.first(_refuse)


if __name__ == "__main__":
    take_part(Path(sys.argv[1]), Path(sys.argv[2]))
