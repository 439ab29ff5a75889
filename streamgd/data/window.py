"""Pure streaming: a window of rows at a time, decoded while the one before is trained on.

Nothing is kept on disk and nothing is decoded twice in an epoch. A window is made of the next slice of several row
groups at once (``plan.window_order``), or of one slice in file order; its rows are permuted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa

from streamgd.data.ahead import in_order
from streamgd.data.blocks import Block, RawEntries, aligned_memory
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Finisher
from streamgd.data.entries import EntriesFinisher, joined_entries, no_entries
from streamgd.data.plan import Slice, file_order, window_order, window_rows_order
from streamgd.data.reader import READ_BUFFER_BYTES, read_batches
from streamgd.data.sample import evenly, spread
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.stream import EncodedSlice, can_hold_rows, encoded_slices, origin_of, passed_over
from streamgd.data.survey import Survey
from streamgd.stopwatch import Stopwatch

#: Row groups are open at once as far as their readers fit this, whatever the memory budget: it decides the order.
LANES_BYTES = 128_000_000
MAX_LANES = 64

#: Windows that are decoded while one is trained on.
WINDOWS_AHEAD = 2

#: Rows looked at, spread over the row groups, before pure streaming begins.
LOOK_ROWS = 262_144
#: Of these rows so many bytes are kept, to judge the step size by.
LOOK_BYTES = 16_000_000


@dataclass(frozen=True)
class Window:
    """Encoded rows that are learned together: records in the order they were read, and the order to train in.

    It is valid until the next window is asked for, as is its block, which is written to ``memory``.
    """

    records: np.ndarray
    order: np.ndarray
    survey: Survey
    memory: np.ndarray
    entries: RawEntries | None = None

    def block(self, finisher: Finisher, of_entries: EntriesFinisher | None = None) -> Block:
        """The rows as a block, with their entries if the run has sparse columns."""
        block = finisher.finish(self.records, self.order, self.memory)
        if of_entries is None or self.entries is None:
            return block
        return replace(block, sparse=of_entries.of_rows(self.entries, self.order))


def count_lanes(manifest: Manifest, columns: list[str]) -> int:
    """How many row groups are open at once: as many readers as fit 128 MB by the footers, at most 64.

    A reader holds a buffer and a page for each column.
    """
    buffers = READ_BUFFER_BYTES * len(columns)
    widest = max(manifest.first_pages_bytes(row_group, columns) + buffers for row_group in manifest.row_groups)
    return max(1, min(MAX_LANES, len(manifest.row_groups), LANES_BYTES // max(1, widest)))


@dataclass(frozen=True)
class _Part:
    """Which rows of a slice to train on (bool, (n_rows,)), what was found in them, and their entries."""

    to_train: np.ndarray
    survey: Survey
    entries: RawEntries


class WindowStream:
    """The windows of each epoch.

    Parameters
    ----------
    encoder : Encoder
        With frozen vocabularies.
    lanes : int
        Row groups open at once; 0 for the order of the files.
    """

    def __init__(self, manifest: Manifest, encoder: Encoder, seed: int, lanes: int, threads: int, stopwatch: Stopwatch):
        self._manifest = manifest
        self._encoder = encoder
        self._seed = seed
        self._lanes = lanes
        self._threads = threads
        self._stopwatch = stopwatch
        for vocabulary in encoder.vocabularies:
            vocabulary.kept_dictionaries = max(1, lanes)
        self.layout = encoder.layout
        self.sparse = encoder.sparse

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from number ``first`` on; a resumed lane is decoded from its beginning again."""
        window_rows = self._encoder.layout.block_rows
        if self._lanes:
            plan = window_order(self._manifest, self._seed, epoch, self._lanes, max(1, window_rows // self._lanes))
        else:
            plan = iter([piece] for piece in file_order(self._manifest, window_rows))
        readers: dict[RowGroup, Iterator[pa.RecordBatch]] = {}
        # One window is trained on while the next are decoded; fresh memory for each would cost as much as encoding.
        records = [self.layout.new_records(window_rows) for _ in range(1 + WINDOWS_AHEAD)]
        memory = aligned_memory(self.layout.block_bytes(window_rows))
        ahead: deque[tuple[int, list[Future[_Part]]]] = deque()
        before: dict[RowGroup, Future[_Part]] = {}

        def next_window() -> Window:
            index, futures = ahead.popleft()
            window = self._gather(epoch, index, futures, records[index % len(records)], memory)
            if self._encoder.dictionary_columns:
                # Arrow would keep the dictionaries of every slice.
                pa.default_memory_pool().release_unused()
            return window

        with ThreadPoolExecutor(self._threads) as pool:
            for index, pieces in enumerate(plan):
                if index < first:
                    continue
                ends = np.cumsum([piece.rows for piece in pieces])
                parts = np.split(records[index % len(records)][: ends[-1]], ends[:-1])
                futures = []
                for piece, part in zip(pieces, parts, strict=True):
                    task = self._reader_of(piece, readers)
                    futures.append(pool.submit(self._encode, *task, part, before.get(piece.row_group)))
                before = {piece.row_group: future for piece, future in zip(pieces, futures, strict=True)}
                ahead.append((index, futures))
                if len(ahead) > WINDOWS_AHEAD:
                    yield next_window()
            while ahead:
                yield next_window()

    def _reader_of(
        self, piece: Slice, readers: dict[RowGroup, Iterator[pa.RecordBatch]]
    ) -> tuple[Slice, Iterator[pa.RecordBatch] | None, int]:
        """The reader that stands before ``piece``, and how many slices it must pass over first."""
        encoder, row_group = self._encoder, piece.row_group
        if not can_hold_rows(self._manifest, row_group, encoder):
            return piece, None, 0
        slice_rows = encoder.layout.block_rows // max(1, self._lanes) or 1
        skipped = 0
        if row_group not in readers:
            readers[row_group] = read_batches(
                self._manifest, row_group, encoder.read_columns, encoder.dictionary_columns, slice_rows
            )
            skipped = piece.start // slice_rows
        reader = readers[row_group]
        if piece.stop == row_group.rows:
            del readers[row_group]
        return piece, reader, skipped

    def _encode(
        self, piece: Slice, reader: Iterator[pa.RecordBatch] | None, skipped: int, records: np.ndarray,
        before: Future[_Part] | None,
    ) -> _Part:  # fmt: skip
        """What is to be known of the rows of a slice, which are encoded into ``records``; ``before`` is that before."""
        if before is not None:
            before.result()  # the reader stands behind it then
        if reader is None:
            none = passed_over(self._manifest, piece.row_group, self._encoder, piece.rows)
            return _Part(np.zeros(piece.rows, np.bool_), none.rows.survey, no_entries(piece.rows))
        with self._stopwatch.timed("decode"):
            for _ in range(skipped):
                next(reader)
            batch = next(reader)
            if piece.stop == piece.row_group.rows:
                # Let the reader find its end, where it checks the number of rows and closes the file.
                next(reader, None)
        origin = origin_of(self._manifest, piece.row_group, piece.start)
        with self._stopwatch.timed("encode"):
            rows = self._encoder.encode(batch, origin, self.layout.places(records))
        return _Part(rows.kept & ~rows.holdout, rows.survey, rows.entries or no_entries(piece.rows))

    def _gather(
        self,
        epoch: int,
        index: int,
        futures: list[Future[_Part]],
        records: np.ndarray,
        memory: np.ndarray,
    ) -> Window:
        survey = Survey.empty(len(self._encoder.shift0), len(self._encoder.vocabularies))
        kept, entries = [], []
        for future in futures:
            with self._stopwatch.timed("waiting"):
                part = future.result()
            survey = survey.merge(part.survey)
            kept.append(part.to_train)
            entries.append(part.entries)
        chosen = np.flatnonzero(np.concatenate(kept))
        if self._lanes and len(chosen):
            shuffled = np.empty_like(chosen)
            shuffled[window_rows_order(self._seed, epoch, index, len(chosen))] = chosen
            chosen = shuffled
        return Window(records, chosen, survey, memory, joined_entries(entries) if self._encoder.sparse else None)


def first_look(
    manifest: Manifest,
    encoder: Encoder,
    enough: Callable[[Survey], bool],
    check: Callable[[], None],
    stopwatch: Stopwatch,
    threads: int,
) -> tuple[Survey, list[EncodedSlice]]:
    """Survey of slices of row groups from all over the data, and some rows of each: what streaming knows at first.

    More row groups are looked at where there are levels to be met, which are those of the model then. Where that is not
    ``enough`` (data sorted by the target, a narrow filter), every row is surveyed. The rows that are kept take 16 MB at
    most. ``check`` is called often; it raises to stop.
    """

    def pieces_of(row_group: RowGroup, slice_rows: int) -> Iterator[EncodedSlice]:
        return encoded_slices(manifest, row_group, encoder, slice_rows, stopwatch)

    meets_levels = bool(encoder.vocabularies or encoder.sparse)
    row_groups = manifest.row_groups
    chosen = evenly(row_groups) if meets_levels else spread(row_groups, len(encoder.read_columns))
    rows = max(1, min(encoder.layout.block_rows, LOOK_ROWS // len(chosen)))
    # Without a check: starts that are stopped again and again shall come to their first window.
    found = _surveyed(
        chosen, lambda group: islice(pieces_of(group, rows), 1), len(chosen), encoder, lambda: None, threads
    )
    if enough(found[0]):
        return found
    return look_at_all(manifest, encoder, check, stopwatch, threads)


def look_at_all(
    manifest: Manifest, encoder: Encoder, check: Callable[[], None], stopwatch: Stopwatch, threads: int
) -> tuple[Survey, list[EncodedSlice]]:
    """As :func:`first_look`, of every row."""
    rows = encoder.layout.block_rows

    def pieces_of(row_group: RowGroup) -> Iterator[EncodedSlice]:
        return encoded_slices(manifest, row_group, encoder, rows, stopwatch)

    count = len(file_order(manifest, rows))
    return _surveyed(manifest.row_groups, pieces_of, count, encoder, check, threads)


def _surveyed(
    row_groups: Sequence[RowGroup],
    pieces_of: Callable[[RowGroup], Iterator[EncodedSlice]],
    count: int,
    encoder: Encoder,
    check: Callable[[], None],
    threads: int,
) -> tuple[Survey, list[EncodedSlice]]:
    """Survey of all ``count`` pieces of the row groups, and the first rows of each piece."""
    rows_each = max(1, encoder.layout.rows_in(LOOK_BYTES) // count)
    survey = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
    fronts = []

    def found_in(row_group: RowGroup) -> Iterator[tuple[Survey, EncodedSlice]]:
        return ((piece.rows.survey, piece.front(rows_each)) for piece in pieces_of(row_group))

    with closing(in_order(row_groups, found_in, threads)) as found:
        for _, (of_piece, front) in found:
            check()
            survey = survey.merge(of_piece)
            fronts.append(front)
    return survey, fronts
