"""Sparse columns: what is met of them while rows are read, and how their entries become rows of theta.

    nested column ── codes ── met: which were seen, and how large ──> encoding ── rows of theta, scaled values

Where every row is seen before training, only what was met has a row of theta. Nothing depends on the order in which it
was met.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.column_options import MOST_INDICES
from streamgd.data.columns import CategoricalColumn, SparseColumn
from streamgd.data.kinds import python_values
from streamgd.data.levels import LevelIndex, as_dictionary, levels_from_state, levels_state, no_levels
from streamgd.data.vocabulary import UNKNOWN, Vocabulary, hash_buckets
from streamgd.kernels import keys as key_loops

#: Codes of buckets are this and above, as in ``kernels.keys``.
FIRST_BUCKET = MOST_INDICES


class KeysMet:
    """What was met of one sparse column, in rows that are learned from. Threads may share it.

    Parameters
    ----------
    max_levels : int
        Above so many a column of texts is hashed.
    buckets : int
        Of a column that is hashed then.
    known : Arrow array, optional
        The levels of a column of texts, if no others are to be met.
    """

    def __init__(self, column: SparseColumn, max_levels: int, buckets: int, known: pa.Array | None = None):
        self.column = column
        self._max_levels = min(max_levels, FIRST_BUCKET // 2)
        self._buckets = column.n_columns if column.hashed else buckets
        self._learns = known is None
        described = CategoricalColumn(column.name, "string", column.hashed)
        self.vocabulary = Vocabulary(described, self._max_levels, self._buckets, known, self._learns)
        kind = np.float64 if column.has_values else np.uint8
        self._largest, self._largest_of_buckets = np.zeros(0, kind), np.zeros(0, kind)
        self._lock = threading.Lock()

    @property
    def by_level(self) -> bool:
        """Whether entries are known by their text."""
        return self.column.keys == "string" and not self.vocabulary.hashed

    @property
    def buckets(self) -> int:
        """Of a hashed column, 0 of others."""
        return self._buckets if self.vocabulary.hashed else 0

    def codes(self, keys: pa.Array) -> np.ndarray:
        """A code for each key, int32; -1 where it is null, not known, or no index."""
        if self.column.keys == "string":
            return self._codes_of_texts(keys)
        integers = pc.fill_null(keys, 0) if keys.null_count else keys
        numbers, signed = _integers(integers)
        if self.column.hashed:
            codes = np.empty(len(numbers), np.int32)
            key_loops.hash_integers(numbers, signed, np.uint64(self._buckets), codes)
            codes += FIRST_BUCKET
        else:
            inside = (numbers >= 0) & (numbers < self.column.n_columns)
            codes = np.where(inside, numbers, -1).astype(np.int32)
        if keys.null_count:
            codes[pc.is_null(keys).to_numpy(zero_copy_only=False)] = -1
        return codes

    def _codes_of_texts(self, keys: pa.Array) -> np.ndarray:
        if pa.types.is_dictionary(keys.type):
            _check_places(keys)
        array = as_dictionary(keys, "string")
        table = self.vocabulary.codes(array.dictionary)
        # Buckets stand behind the levels; so do the few levels that are too many to have a code of their own.
        table = np.where(table < UNKNOWN, FIRST_BUCKET - 2 - table, table)
        beyond = (table >= FIRST_BUCKET) & (self.vocabulary.codes(array.dictionary) >= 0)
        if beyond.any():
            table[beyond] = FIRST_BUCKET + hash_buckets(array.dictionary, self._buckets)[beyond]
        places = pc.fill_null(array.indices.cast(pa.int64()), len(table)).to_numpy(zero_copy_only=False)
        return np.asarray(np.append(table, -1)[places].astype(np.int32))

    def learn(
        self, codes: np.ndarray, magnitudes: np.ndarray, begins: np.ndarray, ends: np.ndarray, rows: np.ndarray
    ) -> None:
        """Take in the codes of ``rows`` (bool, (n_rows,)): see ``kernels.keys.note_codes``."""
        if not self._learns:
            return
        with self._lock:
            if codes.max(initial=-1) >= FIRST_BUCKET:
                self._largest_of_buckets = _with_room(self._largest_of_buckets, self._buckets)
                codes_below = codes[codes < FIRST_BUCKET]
            else:
                codes_below = codes
            self._largest = _with_room(self._largest, int(codes_below.max(initial=-1)) + 1)
            key_loops.note_codes(codes, magnitudes, begins, ends, rows, self._largest, self._largest_of_buckets)

    def found(self) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Levels in the order of their values, indices or buckets (int32, ascending), and the largest magnitudes.

        Of a column that is known by its levels there are no indices, of others no levels.
        """
        levels = self.vocabulary.levels
        if self.by_level:
            met = np.flatnonzero(self._largest[: len(levels)])
            order = met[pc.sort_indices(levels.take(pa.array(met))).to_numpy()] if len(met) else met
            return levels.take(pa.array(order)), np.empty(0, np.int32), self._largest[order].astype(np.float64)
        largest = self._as_buckets() if self.buckets else self._largest
        places = np.flatnonzero(largest).astype(np.int32)
        return no_levels("string"), places, largest[places].astype(np.float64)

    def _as_buckets(self) -> np.ndarray:
        """Largest magnitude of each bucket, those of the levels that were met before it was hashed among them."""
        largest = np.zeros(self._buckets, self._largest.dtype)
        largest[: len(self._largest_of_buckets)] = self._largest_of_buckets
        if self.column.keys == "string" and len(self._largest):
            levels = self.vocabulary.levels.slice(0, len(self._largest))
            np.maximum.at(largest, hash_buckets(levels, self._buckets), self._largest[: len(levels)])
        return largest

    def state(self) -> dict[str, Any]:
        """What is to be written down to go on from; :meth:`restore` is the inverse."""
        found: dict[str, Any] = {"vocabulary": self.vocabulary.state()}
        for name, largest in (("codes", self._largest), ("buckets", self._largest_of_buckets)):
            places = np.flatnonzero(largest).astype(np.int32)
            found[name] = {"size": len(largest), "places": places, "largest": largest[places]}
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was written down."""
        self.vocabulary.restore(state["vocabulary"])
        self._largest, self._largest_of_buckets = (
            _spread(state[name], self._largest.dtype) for name in ("codes", "buckets")
        )

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to go on; a lock cannot be sent there."""
        return {
            "column": self.column, "max_levels": self._max_levels, "buckets": self._buckets, "met": self.state()
        }  # fmt: skip

    def __setstate__(self, sent: dict[str, Any]) -> None:
        self.__init__(sent["column"], sent["max_levels"], sent["buckets"])  # type: ignore[misc]
        self.restore(sent["met"])

    def merged(self, later: KeysMet) -> KeysMet:
        """What was met by both."""
        both = KeysMet(self.column, self._max_levels, self._buckets)
        both.restore(self.state())
        if self.column.keys == "string" and not self.column.hashed:
            levels = later.vocabulary.levels
            codes = both._codes_of_texts(levels)
            both.vocabulary.hashed |= later.vocabulary.hashed
        else:
            codes = np.arange(len(later._largest), dtype=np.int32)
        for of_buckets, largest in ((False, later._largest), (True, later._largest_of_buckets)):
            places = np.flatnonzero(largest)
            if len(places):
                met = FIRST_BUCKET + places if of_buckets else codes[places]
                every = np.array([0]), np.array([len(places)]), np.ones(1, np.bool_)
                both.learn(met.astype(np.int32), largest[places].astype(np.float64), *every)
        return both


