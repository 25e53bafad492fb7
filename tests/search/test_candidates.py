from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from sls_deploy.search import candidates as room
from sls_deploy.search.allocate import Option
from sls_deploy.search.candidates import Pick, candidates, least_cost, price
from sls_deploy.search.cost import MacsCost
from sls_deploy.search.interiors import Interior
from sls_deploy.search.layers import Layer
from sls_deploy.search.sensitivity import Sensitivity
from sls_deploy.sparsity.pattern import Pattern

PAIRS, N16 = Pattern.parse("2:4"), Pattern.parse("n:16")
MACS = MacsCost()
AB = Interior(("a",), ("b",), 32, ())
BC = Interior(("b",), ("c",), 32, ())


def layer(name: str, inputs: int = 32, outputs: int = 32, groups: int = 1) -> Layer:
    shape = (outputs, inputs // groups, 3, 3)
    return Layer(name, "Conv2d", shape, groups, float(math.prod(shape)), "")


LAYERS = [layer("a"), layer("b"), layer("c"), layer("d", 16, 64)]


def measured(pattern: Pattern, *interiors: Interior) -> Sensitivity:
    """Losses that differ from layer to layer and rise with what is removed."""
    counts = range(pattern.units, 0, -pattern.stride)
    return Sensitivity(
        layers={
            item.name: {n: (place + 1.0) * (pattern.units - n) ** 2 for n in counts}
            for place, item in enumerate(LAYERS)
        },
        interiors={
            item: {32: 0.0, 8: 90.0 + place, 16: 40.0 + place, 24: 10.0 + place}
            for place, item in enumerate(interiors)
        },
        channels={item: torch.arange(32) for item in interiors},
        metric={},
    )


def parts_of(pattern: Pattern, *interiors: Interior) -> list[list[Option[Pick]]]:
    return candidates(LAYERS, pattern, measured(pattern, *interiors), MACS)


def least(options: list[Option[Pick]]) -> Option[Pick]:
    return min(options, key=lambda option: option.cost)


@pytest.mark.parametrize("pattern", [PAIRS, N16])
def test_everything_dense_costs_one_and_loses_nothing(pattern: Pattern) -> None:
    dense = [[option for option in part if option.loss == 0] for part in parts_of(pattern, AB)]
    assert sum(options[0].cost for options in dense) == pytest.approx(1)
    units = [unit for options in dense for unit in options[0].what.units]
    assert sorted(units) == [(item.name, pattern.units) for item in LAYERS]


def test_layers_without_interiors_are_parts_of_their_own() -> None:
    parts = parts_of(N16)
    assert [[o.what.units[0][0] for o in part] for part in parts] == [
        [item.name] * 16 for item in LAYERS
    ]
    assert all(option.what.widths == () for part in parts for option in part)


def test_interiors_that_meet_in_a_layer_make_one_part() -> None:
    names = [{name for name, _ in part[0].what.units} for part in parts_of(PAIRS, AB, BC)]
    assert names == [{"a", "b", "c"}, {"d"}]
    joined = Interior(("a",), ("d",), 32, ())
    names = [{name for name, _ in part[0].what.units} for part in parts_of(PAIRS, joined, BC)]
    assert names == [{"a", "d"}, {"b", "c"}]


def test_costs_of_narrowed_interiors_multiply() -> None:
    costs = {
        (item, width): price(MACS, item, PAIRS, units, {AB: width, BC: width})
        for item, width, units in product(LAYERS, (16, 32), (PAIRS.units,))
    }
    whole = 32 * 32 * 9
    assert [costs[item, 16] for item in LAYERS] == [
        whole / 2,
        whole / 4,
        whole / 2,
        LAYERS[3].macs,
    ]
    assert price(MACS, LAYERS[1], PAIRS, 1, {AB: 16, BC: 16}) == whole / 8


def test_costs_and_losses_of_every_option_are_those_of_its_pick() -> None:
    sensitivity = measured(PAIRS, AB, BC)
    dense = sum(item.macs for item in LAYERS)
    for part in candidates(LAYERS, PAIRS, sensitivity, MACS):
        for option in part:
            widths = dict(option.what.widths)
            by_name = {item.name: item for item in LAYERS}
            costs = [
                price(MACS, by_name[name], PAIRS, units, widths)
                for name, units in option.what.units
            ]
            losses = [sensitivity.layers[name][units] for name, units in option.what.units]
            losses += [sensitivity.interiors[item][width] for item, width in widths.items()]
            assert option.cost == pytest.approx(sum(costs) / dense)
            assert option.loss == pytest.approx(sum(losses))


def test_no_combination_beats_the_options_that_are_left() -> None:
    sensitivity, dense = measured(PAIRS, AB, BC), sum(item.macs for item in LAYERS)
    first = parts_of(PAIRS, AB, BC)[0]
    for ab, bc, *units in product((8, 16, 24, 32), (8, 16, 24, 32), *[(1, PAIRS.units)] * 3):
        cost = sum(
            price(MACS, item, PAIRS, n, {AB: ab, BC: bc})
            for item, n in zip(LAYERS, units, strict=False)
        )
        loss = sensitivity.interiors[AB][ab] + sensitivity.interiors[BC][bc]
        loss += sum(
            sensitivity.layers[item.name][n] for item, n in zip(LAYERS, units, strict=False)
        )
        assert any(
            option.cost <= cost / dense + 1e-12 and option.loss <= loss + 1e-9 for option in first
        )


def test_least_cost_is_that_of_the_narrowest_and_sparsest() -> None:
    assert least_cost(LAYERS, PAIRS, {}, MACS) == 0.5
    # a and c keep a quarter of their channels at one end, b at both, and all are 2:4.
    squares = [32 * 32 / 4, 32 * 32 / 16, 32 * 32 / 4, 16 * 64]
    expected = sum(squares) / (3 * 32 * 32 + 16 * 64) / 2
    assert least_cost(LAYERS, PAIRS, {AB: 8, BC: 8}, MACS) == pytest.approx(expected)


@pytest.mark.parametrize(("pattern", "interiors"), [(PAIRS, (AB, BC)), (PAIRS, ()), (N16, ())])
def test_cheapest_options_together_have_the_least_cost(
    pattern: Pattern, interiors: tuple[Interior, ...]
) -> None:
    cheapest = sum(least(part).cost for part in parts_of(pattern, *interiors))
    expected = least_cost(LAYERS, pattern, dict.fromkeys(interiors, 8), MACS)
    assert cheapest == pytest.approx(expected)


def test_group_convolution_costs_what_its_groups_do() -> None:
    grouped = layer("a", 32, 32, groups=4)
    assert price(MACS, grouped, N16, N16.units, {}) == grouped.macs


def test_too_many_combinations_are_narrowed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_WIDTHS", 15)
    part = parts_of(PAIRS, AB, BC)[0]
    assert {option.what.widths for option in part} <= {
        ((AB, width), (BC, width)) for width in (8, 16, 24, 32)
    }
    assert dict(least(part).what.widths) == {AB: 8, BC: 8}
