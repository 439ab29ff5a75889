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

import numpy as np
import pyarrow as pa

from streamgd.data.block_encoder import BlockEncoder, blocks_of, provisional_blocks
from streamgd.data.blocks import Block, RecordLayout, aligned_memory
from streamgd.data.columns import CategoricalColumn, Columns
from streamgd.data.encoder import Encoder, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.levels import LevelIndex, no_levels
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.sparse import KeysMet
from streamgd.data.stream import can_hold_rows, passed_over
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.objective.objective import ChunkSums
from streamgd.stopwatch import Stopwatch
from streamgd.training.kept import Keep, KeptBlocks
from streamgd.training.progress import RowCounter, RunContext
from streamgd.training.reduce import OpenWork, Reduction, RowGroups, grouped, no_check
from streamgd.training.task import Task

#: Sums over the rows of a block at a theta ``(n_dof, n_outputs)``. It can be pickled, and adds up over blocks.
SumsOfBlock = Callable[[np.ndarray, Block], ChunkSums]


def survey_pass(
    task: Task, reduction: Reduction, context: RunContext
) -> tuple[Survey, list[Vocabulary], tuple[KeysMet, ...]]:
    """Moments, levels and counts of all rows, the vocabularies whose codes are counted, what sparse columns have."""
    counter = RowCounter(context.display, task.manifest.n_rows, context.stopwatch)
    counter.add("prepare", 0)
    work = SurveyWork.of(task)
    # The processes of a cluster keep what they encode in the first pass of full batch.
    moments = reduction.open(work, task.threads, keeps_blocks=not task.config.on_workers)
    found: ChunkSurvey = moments(None, lambda rows: counter.add("prepare", rows))
    vocabularies = [work.vocabulary(column) for column in work.columns.categorical]
    for vocabulary, levels in zip(vocabularies, found.levels, strict=True):
        vocabulary.take_over(levels.levels, levels.hashed)
    return found.survey, vocabularies, found.sparse


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
    """The survey of a chunk, whose level counts are by the chunk's own codes, and what it met of sparse columns."""

    survey: Survey
    levels: tuple[ChunkLevels, ...]
    sparse: tuple[KeysMet, ...] = ()

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
        sparse = tuple(mine.merged(their) for mine, their in zip(self.sparse, later.sparse, strict=True))
        return ChunkSurvey(survey, tuple(levels), sparse)


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

    def opened(self, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None] = no_check) -> OpenWork:
        return _OpenSurvey(self, keep, stopwatch, check)


class _OpenSurvey:
    def __init__(self, work: SurveyWork, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None]):
        self._work = work
        self._keep = keep
        # Codes are known when all rows were seen: where there are any, the next pass encodes the rows anew.
        keeps = keep is not None and not work.columns.categorical
        self._kept = keep.blocks(work.manifest, work.layout, work.choice.leaves_out) if keep and keeps else None
        self._memory = BlockMemory(work.layout)
        self._stopwatch = stopwatch
        self._check = check

    def result(self, common: None, chunk: RowGroups) -> ChunkSurvey:  # noqa: ARG002
        work = self._work
        vocabularies = [work.vocabulary(column) for column in work.columns.categorical]
        sparse = [KeysMet(column, work.max_levels, work.hash_buckets) for column in work.columns.sparse]
        encoder = Encoder(
            work.columns, work.layout, work.shift, work.scale, vocabularies, work.nulls, work.choice, sparse=sparse
        )
        total = Survey.empty(len(work.shift), len(vocabularies))
        for row_group in chunk:
            for survey in self._surveys(row_group, encoder):
                total = total.merge(survey)
                self._check()
        levels = tuple(ChunkLevels.of(vocabulary, work.max_levels) for vocabulary in vocabularies)
        return ChunkSurvey(total, levels, tuple(sparse))

    def _surveys(self, row_group: RowGroup, encoder: Encoder) -> Iterator[Survey]:
        """What is found in each slice of a row group; the training rows are kept as blocks in provisional units."""
        manifest, kept = self._work.manifest, self._kept
        if not can_hold_rows(manifest, row_group, encoder):
            yield passed_over(manifest, row_group, encoder, row_group.rows).rows.survey
            if kept is not None:
                kept.complete(row_group, [])
            return
        keeps = kept is not None and kept.takes(row_group)
        rows, has_null = [], False
        made = provisional_blocks(manifest, row_group, encoder, self._stopwatch, self._memory.of_thread())
        for index, (block, found) in enumerate(made):
            if kept is not None and keeps:
                with self._stopwatch.timed("scatter"):
                    kept.write(row_group, index, block)
            rows.append(block.rows)
            has_null |= bool(found.has_null.any())
            yield found.survey
        if kept is not None and keeps:
            kept.complete_provisional(row_group, rows, has_null)

    def close(self) -> None:
        if self._keep is not None:
            self._keep.close()


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
        kept = keep.blocks(work.manifest, work.layout, work.choice.leaves_out) if keep is not None else None
        self._keep = keep
        self._source = BlockSource(work, kept, stopwatch)
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
        if self._keep is not None:
            self._keep.close()


class BlockSource:
    """The blocks of each row group: from the disk once they are there, else made anew."""

    def __init__(self, work: BlockWork, kept: KeptBlocks | None, stopwatch: Stopwatch):
        self._manifest = work.manifest
        self._encoder = BlockEncoder(work.encoding, work.layout, work.choice)
        self._kept = kept
        self._stopwatch = stopwatch
        self._held_out = work.held_out
        self._memory = BlockMemory(work.layout)

    def blocks(self, row_group: RowGroup) -> Iterator[Block]:
        """The blocks of a row group; each is valid until the same thread asks for the next."""
        kept, encoder = self._kept, self._encoder
        if kept is not None and kept.holds(row_group):
            has_null = kept.to_be_finished(row_group)
            for block in kept.in_turn(row_group, self._stopwatch):
                if has_null is not None:
                    with self._stopwatch.timed("encode"):
                        encoder.finish(block, has_null)
                yield block
            return
        keeps = kept is not None and kept.takes(row_group)
        rows = []
        made = blocks_of(
            self._manifest, row_group, encoder, self._stopwatch, self._held_out, memory=self._memory.of_thread()
        )
        for index, block in enumerate(made):
            if kept is not None and keeps:
                with self._stopwatch.timed("scatter"):
                    kept.write(row_group, index, block)
            rows.append(block.rows)
            yield block
        if kept is not None and keeps:
            kept.complete(row_group, rows)


class BlockMemory(threading.local):
    """Memory for one block, the same in a thread whenever it asks."""

    def __init__(self, layout: RecordLayout):
        self._layout = layout
        self._memory: np.ndarray | None = None

    def of_thread(self) -> np.ndarray:
        """Uint8, enough for ``layout.block_rows`` rows."""
        if self._memory is None:
            self._memory = aligned_memory(self._layout.block_bytes(self._layout.block_rows))
        return self._memory
