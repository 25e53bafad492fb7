from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.models.narrow import select
from sls_deploy.search.cost import ExecutableCost, MacsCost
from sls_deploy.search.layers import Layer, find_layers
from sls_deploy.search.outcome import HISTORY, RATIOS, Outcome, Refilled
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ratios import REFILLED, WEIGHTS, read_ratios

PAIRS = Pattern.parse("2:4")
FIRST, SECOND = "body.0.body.0", "body.0.body.2"


@pytest.fixture(scope="module")
def layers(dense: Path) -> list[Layer]:
    return find_layers(load_model(dense), PAIRS, (16, 16))


@pytest.fixture
def outcome(dense: Path, layers: list[Layer]) -> Outcome:
    """Every prunable layer 2:4."""
    model = load_model(dense)
    units = {layer.name: 1 for layer in layers if layer.prunable}
    for name in units:
        weight = model.network.get_parameter(f"{name}.weight")
        weight.data[:, 2::4] = weight.data[:, 3::4] = 0
    return of(model, units)


def of(model: RestorationModel, units: dict[str, int]) -> Outcome:
    return Outcome(model, model.network.state_dict(), units, 30.5, 7, [{"epoch": 1}])


def written(outcome: Outcome, layers: list[Layer], folder: Path) -> dict[str, Any]:
    """ratios.json as it is written."""
    list(outcome.write(folder, layers, PAIRS, MacsCost(), {"budget": 0.5, "pattern": "2:4"}))
    found: dict[str, Any] = json.loads((folder / RATIOS).read_text())
    return found


def halved(model: RestorationModel) -> RestorationModel:
    """The first block with half of its interior."""
    half = torch.arange(8)
    return select(model, {FIRST: (half, None), SECOND: (None, half)})


def test_files_are_written_and_named(outcome: Outcome, layers: list[Layer], tmp_path: Path) -> None:
    paths = list(outcome.write(tmp_path, layers, PAIRS, MacsCost(), {}))
    assert paths == [tmp_path / WEIGHTS, tmp_path / RATIOS, tmp_path / HISTORY]
    history = json.loads(paths[2].read_text())
    assert history == {"layers": list(outcome.units), "epochs": [{"epoch": 1}]}


def test_weights_load_as_the_network(outcome: Outcome, layers: list[Layer], tmp_path: Path) -> None:
    written(outcome, layers, tmp_path)
    loaded = load_model(tmp_path / WEIGHTS).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in outcome.state.items())


