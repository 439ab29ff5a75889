"""How far to go along a direction in which J falls: the rule of Armijo, each trial a pass over all rows."""

from __future__ import annotations

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.optim.base import State

#: Share of the fall that the slope promises which a step must bring.
SUFFICIENT = 1e-4
#: Rounding of J relative to its size, when all rows are summed.
ROUNDING = 1e-13


def falls_enough(value: float, trial_value: float, alpha: float, slope: float) -> bool:
    """Whether J fell from ``value`` to ``trial_value`` as the slope lets expect; rounding is not held against it."""
    return trial_value <= value + SUFFICIENT * alpha * slope + ROUNDING * abs(value)


def is_rounding(value: float, slope: float) -> bool:
    """Whether what a whole step would gain is lost in the rounding of J."""
    return -slope <= ROUNDING * abs(value)


def shorter(value: float, trial_value: float, alpha: float, slope: float) -> float:
    """The next alpha after one that was too long: the minimum of the parabola through what is known of J.

    Nocedal, Wright (2006), eq. 3.57, kept between a tenth and a half of ``alpha``.
    """
    above = trial_value - value - alpha * slope
    best = -slope * alpha * alpha / (2.0 * above) if 0.0 < above < float("inf") else 0.5 * alpha
    return min(max(best, 0.1 * alpha), 0.5 * alpha)


def refused_trial(state: State, evaluation: Evaluation) -> State | None:
    """The state with a nearer trial on the same way where J did not fall enough at this one; None where it did.

    A first trial is refused where J or a derivative is no number; nothing nearer is known then.
    """
    value, alpha, slope = state["value"], state["alpha"], state["slope"]
    if value is None:
        return None if is_finite(evaluation) else state
    if is_finite(evaluation) and falls_enough(value, evaluation.value, alpha, slope):
        return None
    alpha = shorter(value, evaluation.value, alpha, slope)
    return {**state, "alpha": alpha, "trial": state["theta"] + alpha * state["direction"]}


def is_finite(evaluation: Evaluation) -> bool:
    """Whether J and all derivatives that came with it are numbers."""
    arrays = [evaluation.gradient] if evaluation.hessian is None else [evaluation.gradient, evaluation.hessian]
    return bool(np.isfinite(evaluation.value) and all(np.isfinite(array).all() for array in arrays))
