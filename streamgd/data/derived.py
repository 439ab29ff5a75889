"""The values of features from the columns of the data: parts of moments, whether null, and transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamgd.data.columns import IS_NULL, CategoricalColumn, NumericColumn
from streamgd.data.levels import as_dictionary
from streamgd.data.numbers import as_float64, null_indicator
from streamgd.data.timestamps import timestamp_part
from streamgd.data.transforms.at_level import AtLevel
from streamgd.data.transforms.base import NumberTransform
from streamgd.data.transforms.cross import Met, Part, met_levels
from streamgd.data.transforms.labels import NumbersOf
from streamgd.data.transforms.numbers import Steps
from streamgd.errors import DataError

#: Is called with each step and the values that it is about to take.
Check = Callable[[NumberTransform, np.ndarray], None]


def doubles(array: pa.Array) -> np.ndarray:
    """A numeric array as float64, NaN where null."""
    return np.asarray(as_float64(array).to_numpy(zero_copy_only=False), dtype=np.float64)


def stepped(array: pa.Array, steps: Steps, check: Check | None = None) -> np.ndarray:
    """The values of a column of numbers after the steps, float64 ``(n_rows,)``, NaN for null."""
    values = doubles(array)
    for step in steps:
        if check is not None:
            check(step, values)
        values = step.apply(values)
    return values


class NumbersAtLevels:
    """Numbers of ``rows`` that count at levels; each number, as ``numbers`` gives it, and its levels are found once."""

    def __init__(self, rows: pa.RecordBatch, numbers: NumbersOf):
        self._rows, self._numbers_of = rows, numbers
        self._numbers: dict[tuple[str, Steps], np.ndarray] = {}
        self._levels: dict[Part, Met] = {}

    def of(self, name: str, steps: Steps, at: AtLevel) -> np.ndarray:
        """The number after the steps where it counts, float64 ``(n_rows,)``."""
        if (name, steps) not in self._numbers:
            self._numbers[name, steps] = self._numbers_of(name, steps)
        if at.part not in self._levels:
            self._levels[at.part] = met_levels(at.part, self._rows, self._numbers_of)
        return at.apply(self._numbers[name, steps], self._levels[at.part])


class NumberValues:
    """The values of features made of ``rows``, of which none is refused."""

    def __init__(self, rows: pa.RecordBatch):
        self._rows = rows
        self._at_levels = NumbersAtLevels(rows, numbers_of(rows))

    def of(self, column: NumericColumn) -> np.ndarray:
        """Of one, float64 ``(n_rows,)``, NaN for null and for what a transform cannot take."""
        if column.at is not None:
            return self._at_levels.of(column.source, column.steps, column.at)
        array = self._rows.column(column.source)
        return stepped(array if column.part is None else part_of(array, column.part), column.steps)


def part_of(array: pa.Array, part: str) -> pa.DoubleArray:
    """A part of a date or time, or whether a number is null."""
    return null_indicator(array) if part == IS_NULL else timestamp_part(array, part)


def level_codes(
    rows: pa.RecordBatch, column: CategoricalColumn, numbers: NumbersOf | None = None
) -> pa.DictionaryArray:
    """The level of each row as dictionary codes over values of the column's type.

    Parameters
    ----------
    numbers : function, optional
        Gives the numbers that levels are made of; without it, what a transform cannot take becomes null.
    """
    if column.made is None:
        return as_dictionary(rows.column(column.name), column.values)
    return column.made.labels(rows, numbers or numbers_of(rows))


def numbers_of(rows: pa.RecordBatch) -> NumbersOf:
    """The numbers of rows, of which none is refused."""
    return lambda name, steps: stepped(rows.column(name), steps)


@dataclass(frozen=True)
class UsedRows:
    """The numbers of a batch's columns, refused where a row that is used has one that cannot be.

    Parameters
    ----------
    kept : bool, (n_rows,)
        Which rows are used.
    row : function
        The name of a row, by its place in the batch, for messages.
    """

    batch: pa.RecordBatch
    kept: np.ndarray
    row: Callable[[int], str]

    def after(self, name: str, steps: Steps) -> np.ndarray:
        """As :func:`stepped`.

        Raises
        ------
        DataError
            A transform cannot take a value.
        """

        def check(step: NumberTransform, values: np.ndarray) -> None:
            outside = step.outside(values)
            if outside is not None and (outside & self.kept).any():
                place = int(np.flatnonzero(outside & self.kept)[0])
                raise DataError(
                    f"{self.row(place)}, column '{name}': found {values[place]:g}, expected {step.expected}."
                    f" {step.way_out.format(name=name)}."
                )

        return stepped(self.batch.column(name), steps, check)

    def finite(self, name: str, steps: Steps) -> np.ndarray:
        """As :meth:`after`; an infinite value is refused too."""
        values = self.after(name, steps)
        self.check_finite(values, name)
        return values

    def check_finite(self, values: np.ndarray, name: str) -> None:
        """Refuse infinite values of a column."""
        infinite = np.isinf(values) & self.kept
        if infinite.any():
            place = int(np.flatnonzero(infinite)[0])
            raise DataError(
                f"{self.row(place)}, column '{name}': found {values[place]}, expected a finite number. Mend the data,"
                f" or leave it out with --exclude or --where."
            )
