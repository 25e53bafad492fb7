from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sls_deploy.validate.figures import DENSE, SPARSE
from sls_deploy.validate.losses import (
    bootstrap_interval,
    cause_of,
    step_losses,
    total_losses,
)
from tests.validate.flows import IDS, renamed, stage

FLOW = tuple(IDS)


def test_a_step_is_compared_picture_by_picture() -> None:
    flow = [stage(DENSE, [30, 40, 50]), stage(SPARSE, [29, 40.5, 49.5])]
    (loss,) = step_losses(flow, "psnr_y")
    assert (loss.stage, loss.against, loss.cause) == (SPARSE, DENSE, "pruning")
    assert loss.mean_db == pytest.approx(1 / 3)
    assert (loss.worst_picture, loss.worst_db) == ("a", 1)
    assert loss.low_db is not None
    assert loss.high_db is not None
    assert -0.5 <= loss.low_db < loss.mean_db < loss.high_db <= 1


def test_the_metric_is_the_one_asked_for() -> None:
    flow = [stage(DENSE, [30.0]), stage(SPARSE, [28.0])]
    assert step_losses(flow, "psnr_rgb")[0].mean_db == 2


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda count: st.lists(
            st.lists(st.floats(10, 60), min_size=count, max_size=count), min_size=5, max_size=5
        )
    )
)
def test_steps_of_a_chain_add_up_to_the_total(figures: list[list[float]]) -> None:
    flow = [stage(name, psnr) for name, psnr in zip(FLOW, figures, strict=True)]
    steps, totals = step_losses(flow, "psnr_y"), total_losses(flow, "psnr_y")
    for count in range(1, len(flow)):
        assert math.fsum(step.mean_db for step in steps[:count]) == pytest.approx(
            totals[count - 1].mean_db, abs=1e-9
        )
    assert {total.cause for total in totals} == {"all of it"}
    assert {total.against for total in totals} == {DENSE}


def test_two_forms_of_one_file_are_each_compared_with_it() -> None:
    half, eight = IDS["ONNX fp16"], renamed("ONNX fp16", "ONNX int8", precision="int8")
    flow = [
        stage(DENSE, [30.0]),
        stage(SPARSE, [29.0]),
        stage("ONNX fp32", [29.0]),
        stage(half, [28.9]),
        stage(eight, [28.0]),
    ]
    told = [
        (loss.against, loss.cause, round(loss.mean_db, 9)) for loss in step_losses(flow, "psnr_y")
    ]
    assert told[2:] == [("ONNX fp32", "fp16", 0.1), ("ONNX fp32", "int8", 1.0)]


def test_without_truth_nothing_is_lost() -> None:
    flow = [stage(DENSE, None, [None]), stage(SPARSE, None, [30.0])]
    assert step_losses(flow, "psnr_y") == total_losses(flow, "psnr_y") == ()


@pytest.mark.parametrize(
    ("name", "before", "changes", "cause"),
    [
        (SPARSE, DENSE, {}, "pruning"),
        ("ONNX fp32", SPARSE, {}, "ONNX export"),
        ("ONNX fp32", DENSE, {}, "ONNX export"),
        ("ONNX fp16", "ONNX fp32", {}, "fp16"),
        ("ONNX fp16", SPARSE, {}, "ONNX export and fp16"),
        ("TensorRT fp16", "ONNX fp16", {}, "engine"),
        ("TensorRT fp16", "ONNX fp16", {"in_bytes": True}, "rounding to bytes and engine"),
        ("TensorRT fp16", SPARSE, {}, "ONNX export and fp16 and engine"),
        ("ONNX fp32", DENSE, {"in_bytes": True}, "ONNX export and rounding to bytes"),
    ],
)
def test_the_cause_is_all_that_was_done(
    name: str, before: str, changes: dict[str, bool], cause: str
) -> None:
    assert cause_of(renamed(name, name, **changes), IDS[before]) == cause


@pytest.mark.parametrize("count", [2, 5, 100])
def test_equal_differences_leave_no_doubt(count: int) -> None:
    assert bootstrap_interval([0.25] * count) == (0.25, 0.25)


def test_one_difference_has_no_interval() -> None:
    assert bootstrap_interval([0.1]) is None


def test_two_differences_bound_their_mean() -> None:
    assert bootstrap_interval([0.1, 0.3]) == pytest.approx((0.1, 0.3))


def test_what_is_not_a_number_has_no_interval() -> None:
    assert bootstrap_interval([0.1, math.nan, 0.2]) is None


def test_the_same_differences_give_the_same_interval() -> None:
    values = list(np.random.default_rng(1).normal(size=30))
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_the_interval_of_many_is_that_of_student() -> None:
    values = np.random.default_rng(2).normal(0.1, 0.2, 400)
    found = bootstrap_interval(list(values))
    half = 1.966 * values.std(ddof=1) / math.sqrt(len(values))
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


@pytest.mark.parametrize(("count", "least"), [(5, 0.87), (14, 0.90)])
def test_intervals_cover_the_true_mean_about_as_often_as_they_say(count: int, least: float) -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        found = bootstrap_interval(list(rng.normal(0.1, 0.1, count)))
        assert found is not None
        held += found[0] <= 0.1 <= found[1]
    assert held / 200 >= least


def test_a_loss_that_is_not_a_number_is_the_worst() -> None:
    flow = [stage(DENSE, [30.0, 30, 30]), stage(SPARSE, [20.0, math.nan, 29])]
    (loss,) = step_losses(flow, "psnr_y")
    assert loss.worst_picture == "b"
    assert math.isnan(loss.mean_db)
