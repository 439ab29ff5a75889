"""Scatter: threads take row groups, encode them, and put each row into the queue of its bundle.

    row group ── slices ── records and entries ── a queue for each bundle ── written to its place when full

A wave deals row groups to threads in order for a while; when it ends, all queues are written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import HOLDOUT_BIT, RawEntries
from streamgd.data.encoder import EncodedRows, Encoder, Origin
from streamgd.data.plan import Permutation
from streamgd.data.ranges import RowGroupMoments
from streamgd.data.reader import let_go, read_batches
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.store import BlockStore
from streamgd.data.stream import can_hold_rows, origin_of, passed_over
from streamgd.data.survey import Survey
from streamgd.errors import StreamgdError
from streamgd.kernels import keys as key_loops
from streamgd.kernels import records as kernels
from streamgd.stopwatch import Stopwatch

#: A row group of more values is left where it is when the run is to stop; others are finished and noted first.
LONG_ROW_GROUP_VALUES = 50_000_000


class Wave:
    """Row groups dealt to threads in order until the time is over or the run is to stop.

    One is dealt in any case: starts that are stopped again and again come to an end all the same.

    Attributes
    ----------
    survey : Survey
        Of the rows before, and of those row groups that came to their end, as far as none before them is missing: they
        are merged in their order, at once, since each counts all levels.
    ranges : dict
        The moments of each row group that was dealt; None where it was passed over.
    """

    def __init__(self, first_group: int, n_groups: int, deadline_s: float, check: Callable[[], None], survey: Survey):
        self._first_group = first_group
        self.survey = survey
        self._check = check
        self.next_group = first_group
        self.ranges: dict[int, RowGroupMoments | None] = {}
        self._waiting: dict[int, Survey] = {}
        self._next_merged = first_group
        self._n_groups = n_groups
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._failed = False

    def take(self) -> int | None:
        with self._lock:
            if self._failed or self.next_group == self._n_groups:
                return None
            if self.next_group > self._first_group and (time.monotonic() > self._deadline_s or self._is_to_stop()):
                return None
            self.next_group += 1
            return self.next_group - 1

    def add(self, index: int, survey: Survey, ranges: RowGroupMoments | None) -> None:
        """Take in what was found in a row group."""
        with self._lock:
            self.ranges[index], self._waiting[index] = ranges, survey
            while self._next_merged in self._waiting:
                self.survey = self.survey.merge(self._waiting.pop(self._next_merged))
                self._next_merged += 1

    def fail(self) -> None:
        self._failed = True

    def _is_to_stop(self) -> bool:
        try:
            self._check()
        except StreamgdError:  # told once more when the wave is noted
            return True
        return False


@dataclass
class Scatter:
    """What the threads share.

    Parameters
    ----------
    scattered : int64, (n_blocks,)
        Records of each block; those of a wave are counted when it is over.
    lets_go : bool
        Whether pages of the data are let go when they have been read, as they take most of memory with the blocks.

    Attributes
    ----------
    fill : int64, (n_bundles,)
        Records of each bundle that are written or being written.
    """

    manifest: Manifest
    encoder: Encoder
    store: BlockStore
    permutation: Permutation
    scattered: np.ndarray
    check: Callable[[], None]
    progress: Callable[[str, int], None]
    stopwatch: Stopwatch
    lets_go: bool
    fill: np.ndarray = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        firsts = range(0, len(self.scattered), self.store.bundle_blocks)
        self.fill = np.add.reduceat(self.scattered, firsts)

    def reserve(self, bundle: int, count: int) -> int:
        """Make room for ``count`` more records in a bundle; returns after how many they begin."""
        with self.lock:
            begin = int(self.fill[bundle])
            self.fill[bundle] += count
        return begin

    def count(self, records: np.ndarray) -> None:
        """Count more records of each block."""
        with self.lock:
            self.scattered += records


class Stage:
    """One thread's staging area: the records of a slice, and a queue of records for each bundle.

    A queue is written to the regions of its bundle when it is full.
    """

    def __init__(self, scatter: Scatter, stage_bytes: int):
        self._scatter = scatter
        self._layout = layout = scatter.encoder.layout
        store, n_queues = scatter.store, len(scatter.fill)
        self._shift = store.bundle_blocks.bit_length() - 1
        rows_of_stage = layout.rows_in(stage_bytes)
        length = min(store.bundle_blocks * store.places, max(1, rows_of_stage // n_queues))
        self._n_entries = np.zeros(n_queues, np.int64)
        if layout.entries is not None:
            of_queue = max(1, int(layout.entries.of_row * rows_of_stage) // n_queues)
            self._entries = np.empty((n_queues, of_queue, layout.entries.waiting_words), np.uint64)
        self._records = layout.new_records(min(layout.slice_rows, scatter.manifest.n_rows))
        self._queues = layout.new_records(n_queues * length).reshape(n_queues, length, -1)
        self._queued = np.zeros(n_queues, np.int64)
        self._appended = np.zeros_like(scatter.scattered)

    def run(self, wave: Wave) -> None:
        """Encode and scatter row groups until the wave ends."""
        try:
            while (index := wave.take()) is not None:
                wave.add(index, *self._encode(self._scatter.manifest.row_groups[index]))
            with self._scatter.stopwatch.timed("scatter"):
                for bundle in np.flatnonzero(self._queued):
                    self._write_queue(int(bundle))
                for block in np.flatnonzero(self._n_entries):
                    self._write_entries(int(block))
            self._scatter.count(self._appended)
            self._appended[:] = 0
        except BaseException:
            wave.fail()
            raise

    def _encode(self, row_group: RowGroup) -> tuple[Survey, RowGroupMoments | None]:
        manifest, encoder, stopwatch = self._scatter.manifest, self._scatter.encoder, self._scatter.stopwatch
        survey = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
        if not can_hold_rows(manifest, row_group, encoder):
            self._scatter.progress("prepare", row_group.rows)
            return passed_over(manifest, row_group, encoder, row_group.rows).rows.survey, None
        ranges = RowGroupMoments(encoder.range_rows, len(encoder.shift0), row_group.rows, encoder.moments_of)
        start, columns, texts = 0, encoder.read_columns, encoder.dictionary_columns
        batches = read_batches(manifest, row_group, columns, texts, self._layout.slice_rows)
        for batch in stopwatch.timed_items("decode", batches):
            if row_group.rows * len(columns) > LONG_ROW_GROUP_VALUES:
                self._scatter.check()
            origin = origin_of(manifest, row_group, start)
            records = self._records[: batch.num_rows]
            with stopwatch.timed("encode"):
                rows = encoder.encode(batch, origin, self._layout.places(records))
            with stopwatch.timed("scatter"):
                self._place(rows, origin, records)
            survey = survey.merge(rows.survey)
            assert rows.ranges is not None
            ranges.add(*rows.ranges)
            start += batch.num_rows
            if texts:
                # Arrow would keep the dictionaries of every slice; pages are used again by the next one.
                del batch
                pa.default_memory_pool().release_unused()
        if self._scatter.lets_go:
            let_go(manifest, row_group, columns)
        self._scatter.progress("prepare", row_group.rows)
        return survey, ranges

    def _place(self, rows: EncodedRows, origin: Origin, records: np.ndarray) -> None:
        """Put the records into the queues of their bundles."""
        places = self._scatter.store.places
        block, slot = self._scatter.permutation.place_rows(origin.first_row, len(records), places)
        block[~rows.kept] = -1
        slot[rows.holdout] |= HOLDOUT_BIT
        row, position = 0, self._layout.slot_position
        while True:
            row = kernels.append_records(
                records, block, slot, position, self._shift, places, row, self._queues, self._queued, self._appended
            )
            if row == len(records):
                break
            self._write_queue(int(block[row]) >> self._shift)
        if rows.entries is not None:
            slot[rows.holdout] ^= HOLDOUT_BIT
            self._place_entries(rows.entries, block, slot)

    def _place_entries(self, found: RawEntries, block: np.ndarray, slot: np.ndarray) -> None:
        """Put entries into the queues of their rows' blocks."""
        row = entry = 0
        arrays = found.starts, found.keys, found.values, block, slot
        while True:
            row, entry = key_loops.append_entries(*arrays, row, entry, self._entries, self._n_entries)
            if row == len(block):
                return
            self._write_entries(int(block[row]))

    def _write_entries(self, block: int) -> None:
        """Write the entries that wait in a queue behind those of its block."""
        entries = self._scatter.store.entries
        assert entries is not None
        count, self._n_entries[block] = int(self._n_entries[block]), 0
        entries.append(block, self._entries[block, :count])

    def _write_queue(self, bundle: int) -> None:
        """Append the records that wait for a bundle to those that were written."""
        count, self._queued[bundle] = int(self._queued[bundle]), 0
        begin = self._scatter.reserve(bundle, count)
        self._scatter.store.write_records(bundle, begin, self._queues[bundle, :count])
