from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from sls_deploy.config import Config
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.photos import Photos
from sls_deploy.errors import SlsError
from sls_deploy.models.model import load_model
from sls_deploy.progress import silent
from sls_deploy.search.layers import find_layers
from sls_deploy.search.logs import TrainingLog
from sls_deploy.search.schedule import Plan
from sls_deploy.search.sls import SlsSearch
from sls_deploy.search.sparse import SparseNetwork
from sls_deploy.sparsity.pattern import Pattern


def events(path: Path) -> Iterator[Event]:
    """The records of an event file: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events*"):
        for event in events(path):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_figures_come_back_from_the_event_file(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "b0.50") as log:
        log.epoch(0, 30.5, {"body.0.conv1": 16, "body.0.conv2": 4})
        log.step(1, {"loss": 0.25, "waiting": 0.125})
        log.step(2, {"loss": 0.5, "waiting": 0.0})
    assert scalars(tmp_path / "b0.50") == {
        "psnr": {0: 30.5},
        "N/body.0.conv1": {0: 16},
        "N/body.0.conv2": {0: 4},
        "loss": {1: 0.25, 2: 0.5},
        "waiting": {1: 0.125, 2: 0},
    }


def test_a_resumed_log_hides_what_came_after_its_start(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, start=7) as log:
        log.step(8, {"loss": 1.0})
    (path,) = tmp_path.glob("events*")
    starts = [event.step for event in events(path) if event.session_log.status == SessionLog.START]
    assert starts == [7]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(SlsError, match="cannot be written"):
        TrainingLog(tmp_path / "logs" / "b0.50")


def test_a_search_logs_every_step_and_every_layer_at_every_epoch(
    config: Config, dense: Path, photos: Path, tmp_path: Path
) -> None:
    pattern, model = Pattern.parse("n:16"), load_model(dense)
    layers = [item for item in find_layers(model, pattern, (12, 12)) if item.prunable]
    pictures = Photos.from_folder(photos, Bicubic(2), cache_mib=64, min_side=24)
    sampler, crops = CropSampler(pictures, patch=12, batch=2, seed=0), held_out(pictures, 2, 12)
    network = SparseNetwork(model, layers, pattern)
    with TrainingLog(tmp_path) as log:
        plan = Plan(steps=6, window=4, epoch=3)
        search = SlsSearch(network, sampler, crops, config.search, 0.4, plan, log=log)
        search.run(lambda _: None, silent)
    found = scalars(tmp_path)
    for name in ("loss", "cost", "learning_rate", "waiting"):
        assert list(found[name]) == [1, 2, 3, 4, 5, 6]
    assert all(0 <= share <= 1 for share in found["waiting"].values())
    assert found["psnr"] == pytest.approx({row["step"]: row["psnr"] for row in search.history})
    for index, layer in enumerate(layers):
        kept = {row["step"]: row["kept"][index] for row in search.history}
        assert found[f"N/{layer.name}"] == kept
    assert min(found[f"N/{layers[0].name}"].values()) < 16
