"""Levels of categorical columns: provisional codes while the data are read, then rows of theta.

While rows are encoded, a level gets the next free code, in whatever order threads meet it. When all rows are seen
the levels are put in their final order (most frequent first, ties by value), so the result does not depend on it.
A column with more than ``max_levels`` levels is hashed instead: no table of its levels is kept.

Codes: ``>= 0`` provisional, ``UNKNOWN`` a level that is not in a frozen vocabulary, ``-2 - bucket`` hashed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.columns import CategoricalColumn, Label
from streamgd.kernels import encode as kernels

UNKNOWN = -1
_ARROW_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

Level = Label | None


def as_dictionary(array: pa.Array, values: str) -> pa.DictionaryArray:
    """The array as dictionary codes over values of the column's type; NaN is null."""
    target = _ARROW_TYPES[values]
    if values == "float":
        array = pc.if_else(pc.is_nan(array), None, array)
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array if array.type == target else pc.cast(array, target))
    if array.dictionary.type != target:
        array = pa.DictionaryArray.from_arrays(array.indices, pc.cast(array.dictionary, target))
    return array


def hash_buckets(levels: pa.Array, buckets: int) -> np.ndarray:
    """Bucket of each level, int32: FNV-1a of its text, modulo ``buckets``; null hashes as the text U+0000."""
    texts = pc.fill_null(pc.cast(levels, pa.string()), "\0")
    _, offsets, data = texts.buffers()
    hashes = np.empty(len(texts), np.uint64)
    if len(texts):
        starts = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
        text_bytes = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        kernels.hash_texts(starts, text_bytes, hashes)
    return (hashes % np.uint64(buckets)).astype(np.int32)


class Vocabulary:
    """The levels of one column met so far, with a code each. Threads may share it.

    Parameters
    ----------
    known : sequence of levels
        Levels that have the codes 0, 1, … from the start.
    growing : bool
        Whether an unknown level is given a new code, or ``UNKNOWN``.
    """

    def __init__(
        self,
        column: CategoricalColumn,
        max_levels: int,
        buckets: int,
        known: Sequence[Level] = (),
        growing: bool = True,
    ):
        self.column = column
        self.hashed = column.hashed
        self._max_levels = max_levels
        self._buckets = buckets
        self._growing = growing
        self._codes: dict[Level, int] = {level: code for code, level in enumerate(known)}
        self._lock = threading.Lock()

    @property
    def levels(self) -> list[Level]:
        """The levels in the order of their codes."""
        return list(self._codes)

    def restore(self, levels: Sequence[Level], hashed: bool) -> None:
        """Go on from levels that were written down."""
        self._codes = {level: code for code, level in enumerate(levels)}
        self.hashed = hashed

    def codes(self, levels: pa.Array) -> np.ndarray:
        """A code for each of ``levels`` (distinct values of the column's type), int32."""
        with self._lock:
            if not self.hashed:
                values = levels.to_pylist()
                if self._growing:
                    for value in values:
                        self._codes.setdefault(value, len(self._codes))
                codes = np.fromiter((self._codes.get(value, UNKNOWN) for value in values), np.int32, len(values))
                self.hashed = self._growing and self._max_levels < len(self._codes)
                return codes
        return (-2 - hash_buckets(levels, self._buckets)).astype(np.int32)


@dataclass(frozen=True)
class CategoricalEncoding:
    """How a categorical column enters theta, fixed.

    ``levels[0]`` is the base level. It has no coefficient; level k has row ``first_row + k - 1``. With ``base_row`` it
    has the first row of the column and the others follow, which is how the stochastic loops see it. With ``other``, all
    levels that are not listed share the last row; without it they count as the base level. A hashed column has
    ``buckets`` rows and no base level.
    """

    column: CategoricalColumn
    first_row: int
    levels: tuple[Level, ...]
    other: bool
    buckets: int
    base_row: bool = False

    @property
    def hashed(self) -> bool:
        return self.buckets > 0

    @property
    def n_rows(self) -> int:
        """Rows of theta that belong to the column."""
        if self.hashed:
            return self.buckets
        return max(0, len(self.levels) - 1) + int(self.other) + int(self.base_row)

    @property
    def _base(self) -> int:
        """Row of theta of the base level; -1: none."""
        return self.first_row if self.base_row else -1

    @property
    def unknown_row(self) -> int:
        """Row of theta of a level that is not listed; -1: none, as for the base level."""
        return self.first_row + self.n_rows - 1 if self.other else self._base

    def table(self, vocabulary: Vocabulary) -> np.ndarray:
        """Row of theta for each provisional code of ``vocabulary``, -1 for a base level without a row; int32."""
        if self.hashed:
            levels = pa.array(vocabulary.levels, _ARROW_TYPES[self.column.values])
            return (self.first_row + hash_buckets(levels, self.buckets)).astype(np.int32)
        after_base = self.first_row + int(self.base_row)
        rows = {level: after_base + k - 1 if k else self._base for k, level in enumerate(self.levels)}
        return np.array([rows.get(level, self.unknown_row) for level in vocabulary.levels], np.int32)

    def row_names(self) -> list[str]:
        """A name for each row of theta, such as ``carrier=AA``."""
        name = self.column.name
        if self.hashed:
            return [f"{name}#{bucket}" for bucket in range(self.buckets)]
        levels = self.levels if self.base_row else self.levels[1:]
        names = [f"{name}={'null' if level is None else level}" for level in levels]
        return [*names, f"{name}=(other)"] if self.other else names

    def state(self) -> dict[str, Any]:
        return {
            "name": self.column.name, "values": self.column.values, "hashed": self.column.hashed,
            "first_row": self.first_row, "levels": list(self.levels), "other": self.other, "buckets": self.buckets,
            "base_row": self.base_row,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        column = CategoricalColumn(state["name"], state["values"], state["hashed"])
        return cls(
            column, state["first_row"], tuple(state["levels"]), state["other"], state["buckets"], state["base_row"]
        )


def final_levels(vocabulary: Vocabulary, counts: np.ndarray) -> tuple[Level, ...]:
    """The levels that occur, most frequent first, ties in the order of the values, null last.

    ``counts`` has the total weight of each provisional code; codes beyond its end do not occur.
    """
    occurring = [
        (level, counts[code]) for code, level in enumerate(vocabulary.levels[: len(counts)]) if counts[code] > 0
    ]
    occurring.sort(key=lambda item: (-item[1], item[0] is None, item[0] if item[0] is not None else 0))
    return tuple(level for level, _ in occurring)