def test_ratios_can_be_read_and_say_what_was_given(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    rival = {"source": "learnt", "psnr": 30.1, "chosen": False}
    outcome = replace(outcome, candidates=[rival], notes=["few crops"])
    written(outcome, layers, tmp_path)
    found = read_ratios(tmp_path / RATIOS)
    assert found["budget"] == 0.5
    assert found["cost_model"] == "macs"
    assert found["psnr"] == 30.5
    assert found["steps"] == 7
    assert found["candidates"] == [rival]
    assert found["notes"] == ["few crops"]


def test_2_4_everywhere_costs_exactly_a_half(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    found = written(outcome, layers, tmp_path)
    assert found["cost"] == 0.5
    assert 0.5 < found["network_cost"] < 1


def test_rows_tell_pruned_layers_from_dense_ones(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    rows = {row["name"]: row for row in written(outcome, layers, tmp_path)["layers"]}
    assert list(rows) == [layer.name for layer in layers]
    pruned = rows[FIRST]
    assert (pruned["kept"], pruned["of"], pruned["nonzero"]) == (2, 4, 0.5)
    assert pruned["prunable"]
    first = rows["head.0"]
    assert (first["kept"], first["of"], first["nonzero"]) == (4, 4, 1)
    assert not first["prunable"]
    assert first["reason"]


def test_narrowed_layers_cost_less_and_give_their_width(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    narrowed = of(halved(outcome.model), dict(outcome.units))
    found = written(narrowed, layers, tmp_path)
    rows = {row["name"]: row for row in found["layers"]}
    assert rows[FIRST]["width"] == [8, 16]
    assert rows[SECOND]["width"] == [16, 8]
    assert rows[FIRST]["shape"] == [16, 16, 3, 3]
    macs = {layer.name: layer.macs for layer in layers if layer.prunable}
    saved = (macs[FIRST] + macs[SECOND]) / 4
    assert found["cost"] == pytest.approx(0.5 - saved / sum(macs.values()))
    assert load_model(tmp_path / WEIGHTS).description.widths == {FIRST: [8, 16], SECOND: [16, 8]}


def test_share_is_in_the_unit_of_the_cost_model(outcome: Outcome, layers: list[Layer]) -> None:
    one = [layer for layer in layers if layer.name == FIRST]
    half_way = replace(outcome, units={FIRST: PAIRS.units - 4})
    assert half_way.share(one, Pattern.parse("n:16"), MacsCost()) == pytest.approx(5 / 16)
    assert half_way.share(one, Pattern.parse("n:16"), ExecutableCost()) == 0.5


def test_a_layer_left_dense_says_why(dense: Path, layers: list[Layer], tmp_path: Path) -> None:
    model = load_model(dense)
    units = {layer.name: PAIRS.units for layer in layers if layer.prunable}
    # Of two convolution groups: tensor cores have no sparse kernels for those.
    grouped = [replace(item, groups=2) if item.name == SECOND else item for item in layers]
    outcome = of(model, {**units, FIRST: 1})
    list(outcome.write(tmp_path, grouped, PAIRS, ExecutableCost(), {}))
    reasons = {
        row["name"]: row["reason"] for row in json.loads((tmp_path / RATIOS).read_text())["layers"]
    }
    assert reasons[FIRST] == ""
    assert reasons[SECOND] == "2:4 saves nothing by the cost model executable"
    assert reasons["body.1.body.0"] == "others lose less"
    assert reasons["head.0"] == "the first convolution stays dense"


def test_refilled_weights_stand_beside_with_their_cost(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    pattern = Pattern.parse("n:16")
    prunable = [layer.name for layer in layers if layer.prunable]
    quarter = replace(outcome, units=dict.fromkeys(prunable, 4))
    filled = Refilled(outcome.state, dict.fromkeys(prunable, 8), 31.0, 3)
    list(replace(quarter, refilled=filled).write(tmp_path, layers, pattern, MacsCost(), {}))
    found = json.loads((tmp_path / RATIOS).read_text())
    assert (found["cost"], found["refill"]["cost"]) == (0.25, 0.5)
    assert found["refill"]["network_cost"] > found["network_cost"]
    assert found["refill"]["gain_db"] == 0.5
    assert (tmp_path / REFILLED).exists()


def test_refilled_weights_of_a_search_before_do_not_stay(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    (tmp_path / REFILLED).write_bytes(b"of another search")
    assert "refill" not in written(outcome, layers, tmp_path)
    assert not (tmp_path / REFILLED).exists()


def test_budget_is_told_by_every_cost_model(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    eighth = replace(outcome, units=dict.fromkeys(outcome.units, 2))
    models = (MacsCost(), ExecutableCost())
    list(eighth.write(tmp_path, layers, Pattern.parse("n:16"), models[0], {}, models[1:]))
    found = json.loads((tmp_path / RATIOS).read_text())
    macs, executable = found["costs"]
    assert (macs["model"], executable["model"]) == ("macs", "executable")
    assert macs["cost"] == found["cost"] == 0.125
    assert executable["cost"] == 0.5
    assert executable["network_cost"] > macs["network_cost"] > 0.125
    assert not macs["measured"]
    assert executable["note"] == ExecutableCost.note


def test_rows_tell_what_a_layer_alone_would_lose(
    outcome: Outcome, layers: list[Layer], tmp_path: Path
) -> None:
    measured = replace(outcome, sensitivity={FIRST: {str(PAIRS.units): 0.0, "1": 2e-6}})
    rows = {
        row["name"]: row["sensitivity"] for row in written(measured, layers, tmp_path)["layers"]
    }
    assert rows[FIRST] == [[4, 0.0], [2, 2e-6]]
    assert rows[SECOND] == []
