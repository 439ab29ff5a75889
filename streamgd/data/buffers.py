"""Where numbers of a record batch are in memory, for the kernels.

To make an array object for each column of a batch takes longer than to read all values of a small one.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from streamgd.data.columns import Columns, NumericColumn
from streamgd.data.derived import NumbersAtLevels, UsedRows, part_of, stepped
from streamgd.data.numbers import as_float64
from streamgd.kernels import arrow as kernels

#: Arrow's numbers of the types that kernels read as they are.
_KNOWN_TYPES = frozenset(pa.type_for_alias(name).id for name in kernels.KINDS)

#: One of our own: that of ``ctypes.pythonapi`` is shared with all who declare it, each with types of theirs.
_content = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class NumberBuffers:
    """Some columns of a batch that are numbers.

    Attributes
    ----------
    batch : pa.RecordBatch
        What is told of its buffers is good as long as it is there.
    places : int64, (n_columns,)
        Of the columns in the batch.
    buffers : int64, (4, n_columns)
        Addresses of values and validity, offsets and kinds: see ``kernels.arrow.column_buffers``.
    """

    batch: pa.RecordBatch
    places: np.ndarray
    buffers: np.ndarray

    @classmethod
    def of(cls, batch: pa.RecordBatch, places: np.ndarray) -> Self:
        schema, array = batch.__arrow_c_array__()
        found = np.empty((4, len(places)), np.int64)
        kernels.column_buffers(_content(array, b"arrow_array"), _content(schema, b"arrow_schema"), places, found)
        return cls(batch, places, found)

    @classmethod
    def of_arrays(cls, arrays: list[pa.Array]) -> Self:
        """Arrays of the same length and of types that the kernels know, as a batch of their own."""
        return cls.of(pa.RecordBatch.from_arrays(arrays, [""] * len(arrays)), np.arange(len(arrays)))

    @classmethod
    def as_read(cls, batch: pa.RecordBatch, columns: Columns) -> Self:
        """The numeric features, if all are columns as they are read, and behind them the target, if there is one."""
        place_of = {name: place for place, name in enumerate(batch.schema.names)}
        names = [column.source for column in columns.numeric] if columns.numbers_as_read else []
        names += [columns.target.name] if columns.target is not None else []
        return cls.of(batch, np.array([place_of[name] for name in names], np.int64))

    @classmethod
    def of_features(cls, used: UsedRows, columns: Columns, as_read: NumberBuffers) -> NumberBuffers:
        """The numeric features, of types that the kernels know.

        Parameters
        ----------
        as_read : NumberBuffers
            Of the same rows.
        """
        n_numeric = len(columns.numeric)
        if columns.numbers_as_read and (as_read.buffers[3, :n_numeric] >= 0).all():
            return cls(as_read.batch, as_read.places[:n_numeric], as_read.buffers[:, :n_numeric])
        at_levels = NumbersAtLevels(used.batch, used.finite)
        return cls.of_arrays([_readable(used, at_levels, column) for column in columns.numeric])

    @property
    def last(self) -> NumberBuffers:
        """The last column alone, of a type that the kernels know."""
        found = NumberBuffers(self.batch, self.places[-1:], self.buffers[:, -1:])
        return found if found.buffers[3, 0] >= 0 else NumberBuffers.of_arrays([as_float64(found.column(0))])

    def column(self, number: int | np.integer) -> pa.Array:
        return self.batch.column(int(self.places[number]))


def _readable(used: UsedRows, at_levels: NumbersAtLevels, column: NumericColumn) -> pa.Array:
    """The values of a feature as an array of one of the element types that the kernels read."""
    array = used.batch.column(column.source)
    if column.part is not None:
        part = part_of(array, column.part)
        return pa.array(stepped(part, column.steps)) if column.steps else part
    if column.at is not None:
        return pa.array(at_levels.of(column.source, column.steps, column.at))
    if column.steps:
        return pa.array(used.after(column.source, column.steps))
    return array if array.type.id in _KNOWN_TYPES else as_float64(array)
