"""Levels of categorical columns: provisional codes while the data are read, then rows of theta.

While rows are encoded, a level gets the next free code, in whatever order threads meet it. When all rows are seen
the levels are put in their final order (most frequent first, ties by value), so the result does not depend on it.
A column with more than ``max_levels`` levels is hashed instead: no table of its levels is kept.

Codes: ``>= 0`` provisional, ``UNKNOWN`` a level that is not in a frozen vocabulary, ``-2 - bucket`` hashed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.columns import CategoricalColumn, Label
from streamgd.data.kinds import python_values
from streamgd.data.levels import ARROW_TYPES, LevelIndex, level_bytes, levels_from_state, levels_state
from streamgd.kernels import levels as kernels

UNKNOWN = -1


def hash_buckets(levels: pa.Array, buckets: int) -> np.ndarray:
    """Bucket of each level, int32: FNV-1a of its text, modulo ``buckets``; null hashes as the text U+0000."""
    texts = pc.fill_null(pc.cast(levels, pa.string()), "\0")
    hashes = np.empty(len(texts), np.uint64)
    kernels.hash_texts(*level_bytes(texts, "string"), hashes)
    return (hashes % np.uint64(buckets)).astype(np.int32)


class Vocabulary:
    """The levels of one column met so far, with a code each. Threads may share it.

    Parameters
    ----------
    known : Arrow array, optional
        Levels that have the codes 0, 1, … from the start.
    growing : bool
        Whether an unknown level is given a new code, or ``UNKNOWN``.
    """

    def __init__(
        self,
        column: CategoricalColumn,
        max_levels: int,
        buckets: int,
        known: pa.Array | None = None,
        growing: bool = True,
    ):
        self.column = column
        self.hashed = column.hashed
        self._max_levels = max_levels
        self._buckets = buckets
        self._growing = growing
        self._index = LevelIndex(column.values, known)
        self._lock = threading.Lock()
        # The dictionaries that a thread met last, and their codes: the slices of a row group bring the same one again.
        self._last = threading.local()
        #: As many as there are row groups whose slices come in turn.
        self.kept_dictionaries = 1

    @property
    def levels(self) -> pa.Array:
        """The levels in the order of their codes."""
        with self._lock:
            return self._index.levels

    def state(self) -> dict[str, Any]:
        """What is to be written down to go on from."""
        return {"levels": levels_state(self.levels, self.column.values), "hashed": self.hashed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was written down."""
        self.take_over(levels_from_state(state["levels"]), state["hashed"])

    def take_over(self, levels: pa.Array, hashed: bool) -> None:
        """Have these levels, in the order of their codes, instead of those met so far."""
        self._index = LevelIndex(self.column.values, levels)
        self._last = threading.local()
        self.hashed = hashed

    def codes(self, levels: pa.Array) -> np.ndarray:
        """A code for each of ``levels`` (values of the column's type), int32, not to be changed."""
        last: list[tuple[pa.Array, np.ndarray]] = self._last.__dict__.setdefault("met", [])
        place = next((place for place, (met, _) in enumerate(last) if met.equals(levels)), None)
        found = (levels, self._codes(levels)) if place is None else last.pop(place)
        last.insert(0, found)
        del last[self.kept_dictionaries :]
        return found[1]

    def code_of_null(self) -> np.ndarray:
        """The code of null, int32, shape ``(1,)``."""
        return self._codes(pa.nulls(1, ARROW_TYPES[self.column.values]))

    def _codes(self, levels: pa.Array) -> np.ndarray:
        with self._lock:
            if not self.hashed:
                codes = self._index.codes(levels, self._growing)
                self.hashed = self._growing and self._max_levels < len(self._index)
                return codes
        return (-2 - hash_buckets(levels, self._buckets)).astype(np.int32)


@dataclass(frozen=True)
class CategoricalEncoding:
    """How a categorical column enters theta, fixed.

    ``levels`` is an Arrow array; its first one is the base level. That has no coefficient; level k has row
    ``first_row + k - 1``. With ``base_row`` it has the first row of the column and the others follow, which is how the
    stochastic loops see it. With ``other``, all levels that are not listed share the last row; without it they count as
    the base level. A hashed column has ``buckets`` rows and no base level.
    """

    column: CategoricalColumn
    first_row: int
    levels: pa.Array
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
            return (self.first_row + hash_buckets(vocabulary.levels, self.buckets)).astype(np.int32)
        places = LevelIndex(self.column.values, self.levels).codes(vocabulary.levels, growing=False)
        after_base = self.first_row + int(self.base_row)
        rows = np.where(places == 0, self._base, after_base + places - 1)
        return np.where(places == UNKNOWN, self.unknown_row, rows).astype(np.int32)

    def coefficients(self, theta: np.ndarray) -> tuple[np.ndarray, float]:
        """What theta (n_dof, 1) gives each of ``levels``, float64, and a level that is not listed: its unit is theta's.

        Of a hashed column it is what each bucket is given, and nothing for levels that are not listed.
        """
        if self.hashed:
            return theta[self.first_row : self.first_row + self.buckets, 0], 0.0
        values = np.append(theta[:, 0], 0.0)  # a base level without a row has -1
        rows = self.first_row + int(self.base_row) - 1 + np.arange(len(self.levels))
        rows[:1] = self._base
        return values[rows], float(values[self.unknown_row])

    def row_names(self) -> list[str]:
        """A name for each row of theta, such as ``carrier=AA``; see :func:`level_name`."""
        name = self.column.name
        if self.hashed:
            return [f"{name}#{bucket}" for bucket in range(self.buckets)]
        levels = self.levels if self.base_row else self.levels[1:]
        start = name + self.column.separator
        names = [f"{start}{level_name(level)}" for level in python_values(levels)]
        return [*names, f"{start}(other)"] if self.other else names

    def state(self) -> dict[str, Any]:
        levels = levels_state(self.levels, self.column.values)
        return self.column.to_json() | {
            "first_row": self.first_row, "levels": levels, "other": self.other, "buckets": self.buckets,
            "base_row": self.base_row,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        described = ("name", "values", "hashed", "made")
        column = CategoricalColumn.from_json({name: state[name] for name in described if name in state})
        levels = levels_from_state(state["levels"])
        return cls(column, state["first_row"], levels, state["other"], state["buckets"], state["base_row"])


def level_name(level: Label | None) -> str:
    """What a level is called; a text in quotes where it would be taken for another level, or for none.

    >>> [level_name(level) for level in ("AA", 7, None, "null", "", "'null'")]
    ['AA', '7', 'null', "'null'", "''", "''null''"]
    """
    if level is None:
        return "null"
    is_doubtful = isinstance(level, str) and (
        level in ("null", "(other)") or not level.strip() or level[0] == level[-1] == "'"
    )
    return f"'{level}'" if is_doubtful else str(level)


def final_levels(vocabulary: Vocabulary, counts: np.ndarray) -> pa.Array:
    """The levels that occur, most frequent first, ties in the order of the values, null last.

    ``counts`` has the total weight of each provisional code; codes beyond its end do not occur.
    """
    levels = vocabulary.levels
    occurring = np.flatnonzero(counts[: len(levels)] > 0)
    found = pa.record_batch({"count": counts[occurring], "level": levels.take(pa.array(occurring))})
    order = pc.sort_indices(found, sort_keys=[("count", "descending"), ("level", "ascending")])
    return found["level"].take(order)
