"""Finalise: the records of a block, or of a few that fit one block together, become a block.

partition ── slot order ── exact moments, fill, final codes ── free region
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

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
    rows : int64, (n_blocks,)
        Records of each block.

    Attributes
    ----------
    groups : list of lists of int
        The blocks of scatter that become one block.
    freed : list of lists of int
        The regions that are needed no more when each of these is finished, and those before it.
    following : dict of int to int
        Of the first block of each partition of several: the partition that comes next, which may be sorted meanwhile.
    """

    def __init__(self, store: BlockStore, encoder: Encoder, encoding: Encoding, rows: np.ndarray):
        self.groups = _packed(rows, store.places)
        self._store = store
        self._rows = rows
        self._finisher = Finisher(encoder.layout, encoding, encoder.vocabularies)
        self._entries_finisher: EntriesFinisher | None = None
        if store.entries is not None:
            self._entries_finisher = EntriesFinisher(encoding.sparse, encoder.sparse, encoder.layout.feature_type)
        self._read_by = [{block // store.partition_blocks for block in group} for group in self.groups]
        last_reader = {partition: index for index, each in enumerate(self._read_by) for partition in each}
        self.freed: list[list[int]] = [[] for _ in self.groups]
        for partition, index in last_reader.items():
            self.freed[index] += self._blocks_of(partition)
        self.following: dict[int, int] = {}
        if store.partition_blocks > 1:
            first_reader: dict[int, int] = {}
            for index, each in enumerate(self._read_by):
                for partition in sorted(each):
                    first_reader.setdefault(partition, index)
            self.following = dict(zip(first_reader.values(), list(first_reader)[1:], strict=False))
        self._readers_left = Counter(partition for each in self._read_by for partition in each)
        self._open: dict[int, _Partition] = {}
        self._lock = threading.Lock()
        self._desks = threading.local()

    def begin(self, done: int) -> None:
        """To be called before the first block is written; so many were before."""
        for each in self._read_by[:done]:
            self._readers_left.subtract(each)
        if self._store.entries is not None:
            rows = [int(self._rows[group].sum()) for group in self.groups]
            self._store.entries.begin_finished(rows, self.groups)

    def write(self, index: int, region: int) -> tuple[int, int]:
        """Finish a block into a region: its training rows, then those held out; returns how many, and how many in all.

        Raises
        ------
        StorageError
            See ``BlockStore``.
        """
        of_blocks = [self._records_of(block) for block in self.groups[index]]
        n_train = sum(len(each.train) for each in of_blocks)
        if len(of_blocks) == 1:
            records, order = of_blocks[0].records, of_blocks[0].order
        else:
            parts = [each.records[each.train] for each in of_blocks] + [each.records[each.held] for each in of_blocks]
            records = np.concatenate(parts)
            order = np.arange(len(records))
        buffer = self._desk().block[: self._store.layout.block_bytes(len(order))]
        self._finisher.finish(records, order, buffer)
        self._store.write(region, 0, buffer)
        if self._entries_finisher is not None:
            self._write_entries(index, of_blocks, self._entries_finisher)
        self._close(index)
        return n_train, len(order)

    def _records_of(self, block: int) -> _RecordsOfBlock:
        number, within = divmod(block, self._store.partition_blocks)
        return self.sorted(number).block(within)

    def sorted(self, number: int) -> _Partition:
        """A partition in the order of its slots; the first that asks for it sorts it."""
        with self._lock:
            partition = self._open.setdefault(number, _Partition())
        with partition.lock:
            if not len(partition.order):
                self._sort(number, partition)
        return partition

    def _sort(self, number: int, partition: _Partition) -> None:
        store = self._store
        n_records = int(self._rows[self._blocks_of(number)].sum())
        partition.records = store.records(number, n_records)
        partition.ends = np.empty(2 * store.partition_blocks, np.int64)
        order = np.empty(n_records, np.int32)
        halves, position = partition.records.view(np.int32), store.layout.slot_position
        kernels.slot_order(halves, position, HOLDOUT_BIT, self._desk().at, order, partition.ends)
        partition.order = order

    def _blocks_of(self, partition: int) -> range:
        first = partition * self._store.partition_blocks
        return range(first, min(first + self._store.partition_blocks, len(self._rows)))

    def _close(self, index: int) -> None:
        """A block is finished: let go of the partitions that no other needs."""
        with self._lock:
            self._readers_left.subtract(self._read_by[index])
            done = [partition for partition in self._read_by[index] if not self._readers_left[partition]]
            for partition in done:
                del self._open[partition]
        for partition in done:
            self._store.release_records(partition)

    def _write_entries(self, index: int, of_blocks: list[_RecordsOfBlock], finisher: EntriesFinisher) -> None:
        """Finish the entries that wait for the blocks of a group."""
        store, entries = self._store, self._store.entries
        assert entries is not None
        row_of_slot, waiting = self._desk().at, []
        n_train, n_held, n_rows = 0, sum(len(each.train) for each in of_blocks), 0
        for block, each in zip(self.groups[index], of_blocks, strict=True):
            slots = each.records.view(np.int32)[each.order, store.layout.slot_position] & ~HOLDOUT_BIT
            row_of_slot[slots[: len(each.train)]] = n_train + np.arange(len(each.train))
            row_of_slot[slots[len(each.train) :]] = n_held + np.arange(len(each.held))
            n_train, n_held, n_rows = n_train + len(each.train), n_held + len(each.held), n_rows + len(each.order)
            found = entries.waiting(block)
            halves = found.view(np.int32)
            halves[:, 0] = row_of_slot[halves[:, 0]]
            waiting.append(found)
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        entries.write(index, finisher.of_waiting(joined, n_rows))

    def _desk(self) -> _Desk:
        """The memory of this thread."""
        if not hasattr(self._desks, "mine"):
            self._desks.mine = _Desk(self._store)
        desk: _Desk = self._desks.mine
        return desk


class _Desk:
    """What one thread needs to finish blocks, used again for each: new memory would have to be cleared first."""

    def __init__(self, store: BlockStore):
        self.block = aligned_memory(store.layout.block_bytes(store.places))
        self.at = np.empty(2 * store.partition_blocks * store.places, np.int32)


@dataclass
class _Partition:
    """The records of a partition, mapped, and their order and ends as ``kernels.slot_order`` gives them."""

    records: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.uint64))
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    ends: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    #: Held by the thread that puts them in order.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def block(self, number: int) -> _RecordsOfBlock:
        begins = np.concatenate([[0], self.ends])
        train, held = (
            self.order[begins[n] : begins[n + 1]] for n in (number, len(self.ends) // 2 + number)
        )  # fmt: skip
        return _RecordsOfBlock(self.records, train, held)


@dataclass
class _RecordsOfBlock:
    """The records of a partition, and which of them are the training rows of a block, and those held out: int32."""

    records: np.ndarray
    train: np.ndarray
    held: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """Both, int64."""
        return np.concatenate([self.train, self.held], dtype=np.int64)


def _packed(rows: np.ndarray, places: int) -> list[list[int]]:
    """Blocks that become one: as many as fit it, one after another. Empty ones become none."""
    groups: list[list[int]] = []
    filled = places
    for block in np.flatnonzero(rows):
        if filled + rows[block] > places:
            groups.append([])
            filled = 0
        groups[-1].append(int(block))
        filled += int(rows[block])
    return groups
