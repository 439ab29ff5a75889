"""Full-batch optimizers: each pass over all rows gives the objective at one theta, and the optimizer the next.

An optimizer is a pair of pure functions, ``init(theta) -> state`` and ``update(state, evaluation, penalty) ->
state``. The state is plain numbers and arrays, so it can be written down between passes; ``state["trial"]`` is the
theta to evaluate next, ``state["theta"]`` the best one accepted.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet

State = dict[str, Any]


class FullBatchOptimizer(Protocol):
    """What the trainer needs of a full-batch optimizer."""

    name: str
    #: Whether J is known at ``state["theta"]``, or only at the theta before it.
    evaluates_result: bool

    def init(self, theta: np.ndarray, learning_rate: float) -> State:
        """The state before the first pass."""
        ...

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        """The state after a pass that gave ``evaluation`` at ``state["trial"]``."""
        ...


def gradient_step(theta: np.ndarray, gradient: np.ndarray, alpha: float, penalty: ElasticNet) -> np.ndarray:
    """``theta - alpha * gradient``, followed by the proximal step of the l1 penalty.

    >>> theta = np.array([[4.0]])  # J = theta^2
    >>> for _ in range(3):
    ...     theta = gradient_step(theta, 2.0 * theta, 0.1, ElasticNet())
    ...     print(round(float(theta[0, 0]), 3))
    3.2
    2.56
    2.048
    """
    return penalty.proximal_step(theta - alpha * gradient, alpha)


class GradientDescent:
    """``theta := theta - alpha * grad J``, with alpha fixed: n passes are n steps, as in the textbook."""

    name = "plain"
    evaluates_result = False

    def init(self, theta: np.ndarray, learning_rate: float) -> State:
        return {"trial": theta.copy(), "theta": theta.copy(), "alpha": learning_rate, "value": None, "residual": None}

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        theta, alpha = state["trial"], state["alpha"]
        trial = gradient_step(theta, evaluation.gradient, alpha, penalty)
        residual = float(np.abs(theta - trial).max() / alpha)
        return {"trial": trial, "theta": trial, "alpha": alpha, "value": evaluation.value, "residual": residual}


class Backtracking:
    """Gradient descent that never increases J: a step that does not go down enough is halved.

    A step is accepted when ``J(trial) <= J(theta) - |theta - trial|^2 / (4 alpha)``, for l1 = 0 the rule of Armijo
    with constant 1/4; Beck, Teboulle (2009), section 3, has the proximal form. After an accepted step the next alpha
    is that of Barzilai, Borwein (1988), eq. 5: ``|s|^2 / (s . y)``, with s the change of theta and y of the gradient.
    """

    name = "backtracking"
    evaluates_result = True

    def init(self, theta: np.ndarray, learning_rate: float) -> State:
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": learning_rate, "value": None, "residual": None,
            "gradient": np.zeros_like(theta),
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        theta, gradient, value, alpha = state["theta"], state["gradient"], state["value"], state["alpha"]
        step = state["trial"] - theta
        if value is None:
            theta, gradient, value = state["trial"], evaluation.gradient, evaluation.value
        elif evaluation.value <= value - float((step * step).sum()) / (4.0 * alpha):
            curvature = float((step * (evaluation.gradient - gradient)).sum())
            theta, gradient, value = state["trial"], evaluation.gradient, evaluation.value
            ratio = float((step * step).sum()) / curvature if curvature > 0.0 else np.inf
            # Rounding alone is left of the curvature where the step was next to nothing.
            alpha = ratio if ratio < np.inf else 2.0 * alpha
        else:
            alpha = 0.5 * alpha
        trial = gradient_step(theta, gradient, alpha, penalty)
        residual = float(np.abs(theta - trial).max() / alpha)
        return {
            "trial": trial,
            "theta": theta,
            "alpha": alpha,
            "value": value,
            "residual": residual,
            "gradient": gradient,
        }


#: Every full-batch optimizer by its name on the command line.
FULL_BATCH_OPTIMIZERS: dict[str, FullBatchOptimizer] = {
    optimizer.name: optimizer for optimizer in (GradientDescent(), Backtracking())
}
