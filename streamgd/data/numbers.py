"""Any column of numbers as float64, nulls kept."""

from __future__ import annotations

import pyarrow as pa


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
