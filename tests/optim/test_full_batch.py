"""Full-batch optimizers on objectives whose path or minimum is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import FullBatchOptimizer, State
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS, Backtracking, GradientDescent

NO_PENALTY = ElasticNet()
WITH_GRADIENTS = sorted({*FULL_BATCH_OPTIMIZERS} - {"band"})  # see test_band.py


def start(optimizer: FullBatchOptimizer, theta: np.ndarray, learning_rate: float = 1.0) -> State:
    return optimizer.init(theta, learning_rate, np.ones_like(theta))


def quadratic(theta: np.ndarray, matrix: np.ndarray, minimum: np.ndarray, penalty: ElasticNet) -> Evaluation:
    """``J = (theta - minimum)' A (theta - minimum) / 2``, with the penalty."""
    away = theta - minimum
    smooth = 0.5 * float((away.T @ matrix @ away)[0, 0])
    gradient = matrix @ away + penalty.smooth_gradient(theta)
    return Evaluation(smooth + penalty.value(theta), smooth, gradient, matrix)


def test_theta_squared_from_four_at_a_tenth() -> None:
    """``J = theta^2``, alpha = 0.1, theta_0 = 4 gives 3.2, 2.56, 2.048."""
    optimizer = GradientDescent()
    state = start(optimizer, np.array([[4.0]]), 0.1)
    path = []
    for _ in range(3):
        theta = state["trial"]
        state = optimizer.update(state, Evaluation(float(theta[0, 0]) ** 2, 0.0, 2.0 * theta), NO_PENALTY)
        path.append(float(state["trial"][0, 0]))

    np.testing.assert_allclose(path, [3.2, 2.56, 2.048], rtol=1e-15)
    # The value is that of the theta that was evaluated last.
    assert state["theta"][0, 0] == path[-1]
    assert state["value"] == pytest.approx(2.56**2, rel=1e-15)


def test_plain_descent_is_the_textbook_loop() -> None:
    rng = np.random.default_rng(3)
    X, y = np.column_stack([rng.normal(size=(50, 2)), np.ones(50)]), rng.normal(size=(50, 1))
    theta, alpha, m = np.zeros((3, 1)), 0.3, 50
    state = start(GradientDescent(), theta, alpha)
    for _ in range(20):
        gradient = X.T @ (X @ state["trial"] - y) / m
        state = GradientDescent().update(state, Evaluation(0.0, 0.0, gradient), NO_PENALTY)
        h = X @ theta
        theta = theta - alpha / m * X.T @ (h - y)

        np.testing.assert_allclose(state["trial"], theta, rtol=0, atol=1e-14)


problems = st.tuples(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]), st.floats(1e-3, 1e3))


@settings(max_examples=20)
@given(problem=problems)
def test_backtracking_never_goes_up_and_arrives(problem: tuple[int, float, float]) -> None:
    seed, l1, first_rate = problem
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    matrix, minimum = root @ root.T + 0.1 * np.eye(4), rng.normal(size=(4, 1))
    penalty, optimizer = ElasticNet(l1=l1), Backtracking()
    state = start(optimizer, np.zeros((4, 1)), first_rate)
    values = []
    for _ in range(1500):
        state = optimizer.update(state, quadratic(state["trial"], matrix, minimum, penalty), penalty)
        values.append(state["value"])
        assert state["value"] == quadratic(state["theta"], matrix, minimum, penalty).value

    assert (np.diff(values) <= 0.0).all()
    if l1 == 0.0:
        assert values[-1] < 1e-10 * max(1.0, values[0])
    else:
        # The condition of optimality: the smooth gradient lies in -l1 times the subdifferential of |beta|.
        gradient = (matrix @ (state["theta"] - minimum))[:, 0]
        beta = state["theta"][:-1, 0]
        expected = np.where(beta == 0.0, np.clip(-gradient[:-1], -l1, l1), l1 * np.sign(beta))
        np.testing.assert_allclose(-gradient[:-1], expected, atol=1e-5)
        assert abs(gradient[-1]) < 1e-5


