"""A fixed sample of rows from all over the data set, and scans of single columns.

    manifest ── 16 to 64 row groups, evenly spread ── first rows of each ── where ──> Sample
    manifest ── row groups in order ── where ──> first rows

A sample is a pure function of manifest and arguments, so that everything derived from it is the same on every start.
Files are often sorted: rows of the first row group alone would say little about the others. The first rows do not
depend on files and row groups either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.ahead import each_in_order
from streamgd.data.filters import Where
from streamgd.data.kinds import kind_of
from streamgd.data.reader import read_batches
from streamgd.data.source import COLUMN_PAGE_BYTES, Manifest, RowGroup

SAMPLE_ROWS = 65_536
SAMPLE_BYTES = 64 * 10**6

#: The most row groups whose first rows are looked at; and the fewest, where the first pages of more have more than
#: ``SPREAD_BYTES``: the first row of a column takes its whole first page.
MOST_ROW_GROUPS, FEWEST_ROW_GROUPS = 64, 16
SPREAD_BYTES = 256 * 10**6

# A filter may leave next to nothing of the rows looked at first; then whole row groups are read until there are enough.
FEWEST_ROWS = 4_096
#: So many batches of what is found then are joined: each takes some kilobytes, however few of its rows pass.
MOST_BATCHES = 64

#: How many the first rows are, and among how many they are looked for where a filter leaves next to nothing.
FIRST_ROWS, FIRST_ROWS_AMONG = 1_024, 2**20

_THREADS = 4
#: As many row groups are read at once as their readers fit this, whatever the memory budget.
_READERS_BYTES = 110_000_000
_CODES = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Sample:
    """Sampled rows, in the order of the files.

    ``rows`` has text columns as ``dictionary<int32, string>`` (the dictionary may hold values that do not occur);
    ``n_rows`` is the estimated number of rows of the whole data set that pass the filter, exact when ``complete``:
    then ``rows`` are all of them. The first ``front_rows`` of ``rows`` are the first ones of the data set.
    """

    rows: pa.RecordBatch
    n_rows: int
    complete: bool
    front_rows: int


def read_sample(manifest: Manifest, columns: list[str], where: Where | None = None) -> Sample:
    """Rows from the front of row groups spread evenly over the data set (:func:`spread`), about 65,536 in all.

    Every row group gives the same number of rows (fewer only if it has fewer); there are fewer rows in all where rows
    are so wide that they would take more than 64 MB. If a filter leaves fewer than 4,096 of them, whole row groups
    are read, from all over the data set, until so many rows are found; of more rows than the sample may have every
    second, fourth … is kept.

    Raises
    ------
    CorruptFileError, DataChangedError, StorageError, AccessError
        As from :func:`streamgd.data.reader.read_batches`.
    """
    row_groups = _row_groups(manifest, where)
    chosen = spread(row_groups, len(columns))
    most_rows = max(1, min(SAMPLE_ROWS, _affordable_rows(manifest, chosen, columns)))
    rows_each = max(1, most_rows // len(chosen))

    def front(row_group: RowGroup) -> pa.RecordBatch:
        rows = next(_filtered(manifest, row_group, columns, where, min(rows_each, row_group.rows)))
        pa.default_memory_pool().release_unused()  # each thread would keep what its decoders took
        return rows

    batches = each_in_order(chosen, front, _sampling_threads(manifest.largest_reader_bytes(chosen, columns)))
    n_rows = sum(row_group.rows for row_group in row_groups)
    rows_looked_at = sum(min(rows_each, row_group.rows) for row_group in chosen)
    rows_found = sum(map(len, batches))
    if where is not None and rows_looked_at < n_rows and rows_found < FEWEST_ROWS:
        batches, rows_found, rows_looked_at = _search(manifest, row_groups, columns, where, most_rows)
    rows = _joined(batches)
    complete = rows_looked_at == n_rows and rows_found == len(rows)
    front_rows = 0 if where is not None else len(rows) if complete else len(batches[0])
    return Sample(rows, rows_found * n_rows // rows_looked_at, complete, front_rows)


def spread(row_groups: Sequence[RowGroup], n_columns: int) -> list[RowGroup]:
    """Of some row groups up to 64, evenly spread; 16 to 63 where more would decode over 256 MB of first pages.

    A page counts as eight bytes a value and 1 MB at most, however it is stored: the choice depends on rows and columns.
    """
    pages_bytes = n_columns * sum(min(COLUMN_PAGE_BYTES, 8 * row_group.rows) for row_group in row_groups)
    affordable = SPREAD_BYTES * len(row_groups) // max(1, pages_bytes)
    return evenly(row_groups, min(MOST_ROW_GROUPS, max(FEWEST_ROW_GROUPS, affordable)))


def evenly(row_groups: Sequence[RowGroup], most: int = MOST_ROW_GROUPS) -> list[RowGroup]:
    """So many row groups at most, evenly spread over those given, the first and the last among them."""
    count = min(most, len(row_groups))
    return [row_groups[number * (len(row_groups) - 1) // max(count - 1, 1)] for number in range(count)]


def sample_size(manifest: Manifest, columns: list[str], reader_bytes: int) -> tuple[int, int]:
    """Rows of a sample of these columns, at most, and how many threads read it, whose readers hold ``reader_bytes``."""
    rows = min(SAMPLE_ROWS, manifest.n_rows, _affordable_rows(manifest, list(manifest.row_groups), columns))
    return rows, _sampling_threads(reader_bytes)


def first_rows(manifest: Manifest, columns: list[str], where: Where | None, sample: Sample) -> pa.RecordBatch:
    """The first 1,024 rows that pass the filter, whatever files and row groups they are in; of wide rows fewer.

    They are those of the sample where that begins with them; else they are read.

    Raises
    ------
    CorruptFileError, DataChangedError, StorageError, AccessError
        As from :func:`streamgd.data.reader.read_batches`.
    """
    wanted = max(1, min(FIRST_ROWS, SAMPLE_BYTES // (8 * len(columns))))
    if sample.front_rows >= min(wanted, manifest.n_rows):
        return sample.rows.slice(0, wanted).select(columns)
    batches: list[pa.RecordBatch] = []
    missing, looked_at = wanted, 0
    for row_group in _row_groups(manifest, where):
        batch_rows = min(wanted, row_group.rows)
        for batch in _filtered(manifest, row_group, columns, where, batch_rows):
            batches.append(batch.slice(0, missing))
            missing -= len(batches[-1])
            looked_at += batch_rows
            if not missing:
                break
        if not missing or looked_at >= FIRST_ROWS_AMONG:
            break
    return _joined(batches)


def scan_column(manifest: Manifest, column: str, where: Where | None = None) -> Iterator[pa.Array]:
    """All values of one column in file order, of rows that pass the filter, in arrays of at most 65,536 values."""
    for row_group in _row_groups(manifest, where):
        for batch in _filtered(manifest, row_group, [column], where, SAMPLE_ROWS):
            yield batch.column(0)


def _row_groups(manifest: Manifest, where: Where | None) -> list[RowGroup]:
    """The row groups that may hold rows to use; the first one where none does, so that there is one to look at."""
    if where is None:
        return list(manifest.row_groups)
    surviving = [where.surviving_row_groups(manifest, file_index) for file_index in range(len(manifest.files))]
    passing = [row_group for row_group in manifest.row_groups if row_group.index in surviving[row_group.file_index]]
    return passing or [manifest.row_groups[0]]


def _sampling_threads(reader_bytes: int) -> int:
    return max(1, min(_THREADS, _READERS_BYTES // max(1, reader_bytes)))


def _affordable_rows(manifest: Manifest, row_groups: list[RowGroup], columns: list[str]) -> int:
    """How many rows fit ``SAMPLE_BYTES``; a fixed width is allowed for values beside what the footers say."""
    stored_bytes = sum(manifest.uncompressed_bytes(row_group, columns) for row_group in row_groups)
    row_bytes = stored_bytes / sum(row_group.rows for row_group in row_groups) + 8 * len(columns)
    return int(SAMPLE_BYTES / row_bytes)


def _search(
    manifest: Manifest, row_groups: list[RowGroup], columns: list[str], where: Where, most_rows: int
) -> tuple[list[pa.RecordBatch], int, int]:
    """Rows that pass the filter, from whole row groups, until there are enough; how many passed, and were looked at.

    Of more than ``most_rows`` every second is kept, of more than twice as many every fourth, and so on.
    """
    # Multiples of the golden ratio, taken modulo one, come from everywhere at whatever number one stops.
    order = sorted(range(len(row_groups)), key=lambda number: number * 2_654_435_769 % 2**32)
    kept: list[pa.RecordBatch] = []
    rows_kept, rows_found, rows_looked_at, stride = 0, 0, 0, 1
    for row_group in map(row_groups.__getitem__, order):
        for batch in _filtered(manifest, row_group, columns, where, most_rows):
            kept.append(_every(stride, batch, -rows_found % stride))
            rows_found += len(batch)
            rows_kept += len(kept[-1])
            while rows_kept > most_rows:
                kept, stride = [_every(2, _joined(kept))], 2 * stride
                rows_kept = len(kept[0])
            if len(kept) == MOST_BATCHES:
                kept = [_joined(kept)]
        rows_looked_at += row_group.rows
        if rows_found >= FEWEST_ROWS:
            break
    return kept, rows_found, rows_looked_at


def _every(stride: int, rows: pa.RecordBatch, first: int = 0) -> pa.RecordBatch:
    return rows.take(pa.array(range(first, len(rows), stride), pa.int64())) if stride > 1 else rows


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    joined = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().to_batches()
    return joined[0] if joined else batches[0]


def _filtered(
    manifest: Manifest, row_group: RowGroup, columns: list[str], where: Where | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """The batches of a row group with only these columns and only the rows that pass the filter."""
    needed = list(dict.fromkeys([*columns, *(where.columns if where is not None else ())]))
    text = [name for name in columns if kind_of(manifest.schema.field(name).type) == "text"]
    for batch in read_batches(manifest, row_group, needed, text, batch_rows):
        kept = batch if where is None else batch.filter(pa.array(where.mask(batch)))
        arrays = [_as_codes(kept.column(name)) if name in text else kept.column(name) for name in columns]
        yield pa.RecordBatch.from_arrays(arrays, names=columns)


def _as_codes(array: pa.Array) -> pa.DictionaryArray:
    """Codes of texts; of a long dictionary with those alone that occur, since a sample has as many as row groups."""
    if array.type != _CODES:
        return array.cast(pa.string()).dictionary_encode()
    if len(array.dictionary) <= len(array):
        return array
    occurring = pc.unique(array.indices).drop_null()
    return pa.DictionaryArray.from_arrays(
        pc.index_in(array.indices, occurring, skip_nulls=True), array.dictionary.take(occurring)
    )
