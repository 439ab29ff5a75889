"""Values of any column as plain ones that JSON can hold; sizes and counts as text."""

from __future__ import annotations

import math
from typing import Any


def plain(value: Any) -> str | int | float | bool | None:
    """A value of a column as int, finite float, bool, text or None; dates and decimals become text.

    >>> import datetime, decimal
    >>> plain(datetime.date(2026, 1, 5)), plain(decimal.Decimal("1.50")), plain(b"ab"), plain(float("inf"))
    ('2026-01-05', '1.50', 'ab', 'inf')
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)


def plain_number(value: float) -> float | None:
    """A number as a float that JSON can hold: None where it is not finite.

    >>> plain_number(1), plain_number(float("inf"))
    (1.0, None)
    """
    return float(value) if math.isfinite(value) else None


def byte_size(size_bytes: float) -> str:
    """A size for people, in powers of ten.

    >>> byte_size(999), byte_size(1_234_567)
    ('999 B', '1.2 MB')
    """
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size_bytes >= 999.95 and unit != "TB":
        size_bytes, unit = size_bytes / 1000, next(units)
    return f"{size_bytes:,.0f} {unit}" if unit == "B" else f"{size_bytes:,.1f} {unit}"


def count_noun(number: int, noun: str) -> str:
    """A count for people.

    >>> count_noun(1, "row"), count_noun(1_234, "row"), count_noun(2, "pass")
    ('1 row', '1,234 rows', '2 passes')
    """
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"
