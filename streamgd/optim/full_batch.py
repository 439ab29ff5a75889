"""Gradient descent with a fixed or a searched step, and the table of all full-batch optimizers."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.band import BandMethod
from streamgd.optim.base import FullBatchOptimizer, State
from streamgd.optim.lbfgs import LBFGS
from streamgd.optim.newton import Newton
from streamgd.optim.normal import NormalEquations


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
    needs_hessian = False

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": learning_rate, "value": None, "residual": None,
            "excess": None,
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        theta, alpha = state["trial"], state["alpha"]
        trial = gradient_step(theta, evaluation.gradient, alpha, penalty)
        residual = float(np.abs(theta - trial).max() / alpha)
        return {**state, "trial": trial, "theta": trial, "value": evaluation.value, "residual": residual}


class Backtracking:
    """Gradient descent that never increases J: a step that does not go down enough is halved.

    A step is accepted when ``J(trial) <= J(theta) - |theta - trial|^2 / (4 alpha)``, for l1 = 0 the rule of Armijo
    with constant 1/4; Beck, Teboulle (2009), section 3, has the proximal form. After an accepted step the next alpha
    is that of Barzilai, Borwein (1988), eq. 5: ``|s|^2 / (s . y)``, with s the change of theta and y of the gradient.
    """

    name = "backtracking"
    evaluates_result = True
    needs_hessian = False

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": learning_rate, "value": None, "residual": None,
            "excess": None, "gradient": np.zeros_like(theta),
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
            # Rounding alone is left of the curvature where the step was next to nothing; at the optimum there is none.
            alpha = ratio if ratio < np.inf else 2.0 * alpha if step.any() else alpha
        else:
            alpha = 0.5 * alpha
        trial = gradient_step(theta, gradient, alpha, penalty)
        residual = float(np.abs(theta - trial).max() / alpha)
        return {
            "trial": trial, "theta": theta, "alpha": alpha, "value": value, "residual": residual, "excess": None,
            "gradient": gradient,
        }  # fmt: skip


#: Every full-batch optimizer by its name on the command line.
FULL_BATCH_OPTIMIZERS: dict[str, FullBatchOptimizer] = {
    optimizer.name: optimizer
    for optimizer in (GradientDescent(), Backtracking(), LBFGS(), Newton(), NormalEquations(), BandMethod())
}
