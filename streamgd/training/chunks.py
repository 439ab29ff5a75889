"""The chunks of full-batch passes: a chunk is a row group, its blocks are its slices.

    survey pass: row group ── encoder ── moments, levels, counts ── folded
    pass:        row group ── blocks, kept on disk where they fit or made anew ── sums

Blocks that are kept are the same as those made anew, so the sums are too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from streamgd.data.block_encoder import BlockEncoder, blocks_of
from streamgd.data.blocks import Block
from streamgd.data.encoder import Encoder, Survey
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.store import BlockStore
from streamgd.data.stream import encoded_slices
from streamgd.stopwatch import Stopwatch
from streamgd.training.progress import RowCounter, RunContext
from streamgd.training.reduce import tree_reduce
from streamgd.training.setup import Task


def survey_pass(task: Task, encoder: Encoder, context: RunContext) -> Survey:
    """Moments, levels and counts of all rows."""
    counter = RowCounter(context.display, task.manifest.n_rows, context.stopwatch)
    counter.add("prepare", 0)

    def survey_of(_: None, row_group: RowGroup) -> Survey:
        context.interrupt.check_repeated()
        total = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
        for piece in encoded_slices(task.manifest, row_group, encoder, encoder.layout.block_rows, context.stopwatch):
            total = total.merge(piece.rows.survey)
        counter.add("prepare", row_group.rows)
        return total

    return tree_reduce(survey_of, None, task.manifest.row_groups, Survey.merge, task.threads)


class BlockSource:
    """The training blocks of each row group: from the cache on disk once they are there, else made anew."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: BlockEncoder,
        store: BlockStore | None,
        stopwatch: Stopwatch,
    ):
        self._manifest = manifest
        self._encoder = encoder
        self._memory = threading.local()
        self._store = store
        self._stopwatch = stopwatch
        self._first_region: dict[RowGroup, int] = {}
        self._rows: dict[RowGroup, list[int]] = {}
        regions = 0
        for row_group in manifest.row_groups:
            self._first_region[row_group] = regions
            regions += _slices_in(row_group, encoder.layout.block_rows)
        if store is not None:
            choice = encoder.encoder.choice
            store.create(store.total_bytes, reserve=choice.where is None and choice.sample == 1.0)

    def blocks(self, row_group: RowGroup) -> Iterator[Block]:
        """The blocks of a row group; each is valid until the same thread asks for the next."""
        rows = self._rows.get(row_group)
        if self._store is not None and rows is not None:
            first = self._first_region[row_group]
            for region in self._store.in_turn(range(first, first + len(rows)), self._stopwatch):
                yield self._store.block(region, rows[region - first])
            return
        rows = []
        if not hasattr(self._memory, "block"):
            layout = self._encoder.layout
            self._memory.block = np.empty(layout.block_bytes(layout.block_rows), np.uint8)
        made = blocks_of(self._manifest, row_group, self._encoder, self._stopwatch, memory=self._memory.block)
        for index, block in enumerate(made):
            if self._store is not None:
                with self._stopwatch.timed("scatter"):
                    self._write(self._first_region[row_group] + index, block)
            rows.append(block.rows)
            yield block
        self._rows[row_group] = rows

    def _write(self, region: int, block: Block) -> None:
        assert self._store is not None
        buffer = np.empty(self._store.layout.block_bytes(block.rows), np.uint8)
        for into, array in zip(self._store.layout.views(buffer, block.rows).arrays(), block.arrays(), strict=True):
            into[...] = array
        self._store.write(region, 0, buffer)

    def close(self) -> None:
        if self._store is not None:
            self._store.remove()


def count_slices(manifest: Manifest, block_rows: int) -> int:
    """Blocks of all row groups together."""
    return sum(_slices_in(row_group, block_rows) for row_group in manifest.row_groups)


def _slices_in(row_group: RowGroup, block_rows: int) -> int:
    return -(-row_group.rows // block_rows)
