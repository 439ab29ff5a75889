"""Prepared blocks: every row of a data set in its place, on the disk, to be trained on epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.data.store import BlockStore
from streamgd.data.survey import Survey
from streamgd.stopwatch import Stopwatch


class PreparedBlocks:
    """The finished blocks of a data set, each with its training rows and those held out.

    Parameters
    ----------
    regions, train_rows, rows : int64, (n_blocks,)
        Where each block is, how many training rows it begins with, and how many rows it has with those held out.
    """

    def __init__(
        self, store: BlockStore, encoding: Encoding, survey: Survey,
        regions: np.ndarray, train_rows: np.ndarray, rows: np.ndarray,
    ):  # fmt: skip
        self.store = store
        self.encoding = encoding
        self.survey = survey
        self._regions: list[int] = regions.tolist()
        self._train_rows: list[int] = train_rows.tolist()
        self._rows: list[int] = rows.tolist()

    @property
    def n_blocks(self) -> int:
        return len(self._regions)

    def train_block(self, index: int) -> Block:
        """The training rows of a block."""
        return self._block(index).part(0, self._train_rows[index])

    def holdout_block(self, index: int) -> Block:
        """The held out rows of a block."""
        return self._block(index).part(self._train_rows[index], self._rows[index])

    def train_blocks(self, order: Sequence[int], stopwatch: Stopwatch, alone: bool = False) -> Iterator[Block]:
        """The training rows of the blocks ``order``, each to be looked at until the next is asked for.

        ``alone`` as for ``BlockStore.in_turn``.

        Raises
        ------
        StorageError
            They cannot be read.
        """
        return map(self.train_block, self._in_turn(order, stopwatch, alone))

    def holdout_blocks(self, order: Sequence[int], stopwatch: Stopwatch) -> Iterator[Block]:
        """As :meth:`train_blocks`, the rows held out."""
        return map(self.holdout_block, self._in_turn(order, stopwatch))

    def _in_turn(self, order: Sequence[int], stopwatch: Stopwatch, alone: bool = False) -> Iterator[int]:
        """The blocks of ``order``, by number, one after another: see ``BlockStore.in_turn``."""
        turns = self.store.in_turn([self._regions[index] for index in order], stopwatch, alone)
        if self.store.entries is not None:
            turns = self.store.entries.in_turn(turns, order, self.store.is_large, stopwatch)
        for index, _ in zip(order, turns, strict=True):
            yield index

    def _block(self, index: int) -> Block:
        block = self.store.block(self._regions[index], self._rows[index])
        entries = self.store.entries
        return block if entries is None else replace(block, sparse=entries.block(index, self._rows[index]))
