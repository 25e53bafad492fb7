from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sls_deploy.sparsity.coupled import _ALONE, refit_together
from sls_deploy.sparsity.least_squares import Problem, Systems

MEMORY = 2**20


def case(filters: int, columns: int, seed: int) -> tuple[Problem, Tensor, Tensor]:
    """A layer of correlated inputs, what it keeps, and a metric in which few directions count."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = normal(200, columns) @ normal(columns, columns)
    weight = normal(filters, columns, 1)
    hessian = inputs.T @ inputs
    problem = Problem.of(weight, hessian, weight.flatten(1) @ hessian)
    keep = torch.rand(filters, columns, generator=generator) < 0.5
    keep[:, 0] = True
    spread = normal(filters, filters) * torch.logspace(0, -2, filters, dtype=torch.float64)
    return problem, keep, spread @ spread.T


def moved(problem: Problem, weight: Tensor, metric: Tensor) -> float:
    """How much the output moves, beyond the best dense weights, with every filter a little."""
    metric = metric / metric.diagonal().mean() + _ALONE * torch.eye(len(metric)).double()
    delta = weight - problem.solve()
    return float(((metric @ delta @ problem.hessian) * delta).sum())


@settings(max_examples=25)
@given(filters=st.integers(2, 6), columns=st.integers(4, 12), seed=st.integers(0, 99))
def test_output_moves_no_more_than_with_filters_alone(
    filters: int, columns: int, seed: int
) -> None:
    problem, keep, metric = case(filters, columns, seed)
    together, alone = refit_together(problem, keep, metric, MEMORY), problem.refit(keep)
    assert not together[~keep].any()
    assert moved(problem, together, metric) <= moved(problem, alone, metric) * (1 + 1e-9)


def test_it_is_the_exact_minimum() -> None:
    problem, keep, metric = case(3, 8, 0)
    found = refit_together(problem, keep, metric, MEMORY)
    # The same least squares over all kept weights of all filters at once.
    scaled = metric / metric.diagonal().mean() + _ALONE * torch.eye(3).double()
    places = keep.flatten().nonzero()[:, 0]
    whole = torch.kron(scaled, problem.hessian)[places][:, places]
    expected = torch.linalg.solve(whole, (scaled @ problem.target).flatten()[places])
    torch.testing.assert_close(found.flatten()[places], expected, rtol=1e-9, atol=1e-9)


def test_filters_that_are_felt_alone_are_refitted_alone() -> None:
    problem, keep, metric = case(4, 10, 1)
    found = refit_together(problem, keep, torch.diag(metric.diagonal()), MEMORY)
    torch.testing.assert_close(found, problem.refit(keep))


def test_a_layer_that_nothing_feels_is_refitted_alone() -> None:
    problem, keep, _ = case(4, 10, 2)
    found = refit_together(problem, keep, torch.zeros(4, 4, dtype=torch.float64), MEMORY)
    torch.testing.assert_close(found, problem.refit(keep))


def test_a_layer_beyond_the_memory_is_refitted_alone() -> None:
    problem, keep, metric = case(6, 12, 3)
    needed = 3 * len(keep) * Systems.size(keep)
    assert torch.equal(refit_together(problem, keep, metric, needed - 1), problem.refit(keep))
    assert not torch.equal(refit_together(problem, keep, metric, needed), problem.refit(keep))


def test_errors_of_several_filters_cancel() -> None:
    problem, keep, metric = case(6, 12, 3)
    together, alone = refit_together(problem, keep, metric, MEMORY), problem.refit(keep)
    assert moved(problem, together, metric) < moved(problem, alone, metric) / 2
