"""The quadratic model: its minimum against numpy and scikit-learn, and what becomes of singular matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem
from scipy.optimize import lsq_linear
from sklearn.linear_model import ElasticNet as SklearnElasticNet

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.quadratic import dependent_columns, newton_step, solve


def a_matrix(seed: int, n: int = 7, spread: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(4 * n, n)) * 10.0 ** rng.uniform(-spread, spread, n)
    return np.asarray(columns.T @ columns)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 3.0, 8.0]))
def test_a_regular_system_is_solved_whatever_the_scale_of_its_columns(seed: int, spread: float) -> None:
    matrix = a_matrix(seed, spread=spread)
    wanted = np.random.default_rng(seed + 1).normal(size=7) / np.sqrt(np.diag(matrix))

    found = solve(matrix, matrix @ wanted)

    np.testing.assert_allclose(found * np.sqrt(np.diag(matrix)), wanted * np.sqrt(np.diag(matrix)), atol=1e-9)


def test_equal_columns_share_and_columns_of_zeros_get_nothing() -> None:
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[:, 2], X[:, 3] = X[:, 0], 0.0
    wanted = np.array([2.0, -1.0, 0.0, 0.0])

    found = solve(X.T @ X, X.T @ X @ wanted)

    np.testing.assert_allclose(found, [1.0, -1.0, 1.0, 0.0], atol=1e-10)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_step_solves_the_penalised_system_and_its_fall_is_half_the_squared_decrement(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, gradient, theta = a_matrix(seed), rng.normal(size=(7, 1)), rng.normal(size=(7, 1))
    penalised = matrix + np.diag([0.3] * 6 + [0.0])

    step = newton_step(theta, Evaluation(0.0, 0.0, gradient, matrix), ElasticNet(l2=0.3))

    expected = -np.linalg.solve(penalised, gradient)
    np.testing.assert_allclose(step.direction, expected, rtol=1e-8, atol=1e-10)
    decrement = float((gradient.T @ -expected)[0, 0])
    assert step.slope == pytest.approx(-decrement, rel=1e-8)
    assert step.decrease == pytest.approx(0.5 * decrement, rel=1e-8)


@pytest.mark.parametrize("start", ["zero", "anywhere"])
@pytest.mark.parametrize("l1", [0.01, 0.2])
def test_with_l1_the_step_leads_to_the_elastic_net_of_scikit_learn(l1: float, start: str) -> None:
    """The squared loss is its own model: one step from anywhere is the optimum."""
    problem, l2 = Problem.drawn(5, logistic=False, columns=12), 0.05
    theta = problem.start if start == "zero" else np.random.default_rng(1).normal(size=(13, 1))
    penalty = ElasticNet(l1=l1, l2=l2)

    step = newton_step(theta, problem.evaluate(theta, penalty), penalty)

    oracle = SklearnElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), tol=1e-14, max_iter=100_000)
    oracle.fit(problem.X[:, :-1], problem.y)
    found = (theta + step.direction)[:, 0]
    np.testing.assert_allclose(found, [*oracle.coef_, oracle.intercept_], atol=1e-8)
    assert ((found[:-1] == 0.0) == (oracle.coef_ == 0.0)).all()
    fall = problem.evaluate(theta, penalty).value - problem.evaluate(found[:, None], penalty).value
    assert step.decrease == pytest.approx(fall, rel=1e-8)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    columns=st.integers(1, 20),
    mixed=st.sampled_from([0.0, 1.0]),
    bounded=st.sets(st.integers(0, 19)),
)
def test_within_bounds_the_step_leads_to_the_least_squares_of_scipy(
    seed: int, columns: int, mixed: float, bounded: set[int]
) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, columns)) @ (np.eye(columns) + mixed * rng.normal(size=(columns, columns)))
    X, y = np.column_stack([X, np.ones(60)]), rng.normal(size=60)
    rows = tuple(sorted(row for row in bounded if row < columns))
    penalty = ElasticNet(non_negative=rows)
    problem, theta = Problem(X, y, logistic=False), penalty.allowed(rng.normal(size=(columns + 1, 1)))
    lowest = np.full(columns + 1, -np.inf)
    lowest[list(rows)] = 0.0

    step = newton_step(theta, problem.evaluate(theta, penalty), penalty)

    found = (theta + step.direction)[:, 0]
    expected = lsq_linear(X, y, (lowest, np.inf), method="bvls", tol=1e-14).x
    assert (found[list(rows)] >= 0.0).all()
    np.testing.assert_allclose(X @ found, X @ expected, atol=1e-7)
    assert step.decrease >= 0.0


def test_of_equal_columns_within_bounds_some_solution_is_found() -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.normal(size=(80, 4)), np.ones(80)])
    X[:, 1], X[:, 2] = X[:, 0], -X[:, 0]
    problem, penalty = Problem(X, X[:, 3] - X[:, 0], logistic=False), ElasticNet(non_negative=(0, 1, 2))

    step = newton_step(problem.start, problem.evaluate(problem.start, penalty), penalty)

    assert np.abs(X @ step.direction[:, 0] - problem.y).max() < 1e-9
    assert (step.direction[:3] >= 0.0).all()


def test_no_column_of_a_regular_matrix_is_dependent() -> None:
    assert dependent_columns(a_matrix(3, spread=8.0)) == {}


def test_dependent_columns_are_named_with_what_they_are_made_of() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(200, 8))
    X[:, 2] = 3.0 * X[:, 0]
    X[:, 4] = 0.5 * X[:, 1] - 2.0 * X[:, 3]
    X[:, 5] = 0.0
    X[:, 6] = X[:, 7] = 1.0

    assert dependent_columns(X.T @ X) == {2: [0], 4: [1, 3], 5: [], 6: [7]}


def test_the_float32_copy_of_a_column_is_dependent_but_a_close_one_is_not() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(1000, 3))
    X[:, 1] = X[:, 0].astype(np.float32)
    assert dependent_columns(X.T @ X) == {1: [0]}

    X[:, 1] = X[:, 0] + 1e-4 * rng.normal(size=1000)
    assert dependent_columns(X.T @ X) == {}
