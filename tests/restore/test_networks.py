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
    least: int = 1,
    fixed: tuple[int, int] | None = None,
    smallest: int = 1,
    longest: int | None = None,
) -> Network:
    graph = ExportedGraph(
        Path("a.onnx"), onnx.ModelProto(), 2, 1, least, multiple, fixed, None, 0.5, 0.5, "fp32"
    )
    field = field or ReceptiveField(21, exact=True, multiple=1, reason="")
    return Network(0.5, Mock(spec=Runner), graph, field, "", smallest, longest)


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
    one = network(multiple=4, least=16, longest=256)
    other = network(ReceptiveField(30, exact=True, multiple=6, reason=""), smallest=64)
    sizes = tile_sizes([one, other], RestoreConfig())
    assert (sizes.longest, sizes.margin, sizes.multiple, sizes.grid) == (256, 30, 4, 6)
    assert sizes.least == 64


def test_a_graph_of_one_size_gets_tiles_of_that_size() -> None:
    assert tile_sizes([network(fixed=(96, 128))], RestoreConfig()).exact == (96, 128)
