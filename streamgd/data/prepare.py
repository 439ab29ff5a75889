"""Prepare: every row group decoded once, its rows scattered over the blocks file, and the blocks finished.

    row groups ── encode ── queues, one a block ── positioned writes           (scatter, in waves)
    region ── slot order ── exact moments, fill, final codes ── free region    (finalise)

Threads take row groups in order; at the end of a wave all of them are written, and the note moves on. A killed
prepare goes on from the last note. Nothing that is noted or computed depends on which thread did what.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import HOLDOUT_BIT, Block, Entries, RawEntries, RecordLayout
from streamgd.data.encoder import EncodedRows, Encoder, Origin, Survey
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher
from streamgd.data.entries_store import EntriesStore
from streamgd.data.plan import PLACES, Permutation
from streamgd.data.ranges import RangedMoments, RowGroupMoments, range_rows
from streamgd.data.reader import read_batches
from streamgd.data.scaler import Moments
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.store import BlockStore
from streamgd.data.stream import can_hold_rows, origin_of, passed_over
from streamgd.data.vocabulary import Vocabulary
from streamgd.errors import StreamgdError
from streamgd.kernels import encode as kernels
from streamgd.kernels import keys as entries_kernels
from streamgd.kernels import sums
from streamgd.stopwatch import Stopwatch

#: A wave of scatter lasts about so long.
WAVE_S = 2.0
#: Regions that finalise writes to before the first ones of records are free.
SPARE_REGIONS = 8

#: A row group of more values is left where it is when the run is to stop; others are finished and noted first.
LONG_ROW_GROUP_VALUES = 50_000_000

STAGE_BYTES = 32_000_000


@dataclass(frozen=True)
class PreparedBlocks:
    """The finished blocks of a data set.

    Attributes
    ----------
    regions, train_rows, rows : int64, (n_blocks,)
        Where each block is, how many training rows it begins with, and how many rows it has with those held out.
    row_norms : float64, (n_blocks, 2)
        Of the training rows: the largest squared norm times weight, and the sum.
    """

    store: BlockStore
    encoding: Encoding
    survey: Survey
    regions: np.ndarray
    train_rows: np.ndarray
    rows: np.ndarray
    row_norms: np.ndarray

    @property
    def n_blocks(self) -> int:
        return len(self.regions)

    def train_block(self, index: int) -> Block:
        """The training rows of a block."""
        return self._block(index).part(0, int(self.train_rows[index]))

    def holdout_block(self, index: int) -> Block:
        """The held out rows of a block."""
        return self._block(index).part(int(self.train_rows[index]), int(self.rows[index]))

    def in_turn(self, order: Sequence[int], stopwatch: Stopwatch) -> Iterator[int]:
        """The blocks of ``order``, by number, one after another: see ``BlockStore.in_turn``."""
        turns = self.store.in_turn([int(self.regions[index]) for index in order], stopwatch)
        if self.store.entries is not None:
            turns = self.store.entries.in_turn(turns, order, self.store.is_large, stopwatch)
        for index, _ in zip(order, turns, strict=True):
            yield index

    def _block(self, index: int) -> Block:
        rows = int(self.rows[index])
        block = self.store.block(int(self.regions[index]), rows)
        return block if self.store.entries is None else replace(block, sparse=self.store.entries.block(index, rows))


def block_plan(n_rows: int, layout: RecordLayout, batch_size: int) -> tuple[int, int]:
    """How many blocks there are, and how many places each has: nearly equal, with room for a mini-batch."""
    n_blocks = -(-n_rows // max(layout.block_rows, batch_size))
    return n_blocks, -(-n_rows // n_blocks)


def is_prepared(store: BlockStore, key: str) -> bool:
    """Whether the store holds finished blocks of ``key``."""
    note = store.read_note(key)
    return note is not None and note["phase"] == "done"


def new_store(folder: Path, layout: RecordLayout, n_rows: int, batch_size: int) -> BlockStore:
    """The store for ``n_rows`` rows: a region for each block, and free ones for finalise."""
    n_blocks, places = block_plan(n_rows, layout, batch_size)
    n_regions = n_blocks + min(SPARE_REGIONS, n_blocks)
    if layout.entries is None:
        return BlockStore(folder, layout, places, n_regions)
    entries = EntriesStore(folder, layout, n_blocks, n_rows)
    return BlockStore(folder, layout, places, n_regions, entries=entries)


class Preparation:
    """Scatter and finalise of one data set into one store.

    Parameters
    ----------
    make_encoding : function of (survey, vocabularies)
        Gives the final encoding when every row has been seen.
    key : str
        Stands for everything that decides the blocks; a note with another key is not gone on from.
    check : function
        Called often; raises to stop.
    stage_bytes : int
        Size of each thread's staging area.
    progress : function of (phase, rows done)
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        make_encoding: Callable[[Survey, list[Vocabulary]], Encoding],
        store: BlockStore,
        key: str,
        seed: int,
        threads: int,
        stage_bytes: int,
        check: Callable[[], None],
        progress: Callable[[str, int], None],
        stopwatch: Stopwatch,
    ):
        self._manifest = manifest
        self._encoder = replace(encoder, range_rows=range_rows(encoder.layout.block_rows))
        self._make_encoding = make_encoding
        self._store = store
        self._key = key
        self._permutation = Permutation.of(manifest.n_rows, seed, PLACES)
        self._n_blocks = -(-manifest.n_rows // store.places)
        self._threads = threads
        self._stage_bytes = stage_bytes
        self._check = check
        self._progress = progress
        self._stopwatch = stopwatch
        self._desks = threading.local()

    def run(self) -> PreparedBlocks:
        """The finished blocks: from the note if they are there, else by doing what is left to do."""
        note = self._store.read_note(self._key)
        if note is None:
            choice = self._encoder.choice
            keeps_every_row = choice.where is None and choice.sample == 1.0
            self._store.create(int(self._store.needed_bytes * choice.sample), reserve=keeps_every_row)
            note = {
                "phase": "scatter", "next_row_group": 0, "fill": np.zeros(self._n_blocks, np.int64),
                "survey": Survey.empty(len(self._encoder.shift0), len(self._encoder.vocabularies)).state(),
                "ranges": RangedMoments(self._encoder.range_rows).state(),
                **self._met(),
            }  # fmt: skip
        else:
            self._store.open()
        for vocabulary, noted in zip(self._encoder.vocabularies, note["vocabularies"], strict=True):
            vocabulary.restore(noted)
        for met, noted in zip(self._encoder.sparse, note.get("sparse", []), strict=True):
            met.restore(noted)
        if note["phase"] == "scatter":
            note = self._scatter(note)
            pa.default_memory_pool().release_unused()
        survey = Survey.from_state(note["survey"])
        encoding = self._make_encoding(survey, self._encoder.vocabularies)
        if note["phase"] == "finalise":
            note = self._finalise(note, encoding)
        if self._store.entries is not None:
            self._store.entries.remove_waiting()
        return PreparedBlocks(
            self._store, encoding, survey, note["regions"], note["train_rows"], note["rows"], note["row_norms"]
        )

    def _met(self) -> dict[str, Any]:
        """Levels and keys that were met, and where entries are, to be noted."""
        met: dict[str, Any] = {"vocabularies": [vocabulary.state() for vocabulary in self._encoder.vocabularies]}
        if self._store.entries is not None:
            met |= {"sparse": [each.state() for each in self._encoder.sparse], "entries": self._store.entries.state()}
        return met

    # Scatter

    def _scatter(self, note: dict[str, Any]) -> dict[str, Any]:
        survey, fill, ranges = Survey.from_state(note["survey"]), note["fill"], RangedMoments.from_state(note["ranges"])
        next_group, n_groups = note["next_row_group"], len(self._manifest.row_groups)
        scatter = _Scatter(
            self._manifest, self._encoder, self._store, self._permutation, fill, self._check, self._progress,
            self._stopwatch,
        )  # fmt: skip
        stages = [_Stage(scatter, self._stage_bytes) for _ in range(self._threads)]
        wave_s = WAVE_S
        self._progress("prepare", sum(group.rows for group in self._manifest.row_groups[:next_group]))
        with ThreadPoolExecutor(self._threads) as pool:
            while next_group < n_groups:
                wave = _Wave(next_group, n_groups, time.monotonic() + wave_s, self._check)
                for future in [pool.submit(stage.run, wave) for stage in stages]:
                    future.result()
                next_group = wave.next_group
                for index in sorted(wave.found):
                    survey = survey.merge(wave.found[index][0])
                    found = wave.found[index][1]
                    if found is not None:
                        ranges.add(found, self._encoder.moments_of)
                    else:
                        group = self._manifest.row_groups[index]
                        n_numeric = len(self._encoder.shift0)
                        ranges.leave_out(group.first_row, group.rows, n_numeric, self._encoder.moments_of)
                if next_group == n_groups:
                    survey = self._with_moments(survey, ranges)
                noted_s = time.monotonic()
                note = {
                    "phase": "scatter", "next_row_group": next_group, "fill": fill, "survey": survey.state(),
                    "ranges": ranges.state(), **self._met(),
                }  # fmt: skip
                if next_group == n_groups:
                    note |= {"phase": "finalise", "ranges": None}
                    note |= {"regions": np.empty(0, np.int64), "free": self._spare_regions()}
                    note |= {name: np.empty(0, np.int64) for name in ("train_rows", "rows")}
                    note["row_norms"] = np.empty((0, 2))
                self._write_note(note)
                self._check()
                # A vocabulary of many levels takes long to write down: then seldom.
                wave_s = max(WAVE_S, 20.0 * (time.monotonic() - noted_s))
        return note

    def _with_moments(self, survey: Survey, ranges: RangedMoments) -> Survey:
        """The survey with the moments of all rows."""
        weight, mean, squares = ranges.total(self._encoder.moments_of, len(self._encoder.shift0)).T
        moments, target = survey.moments.largest, survey.target_moments.largest
        return replace(
            survey,
            moments=Moments(weight[:-1].copy(), mean[:-1].copy(), squares[:-1].copy(), moments),
            target_moments=Moments(weight[-1:].copy(), mean[-1:].copy(), squares[-1:].copy(), target),
        )

    def _write_note(self, note: dict[str, Any]) -> None:
        with self._stopwatch.timed("waiting"):
            self._store.write_note(self._key, note)

    def _spare_regions(self) -> np.ndarray:
        return np.arange(self._n_blocks, self._store.n_regions, dtype=np.int64)

    # Finalise

    def _finalise(self, note: dict[str, Any], encoding: Encoding) -> dict[str, Any]:
        """Finish the blocks in order, each into a free region; regions of records are free once that is noted.

        While some are noted, threads work on those that follow.
        """
        groups, entries = _packed(note["fill"], self._store.places), self._store.entries
        finisher = Finisher(self._encoder.layout, encoding, self._encoder.vocabularies)
        finish = self._stopwatch.timed("finalise")(self._finish_block)
        if entries is not None:
            entries.begin_finished([int(note["fill"][group].sum()) for group in groups], groups)
            of_entries = EntriesFinisher(encoding.sparse, self._encoder.sparse, self._encoder.layout.feature_type)
            finish = partial(finish, entries_finisher=of_entries)
        self._progress("finalise", int(note["rows"].sum()))
        free, begun = deque(note["free"].tolist()), len(note["regions"])
        under_way: deque[tuple[int, Future[tuple[int, int, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            while (done := len(note["regions"])) < len(groups):
                while free and begun < len(groups):
                    region = free.popleft()
                    arguments = (begun, groups[begun], region, note["fill"], finisher)
                    under_way.append((region, pool.submit(finish, *arguments)))
                    begun += 1
                oldest = [under_way.popleft() for _ in range(-(-len(under_way) // 2))]
                found = [future.result() for _, future in oldest]
                free.extend(region for group in groups[done : done + len(oldest)] for region in group)
                note = note | {
                    "regions": np.concatenate([note["regions"], np.array([region for region, _ in oldest], np.int64)]),
                    "free": np.array([*(region for region, _ in under_way), *free], np.int64),
                    "train_rows": np.concatenate([note["train_rows"], np.array([f[0] for f in found], np.int64)]),
                    "rows": np.concatenate([note["rows"], np.array([f[1] for f in found], np.int64)]),
                    "row_norms": np.concatenate([note["row_norms"], np.array([f[2] for f in found])]),
                }
                if entries is not None:
                    note |= {"entries": entries.state()}
                self._write_note(note)
                self._progress("finalise", sum(rows for _, rows, _ in found))
                self._check()
        note = note | {"phase": "done", "fill": np.empty(0, np.int64), "free": np.empty(0, np.int64)}
        if entries is not None:
            entries.end_waiting()
            note |= {"entries": entries.state()}
        self._write_note(note)
        return note

    def _finish_block(
        self, index: int, group: list[int], region: int, fill: np.ndarray, finisher: Finisher,
        entries_finisher: EntriesFinisher | None = None,
    ) -> tuple[int, int, np.ndarray]:  # fmt: skip
        """Finish the records of the regions ``group`` into ``region``: rows in slot order, training rows first."""
        desk, store = self._desk(), self._store
        parts = [store.records(source, int(fill[source])) for source in group]
        train, held_out, n_records = [], [], 0
        for part in parts:
            order = desk.order[n_records : n_records + len(part)]
            n_train = kernels.slot_order(
                part.view(np.int32), store.layout.slot_position, store.places, HOLDOUT_BIT, desk.at, order
            )
            order += n_records
            train.append(order[:n_train])
            held_out.append(order[n_train:])
            n_records += len(part)
        order = desk.order[:n_records] if len(group) == 1 else np.concatenate([*train, *held_out])
        n_train = sum(map(len, train))
        buffer = desk.block[: store.layout.block_bytes(n_records)]
        block = finisher.finish(parts[0] if len(parts) == 1 else np.concatenate(parts), order, buffer)
        store.write(region, 0, buffer)
        if entries_finisher is not None:
            block = replace(block, sparse=self._finish_entries(index, group, parts, order, entries_finisher))
        norms = np.zeros(2)
        train_part = block.part(0, n_train)
        entries = train_part.entries.arrays()
        sums.row_norms(train_part.features, train_part.codes, *entries, train_part.weight, norms)
        for source in group:
            store.release_if_large(source)
        return n_train, n_records, norms

    def _finish_entries(
        self, index: int, group: list[int], parts: list[np.ndarray], order: np.ndarray, finisher: EntriesFinisher
    ) -> Entries:
        """Finish the entries that wait for the regions ``group``, as those of the rows of ``parts`` in ``order``."""
        store, entries = self._store, self._store.entries
        assert entries is not None
        row_of_record = np.empty(len(order), np.int32)
        row_of_record[order] = np.arange(len(order))
        row_of_slot, waiting, done = np.full(len(group) * store.places, -1, np.int32), [], 0
        for number, (source, part) in enumerate(zip(group, parts, strict=True)):
            slots = part.view(np.int32)[:, store.layout.slot_position] & ~HOLDOUT_BIT
            row_of_slot[number * store.places + slots] = row_of_record[done : done + len(part)]
            waiting.append(entries.waiting(source))
            waiting[-1][:, 0] += np.uint64(number * store.places)
            done += len(part)
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        finished = finisher.of_slots(joined, row_of_slot, len(order))
        entries.write(index, finished)
        return finished

    def _desk(self) -> _Desk:
        """The memory of this thread."""
        if not hasattr(self._desks, "mine"):
            self._desks.mine = _Desk(self._store.layout, self._store.places)
        desk: _Desk = self._desks.mine
        return desk


class _Desk:
    """What one thread needs to finish blocks, used again for each: new memory would have to be cleared first."""

    def __init__(self, layout: RecordLayout, places: int):
        self.block = np.empty(layout.block_bytes(places), np.uint8)
        self.order = np.empty(places, np.int64)
        self.at = np.empty(2 * places, np.int64)


class _Wave:
    """Row groups dealt to threads in order until the time is over or the run is to stop.

    One is dealt in any case: starts that are stopped again and again come to an end all the same.
    """

    def __init__(self, first_group: int, n_groups: int, deadline_s: float, check: Callable[[], None]):
        self._first_group = first_group
        self._check = check
        self.next_group = first_group
        self.found: dict[int, tuple[Survey, RowGroupMoments | None]] = {}
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

    def fail(self) -> None:
        self._failed = True

    def _is_to_stop(self) -> bool:
        try:
            self._check()
        except StreamgdError:  # told once more when the wave is noted
            return True
        return False


@dataclass
class _Scatter:
    """What the threads share; ``fill`` (int64, (n_blocks,)) counts the records of each region."""

    manifest: Manifest
    encoder: Encoder
    store: BlockStore
    permutation: Permutation
    fill: np.ndarray
    check: Callable[[], None]
    progress: Callable[[str, int], None]
    stopwatch: Stopwatch
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, block: int, count: int) -> int:
        """Make room for ``count`` more records in the region of a block; returns after how many they begin."""
        with self.lock:
            begin = int(self.fill[block])
            self.fill[block] += count
        return begin


class _Stage:
    """One thread's staging area: the records of a slice, and a queue of records for each block.

    A queue is written to its region when it is full.
    """

    def __init__(self, scatter: _Scatter, stage_bytes: int):
        self._scatter = scatter
        self._layout = layout = scatter.encoder.layout
        n_blocks = len(scatter.fill)
        rows_of_stage = layout.rows_in(stage_bytes)
        length = min(scatter.store.places, max(1, rows_of_stage // n_blocks))
        self._n_entries = np.zeros(n_blocks, np.int64)
        if layout.entries is not None:
            of_queue = max(1, int(layout.entries.of_row * rows_of_stage) // n_blocks)
            self._entries = np.empty((n_blocks, of_queue, layout.entries.waiting_words), np.uint64)
        self._records = layout.new_records(min(layout.slice_rows, scatter.manifest.n_rows))
        self._queues = layout.new_records(n_blocks * length).reshape(n_blocks, length, -1)
        self._queued = np.zeros(n_blocks, np.int64)

    def run(self, wave: _Wave) -> None:
        """Encode and scatter row groups until the wave ends."""
        try:
            while (index := wave.take()) is not None:
                wave.found[index] = self._encode(self._scatter.manifest.row_groups[index])
            with self._scatter.stopwatch.timed("scatter"):
                for block in np.flatnonzero(self._queued):
                    self._write_queue(int(block))
                for block in np.flatnonzero(self._n_entries):
                    self._write_entries(int(block))
        except BaseException:
            wave.fail()
            raise

    def _encode(self, row_group: RowGroup) -> tuple[Survey, RowGroupMoments | None]:
        manifest, encoder, stopwatch = self._scatter.manifest, self._scatter.encoder, self._scatter.stopwatch
        survey = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
        if not can_hold_rows(manifest, row_group, encoder):
            return passed_over(manifest, row_group, encoder, row_group.rows).rows.survey, None
        ranges = RowGroupMoments(encoder.range_rows, len(encoder.shift0), row_group.rows, encoder.moments_of)
        start = 0
        batches = read_batches(
            manifest, row_group, encoder.read_columns, encoder.dictionary_columns, self._layout.slice_rows
        )
        for batch in stopwatch.timed_items("decode", batches):
            if row_group.rows * len(encoder.read_columns) > LONG_ROW_GROUP_VALUES:
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
        if encoder.dictionary_columns:
            # Arrow would keep the dictionaries of every row group; pages are used again by the next one.
            pa.default_memory_pool().release_unused()
        self._scatter.progress("prepare", row_group.rows)
        return survey, ranges

    def _place(self, rows: EncodedRows, origin: Origin, records: np.ndarray) -> None:
        """Put the records into the queues of their blocks."""
        places = self._scatter.store.places
        block, slot = self._scatter.permutation.place_rows(origin.first_row, len(records), places)
        block[~rows.kept] = -1
        slot[rows.holdout] |= HOLDOUT_BIT
        records.view(np.int32)[:, self._layout.slot_position] = slot
        row = 0
        while (row := kernels.append_records(records, block, row, self._queues, self._queued)) < len(records):
            self._write_queue(int(block[row]))
        if rows.entries is not None:
            slot[rows.holdout] ^= HOLDOUT_BIT
            self._place_entries(rows.entries, block, slot)

    def _place_entries(self, found: RawEntries, block: np.ndarray, slot: np.ndarray) -> None:
        """Put entries into the queues of their rows' blocks."""
        row = entry = 0
        arrays = found.starts, found.keys, found.values, block, slot
        while True:
            row, entry = entries_kernels.append_entries(*arrays, row, entry, self._entries, self._n_entries)
            if row == len(block):
                return
            self._write_entries(int(block[row]))

    def _write_entries(self, block: int) -> None:
        """Write the entries that wait in a queue behind those of its block."""
        entries = self._scatter.store.entries
        assert entries is not None
        count, self._n_entries[block] = int(self._n_entries[block]), 0
        entries.append(block, self._entries[block, :count])

    def _write_queue(self, block: int) -> None:
        """Append the records that wait for a block to its region."""
        count, self._queued[block] = int(self._queued[block]), 0
        begin = self._scatter.reserve(block, count)
        self._scatter.store.write(block, begin * self._layout.record_bytes, self._queues[block, :count])


def _packed(fill: np.ndarray, places: int) -> list[list[int]]:
    """Regions that become one block: as many as fit it, one after another. Empty ones become no block."""
    groups: list[list[int]] = []
    rows = places
    for region in np.flatnonzero(fill):
        if rows + fill[region] > places:
            groups.append([])
            rows = 0
        groups[-1].append(int(region))
        rows += int(fill[region])
    return groups
