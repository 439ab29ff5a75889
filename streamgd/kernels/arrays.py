"""What numpy would do for whole arrays, as loops inside of loops.

``out[:] = values`` would copy, too. But numba first compiles what it would say of arrays of different shapes, anew in
each process that compiles such a line: a fifth of the first start on a machine. ``values.sum()`` would sum, too. But a
loop that comes from the cache with it takes along all of numba that knows arrays and, where SciPy is installed, its
linear algebra: a fifth of every start.
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled
from streamgd.kernels.prefetch import CACHE_LINE_BYTES

_f8 = types.float64


@compiled(types.void(_f8[::1], _f8[::1]))
def copy(values, out):
    """Write ``values`` to the front of ``out``, which is at least as long: nothing looks."""
    for i in range(values.shape[0]):
        out[i] = values[i]


@compiled(_f8(_f8[::1]))
def sum_of(values):
    """The sum of ``values``, 0 if there are none."""
    found = 0.0
    for i in range(values.shape[0]):
        found += values[i]
    return found


@compiled(_f8(_f8[::1], _f8[::1]))
def inner(left, right):
    """The inner product of two arrays; ``right`` is at least as long: nothing looks."""
    found = 0.0
    for i in range(left.shape[0]):
        found += left[i] * right[i]
    return found


@compiled()
def zeros_in_lines(n_rows, width):
    """Zeros, float64 ``(n_rows, width)``, the first of which begins a cache line.

    A vector of numbers that lies in two lines takes twice as long to read and to write.
    """
    numbers = np.zeros(n_rows * width + CACHE_LINE_BYTES // 8)
    first = -numbers.ctypes.data % CACHE_LINE_BYTES // 8
    return numbers[first : first + n_rows * width].reshape((n_rows, width))
