"""Full-batch passes over the shuffled blocks of a stochastic run."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from streamgd.data.blocks import Block
from streamgd.data.prepared import PreparedBlocks
from streamgd.objective.objective import ChunkSums
from streamgd.stopwatch import Stopwatch
from streamgd.training.chunks import SumsOfBlock
from streamgd.training.reduce import Pass, tree_reduce

#: Neighbouring blocks that one task sums at most: about 0.1 s of work.
CHUNK_BLOCKS = 16
#: Fewer chunks than this would leave processors idle at the end of a pass.
FEWEST_CHUNKS = 32


def chunks_of(n_blocks: int) -> list[range]:
    """The blocks that are summed together."""
    size = min(CHUNK_BLOCKS, max(1, n_blocks // FEWEST_CHUNKS))
    return [range(first, min(first + size, n_blocks)) for first in range(0, n_blocks, size)]


class PreparedPass(Pass):
    """Over the training rows of shuffled blocks, seen without the rows of theta that base levels have in the loops.

    Parameters
    ----------
    check : callable
        Called before each block; raises to stop.
    """

    def __init__(self, prepared: PreparedBlocks, threads: int, check: Callable[[], None], stopwatch: Stopwatch):
        self._prepared = prepared
        self._rows = prepared.encoding.rows_without_base()
        self._threads = threads
        self._check = check
        self._stopwatch = stopwatch

    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> ChunkSums:
        """The sum over all blocks of ``sums_of_block(theta, block)``, for ``common = (sums_of_block, theta)``."""

        def result_of(shared: tuple[SumsOfBlock, Any], indices: range) -> ChunkSums:
            sums_of_block, theta = shared
            total = None
            for wide in self._prepared.train_blocks(indices, self._stopwatch):
                self._check()
                with self._stopwatch.timed("compute"):
                    block = self._without_base_rows(wide)
                    sums = sums_of_block(theta, block)
                    total = sums if total is None else total + sums
                if done is not None:
                    done(block.rows)
            assert total is not None
            return total

        chunks = chunks_of(self._prepared.n_blocks)[::every]
        total: ChunkSums = tree_reduce(result_of, common, chunks, operator.add, self._threads)
        return total

    def _without_base_rows(self, block: Block) -> Block:
        sparse = block.sparse and replace(block.sparse, coordinates=self._rows[block.sparse.coordinates])
        return replace(block, codes=self._rows[block.codes], sparse=sparse)
