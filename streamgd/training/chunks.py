"""The work of full-batch passes: what is done with a chunk, which is a run of neighbouring row groups.

    survey:     row group ── encoder ── moments, levels, counts ── added up
    full batch: row group ── blocks, kept on disk where they fit or made anew ── sums ── added up

Blocks that are kept are the same as those made anew, so the sums are too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from streamgd.data.block_encoder import BlockEncoder, blocks_of
from streamgd.data.blocks import Block, RecordLayout
from streamgd.data.columns import CategoricalColumn, Columns
from streamgd.data.encoder import Encoder, RowChoice, Survey
from streamgd.data.encoding import Encoding
from streamgd.data.levels import LevelIndex, no_levels
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.store import BATCH_WAY_OUT, BlockStore, free_bytes, remove_blocks
from streamgd.data.stream import encoded_slices
from streamgd.data.vocabulary import Vocabulary
from streamgd.objective.objective import ChunkSums
from streamgd.stopwatch import Stopwatch
from streamgd.training.progress import RowCounter, RunContext
from streamgd.training.reduce import Keep, OpenWork, Reduction, RowGroups, grouped, no_check
from streamgd.training.setup import Task

#: Sums over the rows of a block at a theta ``(n_dof, 1)``. It can be pickled, and adds up over blocks.
SumsOfBlock = Callable[[np.ndarray, Block], ChunkSums]

#: Of the free space of a disk, what blocks may take.
DISK_SHARE = 0.9


def survey_pass(task: Task, reduction: Reduction, context: RunContext) -> tuple[Survey, list[Vocabulary]]:
    """Moments, levels and counts of all rows, and the vocabularies whose codes are counted."""
    counter = RowCounter(context.display, task.manifest.n_rows, context.stopwatch)
    counter.add("prepare", 0)
    work = SurveyWork.of(task)
    found: ChunkSurvey = reduction.open(work, task.threads)(None, lambda rows: counter.add("prepare", rows))
    vocabularies = [work.vocabulary(column) for column in work.columns.categorical]
    for vocabulary, levels in zip(vocabularies, found.levels, strict=True):
        vocabulary.take_over(levels.levels, levels.hashed)
    return found.survey, vocabularies


@dataclass(frozen=True)
class ChunkLevels:
    """The levels of one column that a chunk met, in the order of its own codes; none once it is hashed."""

    values: str
    levels: pa.Array
    hashed: bool
    most: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, most: int) -> ChunkLevels:
        values = vocabulary.column.values
        return cls(values, no_levels(values) if vocabulary.hashed else vocabulary.levels, vocabulary.hashed, most)

    def merge(self, later: ChunkLevels) -> tuple[ChunkLevels, np.ndarray]:
        """The levels of both, those of ``self`` first, and the codes of those of ``later`` among them."""
        index = LevelIndex(self.values, self.levels)
        codes = index.codes(later.levels, growing=True)
        if self.hashed or later.hashed or len(index) > self.most:
            return replace(self, levels=no_levels(self.values), hashed=True), np.empty(0, np.int32)
        return replace(self, levels=index.levels), codes


@dataclass(frozen=True)
class ChunkSurvey:
    """The survey of a chunk, whose level counts are by the chunk's own codes."""

    survey: Survey
    levels: tuple[ChunkLevels, ...]

    def __add__(self, later: ChunkSurvey) -> ChunkSurvey:
        levels, mine, others = [], [], []
        for column, (before, after) in enumerate(zip(self.levels, later.levels, strict=True)):
            merged, codes = before.merge(after)
            levels.append(merged)
            counts = later.survey.level_counts[column]
            recoded = np.zeros(len(merged.levels))
            recoded[codes[: len(counts)]] = 0.0 if merged.hashed else counts
            others.append(recoded)
            mine.append(np.zeros(0) if merged.hashed else self.survey.level_counts[column])
        survey = replace(self.survey, level_counts=mine).merge(replace(later.survey, level_counts=others))
        return ChunkSurvey(survey, tuple(levels))


@dataclass(frozen=True)
class SurveyWork:
    """Moments, levels and counts of a chunk."""

    manifest: Manifest
    columns: Columns
    layout: RecordLayout
    shift: np.ndarray
    scale: np.ndarray
    nulls: str
    choice: RowChoice
    max_levels: int
    hash_buckets: int

    @classmethod
    def of(cls, task: Task) -> SurveyWork:
        config, resolved = task.config, task.resolved
        return cls(
            task.manifest, resolved.columns, task.layout, resolved.shift, resolved.scale, config.nulls, task.choice,
            config.max_levels, config.hash_buckets,
        )  # fmt: skip

    @cached_property
    def chunks(self) -> tuple[RowGroups, ...]:
        return grouped(self.manifest, len(self.columns.sources))

    def with_manifest(self, manifest: Manifest) -> SurveyWork:
        return replace(self, manifest=manifest)

    def vocabulary(self, column: CategoricalColumn) -> Vocabulary:
        return Vocabulary(column, self.max_levels, self.hash_buckets)

    def opened(self, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None] = no_check) -> OpenWork:  # noqa: ARG002
        return _OpenSurvey(self, stopwatch, check)


