"""A block: encoded rows ready to train on, and the record layout they have before that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

#: A block holds about so many bytes, and at most so many rows. Row groups mostly have a power of two: those of narrow
#: rows are then whole blocks.
BLOCK_BYTES = 1 << 23
BLOCK_ROWS = 65_536
#: Rows that become records together: few enough to stay in the processor's last cache on their way, and enough beside
#: what is done once for each slice. Of 28 columns, 2.07 s for a default run with 4 MB, 2.33 with 2, 2.07 with 8.
SLICE_BYTES = 4_000_000
SLICE_ROWS = 4_096
#: A multiple of so many, unless blocks are smaller: ranges of rows whose moments are taken then mostly lie in a slice,
#: and need not be put together from two.
SLICE_MULTIPLE = 256

#: Set in a record's slot when the row is held out.
HOLDOUT_BIT = 1 << 30

ALIGNMENT_BYTES = 64


def padded_bytes(size_bytes: int) -> int:
    """What an array of a block takes with the gap to the next one."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def aligned_memory(size_bytes: int) -> np.ndarray:
    """Uninitialised bytes, uint8, that begin with a cache line: rows of two lines that begin elsewhere touch three."""
    room = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT_BYTES
    return room[begin : begin + size_bytes]


@dataclass(frozen=True)
class Entries:
    """What the sparse columns hold, row after row (compressed sparse rows).

    Attributes
    ----------
    starts : int64, (n_rows + 1,) or (0,)
        Row i has the entries ``starts[i] … starts[i + 1] - 1``; empty where the run has no sparse columns.
    coordinates : int32, (n_entries,)
        Row of theta of each entry, never negative; one that a row has twice counts twice.
    values : float32 or float64, (n_entries,) or (0,)
        In the type of the features; empty: every value is 1.
    """

    starts: np.ndarray
    coordinates: np.ndarray
    values: np.ndarray

    def part(self, start: int, stop: int) -> Entries:
        """Those of the rows ``start … stop - 1``, without copying."""
        return Entries(self.starts[start : stop + 1], self.coordinates, self.values)

    def chosen(self, rows: np.ndarray) -> Entries:
        """A copy of those of the rows where ``rows`` (bool, (n_rows,)) is true."""
        return Entries(*_of_rows(rows, self.starts, self.coordinates, self.values)) if len(self.starts) else self

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All arrays, in the order of the attributes."""
        return (self.starts, self.coordinates, self.values)


@dataclass(frozen=True)
class RawEntries:
    """Entries as they are read, before it is known which rows of theta they have.

    Attributes
    ----------
    starts : int64, (n_rows + 1,)
        Row i has the entries ``starts[i] … starts[i + 1] - 1``.
    keys : int32, (n_entries,)
        Column and index, level or bucket: see ``kernels.keys``.
    values : float64, (n_entries,) or (0,)
        As they are in the data; empty: every value is 1.
    """

    starts: np.ndarray
    keys: np.ndarray
    values: np.ndarray

    def chosen(self, rows: np.ndarray) -> RawEntries:
        """A copy of those of the rows where ``rows`` (bool, (n_rows,)) is true."""
        return RawEntries(*_of_rows(rows, self.starts, self.keys, self.values))


def _of_rows(rows: np.ndarray, starts: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Copies of the starts and of what entries have, of the rows where ``rows`` is true; empty arrays stay empty."""
    counts = np.diff(starts)
    here, kept = slice(int(starts[0]), int(starts[-1])), np.repeat(rows, counts)
    of_rows = np.concatenate([[0], np.cumsum(counts[rows])]).astype(np.int64)
    return of_rows, *(array[here][kept] if len(array) else array for array in arrays)


#: Where there are no sparse columns, by the type of the features.
NO_ENTRIES = {
    np.dtype(kind): Entries(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, kind))
    for kind in (np.float32, np.float64)
}


