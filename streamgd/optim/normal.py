"""The normal equations: the optimum of the squared loss from one pass."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.quadratic import penalised_hessian, solve


class NormalEquations:
    """``theta := theta - H^-1 grad J``, which for the squared loss is the optimum itself, from any theta.

    J is a quadratic, so that J, mean loss and gradient at the result follow from those at the start, without another
    pass. The solution is refined once by what is left of the gradient.
    """

    name = "normal"
    evaluates_result = True
    needs_hessian = True

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": 1.0, "value": None, "residual": None,
            "excess": None, "mean_loss": None,
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        matrix, gradient = penalised_hessian(evaluation, penalty), evaluation.gradient[:, 0]
        direction = -solve(matrix, gradient)
        direction -= solve(matrix, gradient + matrix @ direction)
        left = gradient + matrix @ direction
        theta = state["trial"] + direction[:, None]
        value = evaluation.value + float(gradient @ direction + 0.5 * direction @ (matrix @ direction))
        return {
            "trial": theta, "theta": theta, "alpha": 1.0, "value": value, "residual": float(np.abs(left).max()),
            "excess": max(0.0, 0.5 * float(left @ solve(matrix, left))), "mean_loss": value - penalty.value(theta),
        }  # fmt: skip
