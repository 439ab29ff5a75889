"""Entries of a batch, and of a block.

sparse columns of a batch ── keys, row after row ── (by slot or in an order) ── rows of theta, scaled: a block's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamgd.data.blocks import Entries, EntriesLayout, RawEntries
from streamgd.data.columns import Columns, SparseColumn
from streamgd.data.derived import UsedRows
from streamgd.data.levels import LevelIndex
from streamgd.data.nested import NestedRows
from streamgd.data.source import Manifest
from streamgd.data.sparse import KeysMet, SparseEncoding
from streamgd.data.vocabulary import hash_buckets
from streamgd.errors import DataError
from streamgd.kernels import keys as key_loops


def entries_layout(manifest: Manifest, columns: Columns) -> EntriesLayout | None:
    """What the entries of a row take, as the footers say; None without sparse columns."""
    if not columns.sparse:
        return None
    n_entries = sum(manifest.n_elements(column.name) for column in columns.sparse)
    has_texts = any(column.keys == "string" for column in columns.sparse)
    return EntriesLayout(n_entries / manifest.n_rows, columns.has_sparse_values, has_texts)


@dataclass(frozen=True)
class EntriesFound:
    """The entries of a batch, its rows with a null in a sparse column, and how many of each column are used."""

    entries: RawEntries
    has_null: np.ndarray
    nulls: dict[str, int]


def encode_entries(
    used: UsedRows, columns: Sequence[SparseColumn], nested: Sequence[NestedRows], met: Sequence[KeysMet],
    learned: np.ndarray,
) -> EntriesFound:  # fmt: skip
    """The entries of the rows that are used; nulls among them are passed over.

    Parameters
    ----------
    nested : sequence of NestedRows
        What the columns have.
    learned : bool, (n_rows,)
        The rows whose entries are noted in ``met``.

    Raises
    ------
    DataError
        An index that is negative or beyond the declared number of columns, or an infinite value.
    """
    n_elements = np.array([len(rows.keys) for rows in nested])
    firsts = np.cumsum(n_elements) - n_elements
    has_values = any(column.has_values for column in columns)
    codes = np.empty(n_elements.sum(), np.int32)
    values = np.ones(len(codes) if has_values else 0)
    for column, rows, of_column, first in zip(columns, nested, met, firsts, strict=True):
        part = slice(first, first + len(rows.keys))
        codes[part] = _codes(used, column, rows, of_column)
        if column.has_values:
            _check_finite(used, column, rows)
            values[part] = rows.numbers
        of_column.learn(codes[part], np.abs(rows.numbers), rows.begins, rows.ends, learned)
    begins = np.array([rows.begins + first for rows, first in zip(nested, firsts, strict=True)])
    ends = np.array([rows.ends + first for rows, first in zip(nested, firsts, strict=True)])
    n_entries = int((ends - begins).sum())  # rows of a view may share elements
    starts, keys = np.empty(len(used.kept) + 1, np.int64), np.empty(n_entries, np.int32)
    out = np.empty(n_entries if has_values else 0)
    n = key_loops.join_columns(begins, ends, codes, values, used.kept, starts, keys, out)
    has_null = np.logical_or.reduce([rows.row_is_null for rows in nested])
    counts = {c.name: int((r.row_is_null & used.kept).sum()) for c, r in zip(columns, nested, strict=True)}
    entries = RawEntries(starts, keys[:n], out[:n] if has_values else out)
    return EntriesFound(entries, has_null, {name: count for name, count in counts.items() if count})


def _codes(used: UsedRows, column: SparseColumn, rows: NestedRows, met: KeysMet) -> np.ndarray:
    """Codes of the elements, int32; -1 for those that are null, unknown, or of rows that are not used."""
    keys = rows.keys
    if column.keys == "string" and not used.kept.all():
        # A text of dropped rows alone is not met.
        chosen = rows.elements_of(used.kept)
        codes = np.full(len(keys), -1, np.int32)
        codes[chosen] = met.codes(keys.filter(chosen))
    else:
        codes = met.codes(keys)
    if rows.is_null.any():
        codes[rows.is_null] = -1
    if column.keys == "index" and not column.hashed and (codes < 0).any():
        _check_indices(used, column, rows, codes)
    return codes


def _check_indices(used: UsedRows, column: SparseColumn, rows: NestedRows, codes: np.ndarray) -> None:
    outside = _rows_with(rows, (codes < 0) & ~rows.is_null) & used.kept
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        elements = slice(rows.begins[row], rows.ends[row])
        found = rows.keys[rows.begins[row] + int(((codes < 0) & ~rows.is_null)[elements].argmax())].as_py()
        raise DataError(
            f"{used.row(row)}, column '{column.name}': found index {found}, expected 0 to {column.n_columns - 1}. Mend"
            f" the data; before training, --index-columns {column.name}=N says how many"
            f" columns there are, and --encode hash takes any number."
        )


def _check_finite(used: UsedRows, column: SparseColumn, rows: NestedRows) -> None:
    infinite = np.isinf(rows.numbers)
    if infinite.any() and (_rows_with(rows, infinite) & used.kept).any():
        row = int(np.flatnonzero(_rows_with(rows, infinite) & used.kept)[0])
        raise DataError(
            f"{used.row(row)}, column '{column.name}': found an infinite value, expected finite numbers. Mend the data,"
            f" or leave it out with --exclude or --where."
        )


def _rows_with(rows: NestedRows, elements: np.ndarray) -> np.ndarray:
    """Rows that have one of ``elements`` (bool), bool, (n_rows,)."""
    before = np.concatenate([[0], np.cumsum(elements)])
    return np.asarray(before[rows.ends] > before[rows.begins])


def no_entries(rows: int) -> RawEntries:
    """Of so many rows, none."""
    return RawEntries(np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0))


def joined_entries(parts: Sequence[RawEntries]) -> RawEntries:
    """The entries of rows that follow one another."""
    lengths = [len(part.keys) for part in parts]
    firsts = np.cumsum([0, *lengths])
    starts = [part.starts[:-1] + first for part, first in zip(parts, firsts, strict=False)]
    return RawEntries(
        np.concatenate([*starts, firsts[-1:]]).astype(np.int64), np.concatenate([part.keys for part in parts]),
        np.concatenate([part.values for part in parts]),
    )  # fmt: skip


class EntriesFinisher:
    """Turns entries as they were read into those of blocks, under an encoding.

    Parameters
    ----------
    met : sequence of KeysMet
        Whose codes the keys have.
    feature_type : numpy dtype
        Of values.
    """

    def __init__(self, encodings: Sequence[SparseEncoding], met: Sequence[KeysMet], feature_type: np.dtype):
        self._feature_type = feature_type
        self._has_values = any(each.column.has_values for each in encodings)
        self._first_row = encodings[0].first_row
        tables: list[np.ndarray] = []
        words: list[np.ndarray] = []
        before: list[np.ndarray] = []
        columns = np.zeros((len(encodings), 5), np.int64)
        for column, (each, of_column) in enumerate(zip(encodings, met, strict=True)):
            table = _table(each, of_column)
            present = np.zeros(-(-(int(each.indices[-1]) + 1) // 64) if len(each.indices) else 0, np.uint64)
            ranks = np.zeros(len(present), np.int32)
            key_loops.index_bits(each.indices, present, ranks)
            firsts = [sum(len(part) for part in parts) for parts in (tables, words)]
            columns[column] = firsts[0], len(table), firsts[1], len(present), each.first_row
            tables.append(table)
            words.append(present)
            before.append(ranks)
        self._lookup = np.concatenate(tables), np.concatenate(words), np.concatenate(before), columns
        self._scales = np.concatenate([_scales(each) for each in encodings]) if self._has_values else np.empty(0)

    def of_rows(self, raw: RawEntries, order: np.ndarray | None = None) -> Entries:
        """The entries of the rows in ``order`` (int64), or of all."""
        order = np.arange(len(raw.starts) - 1) if order is None else order
        starts = np.empty(len(order) + 1, np.int64)
        coordinates, values = self._room(int((raw.starts[order + 1] - raw.starts[order]).sum()))
        n = key_loops.entries_of_rows(
            raw.starts, self._rows(raw.keys), raw.values, order, self._scales, self._first_row, starts, coordinates,
            values,
        )  # fmt: skip
        return Entries(starts, coordinates[:n], values[:n])

    def largest(self, raw: RawEntries, order: np.ndarray) -> np.ndarray:
        """The largest magnitude of each row of theta from the first of the sparse columns on, in the rows ``order``."""
        largest = np.zeros(len(self._scales))
        key_loops.largest_of_rows(raw.starts, self._rows(raw.keys), raw.values, order, self._first_row, largest)
        return largest

    def of_waiting(self, waiting: np.ndarray, n_rows: int) -> Entries:
        """The entries of a block of ``n_rows`` from those that wait for it.

        Parameters
        ----------
        waiting : uint64, (n, words)
            In any order: see ``kernels.keys.append_entries``; with the row of the block in place of the slot.
        """
        starts = np.empty(n_rows + 1, np.int64)
        halves = waiting.view(np.int32)
        places, rows = np.ascontiguousarray(halves[:, 0]), self._rows(np.ascontiguousarray(halves[:, 1]))
        given = waiting[:, 1].view(np.float64).copy() if waiting.shape[1] > 1 else np.empty(0)
        coordinates, values = self._room(len(waiting))
        n = key_loops.sort_entries(places, rows, given, self._scales, self._first_row, starts, coordinates, values)
        return Entries(starts, coordinates[:n], values[:n])

    def _rows(self, keys: np.ndarray) -> np.ndarray:
        rows = np.empty(len(keys), np.int32)
        key_loops.rows_of_keys(keys, *self._lookup, rows)
        return rows

    def _room(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(n, np.int32), np.empty(n if self._has_values else 0, self._feature_type)


def _table(encoding: SparseEncoding, met: KeysMet) -> np.ndarray:
    """Row of theta of each level that was met, int32; empty for a column without levels."""
    levels = met.vocabulary.levels
    if encoding.column.keys == "index" or not len(levels):
        return np.empty(0, np.int32)
    if encoding.buckets:
        buckets = hash_buckets(levels, encoding.buckets)
        places = np.minimum(np.searchsorted(encoding.indices, buckets), max(len(encoding.indices) - 1, 0))
        known = encoding.indices[places] == buckets if len(encoding.indices) else np.zeros(len(buckets), np.bool_)
    else:
        places = LevelIndex("string", encoding.levels).codes(levels, growing=False)
        known = places >= 0
    return np.where(known, encoding.first_row + places, -1).astype(np.int32)


def _scales(encoding: SparseEncoding) -> np.ndarray:
    return encoding.scales if encoding.column.has_values else np.ones(encoding.n_rows)
