"""Any column of numbers as float64, nulls kept, or whether they are null."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def as_float64(array: pa.Array) -> pa.DoubleArray:
    """The values of a column of numbers as float64.

    Parameters
    ----------
    array : pa.Array, shape (n_rows,)
        Integers, floats (half ones too), decimals or bools.

    Returns
    -------
    pa.DoubleArray, shape (n_rows,)
        Nulls stay null; integers beyond 2**53 are rounded, decimals are exact to about one unit in the last place.

    >>> as_float64(pa.array([True, None])).to_pylist()
    [1.0, None]
    """
    # A safe cast refuses integers beyond 2**53; rounding them is what is wanted here.
    return array.cast(pa.float64(), safe=False)


def null_indicator(array: pa.Array) -> pa.DoubleArray:
    """1 where a number is null or NaN, else 0.

    >>> null_indicator(pa.array([2.5, None, float("nan")])).to_pylist()
    [0.0, 1.0, 1.0]
    """
    return pc.is_null(array, nan_is_null=True).cast(pa.float64())