def test_a_step_that_is_far_too_long_is_halved_and_not_taken() -> None:
    optimizer = Backtracking()
    state = start(optimizer, np.array([[4.0]]), 100.0)
    state = optimizer.update(state, Evaluation(16.0, 16.0, np.array([[8.0]])), NO_PENALTY)
    assert state["trial"][0, 0] == 4.0 - 100.0 * 8.0
    worse = float(state["trial"][0, 0])
    state = optimizer.update(state, Evaluation(worse**2, worse**2, np.array([[2 * worse]])), NO_PENALTY)

    assert (state["theta"][0, 0], state["value"], state["alpha"]) == (4.0, 16.0, 50.0)
    assert state["trial"][0, 0] == 4.0 - 50.0 * 8.0


def test_passes_at_the_optimum_leave_the_step_size_as_it_is() -> None:
    optimizer = Backtracking()
    state = start(optimizer, np.array([[4.0]]), 0.5)
    for _ in range(2_000):
        state = optimizer.update(state, Evaluation(0.0, 0.0, np.zeros((1, 1))), NO_PENALTY)

    assert (state["theta"][0, 0], state["alpha"], state["residual"]) == (4.0, 0.5, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_backtracking_does_not_accept_a_loss_that_is_not_finite(bad: float) -> None:
    optimizer = Backtracking()
    state = start(optimizer, np.array([[4.0]]), 1.0)
    state = optimizer.update(state, Evaluation(16.0, 16.0, np.array([[8.0]])), NO_PENALTY)
    state = optimizer.update(state, Evaluation(bad, bad, np.array([[np.nan]])), NO_PENALTY)

    assert (state["theta"][0, 0], state["value"]) == (4.0, 16.0)
    assert np.isfinite(state["trial"]).all()


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_an_update_is_pure(name: str) -> None:
    optimizer = FULL_BATCH_OPTIMIZERS[name]
    penalty = NO_PENALTY if name in ("lbfgs", "normal") else ElasticNet(l1=0.1)
    matrix, minimum = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0], [-1.0]])
    state = start(optimizer, np.array([[4.0], [1.0]]), 0.1)
    for _ in range(4):
        before = {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in state.items()}
        evaluation = quadratic(state["trial"], matrix, minimum, penalty)
        first, second = (optimizer.update(state, evaluation, penalty) for _ in range(2))
        for key, value in before.items():
            np.testing.assert_array_equal(state[key], value)
            np.testing.assert_array_equal(first[key], second[key])
        state = first


@pytest.mark.parametrize("name", sorted({*WITH_GRADIENTS} - {"normal"}))
def test_the_residual_is_the_largest_component_of_the_gradient_without_l1(name: str) -> None:
    optimizer = FULL_BATCH_OPTIMIZERS[name]
    state = start(optimizer, np.zeros((2, 1)), 0.25)
    state = optimizer.update(state, Evaluation(1.0, 1.0, np.array([[3.0], [-5.0]]), np.eye(2)), NO_PENALTY)

    assert state["residual"] == pytest.approx(5.0, rel=1e-14)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_the_state_is_plain_numbers_and_arrays_from_the_first_pass_on(name: str) -> None:
    """So it can be written down between any two passes; the names are those that the trainer reads."""
    optimizer = FULL_BATCH_OPTIMIZERS[name]
    state = start(optimizer, np.zeros((2, 1)), 0.25)
    for _ in range(3):
        evaluation = quadratic(state["trial"], np.eye(2), np.ones((2, 1)), NO_PENALTY)
        assert {"trial", "theta", "value", "residual", "alpha", "excess"} <= set(state)
        assert all(value is None or type(value) in (float, np.ndarray) for value in state.values())
        state = optimizer.update(state, evaluation, NO_PENALTY)
