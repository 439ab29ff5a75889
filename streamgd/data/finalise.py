"""Finalise: the records of a block, or of a few that fit one block together, become a block.

bundle ── slot order ── exact moments, fill, final codes ── free region
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from streamgd.data.blocks import HOLDOUT_BIT, aligned_memory
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher
from streamgd.data.store import BlockStore
from streamgd.kernels import records as kernels


class BlockFinisher:
    """Makes blocks under the final encoding of the records in a store; threads may ask at the same time.

    Parameters
    ----------
    scattered : int64, (n_blocks,)
        Records of each block.

    Attributes
    ----------
    groups : list of lists of int
        The blocks of scatter that become one block.
    freed : list of lists of int
        The regions that are needed no more when each of these is finished, and those before it.
    """

    def __init__(self, store: BlockStore, encoder: Encoder, encoding: Encoding, scattered: np.ndarray):
        self.groups = _packed(scattered, store.places)
        self._store = store
        self._scattered = scattered
        self._finisher = Finisher(encoder.layout, encoding, encoder.vocabularies)
        self._entries_finisher: EntriesFinisher | None = None
        if store.entries is not None:
            self._entries_finisher = EntriesFinisher(encoding.sparse, encoder.sparse, encoder.layout.feature_type)
        #: The bundles that each group reads.
        self._read_by = [{block // store.bundle_blocks for block in group} for group in self.groups]
        last_reader = {number: index for index, numbers in enumerate(self._read_by) for number in numbers}
        self.freed: list[list[int]] = [[] for _ in self.groups]
        for number, index in last_reader.items():
            self.freed[index] += self._blocks_of(number)
        readers = Counter(number for numbers in self._read_by for number in numbers)
        self._bundles = {number: _Bundle(count) for number, count in readers.items()}
        self._of_thread = threading.local()

    def begin(self, done: int) -> None:
        """To be called before the first group is written; so many were at an earlier start."""
        for index in range(done):
            self._let_go(index)
        if self._store.entries is not None:
            rows = [int(self._scattered[group].sum()) for group in self.groups]
            self._store.entries.begin_finished(rows, self.groups)

    def sort_ahead(self, index: int) -> None:
        """Sort the bundles that group ``index``, if there is one, is the first to read.

        Where rows were dropped, groups are fewer than blocks, and bundles that are sorted early are small.
        """
        if 0 < index < len(self.groups):
            for number in self._read_by[index] - self._read_by[index - 1]:
                self._sort(number)

    def write(self, index: int, region: int) -> tuple[int, int]:
        """Finish a block into a region: its training rows, then those held out; returns how many, and how many in all.

        Raises
        ------
        StorageError
            See ``BlockStore``.
        """
        of_blocks = [self._sort(block // self._store.bundle_blocks).block(block) for block in self.groups[index]]
        n_train = sum(len(each.train) for each in of_blocks)
        if len(self._read_by[index]) == 1:
            records = of_blocks[0].records
            parts = [each.train for each in of_blocks] + [each.held for each in of_blocks]
            order = np.concatenate(parts, dtype=np.int64)
        else:
            parts = [each.records[each.train] for each in of_blocks] + [each.records[each.held] for each in of_blocks]
            records = np.concatenate(parts)
            order = np.arange(len(records))
        buffer = self._room()[: self._store.layout.block_bytes(len(order))]
        self._finisher.finish(records, order, buffer)
        self._store.write(region, 0, buffer)
        if self._entries_finisher is not None:
            self._write_entries(index, of_blocks, self._entries_finisher)
        self._let_go(index)
        return n_train, len(order)

    def _sort(self, number: int) -> _Bundle:
        """A bundle in the order of its slots; the first that asks sorts it, unless nobody will read it any more."""
        bundle, store = self._bundles[number], self._store
        with bundle.lock:
            if bundle.records is None and bundle.readers_left:
                n_records = int(self._scattered[self._blocks_of(number)].sum())
                bundle.order = np.empty(n_records, np.int32)
                bundle.starts = np.zeros(2 * store.bundle_blocks + 1, np.int64)
                records = store.records(number, n_records)
                at = np.empty(2 * store.bundle_blocks * store.places, np.int32)
                kernels.slot_order(
                    records.view(np.int32), store.layout.slot_position, HOLDOUT_BIT, at, bundle.order, bundle.starts
                )
                bundle.records = records
        return bundle

    def _blocks_of(self, number: int) -> range:
        first = number * self._store.bundle_blocks
        return range(first, min(first + self._store.bundle_blocks, len(self._scattered)))

    def _let_go(self, index: int) -> None:
        """A group is finished: forget the bundles that no other reads."""
        for number in self._read_by[index]:
            bundle = self._bundles[number]
            with bundle.lock:
                bundle.readers_left -= 1
                if not bundle.readers_left:
                    bundle.records, bundle.order = None, np.empty(0, np.int32)
                    self._store.release_records(number)

    def _write_entries(self, index: int, of_blocks: list[_RecordsOfBlock], finisher: EntriesFinisher) -> None:
        """Finish the entries that wait for the blocks of a group."""
        store, entries = self._store, self._store.entries
        assert entries is not None
        row_of_slot, waiting = np.empty(store.places, np.int32), []
        n_train, n_rows = 0, sum(len(each.train) for each in of_blocks)
        for block, each in zip(self.groups[index], of_blocks, strict=True):
            slots = each.records.view(np.int32)[:, store.layout.slot_position]
            row_of_slot[slots[each.train]] = n_train + np.arange(len(each.train))
            row_of_slot[slots[each.held] ^ HOLDOUT_BIT] = n_rows + np.arange(len(each.held))
            n_train, n_rows = n_train + len(each.train), n_rows + len(each.held)
            found = entries.waiting(block)
            halves = found.view(np.int32)
            halves[:, 0] = row_of_slot[halves[:, 0]]
            waiting.append(found)
        entries.write(index, finisher.of_waiting(waiting[0] if len(waiting) == 1 else np.concatenate(waiting), n_rows))

    def _room(self) -> np.ndarray:
        """This thread's memory for a block, used again for each: new memory would have to be cleared first."""
        if not hasattr(self._of_thread, "room"):
            self._of_thread.room = aligned_memory(self._store.layout.block_bytes(self._store.places))
        room: np.ndarray = self._of_thread.room
        return room


@dataclass
class _RecordsOfBlock:
    """The records of a bundle, and which of them are the training rows of a block, and those held out: int32."""

    records: np.ndarray
    train: np.ndarray
    held: np.ndarray


@dataclass
class _Bundle:
    """The records of a bundle, mapped, when they are sorted; ``order`` and ``starts`` as ``slot_order`` gives them."""

    readers_left: int
    records: np.ndarray | None = None
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    starts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def block(self, block: int) -> _RecordsOfBlock:
        """Those of a block."""
        assert self.records is not None
        n_blocks = len(self.starts) // 2
        places = (block % n_blocks, n_blocks + block % n_blocks)
        train, held = (self.order[self.starts[at] : self.starts[at + 1]] for at in places)
        return _RecordsOfBlock(self.records, train, held)


def _packed(scattered: np.ndarray, places: int) -> list[list[int]]:
    """Blocks that become one: as many as fit it, one after another. Empty ones become none."""
    groups: list[list[int]] = []
    rows = places
    for block in np.flatnonzero(scattered):
        if rows + scattered[block] > places:
            groups.append([])
            rows = 0
        groups[-1].append(int(block))
        rows += int(scattered[block])
    return groups
