"""Provisional shift and scale of a number column, from a sample.

Rows are written into blocks as float32 before the exact moments are known. Shifting by a value of the column's own and
dividing by a scale of its own size first keeps their precision, whatever the unit; the exact moments follow later.

The scale is a power of two, so that it changes no bit of what is computed later, whatever sample it was taken from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shift_and_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """A central value of the sample, and the power of two next above the root mean square deviation about it.

    Parameters
    ----------
    values : float64 array, shape (n_rows,)
        Sampled values in original units; NaN (null) and ±inf are passed over.

    Returns
    -------
    shift : float
        The (upper) median: a value that occurs, so that a column that is nearly constant becomes exact zeros.
        It is at most one standard deviation away from the mean.
    scale : float
        Finite and above zero, and so is its inverse; 1.0 where all values are equal or none is left.

    >>> shift_and_scale(np.array([1e300, -1e300, 0.0]))[0]
    0.0
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    shift = float(np.partition(finite, len(finite) // 2)[len(finite) // 2])
    # A quarter of each, because a difference of two doubles may overflow; the largest deviation is divided out,
    # because squares may.
    deviations = np.abs(finite / 4 - shift / 4)
    largest = float(deviations.max())
    if largest == 0.0:
        return shift, 1.0
    root_mean_square = float(np.sqrt(np.mean((deviations / largest) ** 2)))
    limits = np.finfo(np.float64)
    deviation = float(np.clip(4.0 * min(largest * root_mean_square, limits.max / 4), limits.tiny, limits.max / 8))
    return shift, power_of_two(deviation)


def power_of_two(value: float) -> float:
    """The least power of two that is not below a positive value.

    >>> power_of_two(5.0), power_of_two(0.25)
    (8.0, 0.25)
    """
    fraction, exponent = np.frexp(value)
    return float(np.ldexp(1.0, exponent - (fraction == 0.5)))
