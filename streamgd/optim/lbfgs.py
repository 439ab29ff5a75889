"""L-BFGS: curvature from the last few steps, for more columns than a Hessian is made for."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.line_search import falls_enough, is_rounding, shorter
from streamgd.optim.newton import is_finite

MEMORY = 10
#: A pair of changes whose cosine is below this tells of rounding, not of curvature.
SMALLEST_COSINE = 1e-10
#: Where J no longer tells steps apart, so many in a row may pass without a smaller gradient.
PATIENCE = 5


class LBFGS:
    """``theta := theta - alpha * B grad J``, B from the last ten changes of theta and gradient.

    Nocedal, Wright (2006), algorithms 7.4 and 7.5. The first B is diagonal, the inverse of the mean square of each
    column, in the coordinates of which rare levels learn as fast as others. J is convex, so a step that makes it fall
    enough has positive curvature, and no second condition of Wolfe costs a pass.

    ``steps`` and ``changes`` (n_pairs, theta.size) are the history, oldest first; ``excess`` is ``1/2 gradient' B
    gradient``, an estimate that is as good as B. ``least`` is the smallest residual so far, ``stalled`` the
    passes since.
    """

    name = "lbfgs"
    evaluates_result = True
    needs_hessian = False

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:  # noqa: ARG002
        nothing = np.zeros((0, theta.size))
        return {
            "trial": theta.copy(), "theta": theta.copy(), "alpha": 1.0, "value": None, "residual": None,
            "excess": None, "slope": 0.0, "gradient": np.zeros_like(theta), "direction": np.zeros_like(theta),
            "squares": np.maximum(column_squares, 1e-12) + np.zeros_like(theta), "steps": nothing, "changes": nothing,
            "least": np.inf, "stalled": 0.0,
        }  # fmt: skip

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:  # noqa: ARG002
        value, alpha, slope = state["value"], state["alpha"], state["slope"]
        first = value is None
        if not is_finite(evaluation) or (not first and not falls_enough(value, evaluation.value, alpha, slope)):
            if first:
                return state
            alpha = shorter(value, evaluation.value, alpha, slope)
            return {**state, "alpha": alpha, "trial": state["theta"] + alpha * state["direction"]}
        theta, gradient = state["trial"], evaluation.gradient
        residual = float(np.abs(gradient).max())
        stalled = state["stalled"] + 1.0 if residual >= state["least"] else 0.0
        if not first and is_rounding(value, slope) and stalled >= PATIENCE:
            return {**state, "trial": state["theta"]}
        steps, changes = state["steps"], state["changes"]
        if not first:
            steps, changes = _remember(steps, changes, theta - state["theta"], gradient - state["gradient"])
        direction = -inverse_product(gradient.ravel(), steps, changes, state["squares"].ravel()).reshape(theta.shape)
        slope = float((gradient * direction).sum())
        return {
            "trial": theta + direction, "theta": theta, "alpha": 1.0, "value": evaluation.value,
            "residual": residual, "excess": -0.5 * slope if len(steps) else None, "slope": slope,
            "gradient": gradient, "direction": direction, "squares": state["squares"],
            "steps": steps, "changes": changes, "least": min(residual, state["least"]), "stalled": stalled,
        }  # fmt: skip


def _remember(
    steps: np.ndarray, changes: np.ndarray, step: np.ndarray, change: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    step, change = step.ravel(), change.ravel()
    if step @ change <= SMALLEST_COSINE * np.sqrt((step @ step) * (change @ change)):
        return steps, changes
    return np.vstack([steps, step])[-MEMORY:], np.vstack([changes, change])[-MEMORY:]


def inverse_product(vector: np.ndarray, steps: np.ndarray, changes: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """``B @ vector``, ``(n_dof,)``, by the two-loop recursion (Nocedal, Wright, algorithm 7.4).

    Before the first pair B is diagonal with ``1 / squares``; then times ``s . y / (y . y / squares)`` of the last one.

    >>> inverse_product(np.array([2.0]), np.array([[1.0]]), np.array([[4.0]]), np.array([1.0]))
    array([0.5])
    """
    pairs = [(step, change, 1.0 / float(step @ change)) for step, change in zip(steps, changes, strict=True)]
    product, weights = vector.copy(), []
    for step, change, inverse in reversed(pairs):
        weights.append(inverse * float(step @ product))
        product -= weights[-1] * change
    product = product / squares
    if pairs:
        step, change, _ = pairs[-1]
        product *= float(step @ change) / float(change @ (change / squares))
    for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        product += (weight - inverse * float(change @ product)) * step
    return np.asarray(product)
