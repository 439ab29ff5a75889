"""The penalty: its value, its gradient, its proximal step; the intercept has no part in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from streamgd.objective.penalties import ElasticNet

THETA = np.array([[3.0], [-0.5], [0.0], [7.0]])
numbers = st.floats(-10.0, 10.0)
strengths = st.floats(0.0, 5.0)


def test_the_value_is_that_worked_by_hand() -> None:
    # l1: 2 * (3 + 0.5); l2: 4 / 2 * (9 + 0.25). The intercept, 7, does not count.
    assert ElasticNet(l1=2.0).value(THETA) == 7.0
    assert ElasticNet(l2=4.0).value(THETA) == 18.5
    assert ElasticNet(l1=2.0, l2=4.0).value(THETA) == 25.5
    assert ElasticNet().value(THETA) == 0.0


def test_the_smooth_gradient_is_that_of_finite_differences() -> None:
    penalty, h = ElasticNet(l2=0.7), 1e-6
    gradient = penalty.smooth_gradient(THETA)

    assert gradient.shape == THETA.shape
    for row in range(len(THETA)):
        step = np.zeros_like(THETA)
        step[row] = h
        slope = (penalty.value(THETA + step) - penalty.value(THETA - step)) / (2 * h)
        assert gradient[row, 0] == pytest.approx(slope, abs=1e-8)


def test_the_intercept_is_left_alone() -> None:
    penalty = ElasticNet(l1=100.0, l2=100.0)

    assert penalty.smooth_gradient(THETA)[-1, 0] == 0.0
    assert penalty.proximal_step(THETA, 10.0)[-1, 0] == 7.0


def test_theta_itself_is_not_changed() -> None:
    theta = THETA.copy()
    penalty = ElasticNet(l1=1.0, l2=1.0)
    penalty.smooth_gradient(theta)
    penalty.proximal_step(theta, 1.0)

    np.testing.assert_array_equal(theta, THETA)


@given(value=numbers, l1=strengths, rate=st.floats(1e-3, 3.0))
def test_the_proximal_step_is_the_minimum_it_claims_to_be(value: float, l1: float, rate: float) -> None:
    found = float(ElasticNet(l1=l1).proximal_step(np.array([[value], [0.0]]), rate)[0, 0])

    def claimed(b: float) -> float:
        return (b - value) ** 2 / (2 * rate) + l1 * abs(b)

    best = minimize_scalar(claimed, bounds=(-11.0, 11.0), method="bounded", options={"xatol": 1e-10})
    assert claimed(found) <= best.fun + 1e-12
    # Strongly convex: a value that near to the minimum is near to where it is reached.
    assert abs(found - best.x) <= 1e-4


def test_the_l1_step_gives_exact_zeros() -> None:
    shrunk = ElasticNet(l1=1.0).proximal_step(np.array([[0.4], [-0.4], [0.6], [5.0]]), 0.5)

    np.testing.assert_allclose(shrunk[:, 0], [0.0, 0.0, 0.1, 5.0], atol=1e-16)
    assert (shrunk[:2] == 0.0).all()


def test_l2_alone_has_no_proximal_step() -> None:
    np.testing.assert_array_equal(ElasticNet(l2=3.0).proximal_step(THETA, 0.5), THETA)


@given(value=numbers, l1=strengths, rate=st.floats(1e-3, 3.0))
def test_the_proximal_step_of_a_bounded_coefficient_is_the_minimum_above_zero(
    value: float, l1: float, rate: float
) -> None:
    penalty = ElasticNet(l1=l1, non_negative=(0,))
    found = float(penalty.proximal_step(np.array([[value], [-3.0]]), rate)[0, 0])
    # Above zero the claim is a parabola: its minimum, or the bound.
    assert found == pytest.approx(max(value - rate * l1, 0.0), abs=1e-15)
    assert found >= 0.0


@given(theta=st.floats(0.0, 3.0), gradient=numbers, l1=strengths)
def test_the_subgradient_at_a_bound_is_zero_where_j_grows_from_there_on(
    theta: float, gradient: float, l1: float
) -> None:
    penalty = ElasticNet(l1=l1, non_negative=(0,))
    found = float(penalty.subgradient(np.array([[theta], [1.0]]), np.array([[gradient], [0.5]]))[0, 0])
    grows = theta == 0.0 and gradient + l1 >= 0.0
    assert found == pytest.approx(0.0 if grows else gradient + l1)


def test_only_what_is_bounded_is_moved_to_the_bound() -> None:
    penalty = ElasticNet(non_negative=(1, 2))
    np.testing.assert_array_equal(penalty.allowed(THETA)[:, 0], [3.0, 0.0, 0.0, 7.0])
    np.testing.assert_array_equal(penalty.proximal_step(-THETA, 1.0)[:, 0], [-3.0, 0.5, 0.0, -7.0])
    assert ElasticNet().allowed(THETA) is THETA
