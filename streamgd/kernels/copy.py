"""Copying arrays inside of loops.

``out[:] = values`` would do the same. But numba first compiles what it would say of arrays of different shapes, anew in
each process that compiles such a line: a fifth of the first start on a machine.
"""

from __future__ import annotations

from numba import types

from streamgd.kernels.compile import compiled

_f8 = types.float64


@compiled(types.void(_f8[::1], _f8[::1]))
def copy(values, out):
    """Write ``values`` to the front of ``out``, which is at least as long: nothing looks."""
    for i in range(values.shape[0]):
        out[i] = values[i]