@dataclass(frozen=True)
class Block:
    """Encoded rows.

    Attributes
    ----------
    features : float32 or float64, (n_rows, n_numeric), C-contiguous
    codes : int32, (n_rows, n_categorical), C-contiguous
        Row of theta of each level; -1 for the base level.
    target : float64, (n_rows,)
    weight, offset : float64, (n_rows,) or (0,)
        Empty where the run has none: 1 and 0.
    row_numbers : uint64, (n_rows,) or (0,)
        Global row numbers, kept only for ``--row-log``.
    sparse : Entries, optional
        What the sparse columns hold; none if not given.
    """

    features: np.ndarray
    codes: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    row_numbers: np.ndarray
    sparse: Entries | None = None

    @property
    def rows(self) -> int:
        return len(self.target)

    @property
    def entries(self) -> Entries:
        """Those of the sparse columns."""
        return NO_ENTRIES[self.features.dtype] if self.sparse is None else self.sparse

    def part(self, start: int, stop: int) -> Block:
        """The rows ``start … stop - 1``, without copying."""
        return self._each(lambda array: array[start:stop], self.sparse and self.sparse.part(start, stop))

    def chosen(self, rows: np.ndarray) -> Block:
        """A copy of the rows where ``rows`` (bool, (n_rows,)) is true."""
        return self._each(lambda array: array[rows] if len(array) else array, self.sparse and self.sparse.chosen(rows))

    def _each(self, change: Callable[[np.ndarray], np.ndarray], sparse: Entries | None) -> Block:
        features, codes, target, weight, offset, row_numbers = map(change, self.arrays())
        return Block(features, codes, target, weight, offset, row_numbers, sparse)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays with a number a row or column, in the order of the attributes."""
        return (self.features, self.codes, self.target, self.weight, self.offset, self.row_numbers)


@dataclass(frozen=True)
class Places:
    """Where the numbers of encoded rows go: into records, or into a block at once.

    Attributes
    ----------
    features, first_feature : C-contiguous, (n_rows, …), and the position of the first numeric column in it
    codes, first_code : int32, C-contiguous, (n_rows, …), and the position of the first categorical column in it
    target, weight, offset, row_numbers : (n_rows,), the last three empty where the run has none
    """

    features: np.ndarray
    first_feature: int
    codes: np.ndarray
    first_code: int
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    row_numbers: np.ndarray

    @classmethod
    def of_block(cls, block: Block) -> Places:
        return cls(
            block.features, 0, block.codes, 0, block.target, block.weight, block.offset, block.row_numbers
        )  # fmt: skip


@dataclass(frozen=True)
class EntriesLayout:
    """What entries of sparse columns take: so many in a row, on average, with values or not, named by texts or not."""

    of_row: float
    has_values: bool
    has_texts: bool = False

    def row_bytes(self, feature_bytes: int) -> float:
        """Bytes of the entries of a row in a block."""
        return 8 + self.of_row * (4 + feature_bytes * self.has_values)

    @property
    def waiting_words(self) -> int:
        """8-byte words of an entry that waits for its block to be finished: slot and key, and the value."""
        return 1 + self.has_values

    @property
    def waiting_bytes(self) -> float:
        """Of a row, while its entries wait."""
        return self.of_row * 8 * self.waiting_words


@dataclass(frozen=True)
class RecordLayout:
    """Where the numbers of a row stand, both in a record (side by side) and in a block (column groups).

    A record is ``[target, weight?, offset?, row number?, features …, codes …, slot]``, padded to 8 bytes. Entries of
    sparse columns stand beside it.
    """

    n_numeric: int
    n_categorical: int
    dtype: str
    has_weight: bool
    has_offset: bool
    has_row_number: bool
    #: Not shown: layouts without sparse columns are known by what was shown before there were any.
    entries: EntriesLayout | None = field(default=None, repr=False)

    @property
    def feature_type(self) -> np.dtype:
        return np.dtype(self.dtype)

    @property
    def weight_position(self) -> int:
        """In 8-byte words, as are the next two."""
        return 1

    @property
    def offset_position(self) -> int:
        return 1 + self.has_weight

    @property
    def row_number_position(self) -> int:
        return 1 + self.has_weight + self.has_offset

    @property
    def _features_byte(self) -> int:
        return 8 * (1 + self.has_weight + self.has_offset + self.has_row_number)

    @property
    def features_position(self) -> int:
        """In elements of the feature type."""
        return self._features_byte // self.feature_type.itemsize

    @property
    def codes_position(self) -> int:
        """In 4-byte words, as is the slot."""
        return (self._features_byte + self.n_numeric * self.feature_type.itemsize) // 4

    @property
    def slot_position(self) -> int:
        return self.codes_position + self.n_categorical

    @property
    def record_words(self) -> int:
        """Length of a record in 8-byte words."""
        return -(-(self.slot_position + 1) * 4 // 8)

    @property
    def record_bytes(self) -> int:
        return 8 * self.record_words

    @property
    def block_rows(self) -> int:
        """Places of a block: as many rows as fit 8 MiB, at most 65,536; the debugging row number does not count."""
        row_bytes = self.record_bytes - 8 * self.has_row_number
        if self.entries is not None:
            row_bytes += math.ceil(self.entries.row_bytes(self.feature_type.itemsize))
        return min(BLOCK_ROWS, max(1, BLOCK_BYTES // row_bytes))

    @property
    def slice_rows(self) -> int:
        """Rows that are decoded, encoded and scattered together: more where each slice brings dictionaries."""
        if self.entries is not None:
            rows = int(SLICE_BYTES / self._waiting_row_bytes)
        else:
            rows = self.block_rows if self.n_categorical else max(SLICE_ROWS, SLICE_BYTES // self.record_bytes)
        return min(self.block_rows, max(SLICE_MULTIPLE, rows - rows % SLICE_MULTIPLE))

    @property
    def _waiting_row_bytes(self) -> float:
        """Of a record, with entries that wait beside it."""
        return self.record_bytes + (self.entries.waiting_bytes if self.entries is not None else 0.0)

    def rows_in(self, size_bytes: int) -> int:
        """How many records, with entries that wait beside them, take so many bytes."""
        return int(size_bytes / self._waiting_row_bytes)

    def views(self, buffer: np.ndarray, rows: int) -> Block:
        """A block of ``rows`` rows over ``buffer`` (uint8, from :meth:`block_bytes`), without copying."""
        position = 0

        def take(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
            nonlocal position
            size = math.prod(shape) * np.dtype(dtype).itemsize
            view = buffer[position : position + size].view(dtype).reshape(shape)
            position += padded_bytes(size)
            return view

        return Block(
            take((rows, self.n_numeric), self.feature_type),
            take((rows, self.n_categorical), np.int32),
            take((rows,), np.float64),
            take((rows if self.has_weight else 0,), np.float64),
            take((rows if self.has_offset else 0,), np.float64),
            take((rows if self.has_row_number else 0,), np.uint64),
        )

    def block_bytes(self, rows: int) -> int:
        """Bytes of a block of ``rows`` rows."""
        row_bytes = (
            self.n_numeric * self.feature_type.itemsize, 4 * self.n_categorical, 8,
            8 * self.has_weight, 8 * self.has_offset, 8 * self.has_row_number,
        )  # fmt: skip
        return sum(padded_bytes(rows * size) for size in row_bytes)

    def places(self, records: np.ndarray) -> Places:
        """Where the numbers of rows go that become ``records`` (uint64, (n_rows, record_words))."""
        doubles = records.view(np.float64)
        return Places(
            records.view(self.feature_type), self.features_position, records.view(np.int32), self.codes_position,
            doubles[:, 0], doubles[:, self.weight_position] if self.has_weight else np.empty(0),
            doubles[:, self.offset_position] if self.has_offset else np.empty(0),
            records[:, self.row_number_position] if self.has_row_number else np.empty(0, np.uint64),
        )  # fmt: skip

    def new_records(self, rows: int) -> np.ndarray:
        """Uninitialised records, uint64, shape ``(rows, record_words)``."""
        return aligned_memory(rows * self.record_bytes).view(np.uint64).reshape(rows, self.record_words)
