"""Newton's method on some of the chunks, before the first pass over all of them.

Far from the optimum a step needs few rows; near it, each step over all rows squares the distance. So the first steps
come from each n-th chunk, and the first pass over all rows is at the theta they end at. Where J over all rows is higher
there than at the best constant, as it may be of sorted rows, the next pass is at the best constant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamgd.data.encoding import Encoding
from streamgd.data.survey import Survey
from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.newton import Newton

#: Of so many chunks one is in the sample, and it has so many of them at least.
EVERY, FEWEST_CHUNKS = 8, 2
#: Rows a coefficient: with fewer, the optimum of the sample is as far from that of all rows as the best constant.
ROWS_PER_COEFFICIENT = 100
#: Distance to the optimum of the sample, as a part of the loss of the best constant, at which its last step is taken.
ENOUGH = 1e-4
MOST_PASSES = 12


def sample_is_worth_it(survey: Survey, encoding: Encoding, n_chunks: int) -> bool:
    """Whether a sample tells where the optimum is about, by the data alone.

    A level may be missing in it, or be of one class there: with categorical columns all rows are asked from the start.
    """
    enough = survey.train_rows >= EVERY * ROWS_PER_COEFFICIENT * encoding.n_coefficients
    return enough and n_chunks >= EVERY * FEWEST_CHUNKS and not (encoding.categorical or encoding.sparse)


def optimum_of_sample(
    evaluate: Callable[[np.ndarray], Evaluation], base: np.ndarray, base_value: float, penalty: ElasticNet
) -> np.ndarray:
    """Where Newton's method comes to on the sample from ``base`` on, float64, ``(n_dof, n_outputs)``.

    Parameters
    ----------
    evaluate : callable
        J over the sample, with the Hessian.
    base : float64, (n_dof, n_outputs)
        The best constant, where J over all rows is ``base_value``.
    """
    newton = Newton()
    state = newton.init(base, 1.0, base)
    for _ in range(MOST_PASSES):
        state = newton.update(state, evaluate(state["trial"]), penalty)
        if state["value"] is None:
            return base
        if state["excess"] <= ENOUGH * base_value:
            return np.asarray(state["trial"])
    return np.asarray(state["theta"])
