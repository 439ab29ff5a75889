"""exp, expit and log1p by polynomials, for a compiler to work on several numbers at once: the C library has calls.

All are as exact as float64 but for a few of the last digits.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from streamgd.kernels.compile import compiled

_f8 = types.float64

_LOG2_E = 1.4426950408889634
# ln 2 in two parts, so that n times the first is exact.
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.4286068203094172e-06
#: Below, exp is too small for a number with all its digits.
_SMALLEST = -708.0
#: Products and sums of numbers up to exp of this, squared too, are finite.
LARGEST_EXPONENT = 300.0


@intrinsic
def _number_of_bits(typing_context, bits):
    """The float64 whose bits are those of an int64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@compiled(_f8(_f8))
def _exp(x):
    """``2^n exp(r)``, exp(r) by Taylor's series up to r^12 with ``|r| <= ln(2) / 2``; for ``|x| <= 708``."""
    n = np.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    series = (1.0 + r) + r2 * (1.0 / 2.0 + r * (1.0 / 6.0))
    series += r4 * ((1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0 + r * (1.0 / 5040.0)))
    last = (1.0 / 40320.0 + r * (1.0 / 362880.0)) + r2 * (1.0 / 3628800.0 + r * (1.0 / 39916800.0))
    series += (r4 * r4) * (last + r4 * (1.0 / 479001600.0))
    return series * _number_of_bits((np.int64(n) + 1023) << 52)


@compiled(_f8(_f8))
def exp_of_negative(x):
    """``exp(x)`` for ``x <= 0``: see ``_exp``."""
    return _exp(_SMALLEST if x < _SMALLEST else x)


@compiled(_f8(_f8))
def exp_within(x):
    """``exp(x)`` for ``|x| <= LARGEST_EXPONENT``, beyond it that of the nearer end: never infinite."""
    x = LARGEST_EXPONENT if x > LARGEST_EXPONENT else x
    return _exp(-LARGEST_EXPONENT if x < -LARGEST_EXPONENT else x)


@compiled(_f8(_f8))
def expit(x):
    """``1 / (1 + exp(-x))`` without overflow."""
    power = exp_of_negative(-abs(x))
    return (1.0 if x >= 0.0 else power) / (1.0 + power)


@compiled(_f8(_f8))
def log1p_of_fraction(p):
    """``log(1 + p)`` for ``0 <= p <= 1``: ``2 artanh(s)`` with ``s = p / (2 + p) <= 1/3``, by its series."""
    s = p / (2.0 + p)
    q = s * s
    series = 1.0 / 33.0
    for power in range(31, 0, -2):
        series = series * q + 1.0 / power
    return 2.0 * s * series


#: A number is less than 1 / 32 from the one towards zero at which the series is known: what that leaves out is below
#: 1e-16.
_PER_UNIT, _LARGEST_OF_TABLE = 32, 36


def _series_of_expit() -> np.ndarray:
    """Taylor's series of expit at each whole multiple of 1 / _PER_UNIT, up to the 7th power, ``(n, 8)``.

    One coefficient after the other, by the differential equation ``s' = s - s^2``.
    """
    at = np.arange(-_LARGEST_OF_TABLE * _PER_UNIT, _LARGEST_OF_TABLE * _PER_UNIT + 1) / _PER_UNIT
    series = np.empty((len(at), 8))
    series[:, 0] = np.exp(np.minimum(at, 0.0)) / (1.0 + np.exp(-np.abs(at)))
    for power in range(7):
        square = (series[:, : power + 1] * series[:, power::-1]).sum(axis=1)
        series[:, power + 1] = (series[:, power] - square) / (power + 1)
    return series


_SERIES_OF_EXPIT = _series_of_expit()


@compiled(_f8(_f8))
def expit_soon(x):
    """:func:`expit` sooner, where one number waits for the next: no division, and few steps one after the other.

    But a compiler cannot work on several numbers at once, as each looks up its own place in the table.
    """
    if not abs(x) < _LARGEST_OF_TABLE:
        return expit(x)
    multiple = x * _PER_UNIT
    # Unsigned, as Python's negative places would have to be told from others.
    series = _SERIES_OF_EXPIT[np.uint64(np.int64(multiple) + _LARGEST_OF_TABLE * _PER_UNIT)]
    r = x - np.trunc(multiple) * (1.0 / _PER_UNIT)
    r2 = r * r
    low = (series[0] + series[1] * r) + r2 * (series[2] + series[3] * r)
    return low + (r2 * r2) * ((series[4] + series[5] * r) + r2 * (series[6] + series[7] * r))
