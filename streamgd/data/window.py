"""Pure streaming: a window of rows at a time, decoded while the one before is trained on.

Nothing is kept on disk and nothing is decoded twice in an epoch. A window is made of the next slice of several row
groups at once (``plan.window_order``), or of one slice in file order; its rows are permuted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import Block
from streamgd.data.encoder import Encoder, Survey
from streamgd.data.encoding import Finisher
from streamgd.data.plan import Slice, file_order, window_order, window_rows_order
from streamgd.data.reader import READ_BUFFER_BYTES, read_batches
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.stream import EncodedSlice, can_hold_rows, encoded_slices, origin_of, passed_over
from streamgd.stopwatch import Stopwatch

#: Row groups are open at once as far as their readers fit this, whatever the memory budget: it decides the order.
LANES_BYTES = 128_000_000
MAX_LANES = 64
PAGE_BYTES = 1_048_576

#: Rows looked at, spread over the row groups, before pure streaming begins.
LOOK_ROWS = 262_144
LOOK_ROW_GROUPS = 64
#: Of these rows so many bytes are kept, to judge the step size by.
LOOK_BYTES = 16_000_000


@dataclass(frozen=True)
class Window:
    """Encoded rows that are learned together: records in the order they were read, and the order to train in."""

    records: np.ndarray
    order: np.ndarray
    survey: Survey

    def block(self, finisher: Finisher) -> Block:
        return finisher.finish(self.records, self.order)


def count_lanes(manifest: Manifest, columns: list[str]) -> int:
    """How many row groups are open at once: as many readers as fit 128 MB by the footers, at most 64.

    A reader holds a buffer and a page for each column.
    """
    widest = 1
    for row_group in manifest.row_groups:
        pages = sum(
            min(PAGE_BYTES, manifest.uncompressed_bytes(row_group, [name])) + READ_BUFFER_BYTES for name in columns
        )
        widest = max(widest, pages)
    return max(1, min(MAX_LANES, len(manifest.row_groups), LANES_BYTES // widest))


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
        self.layout = encoder.layout

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from number ``first`` on; a resumed lane is decoded from its beginning again."""
        window_rows = self._encoder.layout.block_rows
        if self._lanes:
            plan = window_order(self._manifest, self._seed, epoch, self._lanes, max(1, window_rows // self._lanes))
        else:
            plan = iter([piece] for piece in file_order(self._manifest, window_rows))
        readers: dict[RowGroup, Iterator[pa.RecordBatch]] = {}
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: tuple[int, list[Future[EncodedSlice]]] | None = None
            for index, pieces in enumerate(plan):
                if index < first:
                    continue
                tasks = [self._reader_of(piece, readers) for piece in pieces]
                if ahead is not None:
                    ready = self._gather(epoch, *ahead)
                    ahead = (index, [pool.submit(self._encode, *task) for task in tasks])
                    yield ready
                else:
                    ahead = (index, [pool.submit(self._encode, *task) for task in tasks])
            if ahead is not None:
                yield self._gather(epoch, *ahead)

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

    def _encode(self, piece: Slice, reader: Iterator[pa.RecordBatch] | None, skipped: int) -> EncodedSlice:
        if reader is None:
            return passed_over(self._manifest, piece.row_group, self._encoder, piece.rows)
        with self._stopwatch.timed("decode"):
            for _ in range(skipped):
                next(reader)
            batch = next(reader)
            if piece.stop == piece.row_group.rows:
                # Let the reader find its end, where it checks the number of rows and closes the file.
                next(reader, None)
        records = self._encoder.layout.new_records(batch.num_rows)
        origin = origin_of(self._manifest, piece.row_group, piece.start)
        with self._stopwatch.timed("encode"):
            rows = self._encoder.encode(batch, origin, self.layout.places(records))
        return EncodedSlice(origin, records, rows)

    def _gather(self, epoch: int, index: int, futures: list[Future[EncodedSlice]]) -> Window:
        survey = Survey.empty(len(self._encoder.shift0), len(self._encoder.vocabularies))
        records = [self._encoder.layout.new_records(0)]
        kept = []
        for future in futures:
            with self._stopwatch.timed("waiting"):
                piece = future.result()
            survey = survey.merge(piece.rows.survey)
            records.append(piece.records)
            kept.append(piece.rows.kept & ~piece.rows.holdout)
        chosen = np.flatnonzero(np.concatenate([*kept, np.empty(0, np.bool_)]))
        if self._lanes and len(chosen):
            shuffled = np.empty_like(chosen)
            shuffled[window_rows_order(self._seed, epoch, index, len(chosen))] = chosen
            chosen = shuffled
        return Window(np.concatenate(records), chosen, survey)


def first_look(
    manifest: Manifest,
    encoder: Encoder,
    enough: Callable[[Survey], bool],
    check: Callable[[], None],
    stopwatch: Stopwatch,
) -> tuple[Survey, list[EncodedSlice]]:
    """Survey of slices spread over all row groups, and some rows of each: what streaming knows before it begins.

    Where that is not ``enough`` (data sorted by the target, a narrow filter), every row is surveyed. The rows that are
    kept take 16 MB at most. ``check`` is called often; it raises to stop.
    """
    chosen = np.unique(np.linspace(0, len(manifest.row_groups) - 1, LOOK_ROW_GROUPS).round().astype(int))
    rows = max(1, min(encoder.layout.block_rows, LOOK_ROWS // len(chosen)))
    fronts = (next(encoded_slices(manifest, manifest.row_groups[index], encoder, rows, stopwatch)) for index in chosen)
    found = _surveyed(fronts, len(chosen), encoder, check)
    if enough(found[0]):
        return found
    block_rows = encoder.layout.block_rows
    everything = (
        piece
        for row_group in manifest.row_groups
        for piece in encoded_slices(manifest, row_group, encoder, block_rows, stopwatch)
    )
    return _surveyed(everything, len(file_order(manifest, block_rows)), encoder, check)


def _surveyed(
    pieces: Iterator[EncodedSlice], count: int, encoder: Encoder, check: Callable[[], None]
) -> tuple[Survey, list[EncodedSlice]]:
    """Survey of all pieces, and the first rows of each of them."""
    rows_each = max(1, LOOK_BYTES // encoder.layout.record_bytes // count)
    survey = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
    fronts = []
    for piece in pieces:
        check()
        survey = survey.merge(piece.rows.survey)
        fronts.append(piece.front(rows_each))
    return survey, fronts
