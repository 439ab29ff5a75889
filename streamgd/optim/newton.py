"""Newton's method with a damped step; for the logistic loss, iteratively reweighted least squares."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.line_search import is_rounding, refused_trial
from streamgd.optim.quadratic import newton_step


class Newton:
    """``theta := theta - alpha * H^-1 grad J``, alpha = 1 unless J would not fall.

    With l1 the step is that of the proximal Newton method. A trial that is accepted gives the next direction by the
    same pass; one that is not costs a pass and shortens alpha.
    """

    name = "newton"
    evaluates_result = True
    needs_hessian = True

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": 1.0, "value": None, "residual": None,
            "excess": None, "slope": 0.0, "direction": np.zeros_like(theta),
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        value, slope = state["value"], state["slope"]
        if (refused := refused_trial(state, evaluation)) is not None:
            return refused
        step = newton_step(state["trial"], evaluation, penalty)
        if value is not None and is_rounding(value, slope) and step.decrease > 0.5 * state["excess"]:
            # Nothing but rounding is left to gain.
            return {**state, "trial": state["theta"]}
        theta = state["trial"]
        residual = float(np.abs(penalty.subgradient(theta, evaluation.gradient)).max())
        return {
            "trial": theta + step.direction, "theta": theta, "alpha": 1.0, "value": evaluation.value,
            "residual": residual, "excess": step.decrease, "slope": step.slope, "direction": step.direction,
        }  # fmt: skip
