"""Prepare: every row group decoded once, its rows scattered over the files of the blocks, and these finished.

    row groups ── encode ── queues, one a bundle ── positioned writes    (scatter, in waves)
    bundle ── finalise ── free regions

A bundle is a block, or a few neighbouring ones where there are many blocks: as many queues would be short, and to write
them would take longer than all the rest.

Threads take row groups in order; at the end of a wave all of them are written, and the note moves on. A killed
prepare goes on from the last note. Nothing that is noted or computed depends on which thread did what.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import RecordLayout
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding
from streamgd.data.entries_store import EntriesStore
from streamgd.data.finalise import BlockFinisher
from streamgd.data.plan import PLACES, Permutation
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.ranges import RangedMoments, range_rows
from streamgd.data.scaler import Moments
from streamgd.data.scatter import Scatter, Stage, Wave
from streamgd.data.source import Manifest
from streamgd.data.store import BlockStore
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.limits import memory_bytes
from streamgd.stopwatch import Stopwatch

#: A wave of scatter lasts about so long.
WAVE_S = 2.0
#: Finalise works on so many blocks at once, each for a free region. There are as many of those, or as two bundles have.
SPARE_REGIONS = 8
#: Finished blocks are noted with the first wave that ends so long after the last note; sooner where regions run short.
NOTE_FINISHED_S = 0.25
#: So many bundles, unless each would be larger than ``BUNDLE_BYTES``. Of 100 million rows of 28 numbers, a record took
#: 180 ns to append to one of 1,600 queues, and 30 to one of 100, and there were 15 times the writes.
MOST_BUNDLES = 128
#: Finalise reads two or three bundles at random places, which should stay in memory.
BUNDLE_BYTES = 256_000_000
#: Smaller records count as so many bytes: to sort one takes 12 that are not mapped.
LEAST_RECORD_BYTES = 64

STAGE_BYTES = 32_000_000

#: Where data and blocks take more than this share of memory, pages that have been read make room for blocks: near the
#: end of it, the system is slow to find room by itself.
MOST_OF_MEMORY = 0.8


def block_plan(n_rows: int, layout: RecordLayout, batch_size: int) -> tuple[int, int]:
    """How many blocks there are, and how many places each has: nearly equal, with room for a mini-batch."""
    n_blocks = -(-n_rows // max(layout.block_rows, batch_size))
    return n_blocks, -(-n_rows // n_blocks)


def bundle_plan(n_blocks: int, places: int, layout: RecordLayout) -> tuple[int, int]:
    """How many blocks a bundle has, a power of two, and how many regions there are: one for each block, and free ones
    for finalise, as whole bundles.
    """
    wanted = -(-n_blocks // MOST_BUNDLES)
    fitting = max(1, BUNDLE_BYTES // (places * max(layout.record_bytes, LEAST_RECORD_BYTES)))
    # Entries wait by blocks.
    bundle_blocks = 1 if layout.entries is not None else 1 << min((wanted - 1).bit_length(), fitting.bit_length() - 1)
    # One bundle would be enough; with a second one, threads mostly write to different files.
    n_regions = n_blocks + min(n_blocks, max(SPARE_REGIONS, 2 * bundle_blocks))
    return bundle_blocks, -(-n_regions // bundle_blocks) * bundle_blocks


def is_prepared(store: BlockStore, key: str) -> bool:
    """Whether the store holds finished blocks of ``key``."""
    note = store.read_note(key)
    return note is not None and note["phase"] == "done"


def new_store(folder: Path, layout: RecordLayout, n_rows: int, batch_size: int) -> BlockStore:
    """The store for ``n_rows`` rows."""
    n_blocks, places = block_plan(n_rows, layout, batch_size)
    bundle_blocks, n_regions = bundle_plan(n_blocks, places, layout)
    entries = EntriesStore(folder, layout, n_blocks, n_rows) if layout.entries is not None else None
    return BlockStore(folder, layout, places, n_regions, entries=entries, bundle_blocks=bundle_blocks)


class Preparation:
    """Scatter and finalise of one data set into one store.

    Parameters
    ----------
    make_encoding : function of (survey, vocabularies)
        Gives the final encoding when every row has been seen.
    key : str
        Stands for everything that decides the blocks; a note with another key is not gone on from.
    check, check_repeated : function
        Called often, to raise where to stop; the second where a stop means doing work all over again.
    stage_bytes : int
        Size of each thread's staging area.
    progress : function of (phase, rows done)
        A third argument are the rows of the phase, where they are not all.
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
        check_repeated: Callable[[], None],
        progress: Callable[..., None],
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
        self._check, self._check_repeated = check, check_repeated
        self._progress = progress
        self._stopwatch = stopwatch

    def run(self) -> PreparedBlocks:
        """The finished blocks: from the note if they are there, else by doing what is left to do."""
        note = self._store.read_note(self._key)
        if note is None:
            choice = self._encoder.choice
            keeps_every_row = choice.where is None and choice.sample == 1.0
            self._store.create(int(self._store.needed_bytes * choice.sample), reserve=keeps_every_row)
            note = {
                "phase": "scatter", "next_row_group": 0, "scattered": np.zeros(self._n_blocks, np.int64),
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
            note = self._finalise(note, BlockFinisher(self._store, self._encoder, encoding, note["scattered"]))
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
        survey, ranges = Survey.from_state(note["survey"]), RangedMoments.from_state(note["ranges"])
        next_group, n_groups = note["next_row_group"], len(self._manifest.row_groups)
        lets_go = self._manifest.size_bytes + self._store.needed_bytes > MOST_OF_MEMORY * memory_bytes()
        scatter = Scatter(
            self._manifest, self._encoder, self._store, self._permutation, note["scattered"],
            self._check_repeated, self._progress, self._stopwatch, lets_go,
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
                    "phase": "scatter", "next_row_group": next_group, "scattered": scatter.scattered,
                    "survey": survey.state(), "ranges": ranges.state(), **self._met(),
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

    def _finalise(self, note: dict[str, Any], finisher: BlockFinisher) -> dict[str, Any]:
        """Finish the blocks in order, each into a free region; regions of records are free once that is noted.

        While some are noted, threads work on those that follow. To rename a note over the last one waits for the
        journal of the file system, so there is one when free regions run short, or after a while: then what is done is
        kept whatever happens, and the run may stop.
        """
        groups, freed = finisher.groups, finisher.freed
        finish = self._stopwatch.timed("finalise")(finisher.write)
        sort_ahead = self._stopwatch.timed("finalise")(finisher.sort_ahead)
        finisher.begin(len(note["regions"]))
        self._progress("finalise", int(note["rows"].sum()), int(note["scattered"].sum()))
        free, begun = deque(note["free"].tolist()), len(note["regions"])
        under_way: deque[tuple[int, Future[tuple[int, int]]]] = deque()
        to_be_free: list[int] = []
        noted_s = time.monotonic()
        with ThreadPoolExecutor(self._threads) as pool:
            while (done := len(note["regions"])) < len(groups):
                while free and begun < len(groups) and len(under_way) < SPARE_REGIONS:
                    if self._store.bundle_blocks > 1:
                        # Whoever finishes the first block of that bundle meets what is raised here.
                        pool.submit(sort_ahead, begun + self._store.bundle_blocks)
                    # Neighbouring regions lie in one file, which one thread at a time can write to.
                    free.rotate(len(free) // 2)
                    region = free.popleft()
                    under_way.append((region, pool.submit(finish, begun, region)))
                    begun += 1
                oldest = [under_way.popleft() for _ in range(-(-len(under_way) // 2))]
                found = [future.result() for _, future in oldest]
                to_be_free += (region for regions in freed[done : done + len(oldest)] for region in regions)
                note = note | {
                    "regions": np.concatenate([note["regions"], np.array([region for region, _ in oldest], np.int64)]),
                    "train_rows": np.concatenate([note["train_rows"], np.array([f[0] for f in found], np.int64)]),
                    "rows": np.concatenate([note["rows"], np.array([f[1] for f in found], np.int64)]),
                }
                self._progress("finalise", sum(rows for _, rows in found))
                if len(free) < SPARE_REGIONS or time.monotonic() - noted_s > NOTE_FINISHED_S:
                    free.extend(to_be_free)
                    to_be_free.clear()
                    note["free"] = np.array([*(region for region, _ in under_way), *free], np.int64)
                    self._write_finished({name: note[name] for name in ("regions", "free", "train_rows", "rows")})
                    noted_s = time.monotonic()
                    self._check()
        if self._store.entries is not None:
            self._store.entries.end_waiting()
        finished = {name: note[name] for name in ("regions", "train_rows", "rows")}
        finished |= {"phase": "done", "scattered": np.empty(0, np.int64), "free": np.empty(0, np.int64)}
        self._write_finished(finished)
        return note | finished
