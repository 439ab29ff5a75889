"""Record batches -> blocks at once, under an encoding that does not change any more.

Passes over Parquet, streamed holdout rows, evaluation and prediction read rows this way: no records, nothing learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from streamgd.data.blocks import Block, Places, RecordLayout, aligned_memory
from streamgd.data.columns import Columns
from streamgd.data.encoder import EncodedRows, Encoder, Origin, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.entries import EntriesFinisher
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.stream import can_hold_rows, origin_of
from streamgd.data.vocabulary import Vocabulary
from streamgd.kernels import encode as kernels
from streamgd.stopwatch import Stopwatch


class BlockEncoder:
    """Writes record batches into blocks.

    Parameters
    ----------
    choice : RowChoice, optional
        Which rows are used; all of them if not given.
    every_row : bool
        Keep rows without a target and with nulls too, as prediction does.
    vocabularies : list of Vocabulary, optional
        Those of ``encoding``, where they are there already.
    """

    def __init__(
        self,
        encoding: Encoding,
        layout: RecordLayout,
        choice: RowChoice | None = None,
        every_row: bool = False,
        vocabularies: list[Vocabulary] | None = None,
    ):
        scaling = encoding.scaling
        self.layout = layout
        self.vocabularies = vocabularies if vocabularies is not None else encoding.vocabularies()
        self.encoder = Encoder(
            encoding.columns, layout, scaling.shift0, scaling.scale0, self.vocabularies, encoding.nulls,
            choice or RowChoice(), every_row, scaling.mean, scaling.deviation, sparse=encoding.keys_met(),
        )  # fmt: skip
        self._entries: EntriesFinisher | None = None
        if encoding.sparse:
            self._entries = EntriesFinisher(encoding.sparse, self.encoder.sparse, layout.feature_type)
        self._encoding = encoding
        self._tables = [
            column.table(words) for column, words in zip(encoding.categorical, self.vocabularies, strict=True)
        ]

    def under(self, encoding: Encoding) -> BlockEncoder:
        """The same under an encoding whose scaling has moved."""
        encoder = self.encoder
        return BlockEncoder(encoding, self.layout, encoder.choice, encoder.every_row, self.vocabularies)

    @property
    def columns(self) -> Columns:
        """What the columns became."""
        return self.encoder.columns

    @property
    def read_columns(self) -> list[str]:
        """Columns to read, each once."""
        return self.encoder.read_columns

    @property
    def dictionary_columns(self) -> list[str]:
        """Text columns that are best read as dictionary codes."""
        return self.encoder.dictionary_columns

    def encode(
        self, batch: pa.RecordBatch, origin: Origin, memory: np.ndarray | None = None
    ) -> tuple[Block, EncodedRows]:
        """All rows of ``batch`` as a block, and which of them are to be used.

        Parameters
        ----------
        memory : uint8, at least ``layout.block_bytes(batch.num_rows)``, optional
            Where the block is written; new memory if not given.
        """
        if memory is None:
            memory = aligned_memory(self.layout.block_bytes(batch.num_rows))
        block = self.layout.views(memory, batch.num_rows)
        rows = self.encoder.encode(batch, origin, Places.of_block(block), self._theta_rows)
        if self._entries is not None and rows.entries is not None:
            block = replace(block, sparse=self._entries.of_rows(rows.entries))
        self.finish(block, bool(rows.has_null.any()))
        return block, rows

    def finish(self, block: Block, has_null: bool) -> None:
        """What is left to do, in place, when features and codes are those of the encoding; to be done once.

        Parameters
        ----------
        has_null : bool
            Whether features may be NaN, which stands for null.
        """
        encoding = self._encoding
        if has_null:
            kernels.fill_nulls(block.features, encoding.scaling.fill)
        if (encoding.target_shift, encoding.target_scale) != (0.0, 1.0):
            block.target[:] = (block.target - encoding.target_shift) / encoding.target_scale
            block.offset[:] /= encoding.target_scale
        encoding.weigh_classes(block)

    def _theta_rows(self, column: int, codes: np.ndarray) -> np.ndarray:
        """Row of theta of each provisional code: see ``CategoricalEncoding.table``."""
        encoding, table = self._encoding.categorical[column], self._tables[column]
        if not len(table):
            table = np.zeros(1, np.int32)
        rows = np.where(codes >= 0, table[np.maximum(codes, 0)], encoding.first_row - 2 - codes)
        return np.where(codes == -1, encoding.unknown_row, rows).astype(np.int32)


def blocks_of(
    manifest: Manifest,
    row_group: RowGroup,
    encoder: BlockEncoder,
    stopwatch: Stopwatch,
    holdout: bool = False,
    memory: np.ndarray | None = None,
) -> Iterator[Block]:
    """The training (or held out) rows of one row group as blocks in file order.

    With ``memory``, uint8 for ``layout.block_rows`` rows, each block is written there, over the one before.
    """
    made = _read_blocks(manifest, row_group, encoder.encoder, encoder.encode, stopwatch, memory, holdout)
    return (block for block, _ in made)


def provisional_blocks(
    manifest: Manifest, row_group: RowGroup, encoder: Encoder, stopwatch: Stopwatch, memory: np.ndarray
) -> Iterator[tuple[Block, EncodedRows]]:
    """The training rows of one row group as blocks in file order, and what was found in all rows of each.

    Numbers are in the encoder's units, nulls NaN, codes provisional, targets as they are.

    Parameters
    ----------
    memory : uint8
        For ``layout.block_rows`` rows: each block is written there, over the one before.
    """

    def encode(batch: pa.RecordBatch, origin: Origin, memory: np.ndarray | None) -> tuple[Block, EncodedRows]:
        assert memory is not None
        block = encoder.layout.views(memory, batch.num_rows)
        return block, encoder.encode(batch, origin, Places.of_block(block))

    return _read_blocks(manifest, row_group, encoder, encode, stopwatch, memory, holdout=False)


def _read_blocks(
    manifest: Manifest,
    row_group: RowGroup,
    encoder: Encoder,
    encode: Callable[[pa.RecordBatch, Origin, np.ndarray | None], tuple[Block, EncodedRows]],
    stopwatch: Stopwatch,
    memory: np.ndarray | None,
    holdout: bool,
) -> Iterator[tuple[Block, EncodedRows]]:
    if not can_hold_rows(manifest, row_group, encoder):
        return
    start = 0
    batches = read_batches(
        manifest, row_group, encoder.read_columns, encoder.dictionary_columns, encoder.layout.block_rows
    )
    for batch in stopwatch.timed_items("decode", batches):
        with stopwatch.timed("encode"):
            block, rows = encode(batch, origin_of(manifest, row_group, start), memory)
            chosen = rows.kept & (rows.holdout if holdout else ~rows.holdout)
            block = block if chosen.all() else block.chosen(chosen)
        yield block, rows
        start += batch.num_rows
