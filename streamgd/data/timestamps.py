"""Parts of dates, times and durations as numbers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.numbers import as_float64

_UNITS_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_SECONDS_PER_DAY = 86_400.0


def parts_of(arrow_type: pa.DataType) -> tuple[str, ...]:
    """The parts that a type has; none for types that are neither date, timestamp, time nor duration."""
    if pa.types.is_timestamp(arrow_type):
        return ("epoch", "hour", "weekday", "month", "yearday")
    if pa.types.is_date(arrow_type):
        return ("epoch", "weekday", "month", "yearday")
    if pa.types.is_time(arrow_type) or pa.types.is_duration(arrow_type):
        return ("epoch",)
    return ()


def timestamp_part(array: pa.Array, part: str) -> pa.DoubleArray:
    """One part of a column of dates, timestamps, times or durations.

    Parameters
    ----------
    array : pa.Array, shape (n_rows,)
        Of a type for which :func:`parts_of` lists the part, or of the null type.
    part : str
        ``epoch``: seconds since 1970-01-01 (UTC if the column has a time zone), since midnight, or of duration;
        ``hour``: 0 to 23; ``weekday``: 0 to 6, Monday is 0; ``month``: 1 to 12; ``yearday``: 1 to 366.
        All but epoch are local to the column's time zone.

    Returns
    -------
    pa.DoubleArray, shape (n_rows,)
        Nulls stay null.

    >>> import datetime
    >>> timestamp_part(pa.array([datetime.date(2026, 1, 5)]), "weekday").to_pylist()
    [0.0]
    """
    if pa.types.is_null(array.type):
        return as_float64(array)
    if part == "epoch":
        return _seconds(array)
    if part == "hour":
        return as_float64(pc.hour(array))
    if part == "weekday":
        return as_float64(pc.day_of_week(array, count_from_zero=True, week_start=1))
    if part == "month":
        return as_float64(pc.month(array))
    if part == "yearday":
        return as_float64(pc.day_of_year(array))
    raise ValueError(f"no such part of a timestamp: {part!r}")


def microseconds_around(arrow_type: pa.DataType, minimum_ns: int, maximum_ns: int) -> tuple[Any, Any]:
    """Bounds of moments or times of day as Python has them, to the microsecond: not above and not below those given.

    Arrow would give pandas' own, or refuse where there is no pandas.

    >>> microseconds_around(pa.timestamp("ns"), -1, 1_500)
    (datetime.datetime(1969, 12, 31, 23, 59, 59, 999999), datetime.datetime(1970, 1, 1, 0, 0, 0, 2))

    Raises
    ------
    ValueError
        Python's types do not reach there.
    """
    in_microseconds = pa.timestamp("us", arrow_type.tz) if pa.types.is_timestamp(arrow_type) else pa.time64("us")
    return tuple(pa.scalar(us, in_microseconds).as_py() for us in (minimum_ns // 1_000, -(-maximum_ns // 1_000)))


def _seconds(array: pa.Array) -> pa.DoubleArray:
    # Arrow casts times of 32 bits only to int32, those of 64 bits only to int64.
    whole = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())
    if pa.types.is_date32(array.type):
        return pc.multiply(as_float64(whole), _SECONDS_PER_DAY)
    unit = "ms" if pa.types.is_date64(array.type) else array.type.unit
    return pc.divide(as_float64(whole), _UNITS_PER_SECOND[unit])
