"""The interior-point method against linear programs of scipy, and against the conditions of an optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, lsq_linear

from streamgd.optim.interior import Kinks, minimum


def a_problem(seed: int, rows: int, columns: int, curvature: float) -> Kinks:
    """One with a minimum: the straight line is held by kinks on both sides."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(rows, columns - 1)), np.ones(rows)])
    rises = rng.uniform(0.5, 2.0, rows) / rows
    kinks = X @ rng.normal(size=columns) + rng.standard_t(2.0, rows)
    return Kinks(X, kinks, rises, -rng.uniform(0.1, 0.9) * X.T @ rises, np.full(columns, curvature))


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), rows=st.integers(20, 300), columns=st.integers(1, 8))
def test_without_curvature_the_minimum_is_that_of_the_linear_program(seed: int, rows: int, columns: int) -> None:
    problem = a_problem(seed, rows, columns, 0.0)
    found = minimum(problem, np.zeros(columns))
    costs = np.concatenate([problem.linear, problem.rises])
    limits = np.hstack([problem.rows, -np.eye(rows)])
    bounds = [(None, None)] * columns + [(0, None)] * rows
    expected = linprog(costs, limits, problem.kinks, bounds=bounds, method="highs")

    value = problem.linear @ found.theta + problem.rises @ np.maximum(problem.rows @ found.theta - problem.kinks, 0.0)
    assert value == pytest.approx(expected.fun, rel=1e-10, abs=1e-11)
    assert value - found.gap <= expected.fun + 1e-11
    assert found.gap <= 1e-10


def assert_slopes_balance(seed: int, curvature: float, left: float) -> None:
    """At the minimum, slopes of the kinks it is at balance all others, but for so much of each coordinate's."""
    problem = a_problem(seed, 200, 5, curvature)
    theta = minimum(problem, np.ones(5)).theta
    away = problem.rows @ theta - problem.kinks
    at, above = np.abs(away) < 1e-6, (away > 0.0).astype(float)
    slope = problem.linear + problem.curvature * theta + problem.rows[~at].T @ (problem.rises * above)[~at]
    balance = lsq_linear((problem.rows * problem.rises[:, None])[at].T, -slope, (0.0, 1.0), tol=1e-14)
    assert np.abs(balance.fun).max() <= left
    # So much lower may the minimum be, by what is left of the slope, and since kinks are not quite where they count.
    assert balance.fun @ balance.fun / (2.0 * curvature) <= 1e-9
    assert (problem.rises * np.abs(away))[at] @ np.abs(balance.x - above[at]) <= 1e-9


@pytest.mark.parametrize("seed", [1, 2, 4, 5, 6, 8, 9, 11])
@pytest.mark.parametrize("curvature", [1e-6, 1e-3, 1.0])
def test_slopes_balance_where_no_other_kink_is_near(seed: int, curvature: float) -> None:
    assert_slopes_balance(seed, curvature, 1e-9)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), curvature=st.sampled_from([1e-6, 1e-3, 1.0]))
@example(seed=466, curvature=1.0)
@example(seed=74, curvature=1e-3)
def test_slopes_balance_nearly_where_it_is_near_a_kink_and_not_at_it(seed: int, curvature: float) -> None:
    assert_slopes_balance(seed, curvature, 1e-6)


def test_columns_that_repeat_each_other_get_equal_shares() -> None:
    problem = a_problem(3, 200, 3, 0.0)
    doubled = Kinks(
        problem.rows[:, [0, 0, 1, 2]], problem.kinks, problem.rises, problem.linear[[0, 0, 1, 2]], np.zeros(4)
    )
    expected, found = minimum(problem, np.zeros(3)).theta, minimum(doubled, np.zeros(4)).theta

    np.testing.assert_allclose(found[:2], expected[0] / 2.0, rtol=1e-7)
    np.testing.assert_allclose(found[2:], expected[1:], rtol=1e-7)
