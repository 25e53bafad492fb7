from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import onnx
import pytest

from sls_deploy.config import RestoreConfig
from sls_deploy.receptive.field import ReceptiveField
from sls_deploy.restore.networks import WIDEST_MARGIN, Network, tile_sizes
from sls_deploy.runtime.exported import ExportedGraph
from sls_deploy.runtime.runner import Runner


def network(
    field: ReceptiveField | None = None,
    *,
    multiple: int = 1,
    smallest: tuple[int, int] = (1, 1),
    largest: tuple[int, int] | None = None,
    on_gpu: bool = False,
) -> Network:
    graph = ExportedGraph(
        Path("a.onnx"), onnx.ModelProto(), 2, 1, 1, multiple, None, None, 0.5, 0.5, "fp32"
    )
    field = field or ReceptiveField(21, exact=True, multiple=1, reason="")
    runner = Mock(spec=Runner)
    return Network(0.5, runner, graph, field, "", smallest, largest, on_gpu=on_gpu)


def test_the_margin_is_as_far_as_the_network_looks() -> None:
    assert tile_sizes([network()], RestoreConfig()).margin == 21


@pytest.mark.parametrize("pixels", [192, None])
def test_a_network_that_looks_further_gets_the_widest_margin(pixels: int | None) -> None:
    field = ReceptiveField(pixels, exact=False, multiple=6, reason="its Resize")
    sizes = tile_sizes([network(field)], RestoreConfig())
    assert (sizes.margin, sizes.grid, sizes.multiple) == (WIDEST_MARGIN, 6, 1)


def test_a_margin_that_is_asked_for_is_taken() -> None:
    assert tile_sizes([network()], RestoreConfig(overlap=3)).margin == 3


def test_tiles_suit_every_network() -> None:
    one = network(multiple=4, smallest=(16, 80), largest=(256, 1024))
    field = ReceptiveField(30, exact=True, multiple=6, reason="")
    other = network(field, smallest=(64, 8), largest=(512, 512))
    sizes = tile_sizes([one, other], RestoreConfig())
    assert (sizes.margin, sizes.multiple, sizes.grid) == (30, 4, 6)
    assert (sizes.least, sizes.most) == ((64, 80), (256, 512))


def test_on_a_gpu_there_are_few_sizes_of_tiles() -> None:
    assert tile_sizes([network(on_gpu=True)], RestoreConfig()).step > 1
    assert tile_sizes([network()], RestoreConfig()).step == 1
