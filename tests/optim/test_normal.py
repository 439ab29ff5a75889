"""The normal equations: the least squares of numpy and the ridge of scikit-learn, by one evaluation."""

import numpy as np
import pytest
from problems import Problem, passes
from sklearn.linear_model import Ridge

from streamgd.objective.penalties import ElasticNet
from streamgd.optim.normal import NormalEquations


def test_one_pass_gives_the_least_squares_of_numpy() -> None:
    problem = Problem.drawn(0, logistic=False, spread=3.0)
    (state,) = passes(NormalEquations(), problem, ElasticNet(), 1)

    expected = np.linalg.lstsq(problem.X, problem.y, rcond=None)[0]
    np.testing.assert_allclose(state["theta"][:, 0], expected, rtol=1e-10)


def test_one_pass_gives_the_ridge_of_scikit_learn_and_the_values_there() -> None:
    problem, penalty = Problem.drawn(1, logistic=False), ElasticNet(l2=0.7)
    (state,) = passes(NormalEquations(), problem, penalty, 1)

    oracle = Ridge(alpha=0.7 * 300, solver="svd").fit(problem.X[:, :-1], problem.y)
    np.testing.assert_allclose(state["theta"][:, 0], [*oracle.coef_, oracle.intercept_], rtol=1e-10)
    there = problem.evaluate(state["theta"], penalty)
    assert state["value"] == pytest.approx(there.value, rel=1e-12)
    assert state["mean_loss"] == pytest.approx(there.mean_loss, rel=1e-12)
    assert np.abs(there.gradient).max() < 1e-13
    assert state["residual"] < 1e-13
    assert 0.0 <= state["excess"] < 1e-20


def test_equal_columns_share() -> None:
    whole = Problem.drawn(2, logistic=False)
    problem = Problem(np.column_stack([whole.X[:, :1], whole.X]), whole.y, logistic=False)
    (state,) = passes(NormalEquations(), problem, ElasticNet(), 1)

    expected = np.linalg.lstsq(whole.X, whole.y, rcond=None)[0]
    theta = state["theta"][:, 0]
    np.testing.assert_allclose(theta[:2], expected[0] / 2, rtol=1e-8)
    np.testing.assert_allclose(theta[2:], expected[1:], rtol=1e-8)
