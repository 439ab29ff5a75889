"""Finalise: the records of a region, or of a few that fit one block together, become a block.

region ── slot order ── exact moments, fill, final codes ── free region
"""

from __future__ import annotations

import threading

import numpy as np

from streamgd.data.blocks import HOLDOUT_BIT, RecordLayout, aligned_memory
from streamgd.data.encoder import Encoder
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher
from streamgd.data.store import BlockStore
from streamgd.kernels import records as kernels


class BlockFinisher:
    """Makes blocks under the final encoding of the records in a store; threads may ask at the same time.

    Parameters
    ----------
    fill : int64, (n_regions,)
        Records in each region.

    Attributes
    ----------
    groups : list of lists of int
        The regions of each block.
    """

    def __init__(self, store: BlockStore, encoder: Encoder, encoding: Encoding, fill: np.ndarray):
        self.groups = _packed(fill, store.places)
        self._store = store
        self._fill = fill
        self._finisher = Finisher(encoder.layout, encoding, encoder.vocabularies)
        self._entries_finisher: EntriesFinisher | None = None
        if store.entries is not None:
            self._entries_finisher = EntriesFinisher(encoding.sparse, encoder.sparse, encoder.layout.feature_type)
        self._desks = threading.local()

    def begin(self) -> None:
        """To be called before the first block is written."""
        if self._store.entries is not None:
            rows = [int(self._fill[group].sum()) for group in self.groups]
            self._store.entries.begin_finished(rows, self.groups)

    def write(self, index: int, region: int) -> tuple[int, int]:
        """Finish a block into a region: its training rows, then those held out; returns how many, and how many in all.

        Raises
        ------
        StorageError
            See ``BlockStore``.
        """
        parts, order, n_train = self._in_slot_order(index)
        buffer = self._desk().block[: self._store.layout.block_bytes(len(order))]
        self._finisher.finish(_joined(parts), order, buffer)
        self._store.write(region, 0, buffer)
        if self._entries_finisher is not None:
            self._write_entries(index, parts, order, self._entries_finisher)
        for source in self.groups[index]:
            self._store.release_if_large(source)
        return n_train, len(order)

    def _in_slot_order(self, index: int) -> tuple[list[np.ndarray], np.ndarray, int]:
        """The records of each region of a block, their indices in the order of slots with training rows first, and
        how many of these there are.
        """
        desk, store, group = self._desk(), self._store, self.groups[index]
        parts = [store.records(source, int(self._fill[source])) for source in group]
        train, held_out, n_records = [], [], 0
        for part in parts:
            order = desk.order[n_records : n_records + len(part)]
            n_train = kernels.slot_order(
                part.view(np.int32), store.layout.slot_position, store.places, HOLDOUT_BIT, desk.at, order
            )
            order += n_records
            train.append(order[:n_train])
            held_out.append(order[n_train:])
            n_records += len(part)
        order = desk.order[:n_records] if len(group) == 1 else np.concatenate([*train, *held_out])
        return parts, order, sum(map(len, train))

    def _write_entries(
        self, index: int, parts: list[np.ndarray], order: np.ndarray, finisher: EntriesFinisher
    ) -> None:  # fmt: skip
        """Finish the entries that wait for the regions of a block, as those of the rows of ``parts`` in ``order``."""
        store, entries = self._store, self._store.entries
        assert entries is not None
        row_of_record = np.empty(len(order), np.int32)
        row_of_record[order] = np.arange(len(order))
        row_of_slot, waiting, done = self._desk().at, [], 0
        for source, part in zip(self.groups[index], parts, strict=True):
            slots = part.view(np.int32)[:, store.layout.slot_position] & ~HOLDOUT_BIT
            row_of_slot[slots] = row_of_record[done : done + len(part)]
            found = entries.waiting(source)
            halves = found.view(np.int32)
            halves[:, 0] = row_of_slot[halves[:, 0]]
            waiting.append(found)
            done += len(part)
        entries.write(index, finisher.of_waiting(_joined(waiting), len(order)))

    def _desk(self) -> _Desk:
        """The memory of this thread."""
        if not hasattr(self._desks, "mine"):
            self._desks.mine = _Desk(self._store.layout, self._store.places)
        desk: _Desk = self._desks.mine
        return desk


class _Desk:
    """What one thread needs to finish blocks, used again for each: new memory would have to be cleared first."""

    def __init__(self, layout: RecordLayout, places: int):
        self.block = aligned_memory(layout.block_bytes(places))
        self.order = np.empty(places, np.int64)
        self.at = np.empty(2 * places, np.int64)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _packed(fill: np.ndarray, places: int) -> list[list[int]]:
    """Regions that become one block: as many as fit it, one after another. Empty ones become no block."""
    groups: list[list[int]] = []
    rows = places
    for region in np.flatnonzero(fill):
        if rows + fill[region] > places:
            groups.append([])
            rows = 0
        groups[-1].append(int(region))
        rows += int(fill[region])
    return groups
