"""Newton's method on small problems: the optimum of scikit-learn, few passes, and no step that goes astray."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, passes
from sklearn.linear_model import LogisticRegression

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.newton import Newton


def converged(state: State) -> bool:
    return state["excess"] is not None and state["excess"] <= 1e-16


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 2.0]))
def test_the_optimum_of_scikit_learn_in_a_few_passes(seed: int, spread: float) -> None:
    problem, penalty = Problem.drawn(seed, spread=spread), ElasticNet(l2=1e-3)
    states = passes(Newton(), problem, penalty, 25, converged)

    oracle = LogisticRegression(C=1.0 / (1e-3 * 300), solver="newton-cholesky", tol=1e-14, max_iter=500)
    oracle.fit(problem.X[:, :-1], problem.y)
    found, expected = states[-1]["theta"][:, 0], np.array([*oracle.coef_[0], oracle.intercept_[0]])
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    values = [state["value"] for state in states]
    assert (np.diff(values) <= 1e-13).all()
    assert converged(states[-1])


@pytest.mark.parametrize("l1", [0.003, 0.05])
def test_with_l1_the_optimum_of_scikit_learn_zeros_included(l1: float) -> None:
    problem, penalty = Problem.drawn(7, columns=15), ElasticNet(l1=l1)
    states = passes(Newton(), problem, penalty, 50, converged)
    theta = states[-1]["theta"]

    assert len(states) < 15
    oracle = LogisticRegression(
        C=1.0 / (l1 * 300), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=100_000, random_state=0
    ).fit(problem.X[:, :-1], problem.y)
    np.testing.assert_allclose(theta[:, 0], [*oracle.coef_[0], oracle.intercept_[0]], atol=1e-6)
    assert ((theta[:-1, 0] == 0.0) == (oracle.coef_[0] == 0.0)).all()
    assert states[-1]["residual"] < 1e-8


def test_the_estimate_is_the_distance_to_the_optimum_once_it_is_small() -> None:
    problem, penalty = Problem.drawn(11), ElasticNet(l2=1e-2)
    states = passes(Newton(), problem, penalty, 12, converged)
    least = states[-1]["value"]

    close = [state for state in states if 1e-11 < state["value"] - least < 1e-4]
    assert close
    for state in close:
        assert state["excess"] == pytest.approx(state["value"] - least, rel=0.05)


def test_a_quadratic_takes_one_step() -> None:
    states = passes(Newton(), Problem.drawn(0, logistic=False), ElasticNet(l2=0.1), 2)

    assert states[1]["excess"] < 1e-25


def test_a_step_after_which_j_is_higher_is_shortened_and_not_taken() -> None:
    """``J = log(1 + theta^2)``: its curvature at 0.99 lets the step go far beyond the minimum."""
    optimizer, penalty = Newton(), ElasticNet()

    def evaluate(theta: np.ndarray) -> Evaluation:
        t = float(theta[0, 0])
        slope, curvature = 2 * t / (1 + t * t), 2 * (1 - t * t) / (1 + t * t) ** 2
        return Evaluation(np.log1p(t * t), 0.0, np.array([[slope]]), np.array([[max(curvature, 1e-3)]]))

    state = optimizer.update(
        optimizer.init(np.array([[0.99]]), 1.0, np.ones((1, 1))), evaluate(np.array([[0.99]])), penalty
    )
    assert state["trial"][0, 0] < -5.0
    value, rejected = state["value"], 0
    for _ in range(60):
        before = state
        state = optimizer.update(state, evaluate(state["trial"]), penalty)
        assert state["value"] <= value
        value = state["value"]
        if state["theta"] is before["theta"]:
            rejected += 1
            assert 0.1 <= state["alpha"] / before["alpha"] <= 0.5
        else:
            assert state["alpha"] == 1.0
    assert rejected > 0
    assert abs(state["theta"][0, 0]) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_accepted(bad: float) -> None:
    problem, penalty = Problem.drawn(1), ElasticNet(l2=1e-3)
    (state,) = passes(Newton(), problem, penalty, 1)
    good = problem.evaluate(state["trial"], penalty)
    for evaluation in (
        Evaluation(bad, bad, good.gradient, good.hessian),
        Evaluation(good.value, good.value, good.gradient * bad, good.hessian),
    ):
        after = Newton().update(state, evaluation, penalty)
        assert after["theta"] is state["theta"]
        assert after["alpha"] == 0.5
        assert np.isfinite(after["trial"]).all()


def test_when_nothing_but_rounding_is_left_the_trial_is_theta_itself() -> None:
    problem, penalty = Problem.drawn(2), ElasticNet(l2=1e-3)
    states = passes(Newton(), problem, penalty, 40, lambda state: (state["trial"] == state["theta"]).all())

    assert len(states) < 20
    assert states[-1]["excess"] < 1e-20


def test_separated_classes_without_a_penalty_stay_finite() -> None:
    X = np.column_stack([np.linspace(-1, 1, 40), np.ones(40)])
    problem = Problem(X, (X[:, 0] > 0).astype(float), logistic=True)
    states = passes(Newton(), problem, ElasticNet(), 60, lambda state: (state["trial"] == state["theta"]).all())

    assert np.isfinite(states[-1]["theta"]).all()
    assert states[-1]["value"] < 1e-8


def test_equal_columns_without_a_penalty_get_equal_coefficients() -> None:
    whole = Problem.drawn(3)
    problem = Problem(np.column_stack([whole.X[:, :1], whole.X]), whole.y, logistic=True)
    theta = passes(Newton(), problem, ElasticNet(), 25, converged)[-1]["theta"]

    expected = passes(Newton(), whole, ElasticNet(), 25, converged)[-1]["theta"]
    assert theta[0, 0] == pytest.approx(theta[1, 0], rel=1e-9)
    np.testing.assert_allclose([theta[0] + theta[1], *theta[2:]], expected, rtol=1e-7, atol=1e-9)
