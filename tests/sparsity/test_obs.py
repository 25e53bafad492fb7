from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sls_deploy.sparsity.least_squares import DAMPING, Problem, chunks
from sls_deploy.sparsity.legality import is_2_4
from sls_deploy.sparsity.obs import Step, remove_units
from sls_deploy.sparsity.pattern import Pattern
from sls_deploy.sparsity.ranks import rank_units

PATTERNS = st.sampled_from(["2:4", "n:4", "n:8", "n:16", "n:32"]).map(Pattern.parse)
SEEDS = st.integers(0, 999)
FEW = settings(max_examples=30)
N4, N16 = Pattern.parse("n:4"), Pattern.parse("n:16")


def layer(
    channels: int, seed: int = 0, taps: int = 2, filters: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, correlated inputs [positions, channels * taps] and outputs near the dense ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    columns = channels * taps
    inputs = normal(4 * columns, 3) @ normal(3, columns) + 0.4 * normal(4 * columns, columns)
    weight = normal(filters, channels, taps)
    outputs = inputs @ weight.flatten(1).T
    return weight, inputs, outputs + 0.1 * normal(*outputs.shape)


def problem_of(weight: Tensor, inputs: Tensor, outputs: Tensor) -> Problem:
    return Problem.of(weight, inputs.T @ inputs, outputs.T @ inputs)


def problem(channels: int, seed: int = 0, taps: int = 2, filters: int = 3) -> Problem:
    return problem_of(*layer(channels, seed, taps, filters))


def by_least_squares(weight: Tensor, inputs: Tensor, outputs: Tensor, keep: Tensor) -> Tensor:
    """Each filter's best kept weights; damping as further rows that ask for the dense ones."""
    x, y, dense = inputs.numpy(), outputs.numpy(), weight.flatten(1).numpy()
    damping = math.sqrt(DAMPING * float((x * x).sum(0).mean()))
    result = np.zeros_like(dense)
    for f, kept in enumerate(keep.numpy()):
        # What is removed still pays its damping, but that does not depend on the others.
        rows = np.vstack([x[:, kept], damping * np.eye(int(kept.sum()))])
        right = np.concatenate([y[:, f], damping * dense[f, kept]])
        result[f, kept] = np.linalg.lstsq(rows, right, rcond=None)[0]
    return torch.from_numpy(result)


def groups_of(kept: Tensor, size: int) -> Tensor:
    """Weights [filters, channels, taps] as padded groups [.., size]."""
    padded = torch.nn.functional.pad(kept.movedim(1, -1), (0, -kept.shape[1] % size))
    return padded.reshape(-1, size)


def all_steps(problem: Problem, pattern: Pattern, **more: int) -> list[Step]:
    return list(remove_units(problem, pattern, **more))


@FEW
@given(channels=st.integers(1, 40), pattern=PATTERNS, seed=SEEDS)
def test_groups_keep_as_many_weights_as_by_magnitude(
    channels: int, pattern: Pattern, seed: int
) -> None:
    one = problem(channels, seed)
    units = rank_units(one.weight, pattern)
    for step in all_steps(one, pattern):
        expected = groups_of(units < step.units, pattern.group).sum(1)
        assert torch.equal(groups_of(step.keep.view(units.shape), pattern.group).sum(1), expected)


@FEW
@given(channels=st.integers(1, 40), pattern=PATTERNS, seed=SEEDS)
def test_removed_weights_are_zero_and_stay_removed(
    channels: int, pattern: Pattern, seed: int
) -> None:
    steps = all_steps(problem(channels, seed), pattern)
    assert [step.units for step in steps] == list(range(pattern.units - 1, 0, -1))
    assert all((step.weight[~step.keep] == 0).all() for step in steps)
    assert all((later.keep <= earlier.keep).all() for earlier, later in pairwise(steps))


@FEW
@given(channels=st.integers(1, 40), pattern=PATTERNS, seed=SEEDS)
def test_up_to_half_of_a_group_is_2_4(channels: int, pattern: Pattern, seed: int) -> None:
    one = problem(channels, seed)
    for step in all_steps(one, pattern):
        if 2 * (step.units + pattern.first - 1) <= pattern.group:
            assert is_2_4(step.keep.view(one.weight.shape).numpy())


@FEW
@given(channels=st.integers(1, 20), pattern=PATTERNS, seed=SEEDS)
def test_refit_is_least_squares_on_what_is_kept(channels: int, pattern: Pattern, seed: int) -> None:
    given_ = layer(channels, seed)
    one = problem_of(*given_)
    keep = all_steps(one, pattern)[-1].keep
    expected = by_least_squares(*given_, keep)
    torch.testing.assert_close(one.refit(keep), expected, rtol=1e-8, atol=1e-9)


@FEW
@given(channels=st.integers(1, 20), seed=SEEDS, share=st.floats(0, 1))
def test_refit_of_filters_that_keep_different_numbers(
    channels: int, seed: int, share: float
) -> None:
    given_ = layer(channels, seed)
    keep = torch.rand(3, 2 * channels, generator=torch.Generator().manual_seed(seed)) < share
    expected = by_least_squares(*given_, keep)
    torch.testing.assert_close(problem_of(*given_).refit(keep), expected, rtol=1e-8, atol=1e-9)


def test_refit_of_everything_is_the_dense_solution() -> None:
    one = problem(10)
    torch.testing.assert_close(one.refit(torch.ones(3, 20, dtype=torch.bool)), one.solve())


def test_dense_weights_that_give_the_outputs_are_the_solution() -> None:
    weight, inputs, _ = layer(10)
    solved = problem_of(weight, inputs, inputs @ weight.flatten(1).T).solve()
    torch.testing.assert_close(solved, weight.flatten(1))


@FEW
@given(channels=st.integers(1, 40), pattern=PATTERNS, seed=SEEDS)
def test_weights_of_every_step_are_the_exact_ones(
    channels: int, pattern: Pattern, seed: int
) -> None:
    one = problem(channels, seed)
    for step in all_steps(one, pattern):
        exact = one.refit(step.keep)
        torch.testing.assert_close(step.weight.double(), exact, rtol=1e-3, atol=1e-3)


def test_error_is_the_squared_miss_beyond_the_best() -> None:
    weight, inputs, outputs = layer(6)
    one = problem_of(weight, inputs, outputs)
    damping = DAMPING * float((inputs * inputs).sum(0).mean())

    def miss(tried: Tensor) -> Tensor:
        drawn = damping * (tried - weight.flatten(1)).square().sum(1)
        return (inputs @ tried.T - outputs).square().sum(0) + drawn

    tried = torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(one.error(tried), miss(tried) - miss(one.solve()))


@given(seed=SEEDS)
def test_first_weight_removed_is_the_cheapest_of_all(seed: int) -> None:
    one = problem(4, seed, taps=1, filters=1)
    step = next(remove_units(one, N4))
    single = ~torch.eye(4, dtype=torch.bool)
    costs = torch.cat([one.error(one.refit(keep[None])) for keep in single])
    assert torch.equal(step.keep[0], single[costs.argmin()])


@given(seed=SEEDS)
def test_second_weight_removed_is_the_cheapest_of_those_left(seed: int) -> None:
    one = problem(4, seed, taps=1, filters=1)
    first, second, *_ = all_steps(one, N4)
    tried = [first.keep[0] & ~row for row in torch.eye(4, dtype=torch.bool)[first.keep[0]]]
    costs = torch.cat([one.error(one.refit(keep[None])) for keep in tried])
    assert torch.equal(second.keep[0], tried[int(costs.argmin())])


def test_loses_less_than_magnitude_with_the_same_correction() -> None:
    ratios = []
    for seed in range(8):
        one = problem(32, seed)
        units = rank_units(one.weight, N16).flatten(1)
        for step in all_steps(one, N16, least=4)[3::4]:
            magnitude = one.error(one.refit(units < step.units)).sum()
            ratios.append(float(one.error(one.refit(step.keep)).sum() / magnitude))
    assert np.mean(ratios) < 0.96
    assert max(ratios) < 1.1


@pytest.mark.parametrize("pattern", ["2:4", "n:16"])
def test_filters_in_several_chunks_give_the_same(pattern: str) -> None:
    one, parsed = problem(20, filters=5), Pattern.parse(pattern)
    inverse = 4 * one.hessian.numel()
    whole = all_steps(one, parsed)
    for step, same in zip(all_steps(one, parsed, memory=2 * inverse), whole, strict=True):
        assert step.units == same.units
        assert torch.equal(step.keep, same.keep)
        torch.testing.assert_close(step.weight, same.weight)


@given(count=st.integers(1, 50), size=st.integers(0, 20), memory=st.integers(1, 100))
def test_chunks_cover_all_rows_within_the_memory(count: int, size: int, memory: int) -> None:
    found = list(chunks(count, size, memory))
    assert [row for part in found for row in range(count)[part]] == list(range(count))
    assert all((p.stop - p.start) * size <= memory or p.stop - p.start == 1 for p in found)


@given(pattern=PATTERNS)
def test_inputs_that_are_all_zero_leave_the_dense_weights(pattern: Pattern) -> None:
    weight, inputs, outputs = layer(10)
    one = problem_of(weight, 0 * inputs, 0 * outputs)
    for step in all_steps(one, pattern):
        expected = weight.flatten(1) * step.keep
        torch.testing.assert_close(one.refit(step.keep), expected)
        torch.testing.assert_close(step.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_inputs_that_are_all_the_same_give_finite_weights() -> None:
    weight, inputs, outputs = layer(20)
    one = problem_of(weight, torch.ones_like(inputs), outputs)
    for step in all_steps(one, N16):
        assert step.weight.isfinite().all()
        torch.testing.assert_close(step.weight.double(), one.refit(step.keep), rtol=0.01, atol=0.01)


def test_dead_channel_is_removed_first() -> None:
    weight, inputs, outputs = layer(4, taps=1)
    inputs[:, 2] = 0
    weight[:, 2] = 0.5
    step = next(remove_units(problem_of(weight, inputs, outputs), N4))
    assert not step.keep[:, 2].any()


@FEW
@given(power=st.integers(-12, 12), seed=SEEDS)
def test_unit_of_the_inputs_changes_nothing(power: int, seed: int) -> None:
    weight, inputs, outputs = layer(12, seed)
    unit = 10.0**power
    steps = all_steps(problem_of(weight, inputs, outputs), N16)
    scaled = all_steps(problem_of(weight, inputs * unit, outputs * unit), N16)
    for step, same in zip(steps, scaled, strict=True):
        torch.testing.assert_close(step.weight, same.weight, rtol=1e-3, atol=1e-3)


def test_stops_at_the_units_asked_for() -> None:
    assert [step.units for step in all_steps(problem(8), N16, least=13)] == [15, 14, 13]


def test_given_problem_is_left_as_it_was() -> None:
    one, same = problem(8), problem(8)
    all_steps(one, N16)
    assert torch.equal(one.hessian, same.hessian)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.target, same.target)
