"""Piecewise cubic polynomials of many values."""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled

_f8 = types.float64
# Arrow's buffers may be read only, and so are tables that are kept.
_NUMBERS, _TABLE = types.Array(_f8, 1, "C", readonly=True), types.Array(_f8, 2, "C", readonly=True)


@compiled(types.void(_NUMBERS, _NUMBERS, _TABLE, _f8[::1]))
def piecewise_cubic(values, knots, pieces, out):
    """Write ``c0 + c1 t + c2 t^2 + c3 t^3``, ``t = (x - origin) / width``, by the piece that each value falls into.

    Parameters
    ----------
    values, out : float64, (n_rows,)
        NaN stays NaN.
    knots : float64, (n_knots,)
        Ascending. Piece k begins at knot k - 1; piece 0 lies before the first one.
    pieces : float64, (n_knots + 1, 6)
        Origin, width and c0 to c3 of each.
    """
    for i in range(values.shape[0]):
        x, piece = values[i], 0
        if x != x:
            out[i] = np.nan
            continue
        while piece < knots.shape[0] and x >= knots[piece]:
            piece += 1
        t = (x - pieces[piece, 0]) / pieces[piece, 1]
        out[i] = ((pieces[piece, 5] * t + pieces[piece, 4]) * t + pieces[piece, 3]) * t + pieces[piece, 2]