def _check_places(keys: pa.DictionaryArray) -> None:
    """Refuse places outside their dictionary, which pyarrow hands on as they stand in a damaged page."""
    ends = pc.min_max(keys.indices).as_py()
    if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < len(keys.dictionary):
        raise pa.ArrowInvalid("a list has codes outside its dictionary")


def _integers(array: pa.Array) -> tuple[np.ndarray, bool]:
    """Integers of any type as int64, and whether they are; the bits of uint64 are those of a negative number beyond."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    numbers = np.asarray(array.to_numpy(zero_copy_only=False))
    return np.ascontiguousarray(numbers.astype(np.int64)), numbers.dtype != np.uint64


def _with_room(largest: np.ndarray, size: int) -> np.ndarray:
    if size <= len(largest):
        return largest
    grown = np.zeros(max(size, 2 * len(largest)), largest.dtype)
    grown[: len(largest)] = largest
    return grown


def _spread(found: dict[str, Any], kind: np.dtype) -> np.ndarray:
    largest = np.zeros(found["size"], kind)
    largest[found["places"]] = found["largest"]
    return largest


@dataclass(frozen=True)
class SparseEncoding:
    """How a sparse column enters theta, fixed.

    Attributes
    ----------
    first_row : int
        Its first row of theta; level or index k of those listed has row ``first_row + k``, others have none.
    levels : Arrow array of texts
        Of a column that is known by them, else empty.
    indices : int32, ascending
        Or buckets, of others.
    scales : float64, (n_rows,) or (0,)
        What values are divided by; 0: none was met yet. Empty where every value is 1.
    buckets : int
        Of a hashed column, 0 of others.
    """

    column: SparseColumn
    first_row: int
    levels: pa.Array
    indices: np.ndarray
    scales: np.ndarray
    buckets: int

    @classmethod
    def of(cls, met: KeysMet, first_row: int, every: bool) -> Self:
        """That of what was met; with ``every``, all indices or buckets that there may be have a row."""
        levels, places, largest = met.found()
        if every and not met.by_level:
            n = met.buckets or met.column.n_columns
            known, places = places, np.arange(n, dtype=np.int32)
            scales = np.zeros(n)
            scales[known] = largest
            largest = scales
        scales = largest if met.column.has_values else np.empty(0)
        return cls(met.column, first_row, levels, places, scales, met.buckets)

    @property
    def by_level(self) -> bool:
        """Whether entries are known by their text."""
        return self.column.keys == "string" and not self.buckets

    @property
    def n_rows(self) -> int:
        """Rows of theta that belong to the column."""
        return len(self.levels) if self.by_level else len(self.indices)

    @property
    def divisors(self) -> np.ndarray:
        """The scales, 1 where no value was met yet and the coefficient is 0, float64, (n_rows,)."""
        return np.where(self.scales > 0.0, self.scales, 1.0)

    @property
    def rows(self) -> slice:
        """Its rows of theta."""
        return slice(self.first_row, self.first_row + self.n_rows)

    def growing_keys(self, max_levels: int) -> KeysMet:
        """What a column that is known by its levels meets, the known ones first; above ``max_levels`` it is hashed."""
        met = KeysMet(self.column, max_levels, 1)
        met.vocabulary.take_over(self.levels, hashed=False)
        return met

    def new_levels(self, met: KeysMet) -> tuple[pa.Array, np.ndarray]:
        """The levels that ``met`` has found beside the known ones, in the order of their values, and their scales."""
        levels, _, largest = met.found()
        is_new = LevelIndex("string", self.levels).codes(levels, growing=False) < 0
        return levels.filter(pa.array(is_new)), largest[is_new] if self.column.has_values else np.empty(0)

    def with_levels(self, levels: pa.Array, scales: np.ndarray) -> Self:
        """The same with more levels and their scales, after those that it has."""
        joined = pa.concat_arrays([self.levels, levels])
        return replace(self, levels=joined, scales=np.concatenate([self.scales, scales]))

    def keys_met(self) -> KeysMet:
        """What entries are looked up with, where no others are to be met."""
        column = replace(self.column, hashed=self.buckets > 0)
        column = replace(column, n_columns=self.buckets) if self.buckets else column
        return KeysMet(column, len(self.levels), self.buckets, self.levels)

    def labels(self) -> list[str]:
        """What each row of theta is called: a level, an index, or the number of a bucket."""
        if self.by_level:
            return list(python_values(self.levels))
        return [str(index) for index in self.indices.tolist()]

    def row_names(self) -> list[str]:
        """A name for each row of theta, such as ``tags[17]``, ``words=alpha`` or ``words#12``."""
        begin, end = self._around_labels
        return [f"{begin}{label}{end}" for label in self.labels()]

    def rows_called(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that rows of theta of this column have."""
        begin, end = self._around_labels
        labels = {name.removeprefix(begin).removesuffix(end): name for name in names if name.startswith(begin)}
        if self.by_level:
            met = set(self.labels())
        else:
            numbers = [int(label) for label in labels if label.isdecimal() and len(label) < 10]
            met = {str(number) for number in np.intersect1d(numbers, self.indices).astype(int)}
        return [name for label, name in labels.items() if label in met and name == f"{begin}{label}{end}"]

    @property
    def _around_labels(self) -> tuple[str, str]:
        """What stands before and behind the label in the name of a row."""
        name = self.column.name
        if self.by_level:
            return f"{name}=", ""
        return (f"{name}#", "") if self.buckets else (f"{name}[", "]")

    def check(self) -> None:
        """Raise ValueError where the parts do not fit each other, as those of a file that was tampered with."""
        self.column.check()
        name, indices, scales = self.column.name, self.indices, self.scales
        most = self.buckets or self.column.n_columns
        if indices.dtype != np.int32 or indices.ndim != 1 or (np.diff(indices) <= 0).any():
            raise ValueError(f"indices of column '{name}' that do not ascend")
        if len(indices) and not 0 <= indices[0] <= indices[-1] < most:
            raise ValueError(f"indices of column '{name}' beyond {most}")
        if type(self.first_row) is not int or type(self.buckets) is not int:
            raise ValueError(f"rows of column '{name}' that are no whole numbers")
        if len(indices if self.by_level else self.levels) or self.levels.null_count:
            raise ValueError(f"column '{name}' with indices and levels")
        if self.levels.type != pa.string() or pc.count_distinct(self.levels).as_py() != len(self.levels):
            raise ValueError(f"levels of column '{name}' that are no texts, or one twice")
        if scales.dtype != np.float64 or scales.shape != ((self.n_rows,) if self.column.has_values else (0,)):
            raise ValueError(f"scales of column '{name}' of {scales.dtype} {scales.shape}")
        if not (np.isfinite(scales) & (scales >= 0.0)).all():
            raise ValueError(f"scales of column '{name}' that are not positive")

    def state(self) -> dict[str, Any]:
        return {
            "column": vars(self.column), "first_row": self.first_row, "levels": levels_state(self.levels, "string"),
            "indices": self.indices, "scales": self.scales, "buckets": self.buckets,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(
            SparseColumn(**state["column"]), state["first_row"], levels_from_state(state["levels"]), state["indices"],
            state["scales"], state["buckets"],
        )  # fmt: skip
