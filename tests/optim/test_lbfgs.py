"""L-BFGS: its recursion against the matrix it stands for, its optimum against scikit-learn, its passes counted."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, passes
from sklearn.linear_model import LogisticRegression

from streamgd.objective.penalties import ElasticNet
from streamgd.optim.lbfgs import LBFGS, MEMORY, inverse_product
from streamgd.optim.newton import Newton


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), pairs=st.integers(0, MEMORY))
def test_the_recursion_is_the_product_with_the_matrix_of_bfgs(seed: int, pairs: int) -> None:
    """Nocedal, Wright, eq. 6.17: the inverse Hessian updated pair by pair, from the diagonal one of the last pair."""
    rng = np.random.default_rng(seed)
    curvature = np.diag(rng.uniform(0.5, 2.0, 6))
    steps = rng.normal(size=(pairs, 6))
    changes, squares, vector = steps @ curvature, rng.uniform(0.1, 2.0, 6), rng.normal(size=6)
    gamma = 1.0
    if pairs:
        gamma = steps[-1] @ changes[-1] / (changes[-1] @ (changes[-1] / squares))
    inverse = gamma * np.diag(1.0 / squares)
    for s, y in zip(steps, changes, strict=True):
        left = np.eye(6) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)

    np.testing.assert_allclose(inverse_product(vector, steps, changes, squares), inverse @ vector, rtol=1e-8, atol=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 3.0]))
def test_the_optimum_of_scikit_learn_with_few_trials_refused(seed: int, spread: float) -> None:
    problem, penalty = Problem.drawn(seed, spread=spread), ElasticNet(l2=1e-3)
    small = 1e-9 * 10.0**spread
    states = passes(LBFGS(), problem, penalty, 400, lambda state: state["residual"] < small)

    assert states[-1]["residual"] < small
    oracle = LogisticRegression(C=1.0 / (1e-3 * 300), solver="newton-cholesky", tol=1e-14, max_iter=500)
    oracle.fit(problem.X[:, :-1], problem.y)
    expected = np.array([*oracle.coef_[0], oracle.intercept_[0]])
    # A gradient of that size leaves coefficients of small columns undecided, and with them no prediction.
    raw, by_oracle = problem.X @ states[-1]["theta"][:, 0], problem.X @ expected
    np.testing.assert_allclose(raw, by_oracle, rtol=0, atol=3e-6 * np.abs(by_oracle).max())
    assert (np.diff([state["value"] for state in states]) <= 1e-13).all()
    refused = sum(after["theta"] is before["theta"] for before, after in pairwise(states))
    assert refused <= 3 + len(states) // 5


def test_scales_of_columns_that_differ_cost_no_passes() -> None:
    """The diagonal start takes them out: what rare levels need."""
    needed = {}
    for spread in (0.0, 4.0):
        problem = Problem.drawn(8, spread=spread)
        states = passes(LBFGS(), problem, ElasticNet(), 300, lambda s: s["excess"] is not None and s["excess"] < 1e-12)
        needed[spread] = len(states)

    assert needed[4.0] <= needed[0.0] + 3


def test_the_state_keeps_the_last_pairs_alone() -> None:
    states = passes(LBFGS(), Problem.drawn(4, columns=25), ElasticNet(l2=1e-4), 30)

    assert states[0]["steps"].shape == (0, 26)
    assert states[-1]["steps"].shape == states[-1]["changes"].shape == (MEMORY, 26)


def test_its_estimate_of_the_distance_is_of_the_right_size() -> None:
    problem, penalty = Problem.drawn(6), ElasticNet(l2=1e-2)
    states = passes(LBFGS(), problem, penalty, 200, lambda state: state["residual"] < 1e-11)
    least = states[-1]["value"]
    near = [state for state in states if 1e-12 < state["value"] - least < 1e-5]
    ratios = [state["excess"] / (state["value"] - least) for state in near]

    assert len(near) >= 4
    assert min(ratios) > 0.02
    assert max(ratios) < 10.0


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    logistic=st.booleans(),
    bounded=st.sets(st.integers(0, 11), min_size=1),
    spread=st.sampled_from([0.0, 3.0]),
)
def test_within_bounds_the_optimum_is_that_of_newton(
    seed: int, logistic: bool, bounded: set[int], spread: float
) -> None:
    problem = Problem.drawn(seed, columns=12, logistic=logistic, spread=spread)
    penalty = ElasticNet(l2=1e-3, non_negative=tuple(sorted(bounded)))
    small = 1e-7 * 10.0**spread  # of a squared loss rounding of J leaves some 1e-9
    exact = passes(Newton(), problem, penalty, 60, lambda state: state["residual"] < small)[-1]
    states = passes(LBFGS(), problem, penalty, 400, lambda state: state["residual"] < small)

    assert states[-1]["residual"] < small
    assert all((state["trial"][list(bounded)] >= 0.0).all() for state in states)
    assert states[-1]["value"] - exact["value"] < 1e-8 * exact["value"]
    assert ((states[-1]["theta"] == 0.0) == (exact["theta"] == 0.0)).all()
    refused = sum(after["theta"] is before["theta"] for before, after in pairwise(states))
    assert refused <= 5 + len(states) // 3


@pytest.mark.slow
def test_many_bounds_cost_few_passes() -> None:
    problem = Problem.drawn(3, rows=2_000, columns=100, logistic=False)
    free, held = ElasticNet(l2=1e-3), ElasticNet(l2=1e-3, non_negative=tuple(range(100)))
    needed = [len(passes(LBFGS(), problem, each, 400, lambda s: s["residual"] < 1e-8)) for each in (free, held)]
    assert needed[1] <= 2 * needed[0]
