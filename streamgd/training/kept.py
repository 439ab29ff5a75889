"""Encoded blocks of full batch on disk: written by the first pass that encodes the rows, read by those after it.

survey ── blocks in provisional units ──┐
                                        ├── block files ── finished where they are, once ── passes
first pass of full batch, if no survey ─┘
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from streamgd.data.blocks import Block, RecordLayout
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.store import BATCH_WAY_OUT, BlockStore, free_bytes, remove_blocks
from streamgd.stopwatch import Stopwatch

#: Of the free space of a disk, what blocks may take.
DISK_SHARE = 0.9


class Keep:
    """Leave to keep encoded blocks on disk between passes.

    Parameters
    ----------
    folder : Path
        Where they go; what a start that was killed has left there is removed.
    most_bytes : int
    partly : bool
        Whether to keep as many as fit where not all of them do.
    """

    def __init__(self, folder: Path, most_bytes: int, partly: bool):
        self._folder = folder
        self.most_bytes = most_bytes
        self._partly = partly
        self._blocks: KeptBlocks | None = None

    def blocks(self, manifest: Manifest, layout: RecordLayout, leaves_out: bool) -> KeptBlocks | None:
        """The blocks of all row groups, those that an earlier pass has written too; None where they do not fit.

        Parameters
        ----------
        leaves_out : bool
            Whether rows are left out on request, so that the space for all of them is not needed.

        Raises
        ------
        StorageError
            The files cannot be made.
        """
        if layout.entries is not None:  # rows with entries are decoded in each pass
            return None
        if self._blocks is None:
            self._blocks = self._new_blocks(manifest, layout, leaves_out)
        return self._blocks

    def _new_blocks(self, manifest: Manifest, layout: RecordLayout, leaves_out: bool) -> KeptBlocks | None:
        places = min(layout.block_rows, max(row_group.rows for row_group in manifest.row_groups))
        regions = sum(_slices_in(row_group, layout.block_rows) for row_group in manifest.row_groups)
        store = BlockStore(self._folder, layout, places, regions, BATCH_WAY_OUT)
        remove_blocks(self._folder)
        if store.total_bytes <= self.most_bytes:
            store.create(store.total_bytes, reserve=not leaves_out and not self._partly)
            return KeptBlocks(store, manifest, store.total_bytes)
        if self._partly and self.most_bytes >= store.region_bytes:
            store.create(self.most_bytes)
            return KeptBlocks(store, manifest, self.most_bytes)
        return None

    def close(self) -> None:
        """Remove what was kept."""
        if self._blocks is not None:
            self._blocks.close()


class KeptBlocks:
    """The blocks of each row group in a store. Threads may work on different row groups at the same time."""

    def __init__(self, store: BlockStore, manifest: Manifest, space_bytes: int):
        self._store = store
        self._left_bytes = space_bytes
        self._lock = threading.Lock()
        self._first_region: dict[RowGroup, int] = {}
        self._rows: dict[RowGroup, list[int]] = {}
        #: Row groups whose blocks are in provisional units, and whether they hold nulls.
        self._provisional: dict[RowGroup, bool] = {}
        regions = 0
        for row_group in manifest.row_groups:
            self._first_region[row_group] = regions
            regions += _slices_in(row_group, store.layout.block_rows)

    def holds(self, row_group: RowGroup) -> bool:
        """Whether all blocks of a row group are there."""
        return row_group in self._rows

    def takes(self, row_group: RowGroup) -> bool:
        """Whether the blocks of a row group still fit; then their space is taken."""
        needed = _slices_in(row_group, self._store.layout.block_rows) * self._store.region_bytes
        with self._lock:
            fits = needed <= self._left_bytes
            self._left_bytes -= needed if fits else 0
        return fits

    def write(self, row_group: RowGroup, index: int, block: Block) -> None:
        """Write the block that is number ``index`` of its row group."""
        self._store.write_block(self._first_region[row_group] + index, block)

    def complete(self, row_group: RowGroup, rows: list[int]) -> None:
        """All blocks of a row group were written; ``rows`` is how many each has."""
        self._rows[row_group] = rows

    def complete_provisional(self, row_group: RowGroup, rows: list[int], has_null: bool) -> None:
        """As :meth:`complete`, of blocks that are to be finished when they are read for the first time."""
        self._provisional[row_group] = has_null
        self.complete(row_group, rows)

    def to_be_finished(self, row_group: RowGroup) -> bool | None:
        """None where the blocks of a row group are finished; else whether they hold nulls, and they count as finished
        from now on."""
        return self._provisional.pop(row_group, None)

    def in_turn(self, row_group: RowGroup, stopwatch: Stopwatch) -> Iterator[Block]:
        """The blocks of a row group, mapped; each is valid until the next is asked for."""
        first, rows = self._first_region[row_group], self._rows[row_group]
        for region in self._store.in_turn(range(first, first + len(rows)), stopwatch):
            yield self._store.block(region, rows[region - first])

    def close(self) -> None:
        """Remove them all."""
        self._store.remove()


def kept_bytes(blocks_max: int, folder: Path) -> int:
    """What blocks in ``folder`` may take: ``--blocks-max``, and not all of the free space."""
    return int(min(blocks_max, DISK_SHARE * free_bytes(folder)))


def _slices_in(row_group: RowGroup, block_rows: int) -> int:
    return -(-row_group.rows // block_rows)
