"""Options that say something of each of several columns, such as ``--clip BonusMalus=50:150,DrivAge=:90``.

Text of the command line and values of TOML and Python become the same plain dictionaries. Items are separated by
commas; one with ``=`` begins a new column, so that ``DrivAge=18,25,40,VehAge=1,5`` is two columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from itertools import pairwise
from typing import Any

#: A spline of fewer columns could not be a cubic; of more, its columns tell apart what no data do.
FEWEST_DEGREES, MOST_DEGREES = 3, 100
#: More bins than this are no longer levels to tell apart; a number is better.
MOST_EDGES = 65_535
#: An index is below this, unless fewer columns are declared.
MOST_INDICES = 2**24


def parse_clips(value: Any) -> Any:
    """Lower and upper bound of each column, None for one that is left out.

    >>> parse_clips("BonusMalus=50:150,DrivAge=:90")
    {'BonusMalus': (50.0, 150.0), 'DrivAge': (None, 90.0)}
    """
    return _by_column(value, _bounds, "COL=LOW:HIGH")


def parse_bins(value: Any) -> Any:
    """Edges between the bins of each column, ascending.

    >>> parse_bins("DrivAge=18,25,VehAge=1")
    {'DrivAge': [18.0, 25.0], 'VehAge': [1.0]}
    """
    return _by_column(value, _edges, "COL=18,25,40")


def parse_splines(value: Any) -> Any:
    """How many columns the spline of each column has.

    >>> parse_splines("X=5,Y=4")
    {'X': 5, 'Y': 4}
    """
    return _by_column(value, _degrees, "COL=5")


def parse_index_columns(value: Any) -> Any:
    """How many columns the indices of each column name.

    >>> parse_index_columns("tags=1048576")
    {'tags': 1048576}
    """
    return _by_column(value, _index_columns, "COL=N")


def parse_crosses(value: Any) -> Any:
    """The columns of each cross, joined by ``:``.

    >>> parse_crosses("carrier:origin, month:dest")
    ['carrier:origin', 'month:dest']
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return value
    found = [":".join(part.strip() for part in str(name).split(":")) for name in names if str(name).strip()]
    for cross in found:
        parts = cross.split(":")
        if len(parts) < 2 or "" in parts or len(set(parts)) < len(parts):
            raise ValueError(f"expected different columns joined by ':', such as carrier:origin, found {cross!r}")
    sets = [frozenset(cross.split(":")) for cross in found]
    for place, cross in enumerate(found):
        if sets[place] in sets[:place]:
            raise ValueError(f"{cross!r} crosses the same columns as one before it")
    return found


def shown(value: Mapping[str, Any], between: str) -> str:
    """Such an option as it is written on the command line, with ``between`` between the numbers of a column.

    >>> shown({"DrivAge": [None, 90.0]}, ":"), shown({"DrivAge": [18.0, 25.0, 40.0]}, ",")
    ('DrivAge=:90', 'DrivAge=18,25,40')
    """
    return ",".join(f"{name}={_shown_numbers(numbers, between)}" for name, numbers in value.items())


def _shown_numbers(numbers: Any, between: str) -> str:
    if not isinstance(numbers, list):
        return str(numbers)
    return between.join("" if number is None else f"{number:.15g}" for number in numbers)


def _by_column(value: Any, read: Callable[[str, Any], Any], expected: str) -> Any:
    """What ``read`` makes of the items of each column."""
    if value is None:
        return None
    items = _text_items(value, expected) if isinstance(value, str) else value
    if not isinstance(items, Mapping):
        raise ValueError(f"expected {expected}, found {value!r}")
    return {str(name): read(str(name), given) for name, given in items.items()}


def _text_items(text: str, expected: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, is_new, first = item.rpartition("=")
        if is_new:
            name = name.strip()
            if not name or name in found:
                raise ValueError(f"expected {expected} once for each column, found {text!r}")
            found[name] = first.strip()
        elif found:
            found[list(found)[-1]] += f",{item}"
        else:
            raise ValueError(f"expected {expected}, found {text!r}")
    return found


def _bounds(name: str, given: Any) -> tuple[float | None, float | None]:
    parts = [part.strip() or None for part in given.split(":")] if isinstance(given, str) else _sequence(given)
    if parts is None or len(parts) != 2:
        raise ValueError(f"expected {name}=LOW:HIGH, either of them left out or a number, found {given!r}")
    low, high = (None if part is None else _number(name, part) for part in parts)
    if low is None and high is None:
        raise ValueError(f"expected a lower bound, an upper one or both for '{name}', found neither")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"expected a lower bound of '{name}' below the upper one, found {low:g} and {high:g}")
    return low, high


def _edges(name: str, given: Any) -> list[float]:
    parts = given.split(",") if isinstance(given, str) else _sequence(given)
    if parts is None:
        raise ValueError(f"expected edges between the bins of '{name}', found {given!r}")
    edges = [_number(name, part) for part in parts]
    if len(edges) > MOST_EDGES:
        raise ValueError(f"expected up to {MOST_EDGES:,} edges between the bins of '{name}', found {len(edges):,}")
    if not edges or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"expected edges of '{name}' in ascending order, found {given!r}")
    return edges


def _sequence(given: Any) -> list[Any] | None:
    """The items of anything that has them in an order, such as an array; None of what has not."""
    if isinstance(given, Set | Mapping):
        return None
    try:
        return list(given)
    except TypeError:
        return None


def _degrees(name: str, given: Any) -> int:
    number = _number(name, given)
    if number != int(number) or not FEWEST_DEGREES <= number <= MOST_DEGREES:
        raise ValueError(
            f"expected {FEWEST_DEGREES} to {MOST_DEGREES} columns for the spline of '{name}', found {given!r}"
        )
    return int(number)


def _index_columns(name: str, given: Any) -> int:
    number = _number(name, given)
    if number != int(number) or not 1 <= number <= MOST_INDICES:
        raise ValueError(f"expected 1 to {MOST_INDICES:,} columns for the indices of '{name}', found {given!r}")
    return int(number)


def _number(name: str, given: Any) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number for '{name}', found {given!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number for '{name}', found {given!r}")
    return number
