from __future__ import annotations

from pathlib import Path

import pytest

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.edsr import EDSR
from sls_deploy.search.inspect import inspect_network, known_networks
from sls_deploy.search.layers import Choice

DEMO = ModelConfig(weights=DEMO_WEIGHTS)


def test_costs_are_those_of_the_size_asked_for() -> None:
    small, large = (inspect_network(DEMO, size) for size in ((20, 30), (40, 60)))
    assert large.macs == 4 * small.macs
    first = next(layer for layer in large.layers if layer.name == "head.0")
    assert large.of_picture(first.macs) == 40 * 60 * 3 * 32 * 9


def test_shares_add_up_to_one() -> None:
    found = inspect_network(DEMO, (32, 32))
    assert sum(found.share(layer) for layer in found.layers) == pytest.approx(1)
    assert 0 < found.eligible == found.prunable < 1


def test_sizes_are_rounded_up_to_what_the_network_takes() -> None:
    unet = ModelConfig(name="unet", options={"features": 8})
    assert inspect_network(unet, (30, 33)).size == (32, 40)


def test_group_convolutions_are_prunable_but_not_eligible_in_n_m() -> None:
    carn = ModelConfig(name="carn", options={"features": 16, "groups": 2, "efficient": True})
    found = inspect_network(carn, (16, 16), "n:4")
    grouped = [layer for layer in found.layers if layer.groups > 1]
    assert grouped
    assert all(layer.prunable for layer in grouped)
    assert {layer.why_not_eligible for layer in grouped} == {"it has 2 convolution groups"}
    assert found.eligible < found.prunable


def test_first_layer_may_be_pruned_on_request() -> None:
    found = inspect_network(DEMO, (16, 16), choice=Choice(prune=("tail.1",)))
    assert next(layer for layer in found.layers if layer.name == "tail.1").prunable


def test_network_that_looks_at_values_is_listed_by_hooks(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "from sls_deploy.models.edsr import EDSR\n\n\n"
        "class Net(EDSR):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x if x.mean() < 9 else -x)\n\n\n"
        "def make():\n"
        "    return Net(features=8, blocks=1, scale=2)\n"
    )
    wanted = ModelConfig(name=f"{source}:make")
    found = inspect_network(wanted, (16, 16))
    assert "only --method sls can search it" in found.notes[0]
    modules = dict(EDSR(features=8, blocks=1, scale=2).named_modules())
    assert {layer.name for layer in found.layers} <= modules.keys()
    assert found.prunable > 0


def test_nothing_named_is_refused() -> None:
    with pytest.raises(SlsError, match="no network was named"):
        inspect_network(ModelConfig(), (16, 16))


def test_known_networks_have_the_costs_of_their_papers() -> None:
    known = {item.name: item for item in known_networks()}
    assert known["edsr"].macs == pytest.approx(114.2e9, rel=0.01)
    assert known["unet"].multiple == 8
    assert known["srn"].parameters == pytest.approx(7.09e6, rel=0.001)
