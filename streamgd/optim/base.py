"""What a full-batch optimizer is: each pass over all rows gives the objective at one theta, and the optimizer the next.

An optimizer is a pair of pure functions, ``init(theta, …) -> state`` and ``update(state, evaluation, penalty) ->
state``. The state is plain numbers and arrays, so it can be written down between passes. All states have

    trial      theta to evaluate next
    theta      the best one accepted
    value      J there, None before the first pass
    residual   largest component of the gradient there, None before the first pass
    alpha      length of the step to the trial, as a part of what the optimizer would like
    excess     estimate of J - J* at theta, None where the optimizer has none

and whatever else the optimizer must remember.
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
    #: Whether J is known at ``state["theta"]``, or only at the theta before it; without a Hessian, the gradient too.
    evaluates_result: bool
    #: Whether ``evaluation`` must come with the Hessian of the mean loss.
    needs_hessian: bool

    def init(self, theta: np.ndarray, learning_rate: float, column_squares: np.ndarray) -> State:
        """The state before the first pass.

        Parameters
        ----------
        learning_rate : float
            Length of a gradient step that is known to be small enough, or worth a try.
        column_squares : float64, (n_dof, 1)
            Mean square of each column: up to a factor, what the curvature of J by each coefficient is.
        """
        ...

    def update(self, state: State, evaluation: Evaluation, penalty: ElasticNet) -> State:
        """The state after a pass that gave ``evaluation`` at ``state["trial"]``."""
        ...
