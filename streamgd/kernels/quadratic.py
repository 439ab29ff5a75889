"""Minimum of a quadratic plus l1 within bounds, one coordinate after another."""

from __future__ import annotations

import math

from numba import types

from streamgd.kernels.compile import compiled

_f8, _i8 = types.float64, types.int64


@compiled(_i8(_f8[:, ::1], _f8[::1], _f8, _i8, types.boolean[::1], _f8, _i8, _f8[::1]))
def minimise_by_coordinates(matrix, gradient, l1, n_intercepts, bounded, tolerance, max_sweeps, theta):
    """Move ``theta`` to the minimum of ``gradient' d + d' matrix d / 2 + l1 |theta_0 + d|_1``, d = theta - theta_0.

    The last coordinates, the intercepts, have no l1; those ``bounded`` stay at zero or above. Each coordinate in turn
    goes to its own minimum, until a sweep changes none by more than ``tolerance / sqrt(matrix_jj)``; returns the number
    of sweeps.
    """
    n = theta.shape[0]
    slope = gradient.copy()
    for sweep in range(max_sweeps):
        largest = 0.0
        for j in range(n):
            curvature = matrix[j, j]
            if curvature <= 0.0:
                continue
            wanted = theta[j] - slope[j] / curvature
            if j < n - n_intercepts:
                shrunk = max(abs(wanted) - l1 / curvature, 0.0)
                wanted = shrunk if wanted > 0.0 else (0.0 if bounded[j] else -shrunk)
            change = wanted - theta[j]
            if change != 0.0:
                theta[j] = wanted
                for k in range(n):
                    slope[k] += change * matrix[j, k]
                largest = max(largest, abs(change) * math.sqrt(curvature))
        if largest <= tolerance:
            return sweep + 1
    return max_sweeps
