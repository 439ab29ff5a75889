"""Prepare: every row group decoded once, its rows scattered over the files of the blocks, and these finished.

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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import HOLDOUT_BIT, Block, RecordLayout, aligned_memory
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher
from streamgd.data.entries_store import EntriesStore
from streamgd.data.plan import PLACES, Permutation
from streamgd.data.ranges import RangedMoments, range_rows
from streamgd.data.scaler import Moments
from streamgd.data.scatter import Scatter, Stage, Wave
from streamgd.data.source import Manifest
from streamgd.data.store import BlockStore
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.kernels import encode as kernels
from streamgd.stopwatch import Stopwatch

#: A wave of scatter lasts about so long.
WAVE_S = 2.0
#: Regions that finalise writes to before the first ones of records are free.
SPARE_REGIONS = 8

STAGE_BYTES = 32_000_000


@dataclass(frozen=True)
class PreparedBlocks:
    """The finished blocks of a data set.

    Attributes
    ----------
    regions, train_rows, rows : int64, (n_blocks,)
        Where each block is, how many training rows it begins with, and how many rows it has with those held out.
    """

    store: BlockStore
    encoding: Encoding
    survey: Survey
    regions: np.ndarray
    train_rows: np.ndarray
    rows: np.ndarray

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
        return PreparedBlocks(self._store, encoding, survey, note["regions"], note["train_rows"], note["rows"])

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
        scatter = Scatter(
            self._manifest, self._encoder, self._store, self._permutation, fill, self._check, self._progress,
            self._stopwatch,
        )  # fmt: skip
        stages = [Stage(scatter, self._stage_bytes) for _ in range(self._threads)]
        wave_s = WAVE_S
        self._progress("prepare", sum(group.rows for group in self._manifest.row_groups[:next_group]))
        with ThreadPoolExecutor(self._threads) as pool:
            while next_group < n_groups:
                wave = Wave(next_group, n_groups, time.monotonic() + wave_s, self._check, survey)
                for future in [pool.submit(stage.run, wave) for stage in stages]:
                    future.result()
                next_group, survey = wave.next_group, wave.survey
                for index, found in sorted(wave.ranges.items()):
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
                finished = None
                if next_group == n_groups:
                    note |= {"phase": "finalise", "ranges": None}
                    finished = {
                        "regions": np.empty(0, np.int64), "free": self._spare_regions(),
                        "train_rows": np.empty(0, np.int64), "rows": np.empty(0, np.int64),
                    }  # fmt: skip
                with self._stopwatch.timed("waiting"):
                    self._store.write_note(self._key, note, finished)
                note |= finished or {}
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

    def _write_finished(self, finished: dict[str, Any]) -> None:
        if self._store.entries is not None:
            finished = finished | {"entries": self._store.entries.state()}
        with self._stopwatch.timed("waiting"):
            self._store.write_finished(finished)

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
        under_way: deque[tuple[int, Future[tuple[int, int]]]] = deque()
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
                finished: dict[str, Any] = {
                    "regions": np.concatenate([note["regions"], np.array([region for region, _ in oldest], np.int64)]),
                    "free": np.array([*(region for region, _ in under_way), *free], np.int64),
                    "train_rows": np.concatenate([note["train_rows"], np.array([f[0] for f in found], np.int64)]),
                    "rows": np.concatenate([note["rows"], np.array([f[1] for f in found], np.int64)]),
                }
                note = note | finished
                self._write_finished(finished)
                self._progress("finalise", sum(rows for _, rows in found))
                self._check()
        if entries is not None:
            entries.end_waiting()
        finished = {name: note[name] for name in ("regions", "train_rows", "rows")}
        finished |= {"phase": "done", "fill": np.empty(0, np.int64), "free": np.empty(0, np.int64)}
        self._write_finished(finished)
        return note | finished

    def _finish_block(
        self, index: int, group: list[int], region: int, fill: np.ndarray, finisher: Finisher,
        entries_finisher: EntriesFinisher | None = None,
    ) -> tuple[int, int]:  # fmt: skip
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
        finisher.finish(parts[0] if len(parts) == 1 else np.concatenate(parts), order, buffer)
        store.write(region, 0, buffer)
        if entries_finisher is not None:
            self._finish_entries(index, group, parts, order, entries_finisher)
        for source in group:
            store.release_if_large(source)
        return n_train, n_records

    def _finish_entries(
        self, index: int, group: list[int], parts: list[np.ndarray], order: np.ndarray, finisher: EntriesFinisher
    ) -> None:
        """Finish the entries that wait for the regions ``group``, as those of the rows of ``parts`` in ``order``."""
        store, entries = self._store, self._store.entries
        assert entries is not None
        row_of_record = np.empty(len(order), np.int32)
        row_of_record[order] = np.arange(len(order))
        row_of_slot, waiting, done = self._desk().at, [], 0
        for source, part in zip(group, parts, strict=True):
            slots = part.view(np.int32)[:, store.layout.slot_position] & ~HOLDOUT_BIT
            row_of_slot[slots] = row_of_record[done : done + len(part)]
            found = entries.waiting(source)
            halves = found.view(np.int32)
            halves[:, 0] = row_of_slot[halves[:, 0]]
            waiting.append(found)
            done += len(part)
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        entries.write(index, finisher.of_waiting(joined, len(order)))

    def _desk(self) -> _Desk:
        """The memory of this thread."""
        if not hasattr(self._desks, "mine"):
            self._desks.mine = _Desk(self._store.layout, self._store.places)
        desk: _Desk = self._desks.mine
        return desk


class _Desk:
    """What one thread needs to finish blocks, used again for each: new memory would have to be cleared first."""

    def __init__(self, layout: RecordLayout, places: int):
        self.block = aligned_memory(layout.block_bytes(places))
        self.order = np.empty(places, np.int64)
        self.at = np.empty(2 * places, np.int64)


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
