"""How the learning rate changes over the steps of a run.

A schedule is a function of the step alone, so that a resumed run takes the same steps.
"""

from __future__ import annotations

import numpy as np


def learning_rates(schedule: str, alpha: float, first_step: int, steps: int, total_steps: int) -> np.ndarray:
    """Rates of ``steps`` consecutive steps, the first being number ``first_step`` (from 1); float64, ``(steps,)``.

    Parameters
    ----------
    schedule : {"constant", "inverse", "cosine"}
        constant: ``alpha``; inverse scaling: ``alpha / sqrt(1 + t / t0)`` with t0 a tenth of
        ``total_steps``; cosine: from alpha to zero over ``total_steps`` (Loshchilov, Hutter 2017, eq. 5).
    total_steps : int
        Steps of the whole run.

    >>> learning_rates("cosine", 1.0, 1, 1, 4).round(3)
    array([1.])
    """
    if schedule == "constant":
        return np.full(steps, alpha)
    step = np.arange(first_step - 1, first_step - 1 + steps, dtype=np.float64)
    total = max(1, total_steps)
    if schedule == "inverse":
        return alpha / np.sqrt(1.0 + step / max(1.0, total / 10.0))
    return alpha * 0.5 * (1.0 + np.cos(np.pi * np.minimum(step / total, 1.0)))