class _OpenSurvey:
    def __init__(self, work: SurveyWork, stopwatch: Stopwatch, check: Callable[[], None]):
        self._work = work
        self._stopwatch = stopwatch
        self._check = check

    def result(self, common: None, chunk: RowGroups) -> ChunkSurvey:  # noqa: ARG002
        work = self._work
        vocabularies = [work.vocabulary(column) for column in work.columns.categorical]
        encoder = Encoder(work.columns, work.layout, work.shift, work.scale, vocabularies, work.nulls, work.choice)
        total = Survey.empty(len(work.shift), len(vocabularies))
        for row_group in chunk:
            for piece in encoded_slices(work.manifest, row_group, encoder, work.layout.block_rows, self._stopwatch):
                total = total.merge(piece.rows.survey)
                self._check()
        levels = tuple(ChunkLevels.of(vocabulary, work.max_levels) for vocabulary in vocabularies)
        return ChunkSurvey(total, levels)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class BlockWork:
    """Sums over the training blocks of a chunk, or over those held out: at a theta, by a ``SumsOfBlock``."""

    manifest: Manifest
    encoding: Encoding
    layout: RecordLayout
    choice: RowChoice
    held_out: bool = False

    @cached_property
    def chunks(self) -> tuple[RowGroups, ...]:
        return grouped(self.manifest, len(self.encoding.columns.sources))

    def with_manifest(self, manifest: Manifest) -> BlockWork:
        return replace(self, manifest=manifest)

    def opened(self, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None] = no_check) -> OpenWork:
        return _OpenBlocks(self, keep, stopwatch, check)


class _OpenBlocks:
    def __init__(self, work: BlockWork, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None]):
        encoder = BlockEncoder(work.encoding, work.layout, work.choice)
        self._source = BlockSource(work.manifest, encoder, keep, stopwatch, work.held_out)
        self._no_rows = work.layout.views(np.empty(0, np.uint8), 0)
        self._stopwatch = stopwatch
        self._check = check

    def result(self, common: tuple[SumsOfBlock, np.ndarray], chunk: RowGroups) -> ChunkSums:
        sums_of_block, theta = common
        total = None
        for row_group in chunk:
            for block in self._source.blocks(row_group):
                self._check()
                with self._stopwatch.timed("compute"):
                    sums = sums_of_block(theta, block)
                    total = sums if total is None else total + sums
        return sums_of_block(theta, self._no_rows) if total is None else total

    def close(self) -> None:
        self._source.close()


class BlockSource:
    """The blocks of each row group: from the disk once they are there, else made anew."""

    def __init__(
        self, manifest: Manifest, encoder: BlockEncoder, keep: Keep | None, stopwatch: Stopwatch, held_out: bool = False
    ):
        self._manifest = manifest
        self._encoder = encoder
        self._stopwatch = stopwatch
        self._held_out = held_out
        self._memory = threading.local()
        self._lock = threading.Lock()
        self._left_bytes = 0
        self._first_region: dict[RowGroup, int] = {}
        self._rows: dict[RowGroup, list[int]] = {}
        regions = 0
        for row_group in manifest.row_groups:
            self._first_region[row_group] = regions
            regions += _slices_in(row_group, encoder.layout.block_rows)
        self._store = self._new_store(keep, regions) if keep is not None else None

    def _new_store(self, keep: Keep, regions: int) -> BlockStore | None:
        layout, choice = self._encoder.layout, self._encoder.encoder.choice
        places = min(layout.block_rows, max(row_group.rows for row_group in self._manifest.row_groups))
        store = BlockStore(keep.folder, layout, places, regions, BATCH_WAY_OUT)
        remove_blocks(keep.folder)  # of a start that was killed
        if store.total_bytes <= keep.most_bytes:
            self._left_bytes = store.total_bytes
            store.create(store.total_bytes, reserve=choice.where is None and choice.sample == 1.0 and not keep.partly)
        elif keep.partly and keep.most_bytes >= store.region_bytes:
            self._left_bytes = keep.most_bytes
            store.create(keep.most_bytes)
        else:
            return None
        return store

    def blocks(self, row_group: RowGroup) -> Iterator[Block]:
        """The blocks of a row group; each is valid until the same thread asks for the next."""
        rows = self._rows.get(row_group)
        if self._store is not None and rows is not None:
            first = self._first_region[row_group]
            for region in self._store.in_turn(range(first, first + len(rows)), self._stopwatch):
                yield self._store.block(region, rows[region - first])
            return
        keeps = self._store is not None and self._takes_space(row_group)
        rows = []
        if not hasattr(self._memory, "block"):
            layout = self._encoder.layout
            self._memory.block = np.empty(layout.block_bytes(layout.block_rows), np.uint8)
        made = blocks_of(
            self._manifest, row_group, self._encoder, self._stopwatch, self._held_out, memory=self._memory.block
        )
        for index, block in enumerate(made):
            if keeps:
                with self._stopwatch.timed("scatter"):
                    self._write(self._first_region[row_group] + index, block)
            rows.append(block.rows)
            yield block
        if keeps:
            self._rows[row_group] = rows

    def _takes_space(self, row_group: RowGroup) -> bool:
        """Whether the blocks of a row group still fit; then their space is taken."""
        assert self._store is not None
        needed = _slices_in(row_group, self._encoder.layout.block_rows) * self._store.region_bytes
        with self._lock:
            fits = needed <= self._left_bytes
            self._left_bytes -= needed if fits else 0
        return fits

    def _write(self, region: int, block: Block) -> None:
        assert self._store is not None
        buffer = np.empty(self._store.layout.block_bytes(block.rows), np.uint8)
        for into, array in zip(self._store.layout.views(buffer, block.rows).arrays(), block.arrays(), strict=True):
            into[...] = array
        self._store.write(region, 0, buffer)

    def close(self) -> None:
        if self._store is not None:
            self._store.remove()


def kept_bytes(blocks_max: int, folder: Path) -> int:
    """What blocks in ``folder`` may take: ``--blocks-max``, and not all of the free space."""
    return int(min(blocks_max, DISK_SHARE * free_bytes(folder)))


def _slices_in(row_group: RowGroup, block_rows: int) -> int:
    return -(-row_group.rows // block_rows)
