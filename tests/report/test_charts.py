"""The charts: what they draw is what was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.report.charts import Chart, draw
from sls_deploy.report.schema import BudgetReport, History, Step
from sls_deploy.report.specs_curve import curve_chart
from sls_deploy.report.specs_history import history_chart, kept_rows
from sls_deploy.report.specs_layers import layers_chart
from sls_deploy.report.specs_losses import losses_chart
from sls_deploy.report.specs_speed import speed_chart
from tests.report.sample import HOSTILE, sample_report

REPORT = sample_report((0.5, 0.125), layers=20)
BUDGET = REPORT.budgets[1]
CHARTS = {
    "curve": curve_chart(REPORT.curves[0], REPORT.run),
    "losses": losses_chart(BUDGET.validations[0], 0.3),
    "layers": layers_chart(BUDGET),
    "history": history_chart(BUDGET),
    "speed": speed_chart(BUDGET.benches[0]),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return {name: str(draw(chart, f"x-{name}")) for name, chart in CHARTS.items()}


@pytest.mark.parametrize("name", list(CHARTS))
def test_a_chart_has_a_name_and_is_told(drawn: dict[str, str], name: str) -> None:
    svg, chart = drawn[name], CHARTS[name]
    assert f'aria-labelledby="x-{name}-title x-{name}-told"' in svg
    assert f'<title id="x-{name}-title">{chart.title}</title>' in svg
    assert f'<desc id="x-{name}-told">' in svg


@pytest.mark.parametrize("name", list(CHARTS))
def test_every_colour_is_a_variable_of_the_page(drawn: dict[str, str], name: str) -> None:
    colours = set(re.findall(r' (?:fill|stroke)="([^"]*)"', drawn[name]))
    fixed = {one for one in colours if not one.startswith(("var(--", f"url(#x-{name}-"))}
    assert fixed <= {"none", "transparent"}


@pytest.mark.parametrize("name", list(CHARTS))
def test_a_chart_needs_no_inline_style_and_no_address(drawn: dict[str, str], name: str) -> None:
    assert " style=" not in drawn[name]
    assert "href" not in drawn[name]


@pytest.mark.parametrize("name", list(CHARTS))
def test_every_id_begins_with_the_charts_name(drawn: dict[str, str], name: str) -> None:
    assert all(one.startswith(f"x-{name}-") for one in re.findall(r' id="([^"]*)"', drawn[name]))


@pytest.mark.parametrize("name", ["layers", "history"])
def test_a_layer_named_like_a_script_stays_text(drawn: dict[str, str], name: str) -> None:
    assert "<script" not in drawn[name]
    assert HOSTILE.split(";")[0].replace("<", "&lt;").replace(">", "&gt;") in drawn[name]


def test_a_step_begins_where_the_stage_that_it_was_made_from_ended() -> None:
    ends = {"dense PyTorch": 0.0}
    values = {value["stage"]: value for value in CHARTS["losses"].spec["data"]["values"]}
    for step in BUDGET.validations[0].losses:
        value = values[step.stage]
        assert value["from"] == pytest.approx(ends[step.against])
        ends[step.stage] = value["to"]


def test_stages_beyond_the_limit_are_marked() -> None:
    does = {value["does"] for value in CHARTS["losses"].spec["data"]["values"]}
    assert does == {"too much"}
    passed = losses_chart(REPORT.budgets[0].validations[0], 0.3)
    assert {value["does"] for value in passed.spec["data"]["values"]} == {"loses"}


def test_the_chart_of_layers_has_a_row_for_each(drawn: dict[str, str]) -> None:
    for row in BUDGET.layers[:-2]:
        assert f">{row.name}</text>" in drawn["layers"]
        assert row.sensitivity is None or f'data-told="{row.name}: ' in drawn["layers"]


def test_a_hundred_and_fifty_layers_keep_their_height() -> None:
    few, many = (layers_chart(sample_report((0.5,), n).budgets[0]) for n in (20, 150))
    heights = [
        float(re.findall(r'viewBox="0 0 \S+ ([\d.]+)"', str(draw(one, "x")))[0])
        for one in (few, many)
    ]
    assert heights[1] - heights[0] == pytest.approx(130 * 17, abs=2)


def test_layers_without_a_sensitivity_are_drawn() -> None:
    bare = tuple(replace(row, sensitivity=None, eligible=None) for row in BUDGET.layers)
    assert str(draw(layers_chart(replace(BUDGET, layers=bare)), "x")).startswith("<svg")


def _with_history(kept: list[list[int]], frozen: int) -> BudgetReport:
    layers = tuple(f"layer {place}" for place in range(len(kept[0])))
    steps = [Step(10 * i, "search", 24.0, None, 1.0, tuple(row)) for i, row in enumerate(kept)]
    ends = [
        Step(10 * (len(kept) + i), "fine-tuning", 24.0, None, None, None) for i in range(frozen)
    ]
    return replace(BUDGET, history=History(layers, 8, (*steps, *ends)))


@given(
    st.integers(1, 4).flatmap(
        lambda layers: st.lists(
            st.lists(st.integers(1, 8), min_size=layers, max_size=layers), min_size=1, max_size=8
        )
    ),
    st.integers(0, 3),
)
def test_the_map_tells_what_every_layer_keeps_at_every_step(
    kept: list[list[int]], frozen: int
) -> None:
    budget = _with_history(kept, frozen)
    values: list[dict[str, Any]] = history_chart(budget).spec["vconcat"][-1]["data"]["values"]
    for step in budget.history.steps:
        expected = step.kept or tuple(kept[-1])
        if frozen == 0 and step is budget.history.steps[-1] and len(kept) > 1:
            continue  # the end of the map
        for name, units in zip(budget.history.layers, expected, strict=True):
            here = [
                value["kept"]
                for value in values
                if value["layer"] == name and value["step"] <= step.step < value["end"]
            ]
            at_end = step is budget.history.steps[-1] and len(budget.history.steps) > 1
            assert here == ([] if at_end else [units])
    assert [row[2] for row in kept_rows(budget.history)] == [str(units) for units in kept[-1]]


def test_ratios_that_were_fixed_have_no_map() -> None:
    steps = tuple(replace(step, kept=None, cost=None) for step in BUDGET.history.steps)
    chart = history_chart(replace(BUDGET, history=replace(BUDGET.history, steps=steps)))
    assert len(chart.spec["vconcat"]) == 2
    assert kept_rows(replace(BUDGET.history, steps=steps)) == []


def test_the_table_of_the_curve_has_every_point() -> None:
    assert len(CHARTS["curve"].rows) == len(REPORT.curves[0].points)


def test_nothing_is_fetched_for_a_chart() -> None:
    spec = {"data": {"url": "https://example.org/a.json"}, "mark": "point"}
    with pytest.raises(ValueError, match="not allowed"):
        draw(Chart(spec, "", "", (), ()), "x")
