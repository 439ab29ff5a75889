"""L-BFGS: curvature from the last few steps, for more columns than a Hessian is made for."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.base import State
from streamgd.optim.line_search import is_rounding, refused_trial

MEMORY = 10
NONE = np.empty(0, np.int64)
#: A pair of changes whose cosine is below this tells of rounding, not of curvature.
SMALLEST_COSINE = 1e-10
#: Part of the fall to first order that must be left of a projected step.
ENOUGH_OF_FALL = 0.1
#: Where J no longer tells steps apart, so many in a row may pass without a smaller gradient.
PATIENCE = 5


class LBFGS:
    """``theta := theta - alpha * B grad J``, B from the last ten changes of theta and gradient.

    Nocedal, Wright (2006), algorithms 7.4 and 7.5. The first B is diagonal, the inverse of the mean square of each
    column, in the coordinates of which rare levels learn as fast as others. J is convex, so a step that makes it fall
    enough has positive curvature, and no second condition of Wolfe costs a pass.

    Within bounds the coefficients at zero whose slope holds them there stay, and the pairs tell of the others alone
    (two-metric projection: Bertsekas (1982), "Projected Newton methods for optimization problems with simple
    constraints"); the step is projected, or goes to the first bound where J would not fall along that.

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

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        if (refused := refused_trial(state, evaluation)) is not None:
            return refused
        value, slope = state["value"], state["slope"]
        first = value is None
        theta, gradient = state["trial"], evaluation.gradient
        residual = float(np.abs(penalty.subgradient(theta, gradient)).max())
        stalled = state["stalled"] + 1.0 if residual >= state["least"] else 0.0
        if not first and is_rounding(value, slope) and stalled >= PATIENCE:
            return {**state, "trial": state["theta"]}
        steps, changes = state["steps"], state["changes"]
        if not first:
            steps, changes = _remember(steps, changes, theta - state["theta"], gradient - state["gradient"])
        if penalty.non_negative:
            bounded = penalty.bounded(*theta.shape)
            direction, fall = _within_bounds(theta, gradient, bounded, steps, changes, state["squares"])
        else:
            product = inverse_product(gradient.ravel(), steps, changes, state["squares"].ravel())
            direction = -product.reshape(theta.shape)
            fall = -float((gradient * direction).sum())
        slope = float((gradient * direction).sum())
        return {
            "trial": theta + direction, "theta": theta, "alpha": 1.0, "value": evaluation.value,
            "residual": residual, "excess": 0.5 * fall if len(steps) else None, "slope": slope,
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


def _within_bounds(
    theta: np.ndarray,
    gradient: np.ndarray,
    bounded: np.ndarray,
    steps: np.ndarray,
    changes: np.ndarray,
    squares: np.ndarray,
) -> tuple[np.ndarray, float]:
    """A direction in which J falls and the coefficients ``bounded`` stay at zero or above, for a step of one or less.

    Returns it, and the fall to first order that there would be without the bounds of coefficients above zero.
    """
    here, slopes = theta.ravel(), gradient.ravel()
    at_zero = bounded & (here <= 0.0)
    held = at_zero & (slopes > 0.0)
    while True:
        product = inverse_product(slopes, steps, changes, squares.ravel(), np.flatnonzero(held))
        more = at_zero & ~held & (product > 0.0)  # the curvature takes them below zero, against their own slope
        if not more.any():
            break
        held |= more
    direction = -product
    fall = -float(slopes @ direction)
    there = here + direction
    projected = np.where(bounded, np.maximum(there, 0.0), there) - here
    if slopes @ projected <= -ENOUGH_OF_FALL * fall:
        return projected.reshape(theta.shape), fall
    crossing = bounded & (there < 0.0)
    shares = here[crossing] / -direction[crossing]
    share = float(shares.min())
    direction *= share
    direction[np.flatnonzero(crossing)[shares <= share]] = -here[crossing][shares <= share]
    return direction.reshape(theta.shape), fall


def inverse_product(
    vector: np.ndarray, steps: np.ndarray, changes: np.ndarray, squares: np.ndarray, held: np.ndarray = NONE
) -> np.ndarray:
    """``B @ vector``, ``(n_dof,)``, by the two-loop recursion (Nocedal, Wright, algorithm 7.4).

    Before the first pair B is diagonal with ``1 / squares``; then times ``s . y / (y . y / squares)`` of the last one.
    Coefficients ``held`` (int64) are left out of everything; what they would get is zero.

    >>> inverse_product(np.array([2.0]), np.array([[1.0]]), np.array([[4.0]]), np.array([1.0]))
    array([0.5])
    """

    def dot(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other) - float(one[held] @ other[held]) if len(held) else float(one @ other)

    pairs = []
    for step, change in zip(steps, changes, strict=True):
        along = dot(step, change)
        if not len(held) or along > SMALLEST_COSINE * np.sqrt(dot(step, step) * dot(change, change)):
            pairs.append((step, change, 1.0 / along))
    product, weights = vector.copy(), []
    product[held] = 0.0
    for step, change, inverse in reversed(pairs):
        weights.append(inverse * dot(step, product))
        product -= weights[-1] * change
        product[held] = 0.0
    product = product / squares
    if pairs:
        step, change, _ = pairs[-1]
        product *= dot(step, change) / dot(change, change / squares)
    for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        product += (weight - inverse * dot(change, product)) * step
        product[held] = 0.0
    return np.asarray(product)
